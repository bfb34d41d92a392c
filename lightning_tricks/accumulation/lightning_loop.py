"""How Lightning's training loop is made to step, clear gradients and communicate where a window begins and ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tricks.accumulation.weights import Weight
from lightning_tricks.lifecycle.lightning_internals import clear_gradients
from lightning_tricks.numerics.host import as_scalar
from lightning_tricks.numerics.shards import reduced


def weight_of_all(trainer: Any, weight: Weight) -> float:
    """Return a weight summed over all processes, for a window that they must all close at the same micro-batch."""
    if trainer.world_size == 1:
        return float(weight)
    total = torch.as_tensor(float(weight), device=trainer.strategy.root_device)
    return float(reduced(trainer.strategy, total, "sum"))


def weight_of_rank_0(trainer: Any, weight: Weight) -> float:
    """Return the weight that the process of rank 0 has."""
    return float(trainer.strategy.broadcast(float(weight)))


def sums_of_all(trainer: Any, weight: Weight, samples: Weight, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two sums over all processes, by one all-reduce for both."""
    pair = torch.stack([as_scalar(weight, device), as_scalar(samples, device)])
    weight_of_all, samples_of_all = reduced(trainer.strategy, pair, "sum").unbind()
    return weight_of_all, samples_of_all


def steer(trainer: Any, batches: int) -> None:
    """Set the number of batches that Lightning accumulates; the one place that writes it for this package."""
    trainer.accumulate_grad_batches = batches


def steps_after(batch_idx: int, closes: bool) -> int:
    """Return the number of accumulated batches with which Lightning steps after a batch, or does not.

    Lightning steps when ``ready % N == 0`` (ready = index + 1) and clears gradients when ``index % N == 0``: ``N =
    ready`` steps without clearing, ``N = ready + 1`` does neither. The first batch of an epoch may be cleared.

    >>> steps_after(4, closes=True), steps_after(4, closes=False)
    (5, 6)
    """
    return batch_idx + (1 if closes else 2)


def begin_window(trainer: Any, batch_idx: int, *, clears_itself: bool) -> None:
    """Make the beginning of a window one for Lightning and DDP too.

    Args:
        batch_idx: of the first micro-batch.
        clears_itself: whether Lightning clears the gradients at this batch.
    """
    model = trainer.strategy.model
    if "require_forward_param_sync" in vars(model):  # (``hasattr`` of a module without it takes long)
        model.require_forward_param_sync = True  # DDP sends the buffers of rank 0 at the beginning of a window
    if clears_itself:
        return
    for optimizer in trainer.optimizers:
        clear_gradients(trainer, batch_idx, optimizer)


def reduce_in_backward(trainer: Any, reduces: bool) -> None:
    """Let DDP reduce gradients in the backward pass, or leave it to us.

    No all-reduce may be under way when one process alone has to split its batch: gradients are reduced before the step.
    """
    model = trainer.strategy.model
    if hasattr(model, "require_backward_grad_sync"):
        model.require_backward_grad_sync = reduces


def loss_of_nothing(trainer: Any) -> Tensor:
    """Return a loss of zero that depends on nothing, for a micro-batch without one.

    Under a GradScaler, Lightning throws a whole window away when its last micro-batch has no loss.
    """
    # until lightning>2.6.6 (#16228)
    return torch.zeros((), device=trainer.strategy.root_device, requires_grad=True)
