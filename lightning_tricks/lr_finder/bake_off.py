"""A short training with each of several rates: which rates, and which of them is taken. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

CANDIDATES = (0.1, 0.3, 1.0, 3.0)  # times the suggestion


def candidates(suggestion: float, last: float | None = None) -> list[float]:
    """Return the rates of a bake-off: four around the suggestion; with ``last``, on up to a third of that rate.

    >>> [round(lr, 4) for lr in candidates(0.01)], [round(lr, 4) for lr in candidates(0.01, last=3.0)]
    ([0.001, 0.003, 0.01, 0.03], [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    """
    around = [factor * suggestion for factor in CANDIDATES]
    # Each further rate is ten times the last but one: 1, 3, 10, 30 times the suggestion. (1e-9: a rate at the limit
    # counts)
    while last is not None and around[-2] * 10.0 <= last / 3.0 * (1.0 + 1e-9):
        around.append(around[-2] * 10.0)
    return around


def best_candidate(bake_off: Mapping[float, float], first: float) -> float | None:
    """Return the smallest rate whose loss is within 5 % of the best one's fall; None when no loss is finite.

    A short training favours large rates, which a long one does not.

    >>> best_candidate({0.01: 1.02, 0.1: 1.0, 1.0: 3.0}, first=2.0)
    0.01
    """
    finite = {lr: loss for lr, loss in bake_off.items() if math.isfinite(loss)}
    if not finite:
        return None
    lowest = min(finite.values())
    return min(lr for lr, loss in finite.items() if loss <= lowest + 0.05 * max(0.0, first - lowest))
