"""One interface to no scaler, a GradScaler, and a GradScaler with a fused optimizer. Never reads on the host.

Every private attribute of torch's GradScaler that the pack touches is in this file, behind ``_private_works``: a probe
that runs the mechanism once on one number. Where a torch version changed it, the public path is taken instead, which is
right too and only costs one more pass over the gradients.

What the gradients look like when ``on_before_optimizer_step`` fires:

=====================  ==========================  =============================
precision              optimizer                   gradients
=====================  ==========================  =============================
32, bf16, 16-true      any                         true
16-mixed               not fused                   true (Lightning unscaled them)
16-mixed               fused                       multiplied by the loss scale
=====================  ==========================  =============================
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from lightning_tricks.numerics.internals import Internal

INTERNALS = (
    Internal("torch.amp.GradScaler._scale", "the loss scale without a host read", "get_scale(), which reads"),
    Internal("torch.amp.GradScaler._init_scale", "bounds before the first step", "they hold from the first step on"),
    Internal("torch.amp.GradScaler._per_optimizer_states", "non-finite values found once", "the scaler looks again"),
    Internal("torch.optim.SGD._step_supports_amp_scaling", "fused optimizers that unscale themselves", "not fused"),
)


class LossScale:
    """The loss scale of a run."""

    def __init__(self, scaler: GradScaler | None) -> None:
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.active = self.scaler is not None  # whether losses are scaled in this run

    def scale(self) -> Tensor | None:
        """Return the scale, a 0-d float32 tensor on the device; None without a scaler, or before its first use."""
        if self.scaler is None:
            return None
        # the private tensor: ``get_scale()`` reads it on the host, which waits for the device
        private = getattr(self.scaler, "_scale", None)
        if isinstance(private, Tensor):
            return private
        return None if hasattr(self.scaler, "_scale") else torch.tensor(self.scaler.get_scale())

    def bound(self, low: float, high: float | None) -> None:
        """Keep the scale within bounds, on its device, between two steps; before its first use, the initial one."""
        if self.scaler is None:
            return
        private = getattr(self.scaler, "_scale", None)
        if isinstance(private, Tensor):
            private.clamp_(min=low, max=high)
        elif hasattr(self.scaler, "_init_scale"):
            self.scaler._init_scale = max(low, min(self.scaler._init_scale, high or self.scaler._init_scale))

    def retire(self) -> None:
        """The run goes on without a loss scale."""
        self.scaler, self.active = None, False

    def leaves_scaled(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer's gradients are still scaled in ``on_before_optimizer_step``."""
        return self.active and bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def inverse(self, optimizer: Optimizer) -> Tensor | None:
        """Return what to multiply a norm with to get the true one; None for 1."""
        scale = self.scale() if self.leaves_scaled(optimizer) else None
        return None if scale is None else scale.reciprocal()

    def hand_over(self, optimizer: Optimizer, found: Tensor, divisor: Tensor | None) -> None:
        """Tell the scaler what is known already, so that it need not read the gradients again.

        Args:
            optimizer: one whose gradients are still scaled (fused).
            found: 0-d bool or float tensor, whether a gradient is NaN or inf.
            divisor: what the fused step is to divide the unscaled gradients by (1 / clip coefficient), or None.
        """
        scale = self.scale()
        if self.scaler is None or scale is None:
            return
        if not _private_works():
            # public contract: GradScaler multiplies a grad_scale that it finds with its own scale
            if divisor is not None:
                optimizer.grad_scale = divisor  # type: ignore[attr-defined]
            return
        _mark_checked(self.scaler, optimizer, found)
        optimizer.grad_scale = scale if divisor is None else scale * divisor  # type: ignore[attr-defined]

    def report(self, optimizer: Optimizer, found: Tensor) -> bool:
        """Make the scaler skip an unfused optimizer's step when ``found`` is set; False if it cannot be told."""
        if self.scaler is None or not _private_works():
            return False
        # Filled by ``unscale_``, which Lightning calls before the hook unless the optimizer is fused.
        known = _state_of(self.scaler, optimizer)["found_inf_per_device"]
        if not known:
            return False
        device = next(iter(known))
        # (the scaler adds up the flags of all devices: to set one is enough)
        known[device] = torch.maximum(known[device], found.to(device=device, dtype=torch.float32))
        return True


def _state_of(scaler: GradScaler, optimizer: Optimizer) -> dict[str, Any]:
    state: dict[str, Any] = scaler._per_optimizer_states[id(optimizer)]
    return state


def _mark_checked(scaler: GradScaler, optimizer: Optimizer, found: Tensor) -> None:
    from torch.amp.grad_scaler import OptState

    state = _state_of(scaler, optimizer)
    state["found_inf_per_device"] = {found.device: found.to(torch.float32)}
    # At this stage ``scaler.step`` neither unscales nor searches for non-finite values again.
    state["stage"] = OptState.UNSCALED


@lru_cache(maxsize=1)
def _private_works() -> bool:
    """Try the private path on one number: a gradient of 8 at scale 4 and divisor 2 must move a weight by 1."""
    try:
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=4.0)
        scaler.scale(torch.ones(()))
        weight.grad = torch.full((1,), 8.0)
        _mark_checked(scaler, optimizer, torch.zeros(()))
        optimizer.grad_scale = torch.full((), 4.0 * 2.0)  # type: ignore[attr-defined]
        scaler.step(optimizer)
        scaler.update()
        return bool(weight.detach() == -1.0)
    except Exception:  # any difference of this torch means: take the public path
        return False
