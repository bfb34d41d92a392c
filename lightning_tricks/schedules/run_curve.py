"""Warm-up, hold and decay, joined into one curve over the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lightning_tricks.schedules.curves import Decay, warmup_factor

ENDLESS = 2**62  # the length of a decay whose end is not known


@dataclass(frozen=True)
class Curve:
    """The multiplier of the base learning rate at every update of a run.

    ``k < warmup``: warm-up. ``k < warmup + hold``: 1. Then ``final + (1-final) * decay`` over the rest of ``total``,
    and the value at ``total`` past the end.

    Args:
        decay: the curve after warm-up and hold.
        warmup: updates.
        shape: of the warm-up.
        start: multiplier at which the warm-up begins.
        hold: updates at the base rate between warm-up and decay.
        final: multiplier at the end.
        total: updates of the run, >= warmup + hold; None when its end is not known.

    Example:
        >>> from lightning_tricks.schedules.curves import Linear
        >>> [Curve(Linear(), 2, "linear", 0.0, 1, 0.0, 7).value(k) for k in range(8)]
        [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    decay: Decay
    warmup: int
    shape: str
    start: float
    hold: int
    final: float
    total: int | None

    @property
    def decay_start(self) -> int:
        """The update at which the decay begins."""
        return self.warmup + self.hold

    def value(self, position: float) -> float:
        """Return the multiplier at a position: that of an update, from 0; between two of them it is interpolated."""
        return self._value(position) if isinstance(position, int) else _interpolated(self._value, position)

    def lr_fraction(self, position: float) -> float:
        """Return 1 where the rate is highest, 0 where it is lowest."""
        return _interpolated(self._lr_fraction, position)

    def parts(self) -> list[tuple[str, int]]:
        """Return names and lengths of all parts; of a curve without an end, of those that are known."""
        decay = [] if self.total is None else self.decay.parts(self.total - self.decay_start)
        return [("warm-up", self.warmup), ("hold", self.hold), *decay]

    def _value(self, update: int) -> float:
        if update < self.warmup:
            return warmup_factor(update, self.warmup, self.start, self.shape)
        if update < self.warmup + self.hold:
            return 1.0
        return self.final + (1.0 - self.final) * self.decay.multiplier(*self._place(update))

    def _lr_fraction(self, update: int) -> float:
        if update < self.warmup:
            # (a warm-up from 1 is flat: 0 / 0)
            return 1.0 if self.start == 1.0 else (self._value(update) - self.start) / (1.0 - self.start)
        return 1.0 if update < self.decay_start else self.decay.lr_fraction(*self._place(update))

    def _place(self, update: int) -> tuple[int, int]:
        length = ENDLESS if self.total is None else max(1, self.total - self.decay_start)
        return min(update - self.decay_start, length), length

    def settled(self, tolerance: float = 0.01) -> int:
        """Return the first position from which on the multiplier stays within ``tolerance`` of its end."""
        position = self.total or 0
        last = self.value(position)
        while position > self.decay_start and abs(self.value(position - 1) - last) <= tolerance:
            position -= 1
        return position

    def values(self, count: int | None = None) -> list[float]:
        """Return the multipliers of updates ``0..count-1``; of the whole run for None."""
        count = self.total if count is None else count
        return [self.value(update) for update in range(count or 0)]


def _interpolated(of: Callable[[int], float], position: float) -> float:
    low = math.floor(position)
    share = position - low
    return of(low) if share == 0 else (1.0 - share) * of(low) + share * of(low + 1)


def caught_up(position: float | Tensor, attempted: int, planned: int, end: float, speed: float = 1) -> float | Tensor:
    """Return the position on a curve whose ``end`` is reached although some attempts were skipped.

    ``max(position, end - 2 * speed * attempts left)``: the number of updates; and two positions per update at the very
    end, when there are too few attempts left to get there one by one.

    Args:
        position: updates so far; a 0-d tensor where only the device knows them.
        attempted: attempted steps so far.
        planned: attempts in the whole run.
        end: the position to reach.
        speed: positions per update, where it is not one.

    >>> [caught_up(k, k + 2, planned=10, end=10) for k in range(9)]  # two attempts were skipped at the start
    [0, 1, 2, 3, 4, 5, 6, 8, 10]
    """
    least = end - 2 * speed * max(0, planned - attempted)
    return position.clamp(min=least) if isinstance(position, Tensor) else max(position, least)
