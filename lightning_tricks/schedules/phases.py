"""Warm-up, hold and decay, joined into one curve over the run."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tricks.schedules.curves import Decay, warmup_factor


@dataclass(frozen=True)
class Curve:
    """The multiplier of the base learning rate at every update of a run.

    ``k < warmup``: warm-up. ``k < warmup + hold``: 1. Then ``final + (1-final) * decay`` over the rest of ``total``,
    and ``final`` past the end.

    Args:
        decay: the curve after warm-up and hold.
        warmup: updates.
        shape: of the warm-up.
        start: multiplier at which the warm-up begins.
        hold: updates at the base rate between warm-up and decay.
        final: multiplier at the end.
        total: updates of the run, > warmup + hold unless nothing is left to decay.

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
    total: int

    def value(self, update: int) -> float:
        """Return the multiplier for the update with this number, from 0."""
        if update < self.warmup:
            return warmup_factor(update, self.warmup, self.start, self.shape)
        begun = self.warmup + self.hold
        if update < begun:
            return 1.0
        length = max(1, self.total - begun)
        height = self.decay.factor(min(update - begun, length), length)
        return self.final + (1.0 - self.final) * height

    def values(self) -> list[float]:
        """Return the multipliers of updates ``0..total-1``."""
        return [self.value(update) for update in range(self.total)]
