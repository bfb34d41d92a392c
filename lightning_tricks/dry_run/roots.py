"""What a module's ``training_step`` can reach: the module, and all that ``self.trainer`` leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from lightning_tricks.dry_run import memory
from lightning_tricks.dry_run.loaders import is_read_by_position
from lightning_tricks.dry_run.walk import Walk
from lightning_tricks.lifecycle.lightning_internals import combined_loader
from lightning_tricks.lifecycle.namespaces import of_lightning
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.trees import tree_leaves


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
    loaders = of_loaders("train_dataloader", tree_leaves([] if combined is None else combined.iterables))
    users = [c for c in trainer.callbacks if not isinstance(c, Trick) and not of_lightning(type(c))]
    others = {callback_name(c): c for c in users if callback_name(c) not in model}
    surfaces = {"trainer": trainer, "fit_loop": loop, "epoch_loop": loop.epoch_loop}
    surfaces["wrapped module"] = trainer.strategy.model  # (DistributedDataParallel notes what it did last)
    return Roots(
        model={"module": trainer.lightning_module, **model, **loaders.model},
        trained={
            **{f"optimizer {i}": optimizer for i, optimizer in enumerate(trainer.optimizers)},
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "schedulers": [config.scheduler for config in trainer.strategy.lr_scheduler_configs],
        },
        data={**loaders.data, "datamodule": getattr(trainer, "datamodule", None), **others},
        surfaces=surfaces,
    )


def of_loaders(name: str, loaders: Sequence[Any]) -> Roots:
    """Return the roots of loaders: of those that are not read by position, everything has to be put back."""
    named = {f"{name} {i}": loader for i, loader in enumerate(loaders)}
    streams = {n: x for n, x in named.items() if not is_read_by_position(x)}
    # (a DataLoader itself may hold open handles and iterators of its own, and its second one uses none of them)
    model = {n: x.dataset if isinstance(x, DataLoader) else x for n, x in streams.items()}
    return Roots(model=model, data={n: x for n, x in named.items() if isinstance(x, DataLoader)})


def callback_name(callback: Any) -> str:
    """Return the name of a callback as a root."""
    return f"callback {type(callback).__name__} ({id(callback):x})"


def held_generators(model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the random generators that objects hold, by place.

    Args:
        model: roots by name.
        data: roots of which large containers are not looked through.
    """
    found: dict[str, Any] = {}
    for roots, in_data in ((model, False), (data, True)):  # (one after the other: a large model hides none of the data)
        walk = Walk()
        for name, root in roots.items():
            walk.add(name, root, data=in_data)
        walk.run()
        known = {id(owner) for owner in found.values()}
        records = [(place, r.owner) for place, r in walk.records if isinstance(r, memory.GeneratorRecord)]
        found.update({str(place): owner for place, owner in records if id(owner) not in known})
    return found
