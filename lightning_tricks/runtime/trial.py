"""Train a few steps before the first one, as the Trainer would, and leave no trace.

The steps use the module's own ``training_step``, the strategy and the precision plugin, the accumulation and the
clipping of the run, on batches of a second loader over the same data. Everything is put back from a ``Snapshot``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from itertools import cycle
from typing import Any

import torch
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset

from lightning_tricks.errors import TrickError, UnsupportedError
from lightning_tricks.runtime.horizon import window_at, window_lengths
from lightning_tricks.runtime.rate import scale_rates
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.shards import reduced
from lightning_tricks.runtime.snapshot import Snapshot, random_numbers
from lightning_tricks.runtime.training_step import logs_kept_back, loss_of


class Trial:
    """A training in a copy; a context manager that puts everything back.

    Args:
        run: the run that is about to start.
        owner: who tries, for messages.

    Raises:
        UnsupportedError: this run cannot be tried without a trace; the message names what is in the way.
    """

    def __init__(self, run: TrainingRun, owner: str) -> None:
        self._run, self._trainer, self._owner = run, run.trainer, owner
        self._module = self._trainer.lightning_module
        self._refuse()
        self.optimizer: Any = self._trainer.optimizers[0]
        self._probe: Any = None
        self._data: Iterator[Any] = iter(())
        self._held: Iterator[Any] | None = None

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
            raise UnsupportedError(f"{self._owner} does not work with {reason}. Remove it, and set lr yourself.")

    # -- begin and end ------------------------------------------------------------------------------------------

    def __enter__(self) -> Trial:
        trainer = self._trainer
        loaders = trainer.fit_loop._combined_loader
        self._mode = loaders._mode
        self._loaders = tree_map(self._second, loaders.iterables)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._snapshot = Snapshot(self._module, [self.optimizer], scaler, tree_leaves(self._loaders))
        self._before = {name: vars(trainer)[name] for name in ("callbacks", "accumulate_grad_batches")}
        self._undo = ExitStack()
        self._undo.callback(self._snapshot.put_back)
        self._undo.callback(vars(trainer).update, self._before)
        try:
            self._assemble()
            self.restart()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self._undo.close()

    def _assemble(self) -> None:
        """Let fresh copies of the tricks that shape gradients take part, and nobody else."""
        trainer, module = self._trainer, self._module
        twins = [copy.copy(trick) for trick in self._run.tricks if trick.in_trial]
        steered = any(hasattr(twin, "updates_in_epoch") for twin in twins)
        window = 1 if steered else window_at(window_lengths(trainer), 0)
        vars(trainer).update(callbacks=twins, accumulate_grad_batches=window)
        for twin in twins:
            self._undo.callback(twin.teardown, trainer, module, "fit")
            twin.setup(trainer, module, "fit")
        for twin in twins:
            twin.on_train_start(trainer, module)

    def restart(self) -> None:
        """Go back to the state, the random numbers and the data with which the trial began."""
        self._snapshot.put_back()
        self._data = self._batches()
        self._held = None

    # -- data ---------------------------------------------------------------------------------------------------

    def _second(self, loader: Any) -> Any:
        """Return a second loader over the same data; the first one's iterator may be under way."""
        name = type(loader).__name__
        if not isinstance(loader, DataLoader):
            self._refuse_data(f"{name} is no DataLoader")
        if isinstance(loader.dataset, IterableDataset):
            self._refuse_data(f"{type(loader.dataset).__name__} is an IterableDataset")
        for thing in (loader, loader.dataset):
            if hasattr(thing, "state_dict"):
                self._refuse_data(f"{type(thing).__name__} keeps a position of its own (state_dict)")
        fixed = {"collate_fn": loader.collate_fn, "num_workers": 0, "worker_init_fn": None}
        if loader.batch_sampler is None:
            return DataLoader(loader.dataset, batch_size=None, sampler=loader.sampler, **fixed)
        return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, **fixed)

    def _refuse_data(self, what: str) -> None:
        raise UnsupportedError(
            f"{self._owner}: {what}, so the batches that it takes could not be given back. Use a DataLoader over a "
            f"dataset with __getitem__, or remove {self._owner} and set lr yourself."
        )

    def _batches(self) -> Iterator[Any]:
        """Cycle over the data as often as needed."""
        while True:
            served = False
            for batch, _, _ in CombinedLoader(self._loaders, self._mode):
                served = True
                yield batch
            if not served:
                raise TrickError(f"{self._owner}: the training data are empty.")

    def hold(self, batches: list[Any]) -> None:
        """Let the batches from now on be these, again and again, until ``restart``."""
        self._held = cycle(batches)

    @property
    def batches_per_epoch(self) -> float:
        """How many batches one pass over the data has; inf where that is not known."""
        return float(self._trainer.num_training_batches)

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates until ``restart``."""
        scale_rates(self.optimizer, factor)

    def next_batch(self) -> Any:
        """Return the next batch, on the device."""
        return self._next()

    def _next(self) -> Any:
        if self._held is not None:
            return next(self._held)
        batch = next(self._data)
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self._module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(self._trainer, "batch_to_device", batch, dataloader_idx=0)

    # -- steps --------------------------------------------------------------------------------------------------

    def update(self) -> float | None:
        """Make one update of as many micro-batches as in training; return their mean loss, None without one."""
        losses: list[Tensor] = []
        index, closes = 0, False
        while not closes:
            batch = self._next()
            call._call_callback_hooks(self._trainer, "on_train_batch_start", batch, index)
            closes = (index + 1) % self._trainer.accumulate_grad_batches == 0
            self._micro_batch(batch, index, closes, losses)
            index += 1
        return self._mean(torch.stack(losses).mean()) if losses else None

    def _micro_batch(self, batch: Any, index: int, closes: bool, losses: list[Tensor]) -> None:
        trainer, strategy = self._trainer, self._trainer.strategy

        def closure() -> Tensor | None:
            loss = self._loss(batch, index)
            if index == 0:
                call._call_callback_hooks(trainer, "on_before_zero_grad", self.optimizer)
                self.optimizer.zero_grad()
            if loss is None:
                return None
            losses.append(loss.detach().float())
            strategy.backward(loss / trainer.accumulate_grad_batches, self.optimizer)
            return loss.detach()

        if closes:
            strategy.optimizer_step(self.optimizer, closure)
            return
        silent = strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else nullcontext()
        with silent:
            closure()

    def output(self, batch: Any, index: int = 0) -> Any:
        """Return what ``training_step`` returns for a batch; its logs are kept back."""
        arguments = [batch]
        if is_param_in_hook_signature(self._module.training_step, "batch_idx", min_args=2):
            arguments.append(index)
        with logs_kept_back(self._module):
            return call._call_strategy_hook(self._trainer, "training_step", *arguments)

    def _loss(self, batch: Any, index: int) -> Tensor | None:
        loss: Tensor | None = loss_of(self.output(batch, index))
        return loss

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss, with gradients cleared before."""
        self.optimizer.zero_grad()
        self._trainer.strategy.backward(loss, self.optimizer)

    def mean(self, value: Tensor) -> float:
        """Return the mean of a 0-d value over all processes."""
        return self._mean(value.detach().float())

    def probe(self) -> float | None:
        """Return the loss on one batch that is the same at every call, with the same random numbers."""
        if self._probe is None:
            state = random_numbers()
            self._probe = (self._next(), random_numbers())
            state()
            self._data = self._batches()  # (the probe is the first batch; training sees it too)
        batch, same_numbers = self._probe
        put_back = random_numbers()
        same_numbers()
        with torch.no_grad():
            loss = self._loss(batch, 0)
        put_back()
        return None if loss is None else self._mean(loss.detach().float())

    def _mean(self, loss: Tensor) -> float:
        """Return the mean over all processes: every decision is made from it."""
        return float(reduced(self._trainer.strategy, loss.reshape(()), "mean"))
