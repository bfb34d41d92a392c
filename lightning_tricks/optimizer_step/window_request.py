"""A larger effective batch that one trick asks for and another one makes.

GradientAccumulation, the owner of accumulation windows, claims the request. Where it is not in use, the default owner
here multiplies ``trainer.accumulate_grad_batches``, at the next batch at which Lightning begins a window of the new
length, and corrects windows that the end of an epoch cuts short (Lightning divides them by the full length, #19987).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class WindowRequest:
    """By how many times the accumulation window is to be longer, and who sees to it.

    Example:
        >>> class Trainer: accumulate_grad_batches = 1
        >>> trainer, request = Trainer(), WindowRequest()
        >>> request.ask(4)
        >>> for batch_idx in (3, 4):
        ...     request.begin_batch(trainer, batch_idx)
        ...     trainer.accumulate_grad_batches
        1
        4
    """

    def __init__(self) -> None:
        self.factor = 1
        self._carry_out: Callable[[int], None] | None = None
        self._ours: int | None = None
        self._before: int | None = None
        self._batches = 0

    def claim(self, carry_out: Callable[[int], None]) -> None:
        """Become the owner; ``carry_out(factor)`` is called when somebody asks."""
        self._carry_out = carry_out

    def ask(self, factor: int) -> None:
        """Make the window ``factor`` times as long as the user wanted, from the next window on."""
        self.factor = factor
        if self._carry_out is not None:
            self._carry_out(factor)

    @property
    def _idle(self) -> bool:
        return self.factor == 1 or self._carry_out is not None

    def begin_batch(self, trainer: Any, batch_idx: int) -> None:
        """Set the window where it is ours to set; called before each batch."""
        if self._idle:
            return
        now = trainer.accumulate_grad_batches
        if now != self._ours:  # the user's own, which a GradientAccumulationScheduler may have changed
            self._before = now
        wanted = (self._before or 1) * self.factor
        # Lightning steps where (batch_idx + 1) is a multiple: changed within a window, it would cut that one short
        if now != wanted and batch_idx % wanted == 0:
            trainer.accumulate_grad_batches = self._ours = wanted
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches = 0
        self._batches += 1

    def correction(self, trainer: Any) -> float | None:
        """Return what the gradients of a window have to be multiplied by to be the mean; None for 1."""
        if self._idle or self._ours is None or not self._batches or self._batches == trainer.accumulate_grad_batches:
            return None
        return float(trainer.accumulate_grad_batches / self._batches)

    def close(self, trainer: Any) -> None:
        """The run is over: give the user's window back."""
        if self._before is not None and trainer is not None and trainer.accumulate_grad_batches == self._ours:
            trainer.accumulate_grad_batches = self._before
        self._carry_out, self._ours, self._before = None, None, None
