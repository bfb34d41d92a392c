"""The rates to try, and when to stop trying. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MODES = ("exponential", "linear")


def rates(min_lr: float, max_lr: float, num_steps: int, mode: str = "exponential") -> list[float]:
    """Return ``num_steps`` rates from ``min_lr`` to ``max_lr``, evenly spaced in log (or in value for ``"linear"``).

    >>> rates(1e-3, 10.0, 5)
    [0.001, 0.01, 0.1, 1.0, 10.0]
    """
    last = num_steps - 1
    if mode == "linear":
        return [min_lr + (max_lr - min_lr) * i / last for i in range(num_steps)]
    decades = math.log10(max_lr / min_lr)
    return [*(min_lr * 10.0 ** (decades * i / last) for i in range(last)), max_lr]


def smoothed(losses: Sequence[float], beta: float) -> list[float]:
    """Return the exponential moving average with bias correction, ``m_i / (1 - beta^i)`` with ``i`` from 1.

    >>> smoothed([4.0, 4.0], 0.9)
    [4.0, 4.0]
    """
    out, mean = [], 0.0
    for i, loss in enumerate(losses, start=1):
        mean = beta * mean + (1.0 - beta) * loss
        # Lightning's finder corrects by one power too many, which halves its first value. Rounded, so that equal losses
        # stay equal, and the last bits do not decide where the minimum is.
        out.append(round(mean / (1.0 - beta**i), 12))
    return out


def diverged(first: float, losses: Sequence[float]) -> bool:
    """Whether the last loss lies above the first by as much as the best one lies below it. Works for negative losses.

    >>> diverged(2.0, [1.9, 1.0, 2.5]), diverged(2.0, [1.9, 1.0, 3.5])
    (False, True)
    """
    if not losses:
        return False
    if not math.isfinite(losses[-1]):
        return True
    # Lightning ends a sweep at four times the best loss; a negative loss is beyond that from the beginning.
    gained = first - min(losses)
    return losses[-1] > first + max(gained, 0.25 * abs(first), 1e-12)


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
