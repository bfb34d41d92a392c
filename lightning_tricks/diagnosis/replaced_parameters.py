"""Notices layers that were replaced after the optimizer was made: it goes on with the old ones, which nobody uses.

A head for another number of classes, or tables whose size the data tell, made in ``on_fit_start`` or
``on_train_start``: ``configure_optimizers`` was called before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_tricks.detection.watch import Watch
from lightning_tricks.diagnosis.course_probe import CourseProbe
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun

ASKED_AT = 10  # updates


def replaced(root: nn.Module, held: Sequence[Any]) -> list[str]:
    """Return the names of parameters that get gradients and no updates, while as large ones of an optimizer lie idle.

    Nothing where optimizers hold other tensors than the module does, as under sharding.

    Args:
        root: the LightningModule, after a backward pass.
        held: the parameters of all optimizers.

    >>> import torch
    >>> root, old = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), nn.Linear(3, 4)
    >>> _ = root(torch.ones(1, 2)).sum().backward()
    >>> replaced(root, [*root[0].parameters(), *old.parameters()]), replaced(root, list(root[0].parameters()))
    (['1.weight', '1.bias'], [])
    """
    own, kept = {id(p) for p in root.parameters()}, {id(p) for p in held}
    idle = [p.shape for p in held if id(p) not in own]
    if not idle or len(idle) == len(kept) or any(type(p) is not nn.Parameter for p in held):
        return []
    stray = {
        name: p.shape
        for name, p in root.named_parameters()
        if id(p) not in kept and p.requires_grad and p.grad is not None
    }
    # (a new head may have another number of classes, and a table other rows: the rest of the shape is the same)
    alike = any(shape[1:] == old[1:] and len(shape) == len(old) > 1 for shape in stray.values() for old in idle)
    return list(stray) if alike else []


class ReplacedParameters(Stages):
    """Looks once, after some updates.

    Args:
        watch: of the doctor; its alarm is called ``standstill``, as that of other weights that nobody updates.
        probe: of the doctor, which is told their names.
    """

    def __init__(self, watch: Watch, probe: CourseProbe) -> None:
        self._watch, self._probe = watch, probe
        self._asked = False

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Ask in each fit."""
        self._asked = False
        run.dispatch.rest(self)

    def _transfer_started(self, run: TrainingRun) -> None:
        """Look, once: their gradients are still there, since only those of the optimizer's parameters are cleared."""
        if self._asked or run.clock.attempted(0) < ASKED_AT:
            return
        self._asked = True
        run.dispatch.rest(self, "_transfer_started")
        held = [p for view in run.views for g in view.optimizer.param_groups for p in g["params"]]
        names = replaced(run.trainer.lightning_module, held)
        if names:
            told = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            self._probe.still = f"{told}: made after the optimizer, which still holds what they replaced"
            self._watch.notice(run, "standstill", 0.0, {"replaced": float(len(names))})
