"""Every private name of Lightning that the pack touches, of either namespace.

What a trick cannot do without is looked up when a fit begins, by ``require``, and refused with its name. The rest has a
public replacement. ``docs/versions.md`` lists them; ``tools/versions_page.py`` writes the list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from lightning.pytorch.trainer import call

from lightning_tricks.errors import UnsupportedError
from lightning_tricks.lifecycle.namespaces import lightning_pytorch
from lightning_tricks.numerics.internals import REFUSED, Internal, missing

_LOOP, _EPOCH = "trainer.fit_loop", "trainer.fit_loop.epoch_loop"
LOADER_STATES = "_load_combined_loader_states"
START_PROFILER = "_start_profiler"
DATA = (
    Internal(f"{_LOOP}._combined_loader", "the loaders of a run", REFUSED),
    Internal("CombinedLoader._mode", "how several loaders are combined", REFUSED),
)
RESUME = (
    Internal(f"{_LOOP}._data_fetcher", "the place in the data", REFUSED),
    Internal(f"{_LOOP}.{LOADER_STATES}", "the moment before an epoch's iterator is made", REFUSED),
    Internal(f"{_EPOCH}._should_accumulate", "whether a checkpoint is inside a window", REFUSED),
    Internal(f"{_EPOCH}._should_check_val_fx", "whether a validation was due", REFUSED),
    Internal("trainer._logger_connector._first_loop_iter", "a validation that is made up for", REFUSED),
    Internal(f"DataFetcher.{START_PROFILER}", "the moment before the first batch", REFUSED),
)
DRY_RUN = (
    Internal("call._call_callback_hooks", "the hooks of a training step", REFUSED),
    Internal("call._call_lightning_module_hook", "the hooks of a training step", REFUSED),
    Internal("call._call_strategy_hook", "the training step of a strategy", REFUSED),
    Internal("LightningModule._on_before_batch_transfer", "a batch on its way to the device", REFUSED),
    Internal("trainer.strategy._lightning_optimizers", "what optimizer_step receives", REFUSED),
    Internal(f"{_EPOCH}._results", "what a training step logs", REFUSED),
)
INTERNALS = (
    *DATA,
    *RESUME,
    *DRY_RUN,
    Internal(f"{_EPOCH}._batches_that_stepped", "the x axis of Lightning's loggers", "global_step"),
    Internal("trainer._logger_connector._logged_metrics", "the user's loss as first chart", "no chart of it"),
    Internal(f"{_EPOCH}.automatic_optimization._on_before_zero_grad", "hooks as a window begins", "they are left out"),
    Internal(f"{_EPOCH}.automatic_optimization._optimizer_zero_grad", "clearing gradients", "optimizer.zero_grad()"),
    Internal(f"{_EPOCH}.val_loop._results", "a metric that Plateau waits for", "trainer.callback_metrics"),
    Internal("ModelCheckpoint._every_n_train_steps", "when checkpoints are written", "the public attribute, or none"),
    Internal("Timer._duration", "how long a run will be", "the length without the Timer"),
    Internal("LightningModule._log_hyperparams", "whether hyperparameters are logged", "they are not"),
    Internal("LightningModule._trainer", "the Trainer of a module, if it has one", "none"),
)


def absent(trainer: Any, internals: tuple[Internal, ...] = INTERNALS) -> list[Internal]:
    """Return the private names that a Trainer does not have."""
    L = lightning_pytorch
    roots = {
        "trainer": trainer,
        "call": call,
        "CombinedLoader": L.utilities.CombinedLoader([]),
        "DataFetcher": L.loops.fetchers._DataFetcher(),
        "LightningModule": L.LightningModule(),
        "ModelCheckpoint": L.callbacks.ModelCheckpoint(),
        "Timer": L.callbacks.Timer(),
    }
    return missing(internals, roots)


def require(trainer: Any, owner: str, internals: tuple[Internal, ...]) -> None:
    """Refuse a Lightning that lacks what a trick needs.

    Args:
        trainer: of the run.
        owner: the trick.
        internals: what it needs.

    Raises:
        UnsupportedError: something is missing.
    """
    lacking = [internal.path for internal in absent(trainer, internals)]
    if lacking:
        raise UnsupportedError(
            f"{owner}: lightning {version('lightning')} has no {', '.join(lacking)}. Install a version of "
            f"lightning that docs/versions.md lists as tested, or leave out {owner}."
        )


def resumes_weights_only() -> bool:
    """Whether a resume reads checkpoints with ``weights_only=True`` unless told otherwise, as since Lightning 2.6."""
    return "weights_only" in inspect.signature(lightning_pytorch.Trainer.fit).parameters


# -- the loops --------------------------------------------------------------------------------------------------------


def combined_loader(loop: Any) -> Any:
    """Return the loaders of a run; None before they are made."""
    return getattr(loop, "_combined_loader", None)


def loader_mode(combined: Any) -> Any:
    """Return how several loaders are combined, as ``"max_size_cycle"``."""
    return combined._mode


def data_fetcher(loop: Any) -> Any:
    """Return what fetches batches in a loop; None before it is made."""
    return loop._data_fetcher


def batches_that_stepped(trainer: Any) -> int:
    """Return the step at which Lightning's own loggers log."""
    loop = trainer.fit_loop.epoch_loop
    # (no default of ``getattr``: to compute one takes several times as long, and this is asked in each step)
    return int(loop._batches_that_stepped if hasattr(loop, "_batches_that_stepped") else trainer.global_step)


