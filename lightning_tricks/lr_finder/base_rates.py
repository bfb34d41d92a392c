"""What one rate means to an optimizer with a scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR

from lightning_tricks.optimizer_step.scheduled_rates import computes_as_torch, schedulers_in


def base_rates(optimizer: Optimizer, schedulers: Sequence[Any]) -> list[float]:
    """Return the rate of each group that a found rate takes the place of: the one that the user has passed.

    That is the highest one of a cycle (``max_lr``), else the rate before a scheduler changed it.
    """
    cyclic = next((s for s in schedulers_in(schedulers) if isinstance(s, CyclicLR)), None)
    if cyclic is not None:
        return [float(rate) for rate in cyclic.max_lrs]
    return [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]


def use_rate(optimizer: Optimizer, lr: float, base: Sequence[float]) -> None:
    """Write ``lr`` into the first group that has a rate, and into the others what keeps their ratios to it.

    Args:
        base: the rate of each group before, at least one of them > 0.
    """
    # (a group may have a rate of 0, to keep it frozen)
    reference = next(rate for rate in base if rate)
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * rate / reference)
        else:
            group["lr"] = lr * rate / reference


def without_known_rates(schedulers: Sequence[Any]) -> list[str]:
    """Return the class names of schedulers that do not compute rates as torch's do: what they keep is not known."""
    return [type(scheduler).__name__ for scheduler in schedulers_in(schedulers) if not computes_as_torch(scheduler)]
