"""What the noise scale of ``GradientMonitor`` needs in each micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch.optim import Optimizer

from lightning_tricks.errors import TrickError, UnsupportedError, message
from lightning_tricks.gradients.noise_scale import NoiseWindow
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun


class FirstMicroBatch(Stages):
    """Compares the first micro-batch of a window with the whole window.

    A part of its own, so that a monitor that measures no noise scale has no hooks in each micro-batch.
    """

    def __init__(self, window: NoiseWindow, due: Callable[[int], bool], live_run: Callable[[], TrainingRun | None]):
        self._window, self._due, self._live_run = window, due, live_run

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count samples."""
        self._window.next_size = int(extract_batch_size(batch))

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """A window begins."""
        self._window.begin()

    @torch.no_grad()
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Take the norm of the first micro-batch's gradient, in windows that will be logged."""
        run, window = self._live_run(), self._window
        if run is not None:
            window.add()
            if window.batches == 1 and self._due(run.step):
                # What lies in ``.grad`` belongs to a loss that was divided by the length of the window; the factor
                # undoes that.
                window.first_norm = run.views[0].norm_now() * run.attempts.mean_factor(1)


def check_that_noise_can_be_measured(trainer: Any) -> None:
    """Refuse a run in which there are no two batch sizes to compare."""
    if not trainer.lightning_module.automatic_optimization:
        text = "the noise scale needs automatic optimization, which tells micro-batches apart"
        raise UnsupportedError(message("GradientMonitor", "noise_scale", True, text, "Set it to False"))
    # a callback that steers the window is known by these methods: ours, and Lightning's scheduler
    steering = ("get_accumulate_grad_batches", "updates_in_epoch")
    steered = any(hasattr(callback, name) for callback in trainer.callbacks for name in steering)
    if trainer.accumulate_grad_batches == 1 and not steered:
        text = "the noise scale needs gradient accumulation, which gives a small and a large batch"
        remedy = "Use GradientAccumulation(2) or more"
        raise TrickError(message("GradientMonitor", "noise_scale", True, text, remedy))
