"""The arguments of LRSchedule: parsed, checked and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_tricks.errors import is_list, message, require_choice, require_number
from lightning_tricks.modules.selection import fault_of
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.schedules.curves import Decay
from lightning_tricks.schedules.phases import as_decay
from lightning_tricks.schedules.plateau import Plateau

OWNER = "LRSchedule"
WARMUP_SHAPES = ("linear", "constant", "cosine", "exponential")


@dataclass(frozen=True)
class ScheduleSpec:
    """What a user asked for, with every length and decay parsed.

    The fields are the constructor arguments of ``LRSchedule``, which documents them; each may be given in any of the
    forms that it allows.
    """

    decay: Decay
    warmup: Duration
    warmup_shape: str
    warmup_start: float
    hold: Duration
    final: float
    total: Duration | dict[int, Duration] | None
    momentum: tuple[float, float] | None
    weight_decay_final: float | None
    conflict: str
    overrides: dict[str, float | Decay]

    def __post_init__(self) -> None:
        # Frozen refuses assignment here too, so the parsed values go into the dict; messages show what was given.
        given: dict[str, Any] = dict(vars(self))
        vars(self).update(_parsed(given))
        _refuse_contradictions(self, given)
        lengths = self.total.values() if isinstance(self.total, dict) else [self.total] if self.total else []
        for length in lengths:
            _refuse_too_short(length, self.warmup, self.hold)

    @property
    def decays(self) -> list[Decay]:
        """The decay, and those that ``overrides`` gives to single parameter groups."""
        return [self.decay, *(d for d in self.overrides.values() if isinstance(d, Decay))]

    @property
    def plateau(self) -> Plateau | None:
        """The rule that lowers the rate by a metric, where one does."""
        return self.decay if isinstance(self.decay, Plateau) else None

    def total_of(self, index: int) -> Duration | None:
        """Return the length that the user gave to an optimizer; None where the Trainer decides."""
        return self.total.get(index) if isinstance(self.total, dict) else self.total


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    decay = as_decay(OWNER, given["decay"])
    # (a decay with a warm-up of its own must not get a second one by default)
    warmup = ("0" if decay.owns_warmup else "5%") if given["warmup"] is None else given["warmup"]
    momentum, weight_decay = given["momentum"], given["weight_decay_final"]
    parsed = {
        "decay": decay,
        "warmup": Duration.parse(warmup, owner=OWNER, argument="warmup"),
        "warmup_shape": require_choice(OWNER, "warmup_shape", given["warmup_shape"], WARMUP_SHAPES),
        "warmup_start": _share("warmup_start", given["warmup_start"]),
        "hold": Duration.parse(given["hold"], owner=OWNER, argument="hold"),
        "final": _share("final", given["final"]),
        "total": _total(given["total"]),
        "momentum": None if momentum is None else _momentum(momentum),
        "conflict": require_choice(OWNER, "conflict", given["conflict"], ("error", "replace")),
        "overrides": _overrides(given["overrides"]),
    }
    if weight_decay is not None:
        require_number(OWNER, "weight_decay_final", weight_decay, low_included=True, remedy="Use e.g. 0.1")
    return parsed


def _refuse_contradictions(spec: ScheduleSpec, given: Mapping[str, Any]) -> None:
    if spec.warmup_start == 0 and spec.warmup_shape in ("constant", "exponential"):
        text = f"warmup_start must be > 0 for warmup_shape={spec.warmup_shape!r}, which never leaves 0"
        raise ValueError(message(OWNER, "warmup_start", given["warmup_start"], text, "Use e.g. 0.1"))
    name = type(spec.decay).__name__
    if spec.final != 0 and not (spec.decay.takes_final or spec.plateau):
        text = f"final has no meaning for {name}, which has its own end"
        raise ValueError(message(OWNER, "final", given["final"], text, "Leave it out, or use 'linear' or 'cosine'"))
    for argument, length, own in (("warmup", spec.warmup, "warm-up"), ("hold", spec.hold, "shape")):
        if spec.decay.owns_warmup and length.amount:
            text = f"{name} has its own {own}"
            raise ValueError(message(OWNER, argument, given[argument], text, f"Leave out {argument}="))


def _refuse_too_short(total: Duration, warmup: Duration, hold: Duration) -> None:
    """Refuse a total that warm-up and hold exceed, where this is known before the run: all in comparable units."""
    given = [length for length in (warmup, hold) if length.amount]
    if all(length.unit in ("%", total.unit) for length in given):
        share = sum(n.amount / (100.0 if n.unit == "%" else total.amount) for n in given)
        # (1e-9: shares such as 0.05 + 0.95 are rounded)
        if share > 1.0 + 1e-9:
            text = f"warm-up ({warmup}) and hold ({hold}) are longer than the run ({total})"
            raise ValueError(message(OWNER, "total", str(total), text, "Shorten them"))


def _total(total: Any) -> Duration | dict[int, Duration] | None:
    if isinstance(total, Mapping):
        if not total or not all(type(index) is int and index >= 0 for index in total):
            text = "total must be a length, or a dict from the index of an optimizer to its length"
            raise ValueError(message(OWNER, "total", total, text, "Use e.g. {0: 10_000, 1: 50_000}"))
        return {index: _length(length) for index, length in total.items()}
    return None if total is None else _length(total)


def _length(total: int | str) -> Duration:
    length = Duration.parse(total, owner=OWNER, argument="total")
    if length.unit == "%" or length.amount == 0:
        text = "total must be a number of updates or epochs, > 0"
        raise ValueError(message(OWNER, "total", total, text, "Use e.g. 10_000 or '20ep'"))
    return length


def _share(argument: str, value: float) -> float:
    return require_number(
        OWNER, argument, value, high=1.0, low_included=True, high_included=True, remedy="Use e.g. 0.1"
    )


def _momentum(values: Any) -> tuple[float, float]:
    """Return the momentum at the lowest and at the highest rate; the higher one belongs to the lowest rate."""
    text, remedy = "momentum must be two numbers", "Use e.g. (0.95, 0.85)"
    if not is_list(values):
        raise TypeError(message(OWNER, "momentum", values, text, remedy))
    if len(values) != 2:
        raise ValueError(message(OWNER, "momentum", values, text, remedy))
    low, high = sorted(require_number(OWNER, "momentum", v, high=1.0, low_included=True, remedy=remedy) for v in values)
    return high, low


def _overrides(overrides: Any) -> dict[str, float | Decay]:
    text, remedy = "overrides must be a dict from patterns to factors or decays", "Use e.g. {'^backbone': 0.1}"
    parsed: dict[str, float | Decay] = {}
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(message(OWNER, "overrides", overrides, text, remedy))
    for pattern, value in (overrides or {}).items():
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(message(OWNER, "overrides", overrides, text, remedy))
        fault = fault_of(pattern)
        if fault is not None:
            raise ValueError(message(OWNER, "overrides", pattern, f"the pattern {fault}", "Use e.g. '^head'"))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            parsed[pattern] = require_number(OWNER, "overrides", value, low_included=True, remedy=remedy)
            continue
        decay = as_decay(OWNER, value, "overrides")
        if isinstance(decay, Plateau):
            raise ValueError(message(OWNER, "overrides", value, "a plateau holds for all groups", "Pass it as decay="))
        parsed[pattern] = decay
    return parsed
