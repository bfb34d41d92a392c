"""A second loader over the same data, of the user's own class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_tricks.dry_run.kinds import hidden_state

# what makes workers; batches do not depend on it, and a dry run loads in this process
_IN_THIS_PROCESS = {
    "num_workers": 0,
    "prefetch_factor": None,
    "persistent_workers": False,
    "timeout": 0,
    "worker_init_fn": None,
    "_DataLoader__multiprocessing_context": None,
    "_iterator": None,
}


def second_loader(loader: Any) -> Any:
    """Return a loader of the same class, with the same data set, samplers and functions, that loads in this process.

    The first one's iterator may be under way; neither of the two notices the other. Anything else that can be iterated
    again and again is returned as it is.

    Example:
        >>> class Own(DataLoader):
        ...     def __iter__(self): return (batch * 10 for batch in super().__iter__())
        >>> list(second_loader(Own([1, 2], num_workers=2)))
        [tensor([10]), tensor([20])]
    """
    if not isinstance(loader, DataLoader):
        return loader
    # Past the constructor, which a subclass may have changed, and past DataLoader's ``__setattr__``, which lets nobody
    # change a loader after that.
    twin = object.__new__(type(loader))
    vars(twin).update(vars(loader))
    vars(twin).update(_IN_THIS_PROCESS)
    return twin


def is_read_by_position(loader: Any) -> bool:
    """Whether a loader asks its data set for samples by position, so that reading leaves the data as they are."""
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def items_of(data: Any, positions: Sequence[int]) -> list[Any]:
    """Return samples of a data set by their positions, asked for as torch's fetcher asks.

    >>> items_of(["a", "b", "c"], [2, 0])
    ['c', 'a']
    """
    if hasattr(data, "__getitems__") and data.__getitems__:
        return list(data.__getitems__(list(positions)))
    return [data[i] for i in positions]


def unrepeatable(loader: Any) -> str | None:
    """Return why batches that a second loader takes could not be given back, in words; None when they can.

    >>> unrepeatable(DataLoader([1])), unrepeatable(iter([1]))
    (None, 'list_iterator can be iterated only once')
    """
    name = type(loader).__name__
    for thing in (loader, getattr(loader, "dataset", None)):
        if hasattr(thing, "state_dict"):
            return f"{type(thing).__name__} keeps a position of its own (state_dict)"
    if isinstance(loader, DataLoader):
        return None
    if not hasattr(type(loader), "__iter__") and not hasattr(type(loader), "__getitem__"):
        return f"{name} cannot be iterated"
    # (one written in Python may start again in its ``__iter__``, and what it holds is put back)
    if hasattr(type(loader), "__next__") and hidden_state(type(loader)) is not None:
        return f"{name} can be iterated only once"
    return None
