"""Notices that a module with manual optimization makes no step at all: then no check would see anything."""

from __future__ import annotations

from typing import Any

from lightning_tricks.detection.watch import Watch
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun

IDLE_BATCHES = 100  # without any step


class NoUpdates(Stages):
    """Counts batches, and tells the watch once where they made no step.

    Args:
        watch: of the doctor; its alarm is called ``updates``.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._batches = 0

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """With automatic optimization there is nothing to notice."""
        run.dispatch.rest(self, "on_train_batch_end", when=run.trainer.lightning_module.automatic_optimization)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look once, after so many batches."""
        self._batches += 1
        if self._batches != IDLE_BATCHES or pl_module.automatic_optimization:
            return
        run = self._watch.trick.live_run
        if run is not None and not any(run.clock.attempted(view.index) for view in run.views):
            self._watch.notice(run, "updates", 0.0, {"batches": float(self._batches)})
