"""The only place where gradients change.

Tricks ask for a factor, a clamp or a skip while an attempt is open; ``commit`` carries all of it out at once, when the
last trick has spoken. Whatever the order of the callbacks, gradients are written once.

With a fused optimizer and one factor for all, nothing is written here at all: the factor goes into
``optimizer.grad_scale`` (the fused step divides by it), and on a GPU a skip into ``optimizer.found_inf`` (that step
returns without touching weights, moments or counters; no host read). Both attributes are read by torch's fused Adam,
AdamW, SGD and Adagrad. Where the host knows whether to skip, the gradients are taken away instead: no step has anything
to do then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import SGD
from torch.utils.hooks import RemovableHandle

from lightning_tricks.errors import UnsupportedError
from lightning_tricks.numerics import host, shards
from lightning_tricks.numerics.torch_internals import foreach_clamp_, foreach_mul_, sparse_indices, sparse_values
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page


@dataclass
class _Order:
    """What the tricks asked for in one attempt."""

    factor: Tensor | None = None
    factors: list[Tensor] = field(default_factory=list)
    limit: float | None = None
    total: Tensor | None = None

    @property
    def nothing(self) -> bool:
        return self.factor is None and not self.factors and self.limit is None and self.total is None


class GradientWriter:
    """Collects what tricks want done to the gradients of an attempt, and does it once."""

    def __init__(self) -> None:
        self._order = _Order()
        self._dirty: list[OptimizerView] = []

    def scale(self, factor: Tensor) -> None:
        """Multiply all gradients by a 0-d tensor."""
        known = self._order.factor
        self._order.factor = factor if known is None else known * factor

    def scale_each(self, factors: Sequence[Tensor]) -> None:
        """Multiply each gradient that is there by a tensor that broadcasts against it."""
        known = self._order.factors
        self._order.factors = [a * b for a, b in zip(known, factors, strict=True)] if known else list(factors)

    def clamp(self, limit: float) -> None:
        """Limit every element to ``[-limit, limit]``, after the factors."""
        self._order.limit = limit if self._order.limit is None else min(limit, self._order.limit)

    def skip_unless_finite(self, total: Tensor) -> None:
        """Leave this update out when ``total``, a 0-d norm of the gradients, is NaN or inf."""
        # a sum is NaN or inf if one of them is
        self._order.total = total if self._order.total is None else self._order.total + total

    def zero_nonfinite(self, page: Page) -> None:
        """Replace NaN and inf elements by 0, at once: what is measured afterwards has to see it."""
        for gradient in page.writable():
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    def commit(self, page: Page) -> None:
        """Carry out what was asked for in this attempt."""
        if self._order.nothing:
            return
        order, self._order = self._order, _Order()
        if not page.empty:
            self._carry_out(page, order)

    def _carry_out(self, page: Page, order: _Order) -> None:
        view = page.view
        # (a fused step takes its factor in float32, which is not enough where gradients are float64)
        narrow = order.factor is None or order.factor.dtype == torch.float32
        folds = view.folds and narrow and not order.factors and order.limit is None
        if order.total is not None and not self._decided(view, order, order.total):
            return
        # where the host knows that nothing is clipped, a pass over all gradients is saved
        if order.factor is not None and host.value_on_host(order.factor) == 1.0:
            order.factor = None
        if not folds and (order.factor is not None or order.factors or order.limit is not None):
            _write(page, order)
        if view.folds and (order.total is not None or (folds and order.factor is not None)):
            self._fold(view, order.total, order.factor if folds else None)

    def _fold(self, view: OptimizerView, total: Tensor | None, factor: Tensor | None) -> None:
        self._dirty.append(view)
        divisor = None if factor is None else factor.reciprocal()
        if view.scaled and total is not None:
            view.loss_scale.hand_over(view.optimizer, ~torch.isfinite(total), divisor)
            return
        if divisor is not None:  # under a GradScaler, which will look for overflows itself, it multiplies its scale in
            view.optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        if total is not None:
            view.optimizer.found_inf = (~torch.isfinite(total)).to(torch.float32)  # type: ignore[attr-defined]

    @staticmethod
    def _decided(view: OptimizerView, order: _Order, total: Tensor) -> bool:
        """Decide about a skip where the host knows or must ask; return whether there is still an update to make.

        Where the fused step is to decide, on the device, ``order.total`` stays; otherwise it is taken out.
        """
        if view.scaled:
            return True
        if view.loss_scale.active and view.loss_scale.report(view.optimizer, ~torch.isfinite(total)):
            order.total = None
            return True
        known = host.value_on_host(total)
        if known is None and view.folds:
            return True
        # without a fused step torch has no skip on the device: the one documented host read
        finite = math.isfinite(float(total) if known is None else known)
        order.total = None
        if not finite:  # zeros would not do: with weight decay and momentum, weights move without a gradient
            for parameter in view.parameters:
                parameter.grad = None
        return finite

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


def take(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Take the gradients away from parameters and return them."""
    taken = [p.grad for p in parameters]
    give(parameters, [None] * len(taken))
    return taken


