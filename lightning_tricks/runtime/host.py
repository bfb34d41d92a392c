"""What the host may read without waiting for a device."""

from __future__ import annotations

from torch import Tensor


def at_hand(value: Tensor) -> float | None:
    """Return a 0-d tensor's value when it lies in the host's own memory; None when reading would wait for a device.

    >>> import torch
    >>> at_hand(torch.tensor(0.5))
    0.5
    """
    if value.device.type != "cpu":
        return None
    number: float = value.tolist()  # type: ignore[assignment]
    return number
