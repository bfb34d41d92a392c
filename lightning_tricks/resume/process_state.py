"""What ExactResume saves for each process: its form, and in what a run differs from the one that saved it."""

from __future__ import annotations

from typing import Any

import torch

from lightning_tricks.numerics import form

_NUMBERS = form.named(form.anything)
_HELD = form.named(_NUMBERS)


def _and_held(known: form.Form) -> form.Form:
    """What objects hold beside is not in the first checkpoints of 0.1.0."""
    return lambda value, where: known(value, where) or _HELD(value.get("held", {}), f"{where}['held']")


_BEGAN = _and_held(
    form.record({"random": _NUMBERS, "generators": _NUMBERS, "workers": form.many(form.flag)}, more=True)
)
_RANK = _and_held(
    form.record(
        {
            "now": _NUMBERS,
            "generators": _NUMBERS,
            "began": form.maybe(_BEGAN),
            "batches": form.measured,
            "seeds": form.many(form.maybe(form.whole)),
            "validation": form.flag,
            "in_window": form.flag,
            "gradients": form.named(form.tensor),
        },
        more=True,
    )
)
STATE = form.either_empty_or(form.record({"ranks": form.many(_RANK)}))


def gathered(own: dict[str, Any], world: int) -> list[Any]:
    """Return the states of all processes, in the order of their ranks. All of them must call.

    >>> gathered({"batches": 3.0}, world=1)
    [{'batches': 3.0}]
    """
    if world == 1:
        return [own]
    ranks: list[Any] = [None] * world
    torch.distributed.all_gather_object(ranks, own)
    return ranks


def other_world(saved: int, now: int) -> str | None:
    """Return a warning where the checkpoint is of another number of processes; None where it is of as many.

    >>> other_world(2, 2) is None
    True
    """
    if saved == now:
        return None
    return (
        f"the checkpoint is of {saved} processes, this run has {now}: its data and "
        "random numbers cannot be the same. It goes on with other ones."
    )


def other_epoch(saved: float, now: float) -> str | None:
    """Return a warning where an epoch has another number of batches now; None where it has as many.

    >>> other_epoch(10.0, 10) is None
    True
    """
    if saved == float(now):
        return None
    return (
        f"an epoch had {saved:.0f} batches and has {now} now, so this "
        "cannot be the same run. Resume with the data and the batch size of the checkpoint."
    )


def lost_gradients(rank: dict[str, Any]) -> str | None:
    """Return a warning where the checkpoint is of the middle of a window, and holds no gradients.

    >>> lost_gradients({"in_window": False, "gradients": {}}) is None
    True
    """
    if not rank["in_window"] or rank["gradients"]:
        return None
    return (
        "the checkpoint was saved in the middle of an accumulation window, and holds no gradients: the first "
        "update is made without them. Save at updates, or use ExactResume(gradients=True)."
    )
