"""What a Trainer was told, as plain values for the checks of this package. It is read, and nothing is changed."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from lightning_tricks.lifecycle.horizon import updates_per_epoch
from lightning_tricks.lifecycle.lightning_internals import combined_loader, resumes_weights_only, saves_shards
from lightning_tricks.resume import folders
from lightning_tricks.resume.durable_files import local
from lightning_tricks.resume.findings import Finding
from lightning_tricks.resume.plugins import DurableCheckpointIO
from lightning_tricks.resume.replay import keeps_its_own_state
from lightning_tricks.resume.training_data import Data, Loader
from lightning_tricks.resume.writers import Writer

_SHUFFLED = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def states_of(trainer: Any) -> dict[str, Any]:
    """Return what a checkpoint would hold, without weights and optimizer moments, under its keys."""
    states: dict[str, Any] = {"callbacks": {}}
    for callback in trainer.callbacks:
        states["callbacks"][callback.state_key] = callback.state_dict()
    for source in (trainer.lightning_module, trainer.datamodule):
        if source is not None and source.hparams:
            plain = not type(source.hparams).__module__.startswith("omegaconf")  # Lightning keeps those as they are
            states[source.CHECKPOINT_HYPER_PARAMS_KEY] = dict(source.hparams) if plain else source.hparams
    states["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    states["optimizer_states"] = [
        {"param_groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]}
        for optimizer in trainer.optimizers
    ]
    return states


def writer_of(callback: Any, trainer: Any) -> Writer:
    """Return what a checkpoint callback was told.

    Args:
        callback: a ``ModelCheckpoint``, or one with its arguments.
        trainer: tells whether a validation comes within an epoch.
    """
    interval = setting(callback, "train_time_interval")
    batches, validation = trainer.num_training_batches, trainer.val_check_batch
    validates = any(n > 0 for n in trainer.num_val_batches) if trainer.enable_validation else False
    within = validation is None or validation < batches
    return Writer(
        save_last=bool(setting(callback, "save_last")),
        save_top_k=setting(callback, "save_top_k", 1),
        monitor=setting(callback, "monitor"),
        every_n_steps=setting(callback, "every_n_train_steps") or 0,
        every_n_epochs=setting(callback, "every_n_epochs") or 0,
        interval="" if interval is None else str(interval),
        on_exception=bool(setting(callback, "save_on_exception")),
        weights_only=bool(setting(callback, "save_weights_only")),
        after_validation=validates and within and setting(callback, "save_on_train_epoch_end") is not True,
        last_always=not resumes_weights_only(),  # (Lightning changed both with one release)
    )


def setting(callback: Any, argument: str, default: Any = None) -> Any:
    """Return an argument of a checkpoint callback, which keeps it under a name with or without an underscore.

    Which one depends on Lightning's version.
    """
    found = (getattr(callback, name) for name in (f"_{argument}", argument) if hasattr(callback, name))
    return next(found, default)


def loader_of(loader: Any) -> Loader:
    """Return what is known of a loader of training data."""
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    return Loader(
        name=type(loader).__name__,
        stateful=keeps_its_own_state(loader),
        iterable=dataset is None or isinstance(dataset, IterableDataset),
        shuffled=isinstance(sampler, _SHUFFLED),
    )


def data_of(trainer: Any, *, made_early: bool) -> Data:
    """Return the training data as they are when training starts.

    Args:
        made_early: whether the loaders were made before a checkpoint's state could be put back.
    """
    combined = combined_loader(trainer.fit_loop)
    loaders = tuple(loader_of(loader) for loader in combined.flattened) if combined is not None else ()
    updates = updates_per_epoch(trainer)
    steps = math.inf if updates is None else updates * max(1, len(trainer.optimizers))
    return Data(loaders, steps, is_exact(trainer), made_early)


def is_exact(trainer: Any) -> bool:
    """Whether an ``ExactResume`` is among the callbacks."""
    # (by name, so that this file needs no callback)
    return any(type(callback).__name__ == "ExactResume" for callback in trainer.callbacks)


def unfreezing_callbacks(trainer: Any) -> list[str]:
    """Return the classes of callbacks that unfreeze parameters, by Lightning's base for them, of either namespace."""
    kinds = [type(callback) for callback in trainer.callbacks]
    return [kind.__name__ for kind in kinds if any(cls.__name__ == "BaseFinetuning" for cls in kind.__mro__)]


def torn_folders(trainer: Any) -> list[Finding]:
    """Return where a kill can tear a checkpoint, or its plugin refuses to write."""
    strategy = trainer.strategy
    plugin = strategy.checkpoint_io
    while hasattr(plugin, "checkpoint_io"):  # Lightning's asynchronous plugin, around another
        plugin = plugin.checkpoint_io
    sharded = saves_shards(strategy)
    found: list[Finding] = []
    for folder in sorted({str(c.dirpath) for c in trainer.checkpoint_callbacks if getattr(c, "dirpath", None)}):
        path = local(folder)
        if isinstance(plugin, DurableCheckpointIO):
            found += folders.durable(folder, remote=path is None, sharded=sharded)
        elif type(plugin).__name__ == "TorchCheckpointIO" and path is not None and not sharded:
            found += folders.torn(Path(tempfile.gettempdir()), path)
    return found
