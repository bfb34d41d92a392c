"""What a module's ``training_step`` can reach: the module, and all that ``self.trainer`` leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from lightning_tricks.lifecycle.lightning_internals import combined_loader
from lightning_tricks.lifecycle.trick import Trick, of_lightning
from lightning_tricks.numerics.torch_internals import tree_leaves


@dataclass(frozen=True)
class Roots:
    """Where a snapshot begins to walk.

    Args:
        model: by name, what has to be put back completely: modules, callbacks.
        trained: by name, what a step writes to as a whole: optimizers, a GradScaler.
        data: by name, what is only read: loaders, samplers, data sets.
        surfaces: by name, what gets its attributes back, and is not looked into: the Trainer and its loops.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    surfaces: Mapping[str, Any] = field(default_factory=dict)


def roots_of(trainer: Any, model: Mapping[str, Any]) -> Roots:
    """Return the roots of a run: what is given, and all that ``self.trainer`` leads to.

    Args:
        trainer: in a fit.
        model: by name, what has to be put back completely beside the module.
    """
    loop = trainer.fit_loop
    combined = combined_loader(loop)
    loaders = {
        f"train_dataloader {i}": x for i, x in enumerate(tree_leaves([] if combined is None else combined.iterables))
    }
    # of a loader of an unknown kind everything has to be put back; a DataLoader reads its data by position
    known = {name: loader for name, loader in loaders.items() if isinstance(loader, DataLoader)}
    unknown = {name: loader for name, loader in loaders.items() if name not in known}
    others = {callback_name(c): c for c in trainer.callbacks if callback_name(c) not in model and _is_the_users(c)}
    surfaces = {"trainer": trainer, "fit_loop": loop, "epoch_loop": loop.epoch_loop}
    surfaces["wrapped module"] = trainer.strategy.model  # (DistributedDataParallel notes what it did last)
    return Roots(
        model={"module": trainer.lightning_module, **model, **unknown},
        trained={
            **{f"optimizer {i}": optimizer for i, optimizer in enumerate(trainer.optimizers)},
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "schedulers": [config.scheduler for config in trainer.strategy.lr_scheduler_configs],
        },
        data={**known, "datamodule": getattr(trainer, "datamodule", None), **others},
        surfaces=surfaces,
    )


def callback_name(callback: Any) -> str:
    """Return the name of a callback as a root."""
    return f"callback {type(callback).__name__} ({id(callback):x})"


def _is_the_users(callback: Any) -> bool:
    return not isinstance(callback, Trick) and not of_lightning(type(callback))
