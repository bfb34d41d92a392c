"""The memory of tensors: which storage one has, which tensors it is made of, and a checksum of its bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tricks.numerics.torch_internals import (
    is_traceable_wrapper_subclass,
    sparse_indices,
    sparse_values,
    storage_id,
    without_subclasses,
)

Storage = torch.UntypedStorage

PLAIN = frozenset({Tensor, torch.nn.Parameter})  # nearly all: what is asked of others need not be asked of them
_FEW = 4096  # bytes that are compared faster one by one than in words
_BLOCK = 1021  # a prime: rows that move by a power of two do not fall onto their old places


def storage_of(tensor: Tensor) -> Storage | None:
    """Return a tensor's storage; None where it has none of its own (sparse, meta, wrappers around other tensors)."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or wraps(tensor) or tensor.is_nested:
        return None
    if type(tensor) in PLAIN:
        return tensor.untyped_storage()
    try:
        with without_subclasses():  # (a lazy parameter refuses to be asked)
            return tensor.untyped_storage()
    except RuntimeError:  # (a backend without storages)
        return None


def inner_tensors(tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return the tensors that one without a storage of its own is made of, by name.

    >>> [name for name, _ in inner_tensors(torch.eye(2).to_sparse())]
    ['indices', 'values']
    """
    if tensor.is_nested and tensor.layout is torch.strided:
        return [("values", tensor.values())]
    if tensor.layout is torch.sparse_coo:
        return [("indices", sparse_indices(tensor)), ("values", sparse_values(tensor))]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [(n, getattr(tensor, n)()) for n in ("crow_indices", "col_indices", "values")]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [(n, getattr(tensor, n)()) for n in ("ccol_indices", "row_indices", "values")]
    if wraps(tensor):
        return [(name, getattr(tensor, name)) for name in inner_names(tensor)]
    return []


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements of the same storage."""
    if one.dtype != other.dtype or one.layout != other.layout or one.is_nested != other.is_nested:
        return False
    if not one.is_nested and one.size() != other.size():
        return False
    if one.layout is not torch.strided or one.is_nested:
        parts, others = inner_tensors(one), inner_tensors(other)
        return len(parts) == len(others) and all(
            same_memory(a, b) for (_, a), (_, b) in zip(parts, others, strict=True)
        )
    a, b = storage_of(one), storage_of(other)
    if a is None or b is None:
        return a is b
    same_place = one.storage_offset() == other.storage_offset() and one.stride() == other.stride()
    return same_place and storage_id(a) == storage_id(b)


def as_bytes(storage: Storage) -> Tensor:
    """Return the bytes of a storage as a tensor that shares its memory."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def same_bytes(one: Storage, other: Storage) -> bool:
    """Whether two storages of one device hold the same bytes. A host read.

    >>> same_bytes(torch.ones(5).untyped_storage(), torch.tensor([1.0] * 4 + [2.0]).untyped_storage())
    False
    """
    if one.nbytes() != other.nbytes():
        return False
    if one.nbytes() <= _FEW:
        return torch.equal(as_bytes(one), as_bytes(other))
    # (torch compares eight bytes as fast as one)
    return all(map(torch.equal, _words_and_rest(one), _words_and_rest(other)))


def _words_and_rest(storage: Storage) -> tuple[Tensor, Tensor]:
    flat = as_bytes(storage)
    whole = len(flat) // 8 * 8
    return flat[:whole].view(torch.int64), flat[whole:]


@torch.no_grad()
def checksum(storage: Storage) -> Tensor:
    """Return three numbers that change with any likely change of the bytes, also when rows change places.

    Two reads of the memory, no copy of it; nothing is read by the host.
    """
    words, rest = _words_and_rest(storage)
    body = words[: len(words) // _BLOCK * _BLOCK].view(-1, _BLOCK)
    tail = words[body.numel() :]
    parts = [body.sum(0), body.sum(1), torch.cat([tail, rest.to(torch.int64)])]
    return torch.stack([_weighted(part) for part in parts])


def _weighted(numbers: Tensor) -> Tensor:
    weights = torch.arange(1, 2 * len(numbers) + 1, 2, device=numbers.device) * 0x9E3779B97F4A7C1  # odd, no small sums
    return (numbers * weights).sum()


def wraps(tensor: Any) -> bool:
    """Whether a tensor is made of others (DTensor, jagged and quantized tensors) and has no memory of its own."""
    return type(tensor) not in PLAIN and bool(is_traceable_wrapper_subclass(tensor))


def inner_names(tensor: Any) -> list[str]:
    """Return the names of the tensors that one is made of."""
    return list(tensor.__tensor_flatten__()[0])
