"""Attempts under a GradScaler: whether each was skipped, once that is known, and what its gradients and losses hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_tricks.numerics import host
from lightning_tricks.numerics.norms import nonfinite, tensor_norms
from lightning_tricks.numerics.torch_internals import sparse_values
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale


class Attempt:
    """An attempt under a GradScaler: open until it is known whether it was skipped."""

    def __init__(self, page: Page) -> None:
        self.view, self.step, self.number, self.losses = page.view, page.step, page.attempt, list(page.losses)
        self.outcome: bool | Tensor = True  # a step that the scaler skips fires no hook

    def stepped(self) -> None:
        """Note that the optimizer's step ran. A fused one may have skipped it on the device."""
        # GradScaler sets the attribute for optimizers whose step reads it, and deletes it after the step
        found = getattr(self.view.optimizer, "found_inf", None)
        self.outcome = False if found is None else known(found)

    def loss_finite(self) -> bool:
        """Whether all losses are finite: one host read. True where none is known."""
        return not self.losses or bool(all_finite(self.losses))


def all_finite(losses: Sequence[Tensor]) -> Tensor:
    """Return whether all losses are finite, 0-d, without reading it."""
    return torch.isfinite(torch.stack([x.reshape(()) for x in losses])).all()


def known(flag: Tensor) -> bool | Tensor:
    """Return a flag as a bool where the host may look at it; else as it is.

    >>> known(torch.tensor(1.0))
    True
    """
    value = host.value_on_host(flag)
    return flag if value is None else bool(value)


def nonfinite_names(view: OptimizerView) -> list[str]:
    """Return the parameters whose gradient is NaN or inf now: one host read."""
    present = [(n, p.grad) for n, p in zip(view.names, view.parameters, strict=True) if p.grad is not None]
    if not present:
        return []
    # (gradients may still carry the loss scale here: it is the scaled ones that have overflowed)
    bad = nonfinite(tensor_norms([sparse_values(g) if g.is_sparse else g for _, g in present])).tolist()
    return [name for (name, _), is_bad in zip(present, bad, strict=True) if is_bad]


def nonfinite_buffers(module: nn.Module) -> list[str]:
    """Return the buffers that hold NaN or inf: one host read for each.

    >>> norm = nn.BatchNorm1d(1)
    >>> _ = norm.running_mean.fill_(torch.nan); nonfinite_buffers(norm)
    ['running_mean']
    """
    return [name for name, b in module.named_buffers() if b.is_floating_point() and not b.isfinite().all()]


def scale_used(loss_scale: LossScale) -> float:
    """Return the scale of the attempt that was just skipped, which the scaler has lowered since: one host read."""
    scaler, scale = loss_scale.scaler, loss_scale.scale()
    # ``update`` has multiplied the scale by this factor when the hooks at the end of the batch run
    return 1.0 if scaler is None or scale is None else scale.item() / scaler.get_backoff_factor()
