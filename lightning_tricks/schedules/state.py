"""What a checkpoint holds of LRSchedule: its form, and how older ones are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tricks.numerics import form
from lightning_tricks.schedules.groups import KnownGroup
from lightning_tricks.schedules.horizon_state import FIRST_HORIZON, HORIZON

_PLATEAU = form.record(
    {
        "version": form.count,
        "best": form.none_or(form.measured),
        "bad": form.count,
        "cooling": form.count,
        "multiplier": form.factor,
        "reductions": form.count,
    }
)
_ALWAYS = {
    "base": form.list_of(form.list_of(form.list_of(form.rate, 2))),
    "plateau": form.none_or(_PLATEAU),
    "of_validation": form.flag,
}
# Names of arguments in the configuration of the first checkpoints.
_FORMER_NAMES = {"shape": "warmup_shape", "start": "warmup_start"}


def schedule_form(value: Any, where: str) -> str | None:
    """Return what is wrong with a state, or None. The first checkpoints hold one length for all optimizers."""
    is_current = isinstance(value, dict) and "courses" in value
    horizon = {**HORIZON, "elapsed": form.least_zero} if is_current else {"pace": FIRST_HORIZON}
    return form.record({**_ALWAYS, **horizon}, more=True)(value, where)


def current_configuration(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in a checkpoint under today's names, so that they can be compared with those of a run.

    The first checkpoints left out ``conflict``, and wrote a missing ``total`` or ``momentum`` as a string.

    >>> current_configuration({"shape": "linear", "total": "None", "final": 0.0})
    {'warmup_shape': 'linear', 'total': None, 'final': 0.0}
    """
    return {_FORMER_NAMES.get(name, name): None if value == "None" else value for name, value in saved.items()}


def saved_groups(groups: Sequence[Sequence[KnownGroup]]) -> list[list[list[float]]]:
    """Return the base rate and weight decay of every group of every optimizer."""
    return [[[group.lr, group.weight_decay] for group in known] for known in groups]


def restored_groups(state: Mapping[str, Any], count: int) -> list[list[KnownGroup]]:
    """Return what a checkpoint holds of the groups of ``count`` optimizers; nothing for those that it does not know."""
    bases = state.get("base", [])
    known = [[KnownGroup((), lr, decay) for lr, decay in groups] for groups in bases]
    return known + [[] for _ in range(count - len(bases))]


def restored_time(state: Mapping[str, Any], otherwise: float) -> float:
    """Return the share of ``max_time`` that was over; the first checkpoints hold it beside the length of the run."""
    first_form = state.get("pace", {}) if "courses" not in state else {}
    elapsed: float = state.get("elapsed", first_form.get("elapsed", otherwise))
    return elapsed
