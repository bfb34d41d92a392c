"""The loss of validation against that of training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_tricks.detection.watch import Watch
from lightning_tricks.diagnosis.course_probe import CourseProbe
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import reduced

_SCORES = ("acc", "f1", "auc")


class ValidationGap(Stages):
    """Compares the losses after each validation, and lets the alarm on overfitting follow from that.

    Args:
        watch: of the callback; acts on the alarm.
        probe: keeps the course of the training.
    """

    def __init__(self, watch: Watch, probe: CourseProbe) -> None:
        self._watch, self._probe = watch, probe

    def validated(self, run: TrainingRun) -> None:
        """A validation is over, and its metrics are there; called on all processes."""
        course = self._probe.course
        found = loss_and_score(run.trainer.callback_metrics)
        if not course.checks or not found:
            return
        vector = torch.stack([value.detach().float().reshape(()) for value in found])
        if run.trainer.world_size > 1:
            vector = reduced(run.trainer.strategy, vector.to(run.trainer.strategy.root_device), "mean")
        loss, *score = vector.tolist()
        train, before = course.checks[-1].mean, dict(course.noted)
        over = course.validated(loss, score)
        self._probe.tell_changes(before)
        gap = loss - train
        run.publisher.put(run.step, {"diagnosis/training_doctor/validation_gap": gap})
        values = {"validation_gap": gap, "loss": train}
        self._watch.notice(run, "generalisation", 0.0 if over else 1.0, values)


def loss_and_score(metrics: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the first loss of validation, and after it the first score of validation that is better when larger.

    Args:
        metrics: as the Trainer keeps them; validation is told by ``val`` in a name.

    >>> metrics = {"train_loss": torch.tensor(1.0), "val/loss": torch.tensor(2.0), "val/acc": torch.tensor(0.5)}
    >>> loss_and_score(metrics)
    [tensor(2.), tensor(0.5000)]
    """
    own = [(name.lower(), value) for name, value in metrics.items() if "val" in name.lower()]
    found = [value for name, value in own if "loss" in name][:1]
    if not found:
        return []
    return found + [value for name, value in own if any(word in name for word in _SCORES)][:1]
