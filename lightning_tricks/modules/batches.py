"""How many samples a batch holds, whatever its form. torch only, no host read of device tensors.

A batch that says it (a batch of graphs, a packed sequence, a TensorDict) is believed. Otherwise there are two ways to
read it, and all counts in it have to agree in one of them:

- by **dimensions**: containers hold fields, and every tensor begins with the dimension of the samples;
- by **records**: a list in the batch has one entry per sample (images of several sizes, targets as dicts, names).

Lightning's own ``extract_batch_size`` takes the first tensor: the channels of the first image of a detection batch, the
time steps of a packed sequence, the atoms of a batch of molecules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_tricks.numerics.trees import fields_of

_SAYS_IT = ("num_graphs", "batch_size")  # of a batch of graphs; of a TensorDict and of many others
_CHANNELS = (1, 3, 4)  # of images: grey, RGB, RGBA
_PLAIN = (str, bytes, int, float)  # (a list of tokens may be long)


@dataclass(frozen=True)
class Samples:
    """The samples of a batch.

    Args:
        records: whether lists in the batch hold an entry for each; None where both readings say the same.
    """

    count: int
    records: bool | None = None


def samples_of(batch: Any, records: bool | None = None) -> Samples:
    """Return how many samples a batch holds, and how it was read.

    Args:
        records: how an earlier batch of the same data was read, for one that both readings fit: a batch of two images
            with three boxes each.

    Raises:
        ValueError: it cannot be told; the message says why, as the end of a sentence about the batch.

    Example:
        >>> images, targets = [torch.zeros(3, 8, 9), torch.zeros(3, 7, 5)], [{"boxes": torch.zeros(4, 4)}, {}]
        >>> samples_of((images, targets)).count, samples_of({"x": torch.zeros(8, 3), "y": torch.zeros(8)}).count
        (2, 8)
    """
    said = set(_statements(batch))
    if len(said) == 1:
        return Samples(said.pop())
    if said:
        raise ValueError(f"says that it holds {_listed(said)} samples")
    sizes = list(_first_dimensions(batch))
    columns = _columns(batch, top=True)
    by_records = _agreed(columns.counts)
    by_dimensions = None if columns.images and len(set(sizes)) > 1 else _agreed(sizes)  # (masks are not images)
    if by_records is None or (len(columns.counts) == 1 and not (columns.firm or columns.torn or records)):
        by_records = None  # a list of tensors alone may as well hold several views of all samples
    elif by_records == by_dimensions:
        return Samples(by_records)
    elif columns.firm or records or (by_dimensions is None and (columns.torn or columns.images)):
        return Samples(by_records, records=True)
    if by_dimensions is not None and not (by_records and columns.images and records is None):
        return Samples(by_dimensions, records=False)
    if by_dimensions is not None:
        raise ValueError(f"holds {by_records} samples if its lists hold images, and else {by_dimensions}")
    if sizes:
        raise ValueError(f"holds tensors whose first dimensions differ ({_listed(set(sizes))})")
    raise ValueError("holds no tensor whose first dimension is the number of samples")


def parts_of(value: Any) -> list[Any] | None:
    """Return what a container with named places holds; None for lists, plain tuples, tensors and everything else.

    Mappings (also a ``UserDict``, or what has ``keys``), named tuples, dataclasses (with slots too), and other objects
    that hold tensors as attributes.

    >>> parts_of({"a": 1, "b": "c"}), parts_of([1, 2])
    ([1, 'c'], None)
    """
    if isinstance(value, (Tensor, type)):
        return None
    if isinstance(value, Mapping):
        return list(value.values())
    if (places := fields_of(value)) is not None:
        return list(places.values())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value)
    held = list(getattr(value, "__dict__", {}).values())
    return held if any(isinstance(x, Tensor) for x in held) else None


def own_count(value: Any) -> int | None:
    """Return what an object says itself of the number of its samples; None for what has nothing to say.

    >>> own_count(torch.nn.utils.rnn.pack_sequence([torch.zeros(5, 2), torch.zeros(3, 2)])), own_count([1, 2])
    (2, None)
    """
    if isinstance(value, Tensor):
        return None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])  # (always in the memory of the host)
    for name in _SAYS_IT:
        said = _attribute(value, name)
        if isinstance(said, (tuple, torch.Size)) and said:  # that of a TensorDict may have several dimensions
            said = said[0]
        if isinstance(said, int) and not isinstance(said, bool):
            return said
    return len(value) if _has_length_of_its_own(value) else None


def _statements(value: Any, *, alone: bool = True) -> Iterator[int]:
    """Yield what a batch says of its size, or what stands in a place of its own in it.

    Args:
        alone: whether its length speaks for the batch. In a list of one kind of object each may be one sample.
    """
    said = own_count(value)
    if said is not None and (alone or not _has_length_of_its_own(value)):
        yield said
        return
    for part in parts_of(value) or []:
        yield from _statements(part)
    if type(value) in (list, tuple) and not all(isinstance(item, Mapping) for item in value):
        several = len({type(item) for item in value}) > 1
        for item in value:
            if not isinstance(item, _PLAIN):
                yield from _statements(item, alone=several)


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except ValueError:  # a property that cannot tell either
        return None


def _has_length_of_its_own(value: Any) -> bool:
    """Whether its length counts samples and not fields: an object that holds tensors and is not a list."""
    fields_count = isinstance(value, (Mapping, tuple, list)) or callable(getattr(value, "keys", None))
    return not fields_count and hasattr(type(value), "__len__") and parts_of(value) is not None


def _agreed(counts: Sequence[int]) -> int | None:
    """Return what all counts agree on; None where they do not. What begins with 1 is broadcast over all samples."""
    found = set(counts)
    if len(found) > 1:
        found.discard(1)
    return found.pop() if len(found) == 1 else None


def _first_dimensions(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        if value.ndim:
            yield value.size(0)
        return
    held = list(value) if isinstance(value, (list, tuple)) else parts_of(value)
    for item in held or []:
        if not isinstance(item, _PLAIN):
            yield from _first_dimensions(item)


@dataclass(frozen=True)
class _Columns:
    """What a batch holds, read by records.

    Args:
        counts: the length of each list, and the first dimension of each tensor beside them.
        firm: a list holds what can only be records: dicts, names, numbers.
        torn: a list holds tensors, or dicts of them, that do not begin with the same dimension.
        images: a list holds tensors that may be images: three dimensions, and 1, 3 or 4 channels.
    """

    counts: list[int] = field(default_factory=list)
    firm: bool = False
    torn: bool = False
    images: bool = False


def _columns(value: Any, *, top: bool = False) -> _Columns:
    if isinstance(value, Tensor):
        return _Columns([value.size(0)] if value.ndim else [])
    items = parts_of(value)
    if items is None and isinstance(value, (list, tuple)):
        column = _batch_of_records(value) if top else _column(value)
        if column is not None:
            return column
        items = list(value)
    inner = [_columns(item) for item in items or []]
    flags = {name: any(getattr(c, name) for c in inner) for name in ("firm", "torn", "images")}
    return _Columns([n for c in inner for n in c.counts], **flags)


def _column(items: Sequence[Any]) -> _Columns | None:
    """Return what a list in a batch is, read by records; None where its entries are too different for that."""
    if not items:
        return None
    if all(isinstance(item, Tensor) for item in items):
        if len({(item.ndim, item.dtype) for item in items}) > 1:
            return None  # inputs and labels
        sizes = {item.size(0) for item in items if item.ndim}
        images = all(_image(item) for item in items)
        return _Columns([len(items)], torn=len(sizes) > 1, images=images)
    if all(isinstance(item, Mapping) for item in items) or not any(True for _ in _first_dimensions(items)):
        return _Columns([len(items)], firm=True)
    return None


def is_list_of_samples(batch: Any) -> bool:
    """Whether a batch is a list with one entry per sample, and not one of fields.

    >>> is_list_of_samples([{"x": torch.zeros(3, 8), "y": 1}]), is_list_of_samples([torch.zeros(8, 3), torch.zeros(8)])
    (True, False)
    """
    return type(batch) in (list, tuple) and _batch_of_records(batch) is not None


def _batch_of_records(items: Sequence[Any]) -> _Columns | None:
    """Return what a batch that is a list of samples is; None for a list of fields.

    The batches of several loaders are a list too: of dicts, or of rows of tensors, that have the samples in common.
    """
    if len(items) and all(isinstance(item, Mapping) for item in items):
        sizes = [list(_first_dimensions(item)) for item in items]
        firm = len(items) == 1 or any(_is_sample(item) for item in items)
        return _Columns([len(items)], firm=firm, torn=any(len(set(inside)) > 1 for inside in sizes))
    rows = [item for item in items if isinstance(item, (list, tuple))]
    mixed = (
        any(isinstance(x, Tensor) for x in row) and any(not isinstance(x, (Tensor, list, tuple)) for x in row)
        for row in rows
    )
    return _Columns([len(items)], firm=True) if len(rows) == len(items) > 0 and all(mixed) else None


def _is_sample(item: Mapping[Any, Any]) -> bool:
    """Whether a dict is one sample rather than a batch: it holds one image, or numbers beside one tensor."""
    sizes = list(_first_dimensions(item))
    values = [x for x in item.values() if x is not None]
    single = any(isinstance(x, _PLAIN) or (isinstance(x, Tensor) and (x.ndim == 0 or _image(x))) for x in values)
    return len(sizes) < 2 and single


def _image(tensor: Tensor) -> bool:
    return tensor.ndim == 3 and tensor.size(0) in _CHANNELS


def _listed(sizes: set[int]) -> str:
    *some, last = (str(n) for n in sorted(sizes)[:6])
    return f"{', '.join(some)} and {last}" if some else last
