"""What the host may read, and hand over, without waiting for a device."""

from __future__ import annotations

import torch
from torch import Tensor


def value_on_host(value: Tensor) -> float | None:
    """Return a 0-d tensor's value when it lies in the host's own memory; None when reading would wait for a device."""
    if not value.is_cpu:
        return None
    number: float = value.tolist()  # type: ignore[assignment]
    return number


def as_scalar(value: float | Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a number as a 0-d tensor. One of Python is filled in, not copied: a copy would wait for the device."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype).reshape(())
    return torch.full((), value, dtype=dtype, device=device)
