"""The stages of a run, as a callback of the pack and each of its parts see them. All methods do nothing by default."""

from __future__ import annotations

from typing import Any

from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page


class Stages:
    """What happens in a run, in the order in which it happens; a part overrides the stages that concern it.

    A part may also have Lightning's hooks of a training step (``lifecycle.dispatch.STEP_HOOKS``), with Lightning's own
    arguments: the dispatch calls them after those of the callback that the part belongs to.
    """

    # of a training step: it has nothing to do there in this run, and is not called (``Dispatch.rest``)
    _idle: frozenset[str] = frozenset()

    def _configure(self, run: TrainingRun) -> None:
        """Fit begins: check the settings of the Trainer and the module. Optimizers do not exist yet."""

    def _reset(self) -> None:
        """A new Trainer begins: forget what was measured in another one."""

    def _on_optimizers_created(self, run: TrainingRun) -> None:
        """Optimizers and schedulers are made; a checkpoint may be restored after this."""

    def _before_start(self, run: TrainingRun) -> None:
        """Optimizers are there and restored, and no trick has looked at them yet."""

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Optimizers are there and restored. ``state`` is what ``_trick_state`` gave, after a resume; else None."""

    def _renewed(self, run: TrainingRun, view: OptimizerView) -> None:
        """An optimizer was replaced, or has other parameters or groups than before."""

    def _before_gradients_read(self, run: TrainingRun, page: Page) -> None:
        """Gradients of an attempt are complete; say how they have to be corrected before any trick reads them."""

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Gradients of an attempt are complete. Read them from ``page``, change them through ``run.writer``."""

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """The optimizer's step is over. ``page`` is None for a step that Lightning did not announce."""

    def _transfer_started(self, run: TrainingRun) -> None:
        """A batch is over, and what was measured in it is on its way; still inside of ``on_train_batch_end``."""

    def _rolled_back(self, run: TrainingRun) -> None:
        """A detector put back the weights and optimizers of an earlier step; training goes on from there."""

    def _finished(self, run: TrainingRun) -> None:
        """Training reached its end without an exception."""

    def _cleanup(self, run: TrainingRun) -> None:
        """The fit is over, also by an exception: put back what was changed. Must not raise."""

    def _trick_state(self) -> dict[str, Any]:
        """Return what a resumed run needs: dict, list, str, int, float, bool, None and tensors only."""
        return {}

    def does(self, name: str) -> bool:
        """Whether it does something at a stage: by its class, or by an attribute of its own."""
        return name in vars(self) or getattr(type(self), name) is not getattr(Stages, name)
