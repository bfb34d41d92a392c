"""The module's ``training_step`` as ``GradientAccumulation`` has it run: in smaller parts, and always with a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lightning_tricks.accumulation.lightning_loop import loss_of_nothing, reduce_in_backward
from lightning_tricks.accumulation.out_of_memory import SplitStep, run_apart
from lightning_tricks.accumulation.progress import WindowProgress
from lightning_tricks.accumulation.reading import BatchReader
from lightning_tricks.accumulation.spec import AccumulationSpec
from lightning_tricks.accumulation.window_gradients import WindowGradients
from lightning_tricks.dry_run.training_step import StepWrapper
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick


class OwnStep:
    """Puts itself around the module's ``training_step`` where that is necessary."""

    def __init__(
        self,
        trick: Trick,
        spec: AccumulationSpec,
        reader: BatchReader,
        progress: WindowProgress,
        gradients: WindowGradients,
    ) -> None:
        self._trick, self._spec, self._progress, self._gradients = trick, spec, progress, gradients
        self.splitter = SplitStep(reader.weigh_part, reader.count, reader.split, own=spec.split_fn is not None)
        self._wrapper = StepWrapper()

    def install(self, run: TrainingRun) -> None:
        """A fit begins."""
        if self._spec.splits:
            reduce_in_backward(run.trainer, False)
        if self._spec.splits or (run.loss_scale.active and run.trainer.world_size == 1):
            self._wrapper.install(run.trainer.lightning_module, self._around)

    def remove(self, trainer: Any) -> None:
        """A fit is over."""
        self._wrapper.remove()
        if self._spec.splits:
            reduce_in_backward(trainer, True)

    def _around(self, step: Callable[..., Any], batch: Any, *rest: Any) -> Any:
        """Run a training step, in smaller parts when memory runs out; replace a loss that is missing."""
        run, progress = self._trick.live_run, self._progress
        # (without gradients this is a look that another callback takes, and no micro-batch)
        if run is None or not torch.is_grad_enabled() or (self._spec.splits and progress.batch is None):
            return step(batch, *rest)
        if self._spec.splits and progress.batch is not None:
            factor = progress.loss_factor(progress.batch.weight)
            output, self._gradients.apart = run_apart(self.splitter, run, step, batch, rest, factor)
        else:
            output = step(batch, *rest)
        # There are gradients to step with, and Lightning would throw them away.
        # (on several processes Lightning itself refuses a step without a loss, #19918)
        if output is None and progress.now.backwards and run.loss_scale.active and run.trainer.world_size == 1:
            progress.batch = None
            return loss_of_nothing(run.trainer)
        return output
