"""Warm-up, hold and decay, joined into one curve over the run; and phases of your own, joined into one decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lightning_tricks.errors import message, require_choice, require_number
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.schedules.curves import (
    Constant,
    Cosine,
    Decay,
    Function,
    Length,
    Linear,
    LinearCosine,
    OneMinusSqrt,
    Polynomial,
    Span,
    warmup_factor,
)
from lightning_tricks.schedules.cycles import CosineRestarts, Noam, OneCycle
from lightning_tricks.schedules.lengths import (
    Exponential,
    InverseSqrt,
    InverseTime,
    MultiStep,
    NaturalExponential,
    Piecewise,
    Step,
)
from lightning_tricks.schedules.plateau import Plateau

ENDLESS = 2**62

# the names of the table in LRSchedule; lengths that a name cannot give are shares of the decay
DECAYS: dict[str, Decay] = {
    "constant": Constant(),
    "linear": Linear(),
    "cosine": Cosine(),
    "cosine_restarts": CosineRestarts("25%"),
    "polynomial": Polynomial(),
    "exponential": Exponential(0.01, every="100%"),
    "natural_exponential": NaturalExponential(5.0, every="100%"),
    "inverse_time": InverseTime(9.0, every="100%"),
    "inverse_sqrt": InverseSqrt(),
    "step": Step("33.4%"),
    "multistep": MultiStep(("50%", "75%")),
    "piecewise": Piecewise(("50%", "75%"), (1.0, 0.1, 0.01)),
    "linear_cosine": LinearCosine(),
    "one_minus_sqrt": OneMinusSqrt(),
    "one_cycle": OneCycle(),
    "noam": Noam("5%"),
    "plateau": Plateau("val_loss"),
}


@dataclass(frozen=True)
class Curve:
    """The multiplier of the base learning rate at every update of a run.

    ``k < warmup``: warm-up. ``k < warmup + hold``: 1. Then ``final + (1-final) * decay`` over the rest of ``total``,
    and the value at ``total`` past the end.

    Args:
        decay: the curve after warm-up and hold.
        warmup: updates.
        shape: of the warm-up.
        start: multiplier at which the warm-up begins.
        hold: updates at the base rate between warm-up and decay.
        final: multiplier at the end.
        total: updates of the run, >= warmup + hold; None when its end is not known.

    Example:
        >>> from lightning_tricks.schedules.curves import Linear
        >>> [Curve(Linear(), 2, "linear", 0.0, 1, 0.0, 7).value(k) for k in range(8)]
        [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    decay: Decay
    warmup: int
    shape: str
    start: float
    hold: int
    final: float
    total: int | None

    @property
    def begun(self) -> int:
        """The update at which the decay begins."""
        return self.warmup + self.hold

    def value(self, position: float) -> float:
        """Return the multiplier at a position: that of an update, from 0; between two of them it is interpolated."""
        return _between(self._value, position)

    def openness(self, position: float) -> float:
        """Return 1 where the rate is highest, 0 where it is lowest."""
        return _between(self._openness, position)

    def parts(self) -> list[tuple[str, int]]:
        """Return names and lengths of all parts; of a curve without an end, of those that are known."""
        decay = [] if self.total is None else self.decay.parts(self.total - self.begun)
        return [("warm-up", self.warmup), ("hold", self.hold), *decay]

    def _value(self, update: int) -> float:
        if update < self.warmup:
            return warmup_factor(update, self.warmup, self.start, self.shape)
        if update < self.begun:
            return 1.0
        height = self.decay.height(*self._place(update))
        return self.final + (1.0 - self.final) * height

    def _openness(self, update: int) -> float:
        if update < self.warmup:
            return 1.0 if self.start == 1.0 else (self._value(update) - self.start) / (1.0 - self.start)
        return 1.0 if update < self.begun else self.decay.openness(*self._place(update))

    def _place(self, update: int) -> tuple[int, int]:
        length = ENDLESS if self.total is None else max(1, self.total - self.begun)
        return min(update - self.begun, length), length

    def settled(self, tolerance: float = 0.01) -> int:
        """Return the first position from which on the multiplier stays within ``tolerance`` of its end."""
        position = self.total or 0
        last = self.value(position)
        while position > self.begun and abs(self.value(position - 1) - last) <= tolerance:
            position -= 1
        return position

    def values(self, count: int | None = None) -> list[float]:
        """Return the multipliers of updates ``0..count-1``; of the whole run for None."""
        count = self.total if count is None else count
        return [self.value(update) for update in range(count or 0)]


@dataclass(frozen=True)
class Phase:
    """One phase of a ``Join``: from ``start`` to ``end`` along a decay.

    ``end + (start - end) * decay``; of a function of your own the value itself.

    Args:
        decay: a name, a Decay, or a function of ``(update, length)`` within the phase.
        length: updates, ``"2ep"`` or ``"30%"`` (of the joined whole); None, for one phase, takes what the others leave.
        start: multiplier at its begin.
        end: multiplier at its end.

    >>> Phase("linear", 100, start=0.5, end=0.1)
    Phase(decay=Linear(), length=100, start=0.5, end=0.1)
    """

    decay: str | Decay | Callable[[int, int], float]
    length: Length | None = None
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", as_decay("Phase", self.decay))
        if self.length is not None:
            Duration.parse(self.length, owner="Phase", argument="length")
        for name in ("start", "end"):
            require_number("Phase", name, getattr(self, name), low_included=True, remedy="Use a multiplier, e.g. 0.1")


@dataclass(frozen=True)
class Join(Decay):
    """Phases one after the other; each counts its updates from its own begin.

    Args:
        phases: in their order. A warm-up beside them is refused: make it a phase.

    Example:
        >>> join = Join([Phase("linear", 2, start=0.0, end=1.0), Phase("constant", "50%"), Phase("linear")])
        >>> [join.height(k, 8) for k in range(9)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """

    phases: Sequence[Phase] = field(default_factory=tuple)

    owns_warmup = True
    takes_final = False

    def __post_init__(self) -> None:
        phases: object = self.phases
        if not isinstance(phases, (tuple, list)) or not all(isinstance(phase, Phase) for phase in phases):
            text = "phases must be a list of Phase objects"
            raise TypeError(message("Join", "phases", phases, text, "Use e.g. [Phase('constant', '80%'), ...]"))
        object.__setattr__(self, "phases", tuple(self.phases))
        open_ended = [phase for phase in self.phases if phase.length is None]
        if not self.phases or len(open_ended) > 1:
            text = f"phases must be at least one, and only one without a length (not {len(open_ended)})"
            raise ValueError(message("Join", "phases", self.phases, text, "Use e.g. [Phase('constant', '80%'), ...]"))

    def placed(self, span: Span) -> Decay:
        """Return the phases with their lengths in updates."""
        return _Joined(self._laid(span), per_epoch=span.per_epoch)

    def height(self, update: int, length: int) -> float:
        """Return the height at ``update``."""
        return self.placed(Span(length=length)).height(update, length)

    def _laid(self, span: Span) -> tuple[tuple[Phase, int], ...]:
        if span.length is None:
            raise ValueError("Join: the length of the run is not known. Pass LRSchedule(total=).")
        fixed = [None if p.length is None else _updates(p.length, span) for p in self.phases]
        left = span.length - sum(n for n in fixed if n is not None)
        if left < 0:
            raise ValueError(
                f"Join: the phases take {span.length - left} updates, the run has {span.length}. Shorten them."
            )
        return tuple((p, left if n is None else n) for p, n in zip(self.phases, fixed, strict=True))


@dataclass(frozen=True)
class _Joined(Decay):
    laid: tuple[tuple[Phase, int], ...]
    per_epoch: float | None

    owns_warmup = True
    takes_final = False

    def parts(self, length: int) -> list[tuple[str, int]]:
        return [
            (f"phase {i}: {phase.decay!r}".split("(")[0], size) for i, (phase, size) in enumerate(self.laid, start=1)
        ]

    def height(self, update: int, length: int) -> float:
        at = 0
        while at < len(self.laid) - 1 and update >= self.laid[at][1]:
            update -= self.laid[at][1]
            at += 1
        phase, size = self.laid[at]
        decay = phase.decay
        assert isinstance(decay, Decay)
        size = max(1, size)
        height = decay.placed(Span(length=size, per_epoch=self.per_epoch)).height(min(update, size), size)
        return height if isinstance(decay, Function) else phase.end + (phase.start - phase.end) * height


def as_decay(owner: str, decay: object, argument: str = "decay") -> Decay:
    """Return the Decay that a name, a Decay or a function means.

    Raises:
        ValueError: no such name; the nearest is named.

    >>> as_decay("LRSchedule", "linear")
    Linear()
    """
    if isinstance(decay, Decay):
        return decay
    if not isinstance(decay, str) and callable(decay):
        return Function(decay)
    return DECAYS[require_choice(owner, argument, decay, DECAYS)]


def _updates(length: Length, span: Span) -> int:
    return Duration.parse(length, owner="Phase", argument="length").updates(span.length, span.per_epoch)


def _between(of: Callable[[int], float], position: float) -> float:
    low = math.floor(position)
    share = position - low
    return of(low) if share == 0 else (1.0 - share) * of(low) + share * of(low + 1)


def caught_up(position: float | Tensor, attempted: int, planned: int, end: float, speed: float = 1) -> float | Tensor:
    """Return the position on a curve whose ``end`` is reached although some attempts were skipped.

    ``max(position, end - 2 * speed * attempts left)``: the number of updates; and two positions per update at the very
    end, when there are too few attempts left to get there one by one.

    Args:
        position: updates so far; a 0-d tensor where only the device knows them.
        attempted: attempted steps so far.
        planned: attempts in the whole run.
        end: the position that shall be reached.
        speed: positions per update, where it is not one.

    >>> [caught_up(k, k + 2, planned=10, end=10) for k in range(9)]  # two attempts were skipped at the start
    [0, 1, 2, 3, 4, 5, 6, 8, 10]
    """
    least = end - 2 * speed * max(0, planned - attempted)
    return position.clamp(min=least) if isinstance(position, Tensor) else max(position, least)
