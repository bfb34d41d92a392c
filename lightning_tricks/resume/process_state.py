"""What ExactResume saves for each process: its form, and in what a run differs from the one that saved it."""

from __future__ import annotations

from typing import Any

import torch

from lightning_tricks.numerics import form
from lightning_tricks.resume.differences import Difference, difference, digests, merged

_NUMBERS = form.dict_of(form.anything)
_HELD = form.dict_of(_NUMBERS)


def _and_held(known: form.Form) -> form.Form:
    """What objects hold beside is not in the first checkpoints of 0.1.0."""
    return lambda value, where: known(value, where) or _HELD(value.get("held", {}), f"{where}['held']")


_BEGAN = _and_held(
    form.record({"random": _NUMBERS, "generators": _NUMBERS, "workers": form.list_of(form.flag)}, more=True)
)
_RANK = _and_held(
    form.record(
        {
            "now": _NUMBERS,
            "generators": _NUMBERS,
            "began": form.none_or(_BEGAN),
            "batches": form.measured,
            "seeds": form.list_of(form.none_or(form.count)),
            "validation": form.flag,
            "in_window": form.flag,
            "gradients": form.dict_of(form.tensor),
        },
        more=True,
    )
)
_CHANGED = form.list_of(form.anything, 2)
_DIFFERENCE = form.record(
    {}, optional={"gone": form.list_of(form.list_of(form.text)), "changed": form.list_of(_CHANGED)}
)
_STORED = form.record({"ranks": form.list_of(_RANK)}, optional={"others": form.list_of(_DIFFERENCE)})


def _state(value: Any, where: str) -> str | None:
    """All processes are in ``ranks``, as in older checkpoints; or the first one is, and ``others`` are differences."""
    if (fault := _STORED(value, where)) is not None or "others" not in value:
        return fault
    if len(value["ranks"]) != 1:
        return f"{where}['ranks'] must be a list of 1 beside 'others', not of {len(value['ranks'])}"
    for i, changes in enumerate(value["others"]):
        place = f"{where}['others'][{i}]"
        try:
            whole = merged(value["ranks"][0], changes)
        except (TypeError, ValueError, LookupError, AttributeError):
            return f"{place} cannot be put together with {where}['ranks'][0]"
        if (fault := _RANK(whole, place)) is not None:
            return fault
    return None


STATE = form.either_empty_or(_state)


def gathered(own: dict[str, Any], world: int) -> dict[str, Any]:
    """Return what a checkpoint holds of all processes: on the first one, which writes it; nothing on the others.

    What another process has as the first one does is neither sent nor written: seeded alike, that is all of it. So the
    checkpoint grows by some bytes a process, and no process but the first receives anything. All of them must call.
    """
    if world == 1:
        return {"ranks": [own]}
    first = torch.distributed.get_rank() == 0
    common: list[Any] = [digests(own) if first else None]
    torch.distributed.broadcast_object_list(common, src=0)
    others: list[Difference] | None = [{} for _ in range(world)] if first else None
    torch.distributed.gather_object(difference(common[0], own), others, dst=0)
    return {} if others is None else {"ranks": [own], "others": others[1:]}


def num_processes(state: dict[str, Any]) -> int:
    """Return of how many processes a checkpoint is.

    >>> num_processes({"ranks": [{}], "others": [{}, {}]}), num_processes({"ranks": [{}, {}]})
    (3, 2)
    """
    return len(state["ranks"]) + len(state.get("others", ()))


def of_rank(state: dict[str, Any], rank: int) -> dict[str, Any]:
    """Return what a checkpoint holds of one process.

    >>> of_rank({"ranks": [{"a": 1}], "others": [{"changed": [[[["a"]], 2]]}]}, 1)
    {'a': 2}
    >>> of_rank({"ranks": [{}, {"b": 1}]}, 1)
    {'b': 1}
    """
    if rank < len(state["ranks"]):
        return dict(state["ranks"][rank])
    return merged(state["ranks"][0], state["others"][rank - len(state["ranks"])])


def other_world(saved: int, now: int) -> str | None:
    """Return a warning where the checkpoint is of another number of processes; None where it is of as many."""
    if saved == now:
        return None
    return (
        f"the checkpoint is of {saved} processes, this run has {now}: its data and "
        "random numbers cannot be the same. It goes on with other ones."
    )


def other_epoch(saved: float, now: float) -> str | None:
    """Return a warning where an epoch has another number of batches now; None where it has as many."""
    if saved == float(now):
        return None
    return (
        f"an epoch had {saved:.0f} batches and has {now} now, so this "
        "cannot be the same run. Resume with the data and the batch size of the checkpoint."
    )


def lost_gradients(rank: dict[str, Any]) -> str | None:
    """Return a warning where the checkpoint is of the middle of a window, and holds no gradients."""
    if not rank["in_window"] or rank["gradients"]:
        return None
    return (
        "the checkpoint was saved in the middle of an accumulation window, and holds no gradients: the first "
        "update is made without them. Save at updates, or use ExactResume(gradients=True)."
    )
