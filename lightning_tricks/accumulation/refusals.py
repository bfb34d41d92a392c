"""Settings of a Trainer and a module with which accumulation could not be exact, refused by name."""

from __future__ import annotations

from typing import Any

import torch

from lightning_tricks.accumulation.spec import OWNER, AccumulationSpec
from lightning_tricks.errors import ConflictError, TrickError, UnsupportedError, message
from lightning_tricks.lifecycle.namespaces import defined_by_lightning
from lightning_tricks.lifecycle.training_run import TrainingRun


def refuse_before_setup(spec: AccumulationSpec, trainer: Any) -> None:
    """Refuse what is known before the optimizers are created.

    Raises:
        ConflictError: something else accumulates too.
        UnsupportedError: manual optimization, or a module that cannot run in parts.
    """
    module, theirs = trainer.lightning_module, trainer.accumulate_grad_batches
    if theirs != 1:
        text = "Trainer(accumulate_grad_batches=) accumulates too"
        raise ConflictError(message(OWNER, "accumulate_grad_batches", theirs, text, "Leave it out"))
    # (Lightning's scheduler is told by its method, since it exists in both namespaces)
    if any(hasattr(callback, "get_accumulate_grad_batches") for callback in trainer.callbacks):
        text = "GradientAccumulationScheduler accumulates too"
        raise ConflictError(message(OWNER, "batches", spec.batches, text, "Remove it, and pass batches={...}"))
    if not module.automatic_optimization:
        text = "manual optimization steps when the module says so"
        raise UnsupportedError(message(OWNER, "batches", spec.batches, text, "Use automatic optimization"))
    if spec.splits:
        _refuse_to_split(spec, trainer)


def _refuse_to_split(spec: AccumulationSpec, trainer: Any) -> None:
    module = trainer.lightning_module
    if not defined_by_lightning(module, "backward"):
        text = f"{type(module).__name__}.backward is overridden, and splitting runs the backward pass itself"
        raise UnsupportedError(message(OWNER, "on_oom", spec.on_oom, text, "Use on_oom='raise'"))
    synced = [name for name, m in module.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    if synced and trainer.world_size > 1:
        text = f"{synced[0]!r} is a SyncBatchNorm, which waits for all processes, and one alone may have to split"
        raise UnsupportedError(message(OWNER, "on_oom", spec.on_oom, text, "Use on_oom='raise'"))


def refuse_at_start(spec: AccumulationSpec, run: TrainingRun) -> None:
    """Refuse what only the optimizers show.

    Raises:
        UnsupportedError: LBFGS, or sharded parameters that would have to run in parts.
        TrickError: a scheduler of the module overwrites a rate that is scaled.
    """
    if any(isinstance(view.optimizer, torch.optim.LBFGS) for view in run.views):
        text = "LBFGS evaluates a window several times"
        raise UnsupportedError(message(OWNER, "batches", spec.batches, text, "Use e.g. AdamW"))
    if spec.scales_rate and run.trainer.strategy.lr_scheduler_configs:
        text = "the module's own scheduler overwrites a scaled rate"
        raise TrickError(message(OWNER, "lr_scaling", spec.lr_scaling, text, "Use LRSchedule"))
    if spec.splits and any(view.sharded for view in run.views):
        text = "sharded parameters (FSDP2) communicate while they run backward"
        raise UnsupportedError(message(OWNER, "on_oom", spec.on_oom, text, "Use 'raise'"))
