"""Whether what objects give out as their state is equal."""

from __future__ import annotations

from typing import Any

import numpy
import torch


def equal_states(one: Any, other: Any) -> bool:
    """Whether two states are equal: containers of numbers, strings, tensors and arrays."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal_states, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, numpy.ndarray) and isinstance(other, numpy.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.names is not None:  # (between the fields there may be bytes that nobody set)
            return all(equal_states(one[name], other[name]) for name in one.dtype.names)
        if one.dtype.kind == "T":  # (strings of any length: the array holds addresses)
            return bool((one == other).all())
        # (bit for bit: NaN equals itself, and -0.0 differs from 0.0)
        return one.tobytes() == other.tobytes()
    return one is other or bool(one == other)