def logged_by_the_user(trainer: Any) -> list[str]:
    """Return the keys that the training script has logged so far; ``trainer.logged_metrics`` would compute values."""
    return [*getattr(getattr(trainer, "_logger_connector", None), "_logged_metrics", ())]


def in_window(loop: Any) -> bool:
    """Whether the fit loop stands inside an accumulation window."""
    return bool(loop.epoch_loop._should_accumulate())


def validates_now(loop: Any) -> bool:
    """Whether Lightning validates after the batch at which the fit loop stands."""
    fetcher = data_fetcher(loop)
    return bool(fetcher and loop.epoch_loop._should_check_val_fx(fetcher))


def first_loop_iteration(trainer: Any) -> Any:
    """Return the flag of the logger connector by which it notices a new loop."""
    return trainer._logger_connector._first_loop_iter


def put_first_loop_iteration(trainer: Any, value: Any) -> None:
    """Put back what ``first_loop_iteration`` returned."""
    trainer._logger_connector._first_loop_iter = value


def before_first_fetch(fetcher: Any, function: Callable[[], None]) -> None:
    """Call a function once, just before a fetcher asks for its first batch."""
    usual = fetcher._start_profiler  # the last thing that a fetcher does before it asks for a batch

    def first_fetch() -> None:
        fetcher._start_profiler = usual
        function()
        usual()

    fetcher._start_profiler = first_fetch


def clear_gradients(trainer: Any, batch_idx: int, optimizer: Any) -> None:
    """Clear gradients as Lightning does at the beginning of a window, with its hooks."""
    loop = trainer.fit_loop.epoch_loop.automatic_optimization
    hooks, clear = getattr(loop, "_on_before_zero_grad", None), getattr(loop, "_optimizer_zero_grad", None)
    if hooks is not None:
        hooks(optimizer)
    if clear is None:
        optimizer.zero_grad()
    else:
        clear(batch_idx, optimizer)


def logged_results(loop: Any) -> Any:
    """Return what a loop has logged so far; None where it cannot be told."""
    return getattr(loop, "_results", None)


def callback_metrics(trainer: Any, loop: Any) -> Any:
    """Return what a loop has logged for callbacks, also what the Trainer has not taken over yet."""
    if not hasattr(loop, "_results"):
        return trainer.callback_metrics
    # (False asks for the values over an epoch instead of those of the last step)
    results = loop._results
    return {} if results is None else results.metrics(False)["callback"]


# -- a training step --------------------------------------------------------------------------------------------------


def call_callback_hooks(trainer: Any, hook: str, *arguments: Any) -> None:
    """Call a hook of all callbacks, as Lightning does."""
    call._call_callback_hooks(trainer, hook, *arguments)


def call_module_hook(trainer: Any, hook: str, *arguments: Any) -> Any:
    """Call a hook of the LightningModule, as Lightning does."""
    return call._call_lightning_module_hook(trainer, hook, *arguments)


def call_strategy_hook(trainer: Any, hook: str, *arguments: Any, **named: Any) -> Any:
    """Call a method of the strategy, as Lightning does."""
    return call._call_strategy_hook(trainer, hook, *arguments, **named)


def before_batch_transfer(module: Any, batch: Any) -> Any:
    """Return a batch as the module's hooks before the transfer to the device leave it."""
    return module._on_before_batch_transfer(batch, dataloader_idx=0)


def wrapped_optimizers(strategy: Any) -> Any:
    """Return the optimizers in the form in which ``optimizer_step`` receives them."""
    return strategy._lightning_optimizers


# -- settings ---------------------------------------------------------------------------------------------------------


def timer_duration(callback: Any) -> Any:
    """Return the seconds that a ``Timer`` allows; None of any other callback."""
    return getattr(callback, "_duration", None)


def logs_hyperparameters(source: Any) -> bool:
    """Whether a module or data module has hyperparameters that are logged."""
    return bool(getattr(source, "_log_hyperparams", False))


def trainer_of(module: Any) -> Any:
    """Return the Trainer of a module; None where it has none."""
    return getattr(module, "_trainer", None)


def put_trainer(module: Any, trainer: Any) -> None:
    """Give a module its Trainer, or take it away with None."""
    # (past the property's setter, which would write to every submodule as well)
    module._trainer = trainer


def saves_shards(strategy: Any) -> bool:
    """Whether a strategy writes a folder of shards."""
    return getattr(strategy, "_save_distributed_checkpoint", False) is True
