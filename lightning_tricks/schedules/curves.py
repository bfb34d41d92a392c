"""Decay curves: multipliers of the base learning rate as functions of (update, length).

A new curve is a frozen dataclass with ``factor`` and a line in ``DECAYS``; nothing else has to change.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Decay(ABC):
    """A curve from 1 at update 0 to 0 at ``length``."""

    @abstractmethod
    def factor(self, update: int, length: int) -> float:
        """Return the height at ``update`` in ``0..length``, with ``length >= 1``."""


@dataclass(frozen=True)
class Constant(Decay):
    """``1``.

    >>> Constant().factor(7, 10)
    1.0
    """

    def factor(self, update: int, length: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear(Decay):
    """``1 - update/length``.

    >>> Linear().factor(5, 10)
    0.5
    """

    def factor(self, update: int, length: int) -> float:
        """Return the height at ``update``."""
        return 1.0 - update / length


@dataclass(frozen=True)
class Cosine(Decay):
    """``(1 + cos(pi * update/length)) / 2``. Reference: Loshchilov, Hutter, "SGDR", 2017, arXiv:1608.03983.

    >>> round(Cosine().factor(5, 10), 12)
    0.5
    """

    def factor(self, update: int, length: int) -> float:
        """Return the height at ``update``."""
        return (1.0 + math.cos(math.pi * update / length)) / 2.0


DECAYS: dict[str, Decay] = {"constant": Constant(), "linear": Linear(), "cosine": Cosine()}


def warmup_factor(update: int, length: int, start: float, shape: str) -> float:
    """Return the warm-up's multiplier at ``update`` in ``0..length-1``; 1 at the last.

    With ``x = (update+1)/length``, so that no update is wasted at rate 0: linear ``start + (1-start)*x``; cosine
    ``start + (1-start)*(1-cos(pi x))/2``; exponential ``start^(1-x)``; constant ``start``.

    Args:
        update: from 0.
        length: updates of warm-up, >= 1.
        start: multiplier before the first update, in [0, 1].
        shape: ``"linear"``, ``"cosine"``, ``"exponential"`` or ``"constant"``.

    Reference: Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677 (gradual and constant warm-up).

    Example:
        >>> [warmup_factor(k, 4, 0.0, "linear") for k in range(4)]
        [0.25, 0.5, 0.75, 1.0]
    """
    x = (update + 1) / length
    if shape == "constant":
        return start
    if shape == "exponential":
        return float(start ** (1.0 - x))
    height = x if shape == "linear" else (1.0 - math.cos(math.pi * x)) / 2.0
    return start + (1.0 - start) * height
