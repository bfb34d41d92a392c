"""How much of the time of a training is spent waiting for data."""

from __future__ import annotations

import time
from typing import Any

from lightning_tricks.diagnosis.slices import Slices
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun


class DataWait(Stages):
    """Looks at the clock where a batch begins and ends; what goes by between two batches is waiting for data.

    Example:
        >>> wait = DataWait()
        >>> wait.share(9.0, 12.0), wait.in_all
        (0.75, (9.0, 12.0))
    """

    def __init__(self) -> None:
        self.in_all = (0.0, 0.0)  # seconds of waiting and of training, up to the last check
        self._waited = self._seconds = 0.0  # since the last check
        self._ended = 0.0

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Begin to look at the clock."""
        self.go_on()

    def go_on(self) -> None:
        """The time until now, as that of a validation, was not spent waiting for data."""
        self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The data is there."""
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step is over; a check may come, which counts for nothing."""
        self._seconds += time.perf_counter() - self._ended

    def _transfer_started(self, run: TrainingRun) -> None:
        """From here on data is waited for."""
        self.go_on()

    def measure(self) -> Slices:
        """Return the seconds of waiting and of training since the last check, and count from 0."""
        slices = Slices(known=(self._waited, self._seconds))
        self._waited = self._seconds = 0.0
        return slices

    def share(self, waited: float, seconds: float) -> float:
        """Add what was measured to what was before; return its share of waiting."""
        self.in_all = self.in_all[0] + waited, self.in_all[1] + seconds
        return waited / seconds if seconds else 0.0
