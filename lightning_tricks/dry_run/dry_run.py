"""Train a few steps before the first one, as the Trainer would, and leave no trace.

The steps use the module's own ``training_step`` and hooks, the strategy and the precision plugin, the accumulation and
the clipping of the run, on batches of a second loader of the user's own class. A snapshot puts everything back.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.dry_run.isolated import copied, report_damage
from lightning_tricks.dry_run.loaders import second_loader, unrepeatable
from lightning_tricks.dry_run.roots import Roots, callback_name, roots_of
from lightning_tricks.dry_run.snapshot import Snapshot, taken
from lightning_tricks.dry_run.training_step import loggers_kept_silent, loss_of, original_step, step_arguments
from lightning_tricks.dry_run.walk import SHORT
from lightning_tricks.errors import NotRestorableError, TrickError, UnsupportedError
from lightning_tricks.lifecycle.horizon import window_at, window_lengths
from lightning_tricks.lifecycle.lightning_internals import (
    DATA,
    DRY_RUN,
    before_batch_transfer,
    call_callback_hooks,
    call_module_hook,
    call_strategy_hook,
    combined_loader,
    loader_mode,
    require,
    wrapped_optimizers,
)
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.shards import on_any_rank, reduced
from lightning_tricks.numerics.torch_internals import tree_leaves, tree_map
from lightning_tricks.optimizer_step.gradient_writer import average
from lightning_tricks.optimizer_step.rate_request import scale_rates

# Lightning's own callbacks that only watch, save or show: they would write files and draw bars
_BYSTANDERS = frozenset(
    {
        *("Checkpoint", "ProgressBar", "ModelSummary", "Timer", "EarlyStopping", "LearningRateMonitor"),
        *("DeviceStatsMonitor", "ThroughputMonitor", "LearningRateFinder", "BatchSizeFinder", "BasePredictionWriter"),
        *("SpikeDetection", "GradientAccumulationScheduler"),  # (the last one's windows are asked for by name)
    }
)
_MOST_EMPTY = 1000  # batches of None in a row


class FailedElsewhereError(TrickError):
    """Another process failed in its dry run, so this one stops too."""


class DryRun:
    """A training before the training; a context manager that puts everything back.

    All hooks of the module are called as Lightning would. Those of the user's callbacks are, where ``training_step``
    fails without them; else not, since callbacks may write files. One that holds something that cannot be put back
    takes no part, nor do Lightning's own observers and ours.

    Args:
        run: the run that is about to start.
        owner: who asks, for messages.
        instead: what a user does who goes on without it.

    Raises:
        UnsupportedError: this run cannot be tried without a trace; the message names what is in the way.
        NotRestorableError: on entering, something in the module or the data cannot be put back; nothing has run.
    """

    def __init__(self, run: TrainingRun, owner: str, instead: str = "") -> None:
        self._run, self._trainer, self._owner = run, run.trainer, owner
        self._remove = f"remove {owner}{', and ' if instead else ''}{instead}"
        self._module = self._trainer.lightning_module
        self._refuse()
        self.optimizer: Any = self._trainer.optimizers[0]
        self._probe: Any = None
        self._data: Iterator[Any] = iter(())
        self._held: Iterator[Any] | None = None
        self._others: list[Any] = []
        self._needs_gradients = False

    def _refuse(self) -> None:
        trainer, module = self._trainer, self._module
        reason = None
        if not module.automatic_optimization:
            reason = "manual optimization, whose steps only the module can make"
        elif len(trainer.optimizers) != 1:
            reason = f"{len(trainer.optimizers)} optimizers"
        elif isinstance(trainer.optimizers[0], torch.optim.LBFGS):
            reason = "LBFGS, which has no plain step"
        elif type(trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
            reason = f"{type(trainer.strategy).__name__}, whose state cannot be put back"
        elif is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
            reason = "training_step(dataloader_iter), which takes batches that cannot be given back"
        if reason is not None:
            raise UnsupportedError(f"{self._owner} does not work with {reason}: {self._remove}.")
        require(trainer, self._owner, (*DATA, *DRY_RUN))
        for loader in tree_leaves(combined_loader(trainer.fit_loop).iterables):
            what = unrepeatable(loader)
            if what is not None:
                raise UnsupportedError(
                    f"{self._owner}: {what}, so the batches that it takes could not be given back. Use a DataLoader "
                    f"over a dataset with __getitem__, or {self._remove}."
                )

    # -- begin and end ------------------------------------------------------------------------------------------

    def __enter__(self) -> DryRun:
        trainer = self._trainer
        loaders = combined_loader(trainer.fit_loop)
        self._mode = loader_mode(loaders)
        self._loaders = tree_map(second_loader, loaders.iterables)
        self._undo = ExitStack()
        self._undo.callback(_put_attributes, trainer, dict(vars(trainer)))
        try:
            self._twins = self._assemble()
            others = [callback for callback in trainer.callbacks if _takes_part(callback)]
            self._started = trainer.callbacks[: trainer.callbacks.index(self._run.lead)]
            # before the snapshot, which puts back what it has seen each time that the dry run begins again
            self._undo.enter_context(loggers_kept_silent(trainer, others))
            snapshot, others = self._taken(others)
            self._undo.callback(report_damage, self._run, snapshot)  # (after it has put everything back)
            self._snapshot = self._undo.enter_context(snapshot)
            self._choose(others)
        except BaseException:
            self._undo.close()
            raise
        return self

    def _choose(self, others: list[Any]) -> None:
        """Find out what ``training_step`` cannot do without: gradients, the user's callbacks.

        Gradients take memory, and callbacks may write files.
        """
        choices: list[list[Any]] = [[], others] if self.anywhere(bool(others)) else [[]]
        for needed in choices:
            for self._needs_gradients in (False, True):
                self._use(needed)
                try:
                    with self.looking():
                        self.output(self.next_batch())
                except Exception:
                    continue
                self.restart()
                return
        self._needs_gradients = False
        self._use(others)  # (whatever fails will fail again, where it can be told)

    def _use(self, others: list[Any]) -> None:
        self._others = others
        self.restart()

    def _put_back(self) -> None:
        self._snapshot.restore()
        settings = {"callbacks": [*self._others, *self._twins], "accumulate_grad_batches": self._window}
        vars(self._trainer).update(settings)

    def looking(self) -> AbstractContextManager[Any]:
        """Return a context in which ``output`` is for looking at only: without gradients, where it can do without."""
        return torch.set_grad_enabled(self._needs_gradients)

    def __exit__(self, *exception: Any) -> None:
        self._undo.close()

    def _assemble(self) -> list[Any]:
        """Let fresh copies of the tricks that shape gradients take part; their hooks are there before the snapshot."""
        trainer, module = self._trainer, self._module
        before = {name: vars(trainer)[name] for name in ("callbacks", "accumulate_grad_batches")}
        twins = [copy.copy(t) for t in self._run.tricks if isinstance(t, Trick) and t.in_dry_run]
        steered = any(hasattr(twin, "updates_in_epoch") for twin in twins)
        window = 1 if steered else window_at(window_lengths(trainer), 0)
        vars(trainer).update(callbacks=twins, accumulate_grad_batches=window)
        try:
            for twin in twins:
                self._undo.callback(twin.teardown, trainer, module, "fit")
                twin.setup(trainer, module, "fit")
            for twin in twins:
                twin.on_train_start(trainer, module)
            self._window = trainer.accumulate_grad_batches
        finally:
            vars(trainer).update(before)
        return twins

    def _taken(self, callbacks: list[Any]) -> tuple[Snapshot, list[Any]]:
        """Return a snapshot of all that takes part, and the callbacks that can be put back. All ranks must call."""
        error: NotRestorableError | None = None
        snapshot: Snapshot | None = None
        while snapshot is None and error is None:
            try:
                models = {callback_name(callback): callback for callback in callbacks}
                snapshot = taken(partial(roots_of, self._trainer, models), steps=True)
            except NotRestorableError as found:
                bad = [callback for callback in callbacks if callback_name(callback) == found.root]
                callbacks = [callback for callback in callbacks if callback not in bad]
                error = None if bad else found
        if self.anywhere(error is not None) or snapshot is None:
            raise error or NotRestorableError("the module on another process cannot be put back")
        return snapshot, callbacks

    def _begin(self) -> None:
        """Call what Lightning calls before the first batch; our own tricks' hooks were called for real."""
        trainer, module = self._trainer, self._module
        for callback in self._others:
            if callback not in self._started:
                callback.on_train_start(trainer, module)
        call_module_hook(trainer, "on_train_start")
        call_callback_hooks(trainer, "on_train_epoch_start")
        call_module_hook(trainer, "on_train_epoch_start")
        self._data = self._batches()
        self._held = None

    def restart(self) -> None:
        """Go back to the state, the random numbers and the data with which the dry run began."""
        self._put_back()
        self._begin()

    # -- data ---------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Any]:
        """Cycle over the data as often as needed; batches of None are left out, as Lightning does."""
        empty = 0
        while True:
            served = False
            # no further than Lightning goes: a loader may have more batches than its length says, or fail behind them
            for batch, _, _ in islice(CombinedLoader(self._loaders, self._mode), self._most_batches):
                served = True
                empty = empty + 1 if batch is None else 0
                if batch is not None:
                    yield batch
            if not served or empty > _MOST_EMPTY:
                raise TrickError(f"{self._owner}: the training data are empty.")

    def hold(self, batches: list[Any]) -> None:
        """Let the batches from now on be these, again and again, until ``restart``."""
        self._held = cycle(batches)

    @property
    def _most_batches(self) -> int | None:
        batches = self.batches_per_epoch
        return int(batches) if math.isfinite(batches) else None

    @property
    def loaders(self) -> list[Any]:
        """The second loaders of the training data: whoever reads their data by position leaves no trace either."""
        return tree_leaves(self._loaders)

    @contextmanager
    def validation_loaders(self) -> Iterator[list[Any]]:
        """Give second loaders of the validation data, those that can be read without a trace; all is put back.

        Raises:
            NotRestorableError: the data of one cannot be put back; nothing was read.
        """
        loaders = [x for x in tree_leaves(self._trainer.val_dataloaders) if isinstance(x, DataLoader)]
        if len(loaders) == 0 or any(unrepeatable(x) is not None for x in loaders):
            yield []
            return
        roots = Roots(data={f"val_dataloader {i}": loader for i, loader in enumerate(loaders)})
        with taken(lambda: roots, limits=SHORT):
            yield [second_loader(loader) for loader in loaders]

    @property
    def batches_per_epoch(self) -> float:
        """How many batches one pass over the data has; inf where that is not known."""
        return float(self._trainer.num_training_batches)

    @property
    def has_schedules(self) -> bool:
        """Whether the run changes learning rates by schedulers."""
        return bool(self._trainer.lr_scheduler_configs)

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates until ``restart``."""
        scale_rates(self.optimizer, factor)

    def next_batch(self) -> Any:
        """Return the next batch, on the device."""
        if self._held is not None:
            return tree_map(copied, next(self._held))  # (training_step may write to it)
        batch = next(self._data)
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = before_batch_transfer(self._module, batch)
        return call_strategy_hook(self._trainer, "batch_to_device", batch, dataloader_idx=0)

    # -- steps --------------------------------------------------------------------------------------------------

    def update(self) -> float | None:
        """Make one update of as many micro-batches as in training; return their mean loss, None without one."""
        losses: list[Tensor] = []
        index, closes = 0, False
        while not closes:
            batch = self.next_batch()
            call_callback_hooks(self._trainer, "on_train_batch_start", batch, index)
            call_module_hook(self._trainer, "on_train_batch_start", batch, index)
            closes = (index + 1) % self._trainer.accumulate_grad_batches == 0
            output = self._micro_batch(batch, index, closes, losses)
            call_callback_hooks(self._trainer, "on_train_batch_end", output, batch, index)
            call_module_hook(self._trainer, "on_train_batch_end", output, batch, index)
            index += 1
        return self.mean(torch.stack(losses).mean()) if losses else None

    def _micro_batch(self, batch: Any, index: int, closes: bool, losses: list[Tensor]) -> Any:
        """Do what Lightning's loop for automatic optimization does; return what it hands to on_train_batch_end."""
        trainer, strategy = self._trainer, self._trainer.strategy
        result: dict[str, Any] = {}

        def closure() -> Tensor | None:
            output = self._step(batch, index)
            loss = loss_of(output)
            if index == 0:
                call_callback_hooks(trainer, "on_before_zero_grad", self.optimizer)
                call_module_hook(trainer, "on_before_zero_grad", self.optimizer)
                where = (trainer.current_epoch, index, self.optimizer)
                call_module_hook(trainer, "optimizer_zero_grad", *where)
            if loss is None:
                return None
            losses.append(loss.detach().float())
            share = loss / trainer.accumulate_grad_batches
            result.update(output if isinstance(output, dict) else {}, loss=share.detach())
            strategy.backward(share, self.optimizer)
            if closes:
                self._average()
            return loss.detach()  # type: ignore[no-any-return]

        with self._unsynchronized():
            if closes:
                where = (trainer.current_epoch, index, wrapped_optimizers(strategy)[0])
                call_module_hook(trainer, "optimizer_step", *where, closure)
            else:
                closure()
        return result

    def _unsynchronized(self) -> AbstractContextManager[Any]:
        """Keep DistributedDataParallel from averaging: the first time, it rearranges its buckets for good."""
        strategy = self._trainer.strategy
        return strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else nullcontext()

    def _average(self) -> None:
        if self._trainer.world_size > 1:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            average(parameters, self._trainer.strategy.root_device)

    def output(self, batch: Any) -> Any:
        """Return what ``training_step`` returns for a batch, after the hooks of its start. All ranks must call.

        Raises:
            FailedElsewhereError: it failed on another process.
        """
        batch = tree_map(copied, batch)  # (it may be asked for again, and training_step may write to it)
        for callback in self._others:  # (our own would count it as a part of an update)
            callback.on_train_batch_start(self._trainer, self._module, batch, 0)
        call_module_hook(self._trainer, "on_train_batch_start", batch, 0)
        return self._step(batch, 0)

    def _step(self, batch: Any, index: int) -> Any:
        arguments = step_arguments(original_step(self._module), batch, index)
        error, output = None, None
        try:
            with self._unsynchronized():
                output = call_strategy_hook(self._trainer, "training_step", *arguments)
        except Exception as found:
            error = found
        if self.anywhere(error is not None):
            raise error or FailedElsewhereError(f"{self._owner}: training_step failed on another process.")
        return output

    def anywhere(self, flag: bool) -> bool:
        """Whether something holds on any process. All ranks must call: whatever is decided has to be equal on them."""
        several = self._trainer.world_size > 1
        return on_any_rank([flag], self._trainer.strategy.root_device)[0] if several else flag

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss, with gradients cleared before."""
        self.optimizer.zero_grad()
        with self._unsynchronized():
            self._trainer.strategy.backward(loss, self.optimizer)
        self._average()

    def probe(self) -> float | None:
        """Return the loss on one batch that is the same at every call, with the same random numbers."""
        if self._probe is None:
            state = global_state()
            self._probe = (self.next_batch(), global_state())
            set_global_state(state)
            self._data = self._batches()  # (the probe is the first batch; training sees it too)
        batch, same_numbers = self._probe
        state = global_state()
        set_global_state(same_numbers)
        with self.looking():
            loss = loss_of(self.output(batch))
        set_global_state(state)
        return None if loss is None else self.mean(loss)

    def weights_finite(self) -> bool:
        """Whether no parameter holds NaN or inf now."""
        return all(bool(torch.isfinite(p).all()) for p in self._module.parameters() if p.is_floating_point())

    def mean(self, value: Tensor) -> float:
        """Return the mean of a 0-d value over all processes: every decision is made from it."""
        return float(reduced(self._trainer.strategy, value.detach().float().reshape(()), "mean"))


def _takes_part(callback: Any) -> bool:
    if isinstance(callback, Trick):
        return False
    names = {cls.__name__ for cls in type(callback).__mro__ if cls.__module__.split(".")[0] != "__main__"}
    return not names & _BYSTANDERS


def _put_attributes(owner: Any, kept: dict[str, Any]) -> None:
    vars(owner).clear()
    vars(owner).update(kept)
