"""Rules that turn a curve of losses over learning rates into one rate. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence


def minimum(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return a tenth of the rate with the lowest loss. Reference: Howard, Gugger, "fastai", 2020, arXiv:2002.04688.

    >>> minimum([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], 2.0)
    0.01
    """
    return lrs[lowest(losses)] / 10.0 if lrs and _fell(losses, first) else None


def steepest(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return the rate at which the loss falls fastest per decade. Reference: Smith, 2017, arXiv:1506.01186.

    >>> steepest([0.01, 0.1, 1.0, 10.0], [2.0, 1.9, 1.0, 0.9], 2.0)
    0.1
    """
    end = lowest(losses)
    # (a slope needs a neighbour on each side)
    if end < 2 or not _fell(losses, first):
        return None
    slopes = [(losses[i + 1] - losses[i - 1]) / math.log10(lrs[i + 1] / lrs[i - 1]) for i in range(1, end)]
    return lrs[1 + slopes.index(min(slopes))]


def valley(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return the rate half-way, in log, through the fall: from 5 % of it to its bottom.

    fastai takes the longest falling subsequence; a fixed batch falls from the first rate on, so that its start
    carries no information: here the fall begins where it is noticeable.

    >>> round(valley([0.001, 0.01, 0.1, 1.0], [2.0, 1.5, 1.0, 5.0], 2.0), 4)
    0.0316
    """
    end = lowest(losses)
    if not _fell(losses, first):
        return None
    drop = first - losses[end]
    # (there is one: the lowest loss at the latest)
    begin = next(i for i, loss in enumerate(losses) if loss < first - 0.05 * drop)
    return math.sqrt(lrs[min(begin, end)] * lrs[end])


def slide(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return the largest rate before the loss turns: from the right, where the slopes at both ends of a gap agree.

    The gap is 15 % of the points; slopes agree within 0.5 % of the fall. fastai's rule, made independent of the scale.

    >>> slide([0.001 * 2**i for i in range(20)], [2.0 - 0.1 * i for i in range(17)] + [2.0, 4.0, 8.0], 2.0)
    32.768
    """
    count = len(losses)
    gap = max(2, round(0.15 * count))
    if count < gap + 3 or not _fell(losses, first):
        return None
    drop = first - min(losses)
    slopes = [_difference(losses, i) for i in range(count)]
    right = count - 1
    while right > gap and abs(slopes[right] - slopes[right - gap]) > 0.005 * drop:
        right -= 1
    return lrs[right]


def center(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return a quarter of the mean rate, in log, with each rate weighted by how far the loss has fallen there.

    The lowest point of a flat bottom is chance; a mean over the whole fall moves little with the order of the data.

    >>> round(center([0.01, 0.1, 1.0], [1.5, 1.0, 1.5], 2.0), 3)
    0.025
    """
    if not lrs or not _fell(losses, first):
        return None
    weights = [max(0.0, first - loss) for loss in losses]
    mean = sum(weight * math.log(lr) for weight, lr in zip(weights, lrs, strict=True)) / sum(weights)
    return math.exp(mean) / 4.0


RULES = {"minimum": minimum, "slide": slide, "valley": valley, "steepest": steepest, "center": center}


def lowest(losses: Sequence[float]) -> int:
    """Return the position of the lowest loss; 0 of none.

    >>> lowest([2.0, 1.0, 3.0])
    1
    """
    return min(range(len(losses)), key=losses.__getitem__, default=0)


def _fell(losses: Sequence[float], first: float) -> bool:
    # (a fall within rounding is none)
    return bool(losses) and first - min(losses) > 1e-6 * max(abs(first), 1e-3)


def _difference(values: Sequence[float], i: int) -> float:
    low, high = max(0, i - 1), min(len(values) - 1, i + 1)
    return (values[high] - values[low]) / (high - low)
