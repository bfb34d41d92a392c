"""The data's position: what random numbers the iterator of an epoch began with, and how many batches were taken.

A loader cannot be told to begin in the middle. But an iterator that is made again with the same random numbers gives
the same order and the same seeds to its workers; as many batches as were taken are then skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_tricks.numerics.torch_internals import can_skip, skip_one

# samplers that draw all they need when they begin: fetching data in between changes nothing for them
_DRAW_AT_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)


def on_iterator_start(iterable: Any, begins: Callable[[], None]) -> Callable[[], None]:
    """Call ``begins()`` before each ``iter(iterable)``; return the function that ends this.

    Python looks up ``__iter__`` on the class, so the object gets a class of its own, which is its old one but for that.

    Example:
        >>> class Loader:
        ...     def __iter__(self): return iter("ab")
        >>> loader, count = Loader(), []
        >>> end = on_iterator_start(loader, lambda: count.append(1))
        >>> list(loader), end(), list(loader), len(count), type(loader) is Loader
        (['a', 'b'], None, ['a', 'b'], 1, True)
    """
    original = type(iterable)

    def __iter__(self: Any) -> Any:
        begins()
        return original.__iter__(self)

    # ``iter()`` looks ``__iter__`` up on the class, so that an attribute of the object would not be seen.
    iterable.__class__ = type(original.__name__, (original,), {"__iter__": __iter__, "__module__": original.__module__})

    def end() -> None:
        iterable.__class__ = original

    return end


def unrepeatable(loaders: list[Any], *, cycled: bool) -> str | None:
    """Return why the middle of an epoch cannot be found again in these loaders; None when it can.

    Args:
        cycled: whether a shorter one starts over when it ends.
    """
    for loader in loaders:
        if keeps_its_own_state(loader):
            continue
        if not isinstance(loader, DataLoader):
            return f"{type(loader).__name__} is not a DataLoader and has no state_dict"
        if isinstance(loader.dataset, IterableDataset):
            return f"{type(loader.dataset).__name__} is an iterable data set, which cannot be asked for its position"
    if cycled and len(loaders) > 1 and len({len(loader) for loader in loaders}) > 1:
        return "a shorter loader begins again in mid-epoch, with numbers that only the training before it gives"
    return None


def has_persistent_workers(loader: Any) -> bool:
    """Whether a loader's workers, and their random numbers, go on from epoch to epoch."""
    return bool(getattr(loader, "persistent_workers", False) and getattr(loader, "num_workers", 0))


def seeds(loaders: list[Any]) -> list[int | None]:
    """Return the seeds of distributed samplers, which make the order of an epoch; None for other samplers.

    >>> seeds([DataLoader([1])])
    [None]
    """
    samplers = [getattr(loader, "sampler", None) for loader in loaders]
    return [sampler.seed if isinstance(sampler, DistributedSampler) else None for sampler in samplers]


def put_seeds(loaders: list[Any], saved: list[int | None]) -> None:
    """Put back what ``seeds`` returned: Lightning takes the seed of this start, which may be another one."""
    for loader, seed in zip(loaders, saved, strict=False):
        if seed is not None and isinstance(loader.sampler, DistributedSampler):
            loader.sampler.seed = seed


def keeps_its_own_state(loader: Any) -> bool:
    """Whether a loader says where it is, as torchdata's StatefulDataLoader does; Lightning saves that."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def skip_batches(iterator: Any, loaders: list[Any], count: int) -> None:
    """Take ``count`` batches from the iterator of a CombinedLoader, without loading them where that is the same.

    Args:
        iterator: it has given no batch yet.
    """
    inner = getattr(getattr(iterator, "_iterator", None), "iterators", [])
    if len(loaders) == len(inner) == 1 and can_skip(inner[0]) and _order_is_all(loaders[0]):
        for _ in range(count):
            skip_one(inner[0])
        # (from which a CombinedLoader takes the number that it gives out with each batch)
        iterator._iterator._idx += count
        return
    for _ in range(count):
        next(iterator)


def _order_is_all(loader: Any) -> bool:
    """Whether batches are made in this process, from an order that is drawn at once."""
    if type(loader).__iter__ is not DataLoader.__iter__ or loader.num_workers:
        return False
    batches = loader.batch_sampler
    return type(batches) is BatchSampler and type(batches.sampler) in _DRAW_AT_ONCE
