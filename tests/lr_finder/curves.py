"""A curve of losses over learning rates with corners that are known."""

from __future__ import annotations

import math

from lightning_tricks.lr_finder.sweep import rates

LRS = rates(1e-7, 10.0, 81)  # ten per decade


def bowl(fall: float = 1e-3, turn: float = 1e-1, first: float = 2.0) -> list[float]:
    """A loss that falls linearly in the logarithm from ``fall`` to ``turn``, from ``first`` to 1, and then rises."""
    out = []
    for lr in LRS:
        x = (math.log10(lr) - math.log10(fall)) / (math.log10(turn) - math.log10(fall))
        out.append(first if x < 0 else first - (first - 1.0) * x if x <= 1 else 1.0 + 4.0 * (x - 1) ** 2)
    return out
