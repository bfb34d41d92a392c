"""Split a batch into parts, and put the results of the parts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.errors import TrickError

SplitFunction = Callable[[Any, int], Sequence[Any]]


def split_samples(batch: Any, parts: int) -> list[Any]:
    """Return ``parts`` batches with about equally many samples, cut along the first dimension of every tensor.

    Lists of the batch's length are cut too; everything else (a text, a number) goes into every part.

    Args:
        batch: tensor, or (nested) mapping, sequence, named tuple or dataclass of tensors.
        parts: how many, at most the number of samples.

    >>> [part.tolist() for part in split_samples(torch.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    return _split(batch, parts, dim=0)


def split_sequence(batch: Any, parts: int) -> list[Any]:
    """Return ``parts`` batches of shorter sequences, cut along the second dimension of every tensor that has one.

    For models that look at no position before the cut, or where forgetting it is acceptable.

    >>> [part.tolist() for part in split_sequence(torch.arange(4).reshape(1, 4), 2)]
    [[[0, 1]], [[2, 3]]]
    """
    return _split(batch, parts, dim=1)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shape"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    signs = ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def _split(value: Any, parts: int, dim: int) -> list[Any]:
    length = _length(value, dim)
    if length is None or length < parts:
        raise TrickError(
            f"GradientAccumulation: a batch of type {type(value).__name__} cannot be split into {parts} parts "
            f"(dimension {dim} has {length}). Pass split_fn=, a function of (batch, parts)."
        )
    small, larger = divmod(length, parts)
    bounds = [0, *accumulate(small + (i < larger) for i in range(parts))]
    return [_cut(value, start, stop, length, dim) for start, stop in pairwise(bounds)]


def _length(value: Any, dim: int) -> int | None:
    if isinstance(value, Tensor):
        return value.shape[dim] if value.ndim > dim else None
    return next((n for n in (_length(v, dim) for v in _children(value)) if n is not None), None)


def _children(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    return list(value) if isinstance(value, (list, tuple)) else []


def _cut(value: Any, start: int, stop: int, length: int, dim: int) -> Any:
    def cut(inner: Any) -> Any:
        return _cut(inner, start, stop, length, dim)

    if isinstance(value, Tensor):
        return value.narrow(dim, start, stop - start) if value.ndim > dim and value.shape[dim] == length else value
    if isinstance(value, Mapping):
        cut_up = {k: cut(v) for k, v in value.items()}
        return cut_up if type(value) is dict else type(value)(cut_up)  # type: ignore[call-arg]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: cut(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cut(v) for v in value))
    if isinstance(value, (list, tuple)):
        if dim == 0 and len(value) == length and not any(isinstance(v, Tensor) for v in value):
            return value[start:stop]
        return type(value)(cut(v) for v in value)
    return value
