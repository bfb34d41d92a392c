"""Steps of training as Lightning's loop for automatic optimization makes them, outside of that loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_tricks.dry_run.loaders import unrepeatable
from lightning_tricks.dry_run.training_step import loss_of, original_step, step_arguments
from lightning_tricks.errors import TrickError, UnsupportedError
from lightning_tricks.lifecycle.lightning_internals import (
    DATA,
    DRY_RUN,
    call_callback_hooks,
    call_module_hook,
    call_strategy_hook,
    combined_loader,
    require,
    wrapped_optimizers,
)
from lightning_tricks.numerics.shards import on_any_rank, reduced
from lightning_tricks.numerics.trees import tree_leaves
from lightning_tricks.optimizer_step.gradient_writer import average


class FailedElsewhereError(TrickError):
    """Another process failed in its dry run, so this one stops too."""


class Steps:
    """Forward, backward and updates with the module's hooks, the strategy and the precision of a Trainer.

    Args:
        trainer: a Trainer with one optimizer, or one whose module makes its own updates.
    """

    def __init__(self, trainer: Any, owner: str) -> None:
        self.trainer, self._owner = trainer, owner
        self.optimizer: Any = next(iter(trainer.optimizers), None)
        self._batches = 0  # since the beginning: a module that makes its own updates may go by their numbers

    def restart(self) -> None:
        """The next batch is the first one again."""
        self._batches = 0

    def call_hooks(self, name: str, *arguments: Any, callbacks: bool = True) -> None:
        """Call a hook of the callbacks and then of the module, as Lightning does."""
        if callbacks:
            call_callback_hooks(self.trainer, name, *arguments)
        call_module_hook(self.trainer, name, *arguments)

    def update(self, next_batch: Callable[[], Any]) -> float | None:
        """Make one update of as many micro-batches as in training; return their mean loss, None without one.

        Of a module that makes its own updates, one call of ``training_step``.
        """
        if not self.trainer.lightning_module.automatic_optimization:
            return self._manual_step(next_batch())
        losses: list[Tensor] = []
        index, closes = 0, False
        while not closes:
            batch = next_batch()
            self.call_hooks("on_train_batch_start", batch, index)
            closes = (index + 1) % self.trainer.accumulate_grad_batches == 0
            output = self._micro_batch(batch, index, closes, losses)
            self.call_hooks("on_train_batch_end", output, batch, index)
            index += 1
        return self.mean(torch.stack(losses).mean()) if losses else None

    def _manual_step(self, batch: Any) -> float | None:
        index, self._batches = self._batches, self._batches + 1
        self.call_hooks("on_train_batch_start", batch, index)
        output = self.forward(batch, index)
        self.call_hooks("on_train_batch_end", output, batch, index)
        loss = loss_of(output)
        return self.mean(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None

    def _micro_batch(self, batch: Any, index: int, closes: bool, losses: list[Tensor]) -> Any:
        """Do what Lightning's loop for automatic optimization does; return what it hands to on_train_batch_end."""
        trainer, strategy = self.trainer, self.trainer.strategy
        result: dict[str, Any] = {}

        def closure() -> Tensor | None:
            output = self.forward(batch, index)
            loss = loss_of(output)
            # At this place: Lightning clears gradients after the forward pass of a window's first micro-batch.
            if index == 0:
                self.call_hooks("on_before_zero_grad", self.optimizer)
                where = (trainer.current_epoch, index, self.optimizer)
                self.call_hooks("optimizer_zero_grad", *where, callbacks=False)
            if loss is None:
                return None
            losses.append(loss.detach().float())
            share = loss / trainer.accumulate_grad_batches
            result.update(output if isinstance(output, dict) else {}, loss=share.detach())
            strategy.backward(share, self.optimizer)
            # (before the optimizer's hooks, which have to see the mean over all processes)
            if closes:
                self._average()
            return loss.detach()  # type: ignore[no-any-return]

        with self._unsynchronized():
            if closes:
                where = (trainer.current_epoch, index, wrapped_optimizers(strategy)[0])
                self.call_hooks("optimizer_step", *where, closure, callbacks=False)
            else:
                closure()
        return result

    def forward(self, batch: Any, index: int) -> Any:
        """Return what ``training_step`` returns. All ranks must call.

        Raises:
            FailedElsewhereError: it failed on another process.
        """
        arguments = step_arguments(original_step(self.trainer.lightning_module), batch, index)
        error, output = None, None
        try:
            with self._unsynchronized():
                output = call_strategy_hook(self.trainer, "training_step", *arguments)
        except Exception as found:
            error = found
        if self.anywhere(error is not None):
            raise error or FailedElsewhereError(f"{self._owner}: training_step failed on another process.")
        return output

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss, with gradients cleared before."""
        self.optimizer.zero_grad()
        with self._unsynchronized():
            self.trainer.strategy.backward(loss, self.optimizer)
        self._average()

    def weights_finite(self) -> bool:
        """Whether no parameter holds NaN or inf now."""
        parameters = self.trainer.lightning_module.parameters()
        return all(bool(torch.isfinite(p).all()) for p in parameters if p.is_floating_point())

    def _unsynchronized(self) -> AbstractContextManager[Any]:
        """Keep DistributedDataParallel from averaging: the first time, it rearranges its buckets permanently."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else nullcontext()

    def _average(self) -> None:
        if self.trainer.world_size > 1:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            average(parameters, self.trainer.strategy.root_device)

    # -- what has to be equal on all processes --------------------------------------------------------------------

    def anywhere(self, flag: bool) -> bool:
        """Whether something holds on any process. All ranks must call: whatever is decided has to be equal on them."""
        several = self.trainer.world_size > 1
        return on_any_rank([flag], self.trainer.strategy.root_device)[0] if several else flag

    def mean(self, value: Tensor) -> float:
        """Return the mean of a 0-d value over all processes: every decision is made from it."""
        # (a host read: a dry run may wait for the device)
        return float(reduced(self.trainer.strategy, value.detach().float().reshape(()), "mean"))


def refuse_trainer(trainer: Any, owner: str, remove: str, *, manual: bool) -> None:
    """Refuse a Trainer whose steps cannot be made without a trace.

    Args:
        remove: what a user does who goes on without it.
        manual: whether a ``training_step`` that makes its own updates is of use.
    """
    reason, module = None, trainer.lightning_module
    if not module.automatic_optimization and not manual:
        reason = "manual optimization, whose steps only the module can make"
    elif len(trainer.optimizers) != 1 and module.automatic_optimization:
        reason = f"{len(trainer.optimizers)} optimizers"
    elif any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
        reason = "LBFGS, which has no plain step"
    elif type(trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
        reason = f"{type(trainer.strategy).__name__}, whose state cannot be put back"
    elif is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        reason = "training_step(dataloader_iter), which takes batches that cannot be given back"
    if reason is not None:
        raise UnsupportedError(f"{owner} does not work with {reason}: {remove}.")
    require(trainer, owner, (*DATA, *DRY_RUN))
    for loader in tree_leaves(combined_loader(trainer.fit_loop).iterables):
        what = unrepeatable(loader)
        if what is not None:
            raise UnsupportedError(
                f"{owner}: {what}, so the batches that it takes could not be given back. Use a DataLoader, or {remove}."
            )