def give(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Make these the gradients of the parameters."""
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient


def clear(parameters: Sequence[Tensor]) -> None:
    """Drop all gradients."""
    give(parameters, [None] * len(parameters))


def average(parameters: Sequence[Tensor], device: torch.device) -> None:
    """Replace gradients by their means over all processes; one that is missing counts as 0 where another has it."""
    # Ranks that disagree on the number of gradients would wait for one another forever in the all-reduce.
    anywhere = shards.on_any_rank([p.grad is not None for p in parameters], device)
    present = [p for p, there in zip(parameters, anywhere, strict=True) if there]
    for p in present:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    shards.average([p.grad for p in present if p.grad is not None])


@torch.no_grad()
def add(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to those that are there."""
    for p, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if p.grad is None:
            # (no copy: gradients that were taken away belong to nobody else)
            p.grad = gradient
        else:
            p.grad.add_(gradient)


def leave_out(parameters: Sequence[Tensor], counts: Tensor | None = None) -> list[RemovableHandle]:
    """Let gradients that arrive count for nothing until the handles are removed: also those that are NaN.

    A factor of 0 on the loss would not do: 0 x NaN is NaN, as in the mean over no element.

    Args:
        counts: 0-d bool on the device, whether they count after all; None where the host knows that they do not.
    """

    def hook(gradient: Tensor) -> Tensor:
        if counts is None:
            return torch.zeros_like(gradient)
        if not gradient.is_sparse:
            return torch.where(counts, gradient, 0.0)
        values = torch.where(counts, sparse_values(gradient), 0.0)
        made = {"is_coalesced": gradient.is_coalesced(), "check_invariants": False}  # (a check would be a host read)
        return torch.sparse_coo_tensor(sparse_indices(gradient), values, gradient.shape, **made)  # type: ignore[arg-type]

    return [p.register_hook(hook) for p in parameters]  # type: ignore[no-untyped-call]


def holds_something(gradient: Tensor) -> bool:
    """Whether a gradient is not all zeros: a host read."""
    return bool((sparse_values(gradient) if gradient.is_sparse else gradient).any())


def _forget(view: OptimizerView) -> None:
    for attribute in ("grad_scale", "found_inf"):
        view.optimizer.__dict__.pop(attribute, None)


@torch.no_grad()
def _write(page: Page, order: _Order) -> None:
    values = page.writable()
    if order.factor is not None:
        foreach_mul_(values, order.factor)
    if order.factors:
        foreach_mul_(values, order.factors)
    if order.limit is not None:
        scale = page.view.loss_scale.scale() if page.view.scaled else None
        if scale is None:
            foreach_clamp_(values, order.limit)
        else:
            # Gradients of a fused optimizer still carry the loss scale here (16-mixed). Scaling the bound saves a pass
            # over them; torch's multi-tensor clamp takes no 0-d tensor, and reading the scale would wait for the
            # device.
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
