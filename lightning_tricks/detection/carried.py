"""What modules carry from batch to batch beside their weights: the hidden state of a recurrent network, a running mean.

Plain attributes, which no ``state_dict`` holds. Where one became NaN with the failure, weights that were put back would
be NaN again after the next batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MOST_NUMBERS = 4_000_000  # of a tensor: larger ones are data, and are not copied
_MOST_PLACES = 1000  # of a container: longer ones are data as well
_MOST_LEAVES = 10_000  # of an attribute: what holds more is data too
_DEEPEST = 4  # containers and objects within each other
_OF_LIBRARIES = ("builtins", "datetime", "functools", "lightning", "numpy", "pytorch_lightning", "torch", "weakref")
_OF_MODULES = frozenset(vars(nn.Module()))


def carried(module: nn.Module) -> dict[str, Any]:
    """Return copies of what modules carry, in the host's memory, by name: numbers that are finite, and None.

    Args:
        module: the LightningModule. Looked at are tensors, arrays and floats in attributes of its modules, also in
            containers, and in objects whose class is of no library.
    """
    found: dict[str, Any] = {}
    for owner, name, path in _attributes(module):
        for where, leaf in _leaves(vars(owner)[name], path, 0):
            if leaf is None or _is_finite(leaf):
                found[where] = _copy(leaf)
    return found


def mend_carried(saved: Mapping[str, Any], module: nn.Module) -> None:
    """Put back what holds NaN or inf now and did not when it was saved; the rest goes on as it is."""
    for owner, name, path in list(_attributes(module)):
        value = vars(owner)[name]
        mended = _mended(value, path, saved, 0)
        if mended is not value:
            setattr(owner, name, mended)


def _attributes(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield owner, name and path of each attribute of modules that is none of torch's or Lightning's own."""
    for prefix, owner in module.named_modules():
        for name, value in vars(owner).items():
            # (parameters and buffers lie in dicts among torch's own; Lightning's that hold objects begin so as well)
            if name in _OF_MODULES or (name.startswith("_") and _is_object(value)):
                continue
            path = f"{prefix}.{name}".removeprefix(".")
            if next(islice(_leaves(value, path, 0), _MOST_LEAVES, None), None) is None:
                yield owner, name, path


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield key and value of what a container or an object holds; nothing of what is none, or is data."""
    if isinstance(value, (dict, list, tuple, deque)) and len(value) <= _MOST_PLACES:
        yield from list(value.items()) if isinstance(value, dict) else enumerate(value)
    elif _is_object(value) and len(vars(value)) <= _MOST_PLACES:
        yield from list(vars(value).items())


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if value is None or _is_number(value):
        yield path, value
    elif depth < _DEEPEST:
        for key, part in _parts(value):
            yield from _leaves(part, f"{path}.{key}", depth + 1)


def _mended(value: Any, path: str, saved: Mapping[str, Any], depth: int) -> Any:
    """Return a value with what was saved in the place of what is not finite; containers and objects are written to."""
    numbers = [leaf for _, leaf in _leaves(value, path, depth) if leaf is not None]
    if all(map(_is_finite, numbers)):
        return value
    if path in saved and (saved[path] is None or _is_number(value)):  # (None: it has begun since)
        return _put(saved[path], value)
    parts = {key: _mended(part, f"{path}.{key}", saved, depth + 1) for key, part in _parts(value)}
    if isinstance(value, tuple):
        return type(value)(*parts.values()) if hasattr(value, "_fields") else type(value)(parts.values())
    if isinstance(value, deque):  # (a window over the last numbers: those that are none leave it)
        kept = [part for part in parts.values() if not _is_number(part) or _is_finite(part)]
        value.clear()
        value.extend(kept)
    elif isinstance(value, (dict, list)):
        for key, part in parts.items():
            value[key] = part
    elif not _is_number(value):
        vars(value).update(parts)
    return value


def _is_object(value: Any) -> bool:
    plain = isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, (type, nn.Module, Tensor))
    library = type(value).__module__.split(".")[0] in _OF_LIBRARIES
    return plain and not library and not isinstance(value, (dict, list, tuple, deque)) and not callable(value)


def _is_number(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        dense = type(leaf) is Tensor and leaf.layout == torch.strided
        return dense and leaf.is_floating_point() and leaf.numel() <= _MOST_NUMBERS
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind == "f" and leaf.itemsize <= 8 and leaf.size <= _MOST_NUMBERS
    return isinstance(leaf, float)


def _is_finite(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return bool(leaf.isfinite().all())
    return bool(np.isfinite(leaf).all()) if isinstance(leaf, np.ndarray) else math.isfinite(leaf)


def _copy(leaf: Any) -> Any:
    """Return a copy in the host's memory, of kinds that ``torch.load`` takes by itself."""
    if isinstance(leaf, Tensor):
        return leaf.detach().to("cpu", copy=True)
    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(leaf.copy())
    return None if leaf is None else float(leaf)


def _put(saved: Any, beside: Any) -> Any:
    """Return a copy of what was saved, in the form of what it takes the place of."""
    if not isinstance(saved, Tensor):
        return saved
    if isinstance(beside, np.ndarray):
        return saved.numpy().copy()
    return saved.to(beside.device if isinstance(beside, Tensor) else "cpu", copy=True)
