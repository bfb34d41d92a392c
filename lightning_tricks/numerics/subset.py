"""A part of many rows that stands for all of them: fixed, the same on every process, whatever period they have.

Every k-th row of ``[n, T]`` that lies flat is the same position of every sequence whenever k and T have a common
divisor. Here the i-th row is ``i * a mod N`` with ``a`` coprime to ``N``: of every period that divides ``N`` all
positions are taken equally often. With ``a / N`` near the golden ratio the rows also lie evenly between first and last.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_NEAR = 32  # candidates on either side of the golden part; usual totals have many coprime numbers there


def spread(total: int, most: int, device: torch.device | None = None) -> Tensor:
    """Return ``min(total, most)`` different indices below ``total``, spread evenly.

    For every divisor T of ``total``, the counts of ``index % T`` differ by at most 1. Nothing is drawn.

    Returns:
        int64; in rising order where all are taken.

    Example:
        >>> spread(3 * 4, 4) % 4, spread(3, 5)
        (tensor([0, 3, 2, 1]), tensor([0, 1, 2]))
    """
    if total <= most:
        return torch.arange(total, device=device)
    return torch.arange(most, device=device) * _step(total) % total


def subset(rows: Tensor, most: int) -> Tensor:
    """Return at most ``most`` of the rows of a tensor, spread evenly; the tensor itself where it has no more."""
    return rows if len(rows) <= most else rows.index_select(0, spread(len(rows), most, rows.device))


def bounded_sample(tensor: Tensor, limit: int = 65536) -> Tensor:
    """Return at most ``limit`` elements spread evenly over ``tensor``: itself as a flat view, or a copy of a part.

    Used where a copy of all weights would double the memory (update ratio, histograms). Of a matrix, elements of all
    rows and of all columns are taken about equally often.

    Example:
        >>> bounded_sample(torch.arange(10), limit=4)
        tensor([0, 7, 4, 1])
    """
    return subset(tensor.detach().reshape(-1), limit)


@lru_cache(maxsize=1024)
def _step(total: int) -> int:
    """Return a number coprime to ``total``, near the golden part of it, and of these the one that spreads best.

    How unevenly multiples of ``a / N`` lie grows with the largest quotient of its continued fraction (1 for the golden
    ratio itself): the widest gap is then at most about three times the mean one, for every number of multiples.
    """
    near = round(_GOLDEN * total)
    window = range(max(1, near - _NEAR), min(total, near + _NEAR + 1))
    coprime = [a for a in window if math.gcd(a, total) == 1]
    return min(coprime, key=lambda a: (_largest_quotient(a, total), abs(a - near)), default=1)


def _largest_quotient(a: int, total: int) -> int:
    largest = 0
    while a:
        largest = max(largest, total // a)
        total, a = a, total % a
    return largest
