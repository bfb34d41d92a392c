"""The only place where gradients change.

Tricks ask for a factor, a clamp or a skip while an attempt is open; ``commit`` carries all of it out at once, when the
last trick has spoken. Whatever the order of the callbacks, gradients are written once.

With a fused optimizer and one factor for all, nothing is written here at all: the factor goes into
``optimizer.grad_scale`` (the fused step divides by it) and a skip into ``optimizer.found_inf`` (the fused step returns
without touching weights, moments or counters). Both attributes are read by torch's fused Adam, AdamW, SGD and Adagrad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import SGD

from lightning_tricks.errors import UnsupportedError
from lightning_tricks.runtime.logbook import OptimizerView, Page


@dataclass
class _Order:
    """What the tricks asked for in one attempt."""

    factor: Tensor | None = None
    factors: list[Tensor] = field(default_factory=list)
    limit: float | None = None
    found: Tensor | None = None


class GradientWriter:
    """Collects what tricks want done to the gradients of an attempt, and does it once."""

    def __init__(self) -> None:
        self._order = _Order()
        self._dirty: list[OptimizerView] = []

    def scale(self, factor: Tensor) -> None:
        """Multiply all gradients by a 0-d float32 tensor > 0."""
        known = self._order.factor
        self._order.factor = factor if known is None else known * factor

    def scale_each(self, factors: Sequence[Tensor]) -> None:
        """Multiply each gradient that is there by a tensor that broadcasts against it."""
        known = self._order.factors
        self._order.factors = [a * b for a, b in zip(known, factors, strict=True)] if known else list(factors)

    def clamp(self, limit: float) -> None:
        """Limit every element to ``[-limit, limit]``, after the factors."""
        self._order.limit = limit if self._order.limit is None else min(limit, self._order.limit)

    def skip(self, found: Tensor) -> None:
        """Let this update not happen where the 0-d bool tensor ``found`` is set."""
        self._order.found = found if self._order.found is None else self._order.found | found

    def zero_nonfinite(self, page: Page) -> None:
        """Replace NaN and inf elements by 0, at once: what is measured afterwards shall see it."""
        for gradient in page.values():
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    def commit(self, page: Page) -> None:
        """Carry out what was asked for in this attempt."""
        order, self._order = self._order, _Order()
        view = page.view
        if page.empty:
            return
        folds = view.folds and not order.factors and order.limit is None
        if order.found is not None and not view.folds and not self._skip_unfused(view, order.found):
            return
        if not folds:
            _write(page, order)
        if view.folds and (order.found is not None or (folds and order.factor is not None)):
            self._fold(view, order, order.factor if folds else None)

    def _fold(self, view: OptimizerView, order: _Order, factor: Tensor | None) -> None:
        self._dirty.append(view)
        divisor = None if factor is None else factor.reciprocal()
        if view.scaled:
            found = torch.zeros((), device=view.device) if order.found is None else order.found
            if order.found is None:
                # nobody looked at the gradients: the scaler must look itself
                view.optimizer.grad_scale = divisor  # type: ignore[attr-defined]
            else:
                view.loss_scale.hand_over(view.optimizer, found, divisor)
            return
        if divisor is not None:
            view.optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        if order.found is not None:
            view.optimizer.found_inf = order.found.to(torch.float32)  # type: ignore[attr-defined]

    @staticmethod
    def _skip_unfused(view: OptimizerView, found: Tensor) -> bool:
        """Skip without the fused step's help; return whether there is still something to write."""
        if view.loss_scale.active and view.loss_scale.report(view.optimizer, found):
            return True
        if not bool(found):  # the one documented host read: torch offers no skip on the device here
            return True
        for parameter in view.parameters:
            parameter.grad = None
        return False

    def release(self, view: OptimizerView) -> None:
        """Take back what was left on an optimizer; its step has read it. (A GradScaler deletes both by itself.)"""
        if view in self._dirty:
            self._dirty.remove(view)
            if not view.scaled:
                _forget(view)

    def close(self) -> None:
        """Leave no attribute behind, also when a step never came."""
        for view in self._dirty:
            _forget(view)
        self._dirty = []
        self._order = _Order()


def _forget(view: OptimizerView) -> None:
    for attribute in ("grad_scale", "found_inf"):
        view.optimizer.__dict__.pop(attribute, None)


def _write(page: Page, order: _Order) -> None:
    values = page.values()
    if order.factor is not None:
        torch._foreach_mul_(values, order.factor)
    if order.factors:
        torch._foreach_mul_(values, order.factors)
    if order.limit is not None:
        scale = page.view.loss_scale.scale() if page.view.scaled else None
        if scale is None:
            torch._foreach_clamp_min_(values, -order.limit)
            torch._foreach_clamp_max_(values, order.limit)
        else:
            bound = order.limit * scale.to(page.view.device)
            for gradient in values:
                gradient.clamp_(min=-bound, max=bound)


def make_skipping_safe(view: OptimizerView) -> None:
    """Give fused SGD its momentum buffers before a first step that may be skipped.

    Until its first step, torch's fused SGD has no buffer: it allocates one with ``empty_like`` and lets the kernel fill
    it. When ``found_inf`` skips that step, the buffer stays uninitialised memory and every later update is wrong
    (torch 2.13, ``torch/optim/sgd.py``, ``_fused_sgd``). A buffer of zeros gives the same first update
    (``momentum * 0 + gradient``) unless ``dampening`` is set, which torch leaves out of the first step only.

    Raises:
        UnsupportedError: the optimizer has ``dampening``.
    """
    optimizer = view.optimizer
    if not (view.folds and isinstance(optimizer, SGD)):
        return
    for group in optimizer.param_groups:
        if group["momentum"] == 0:
            continue
        trained = (p for p in group["params"] if p.requires_grad)
        missing = [p for p in trained if optimizer.state[p].get("momentum_buffer") is None]
        if not missing:
            continue
        if group["dampening"] != 0:
            raise UnsupportedError(
                f"fused SGD(momentum={group['momentum']}, dampening={group['dampening']}): when its first step is "
                "skipped, torch leaves the momentum buffer uninitialised. Use fused=False or dampening=0."
            )
        for p in missing:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
