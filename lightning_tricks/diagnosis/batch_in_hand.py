"""The batch of the present step, and what the step returned; between two steps none."""

from __future__ import annotations

from typing import Any

from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun


class BatchInHand(Stages):
    """Knows the batch until its end: a check and a report at an error are about it.

    Example:
        >>> hand = BatchInHand()
        >>> hand.on_train_batch_start(None, None, "batch", 0)
        >>> hand.batch
        'batch'
        >>> hand.let_go(); hand.batch is None
        True
    """

    def __init__(self) -> None:
        self.batch: Any = None
        self.outputs: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Know the batch."""
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Know what the step returned."""
        self.outputs = outputs

    def _transfer_started(self, run: TrainingRun) -> None:
        """The step is over: keep nothing of it alive."""
        self.let_go()

    def _cleanup(self, run: TrainingRun) -> None:
        """The fit is over, perhaps within a step."""
        self.let_go()

    def let_go(self) -> None:
        """Forget the batch."""
        self.batch = self.outputs = None
