"""A copy of the user's model that trains on one batch in one precision, as a Trainer would. torch only."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Optimizer

from lightning_tricks.dry_run.training_step import step_arguments
from lightning_tricks.numerics.trees import tree_map

_WARM_UP = 24  # steps after which the loss scale of 16-mixed has fallen from 2^16 to where a step is applied


class Candidate:
    """A copy of the model that trains in one precision.

    Args:
        module: copied.
        batch: moved and, for ``bf16-true``, cast.
        precision: one of ``PRECISIONS``.
    """

    def __init__(self, module: nn.Module, batch: Any, device: torch.device, precision: str) -> None:
        self.precision, self.device = precision, device
        self.module = copy.deepcopy(module).to(device).train()
        true_half = precision == "bf16-true"
        if true_half:
            self.module.to(torch.bfloat16)  # as Lightning's HalfPrecision does: buffers too
        half = torch.bfloat16 if true_half else None
        self.batch = tree_map(
            lambda t: t.to(device, half if t.is_floating_point() else None) if isinstance(t, Tensor) else t, batch
        )
        self.scaler = torch.amp.GradScaler(device.type) if precision == "16-mixed" else None
        self.optimizer = _optimizer(self.module)
        self.steps = 0
        self._applied: int | Tensor = 0
        self.optimizer.register_step_post_hook(self._count)

    def _count(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # GradScaler does not call an optimizer that it skips; a fused one it calls with a flag on the device
        found = getattr(optimizer, "found_inf", None)
        self._applied = self._applied + (1 if found is None else 1 - found)

    @property
    def skipped(self) -> int:
        """How many steps the GradScaler skipped. Reads the device once, with a fused optimizer."""
        return self.steps - int(self._applied)

    def loss(self) -> Tensor:
        """One forward pass, as the Trainer would make it."""
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with ExitStack() as stack:
            if dtype is not None:
                # without the weight cache, as Lightning has it since 2.6.0 (#20921)
                stack.enter_context(torch.autocast(self.device.type, dtype, cache_enabled=False))
            return _loss(self.module, self.batch)

    def gradient(self) -> tuple[Tensor, float]:
        """Return the gradient of the first step as one float32 vector, and its loss.

        Under 16-mixed it is taken at the largest loss scale, a power of two up to 2^16, at which it is finite.
        """
        scale = 1.0 if self.scaler is None else 2.0**16
        while True:
            torch.manual_seed(0)  # the same dropout in every precision, and at every scale that is tried
            loss = self.loss()
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            grads = (p.grad if p.grad is not None else torch.zeros_like(p) for p in self.module.parameters())
            found = torch.cat([g.reshape(-1).float() for g in grads]) / scale
            self.optimizer.zero_grad()
            if scale == 1.0 or bool(found.isfinite().all()):
                return found, float(loss.detach())
            scale /= 2

    def warm_up(self) -> None:
        """Step until one is applied and the optimizer has its state: under 16-mixed the first ones may be skipped."""
        for _ in range(_WARM_UP):
            self.step()
            if self.optimizer.state:
                return

    def step(self) -> None:
        """One training step."""
        loss = self.loss()
        self.steps += 1
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()


def _loss(module: nn.Module, batch: Any) -> Tensor:
    """Return the loss of ``training_step``; of other modules that of the output, compared with the target if any."""
    step = getattr(module, "training_step", None)
    if step is not None:
        output = step(*step_arguments(step, batch, 0))
        loss: Tensor = output["loss"] if isinstance(output, dict) else output
        return loss
    inputs, target = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (batch, None)
    output = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    # (a model that computes its loss itself)
    if output.numel() == 1:
        return output.reshape(())  # type: ignore[no-any-return]
    if target is None:
        return output.float().square().mean()  # type: ignore[no-any-return]
    if target.is_floating_point():
        return mse_loss(output.float(), target.float().reshape(output.shape))
    return cross_entropy(output.reshape(-1, output.shape[-1]).float(), target.reshape(-1))


def _optimizer(module: nn.Module) -> Optimizer:
    """Return the first optimizer of ``configure_optimizers``, else AdamW."""
    make = getattr(module, "configure_optimizers", None)
    if make is not None:
        try:
            found = make()
        except Exception:  # it may need the Trainer; the kind of optimizer hardly changes how precisions compare
            found = None
        # Lightning takes an optimizer, lists of them, a pair of lists with schedulers, or a dict
        while isinstance(found, (tuple, list)) and found:
            found = found[0]
        found = found.get("optimizer") if isinstance(found, dict) else found
        if isinstance(found, Optimizer):
            return found
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
