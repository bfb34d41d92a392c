"""Values of any kind as plain values, which load with ``weights_only=True``, and back again."""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

LARGEST = 2**24  # bytes of one value
MOST_ITEMS = 200_000  # of one container
KIND, _CONTENT = "kind", "content"  # of a value that is written as a dict
_COPIED = 2**16  # bytes of one value in a data set that are copied; of a larger one a digest is taken
_SCALARS = (bool, int, float, complex, str, bytes, type(None))


def is_numeric(value: Any) -> bool:
    """Whether an encoded value is a tensor or an array."""
    return isinstance(value, Tensor) or (isinstance(value, dict) and value[KIND] == "array")


@dataclass(frozen=True, eq=False)
class Large:
    """An array or tensor of a data set that is neither copied nor kept alive."""

    reference: weakref.ref[Any]
    digest: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Large) and other.digest == self.digest

    @staticmethod
    def of(value: Any) -> Large | None:
        """Return it with its digest; None where that would have to wait for a device, or cannot be encoded later."""
        if isinstance(value, Tensor):
            if value.device.type != "cpu" or value.layout is not torch.strided:
                return None
            array = value.detach().reshape(-1).view(torch.uint8).numpy()
        elif value.dtype.kind in "biufc":
            array = value
        else:
            return None
        return Large(weakref.ref(value), hashlib.blake2b(numpy.ascontiguousarray(array).data.cast("B")).digest())


class NotPlainError(Exception):
    """A value cannot be written as plain values."""


def encoded(value: Any, budget: list[int], spare: list[int] | None = None) -> Any:
    """Return a copy of a value as plain values; arrays become tensors, kinds of containers are noted.

    Args:
        budget: how many items are left.
        spare: of a data set, how many bytes may still be read for digests: larger arrays and tensors are not copied.

    Raises:
        NotPlainError: it is of another kind, or too large.
    """
    # (a list of one number, which all nested calls share)
    budget[0] -= 1
    if budget[0] < 0:
        raise NotPlainError
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in (list, tuple, deque, set, frozenset):
        budget[0] -= len(value)
        if budget[0] < 0:
            raise NotPlainError
        items = [encoded(item, budget, spare) for item in value]
        if kind is list:
            return items
        more = {"maxlen": value.maxlen} if kind is deque else {}
        return {KIND: kind.__name__, _CONTENT: items, **more}
    if kind is dict:
        rows = [[encoded(key, budget), encoded(item, budget, spare)] for key, item in value.items()]
        return {KIND: "dict", _CONTENT: rows}
    if spare is not None and kind in (numpy.ndarray, Tensor) and value.nbytes > _COPIED:
        spare[0] -= value.nbytes
        large = Large.of(value) if value.nbytes <= LARGEST and spare[0] >= 0 else None
        if large is None:
            raise NotPlainError
        return large
    if kind is numpy.ndarray and value.dtype.kind in "biufc" and value.nbytes <= LARGEST:
        # (copied: torch warns of memory that is read-only, as that of bytes is)
        raw = torch.from_numpy(numpy.frombuffer(value.tobytes(), dtype=numpy.uint8).copy())
        return {KIND: "array", _CONTENT: raw, "dtype": value.dtype.str, "shape": list(value.shape)}
    if kind is Tensor and value.layout is torch.strided and value.nbytes <= LARGEST and value.device.type != "meta":
        return value.detach().to("cpu", copy=True)
    raise NotPlainError


def without_references(value: Any) -> Any:
    """Return an encoded value in which nothing is held by reference any more."""
    if isinstance(value, Large):
        return encoded(value.reference(), [MOST_ITEMS])
    if isinstance(value, list):
        return [without_references(item) for item in value]
    return {key: without_references(item) for key, item in value.items()} if isinstance(value, dict) else value


def decoded(value: Any) -> Any:
    """Return what ``encoded`` was given."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[KIND], value[_CONTENT]
    if kind == "array":
        flat = numpy.frombuffer(content.numpy().tobytes(), dtype=numpy.dtype(value["dtype"]))
        return flat.reshape(value["shape"]).copy()
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in content}
    items = [decoded(item) for item in content]
    if kind == "deque":
        return deque(items, value["maxlen"])
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def filled(there: Any, value: Any) -> bool:
    """Fill a container, an array or a tensor with what another of its type holds; return whether that was possible."""
    if isinstance(there, numpy.ndarray):
        fits = bool(there.shape == value.shape and there.dtype == value.dtype and there.flags.writeable)
        if fits:
            there[...] = value
        return fits
    if isinstance(there, Tensor):
        # (what is part of a graph must not be written to)
        fits = there.shape == value.shape and there.dtype == value.dtype and there.grad_fn is None
        if fits:
            there.copy_(value)
        return fits
    if isinstance(there, list):
        there[:] = value
        return True
    if isinstance(there, (dict, set)):
        there.clear()
        there.update(value)
        return True
    if isinstance(there, deque) and there.maxlen == value.maxlen:
        there.clear()
        there.extend(value)
        return True
    return False
