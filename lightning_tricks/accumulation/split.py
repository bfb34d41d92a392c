"""Split a batch into parts, and put the results of the parts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from lightning_tricks.accumulation.weights import Weight, read_samples
from lightning_tricks.errors import TrickError
from lightning_tricks.modules.batches import is_list_of_samples, own_count, parts_of

SplitFunction = Callable[[Any, int], Sequence[Any]]


def split_samples(batch: Any, parts: int, records: bool | None = None) -> list[Any]:
    """Return ``parts`` batches with about equally many samples, cut along the first dimension of every tensor.

    Lists with an entry per sample are cut too, packed sequences are packed again, and batches of graphs and TensorDicts
    are cut by their own means; everything else (a string, a number) goes into every part.

    Args:
        batch: tensor, or (nested) mapping, sequence, named tuple, dataclass or object of tensors.
        parts: how many, at most the number of samples.
        records: how an earlier batch of the same data was read, as in ``samples_of``.

    Raises:
        TrickError: the samples cannot be counted, are fewer, or lie in an object that cannot be cut.

    >>> [part.tolist() for part in split_samples(torch.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    found = read_samples(batch, records)
    listed = is_list_of_samples(batch) and len(batch) == found.count
    bounds = _bounds(batch, found.count, parts, 0)
    if listed:
        return [batch[start:stop] for start, stop in bounds]
    return [_cut(batch, start, stop, found.count, 0, bool(found.records), top=True) for start, stop in bounds]


def split_sequence(batch: Any, parts: int) -> list[Any]:
    """Return ``parts`` batches of shorter sequences, cut along the second dimension of every tensor that has one.

    For models that look at no position before the cut, or where forgetting it is acceptable.

    >>> [part.tolist() for part in split_sequence(torch.arange(4).reshape(1, 4), 2)]
    [[[0, 1]], [[2, 3]]]
    """
    length = _length(batch, 1)
    return [_cut(batch, start, stop, length or 0, 1) for start, stop in _bounds(batch, length, parts, 1)]


def merged_outputs(outputs: Sequence[Mapping[str, Any]], sizes: Sequence[int], loss: Tensor) -> dict[str, Any]:
    """Return one result of ``training_step`` from those of the parts.

    Tensors with one row per sample are put together again; of everything else the last part's is kept.

    >>> parts = [{"loss": 0, "logits": torch.zeros(2, 1)}, {"loss": 0, "logits": torch.ones(1, 1)}]
    >>> merged_outputs(parts, [2, 1], torch.tensor(0.5))["logits"].flatten().tolist()
    [0.0, 0.0, 1.0]
    """
    merged: dict[str, Any] = dict(outputs[-1])
    for name in merged:
        rows = [output.get(name) for output in outputs]
        by_sample = [isinstance(r, Tensor) and r.ndim > 0 and r.shape[0] == n for r, n in zip(rows, sizes, strict=True)]
        if len(rows) > 1 and all(by_sample):
            merged[name] = torch.cat(rows)  # type: ignore[arg-type]
    return {**merged, "loss": loss}


def shares_of(weights: Sequence[Weight]) -> list[float | Tensor]:
    """Return what each part of a batch contributes to its mean: ``w_i / sum w``, and 0 where nothing counts.

    >>> shares_of([3, 1]), shares_of([0, 0])
    ([0.75, 0.25], [0.0, 0.0])
    """
    whole = sum(weights)
    if isinstance(whole, Tensor):
        return [torch.where(whole != 0, weight / whole, 0.0) for weight in weights]
    return [weight / whole if whole else 0.0 for weight in weights]


def mean_of_parts(losses: Sequence[Tensor], shares: Sequence[float | Tensor]) -> Tensor:
    """Return the mean loss of a batch from those of its parts. One that counts nothing is left out, also if it is NaN.

    >>> mean_of_parts([torch.tensor(1.0), torch.tensor(float("nan"))], [1.0, 0.0])
    tensor(1.)
    """
    counted = [
        torch.where(share != 0, loss * share, 0.0)
        if isinstance(share, Tensor)
        else (loss * share if share else torch.zeros_like(loss))
        for loss, share in zip(losses, shares, strict=True)
    ]
    return torch.as_tensor(sum(counted))


def _bounds(batch: Any, length: int | None, parts: int, dim: int) -> list[tuple[int, int]]:
    if length is None or length < parts:
        raise _unsplittable(batch, f"into {parts} parts (dimension {dim} has {length})")
    small, larger = divmod(length, parts)
    return list(pairwise([0, *accumulate(small + (i < larger) for i in range(parts))]))


def _unsplittable(value: Any, why: str) -> TrickError:
    return TrickError(
        f"GradientAccumulation: a batch of type {type(value).__name__} cannot be split {why}. Pass split_fn=, a "
        "function of (batch, parts)."
    )


def _length(value: Any, dim: int) -> int | None:
    if isinstance(value, Tensor):
        return value.shape[dim] if value.ndim > dim else None
    held = list(value) if isinstance(value, (list, tuple)) else parts_of(value)
    return next((n for n in (_length(v, dim) for v in held or []) if n is not None), None)


def _cut(value: Any, start: int, stop: int, length: int, dim: int, records: bool = False, *, top: bool = False) -> Any:
    """Return the part of a value from ``start`` to ``stop``; what is not of that length is kept whole.

    Args:
        length: samples or positions of the whole batch.
        dim: of tensors, that is cut.
        records: whether lists of tensors hold one per sample.
        top: whether this is the batch itself, whose list is one of fields.
    """

    def cut(inner: Any) -> Any:
        return _cut(inner, start, stop, length, dim, records)

    if isinstance(value, Tensor):
        # (a view: where memory is short, no part of the batch is copied)
        return value.narrow(dim, start, stop - start) if value.ndim > dim and value.shape[dim] == length else value
    if dim == 0 and (own := _own_cut(value, start, stop, length)) is not None:
        return own
    if isinstance(value, Mapping):
        cut_up = {k: cut(v) for k, v in value.items()}
        return cut_up if type(value) is dict else type(value)(cut_up)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cut(v) for v in value))
    if isinstance(value, (list, tuple)):
        if dim == 0 and not top and len(value) == length and (records or not any(isinstance(v, Tensor) for v in value)):
            return value[start:stop]
        return type(value)(cut(v) for v in value)
    if parts_of(value) is None:
        return value
    part = copy(value)
    named = [f.name for f in fields(value)] if is_dataclass(value) else list(vars(value))
    for name in named:
        if hasattr(value, name):
            object.__setattr__(part, name, cut(getattr(value, name)))  # (a dataclass may be frozen)
    return part


def _own_cut(value: Any, start: int, stop: int, length: int) -> Any:
    """Return the part of something that counts its samples itself; None for what does not."""
    if isinstance(value, PackedSequence):
        return pack_sequence(unpack_sequence(value)[start:stop], enforce_sorted=False)
    if own_count(value) != length:
        return None
    if hasattr(type(value), "from_data_list"):  # (a batch of torch_geometric)
        return type(value).from_data_list(value[start:stop])
    if isinstance(getattr(value, "batch_size", None), torch.Size):
        return value[start:stop]
    raise _unsplittable(value, "by its samples, of which only it knows which are whose")
