"""What holds for every step of an optimizer: the ending of its log keys, and whether Lightning announced it."""

from __future__ import annotations

from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.optimizer_step.logbook import OptimizerView


def key_ending(run: TrainingRun, view: OptimizerView) -> str:
    """Return what the keys of an optimizer end in: several optimizers step in one batch, and each has its own."""
    return f"/optimizer{view.index}" if len(run.views) > 1 else ""


def warn_of_unannounced(run: TrainingRun, owner: str) -> None:
    """Warn once per run of a step that Lightning did not announce: no callback saw its gradients."""
    if run.common.first_to_say("unseen step"):
        warn(
            owner,
            "an optimizer was stepped without Lightning, e.g. through self.optimizers(use_pl_optimizer=False): the "
            "gradients of such steps are neither measured nor clipped. Step what self.optimizers() returns.",
        )
