"""How much memory is in use, from check to check."""

from __future__ import annotations

import math
from typing import Any

from lightning_tricks.diagnosis.memory import Growth, Moment, Point, Prospect, growth_of_memory, rate
from lightning_tricks.diagnosis.memory_readings import MemoryReader, Reading
from lightning_tricks.diagnosis.memory_use import BatchSize
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.optimizer_step.logbook import OptimizerView

_MOST_POINTS = 64


class MemoryLevel(Stages):
    """Reads the memory in use at a check, without the batch, and keeps it since it last had a reason to rise.

    Example:
        >>> level = MemoryLevel()
        >>> level.add(Moment(10, 0, 10), Reading(resident=2e9), BatchSize(nbytes=100, elements=25))
        2000000000.0
        >>> level.points, level.rate
        ([(Moment(update=10, epoch=0, batch=10), 2000000000.0)], 0.0)
    """

    def __init__(self) -> None:
        self._reader: MemoryReader | None = None
        self.forget()

    def forget(self) -> None:
        """A fit begins or ends."""
        self.points: list[Point] = []
        self.largest = BatchSize()  # of the checks of this fit
        self.on_device = False

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the device."""
        self._reader = MemoryReader(run.trainer.strategy.root_device)
        self.on_device = self._reader.read().on_device

    def _renewed(self, run: TrainingRun, view: OptimizerView) -> None:
        """Other parameters have other gradients and another state: memory may rise."""
        self.points = []

    def _rolled_back(self, run: TrainingRun) -> None:
        """Weights were copied back: memory may have another level."""
        self.points = []

    def read(self) -> Reading:
        """Return what is in use now."""
        return Reading() if self._reader is None else self._reader.read()

    def add(self, moment: Moment, reading: Reading, size: BatchSize) -> float:
        """Take a check up; return the bytes in use, without the batch.

        Args:
            moment: of the check.
            reading: what is in use.
            size: of the batch; one that is larger than all before needs more memory.
        """
        if size.elements > self.largest.elements:
            self.largest, self.points = size, []
        used = reading.used - (size.nbytes if reading.on_device else 0)
        if math.isfinite(used):
            self.points.append((moment, used))
            if len(self.points) > _MOST_POINTS:
                # (the first one stays, and the newest stay close together)
                del self.points[1 : _MOST_POINTS // 2 : 2]
        return used

    def growth(self, prospect: Prospect) -> Growth | None:
        """Return how the memory of the device or process grows; None where that is within the noise."""
        return growth_of_memory(self.points, prospect)

    @property
    def rate(self) -> float:
        """Bytes per update over the second half of the checks."""
        late = self.points[len(self.points) // 2 :]
        return rate(late) if len(late) > 1 else 0.0
