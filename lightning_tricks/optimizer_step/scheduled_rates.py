"""All that an optimizer and its schedulers know of the learning rate, and how it follows a factor.

A scheduler computes rates from what it wrote down when it was made: in its attributes, in the groups, in the schedulers
inside it. Where only ``group["lr"]`` is multiplied, one that computes each rate afresh (LambdaLR, OneCycleLR,
CosineAnnealingWarmRestarts, CyclicLR) undoes that with its next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_OF_A_GROUP = ("lr", "initial_lr", "max_lr", "min_lr")  # (OneCycleLR keeps its lowest rate as min_lr, from its highest)
_LIMITS_OF_A_GROUP = ("swa_lr",)
_OF_A_SCHEDULER = ("base_lrs", "max_lrs", "_last_lr")
_LIMITS_OF_A_SCHEDULER = ("eta_min", "min_lrs")
_CLEARLY = 2.0  # a factor beyond this, either way, is told from a step of a schedule
_NEAR = 1.25  # how far a schedule moves between two updates, at most, to be known again


def multiply_rates(optimizer: Optimizer, schedulers: Sequence[Any], factor: float, *, limits: bool = False) -> None:
    """Multiply every rate that an optimizer and its schedulers know, so that none falls back to the old one.

    Args:
        optimizer: whose groups are written; rates that are tensors in place, since a captured CUDA graph or a compiled
            step reads this very tensor.
        schedulers: of the Trainer; those of other optimizers are left alone.
        factor: on every rate.
        limits: whether limits that were given as rates (``eta_min``, ``min_lr``, ``swa_lr``) follow, so that the whole
            curve is multiplied. Without, the run is the one in which the rate was written by hand.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> halving = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    >>> multiply_rates(optimizer, [halving], 0.1)
    >>> optimizer.step(); halving.step(); optimizer.param_groups[0]["lr"]
    0.05
    """
    # schedulers first: those of torch 2.6 hold the very tensors of the groups, which are multiplied in place
    for scheduler in schedulers_in(_of(optimizer, schedulers)):
        for name in _OF_A_SCHEDULER + _LIMITS_OF_A_SCHEDULER * limits:
            value = getattr(scheduler, name, None)
            if isinstance(value, list):
                setattr(scheduler, name, [rate * factor for rate in value])
            elif isinstance(value, (int, float)):
                setattr(scheduler, name, value * factor)
    for group in optimizer.param_groups:
        for name in _OF_A_GROUP + _LIMITS_OF_A_GROUP * limits:
            if isinstance(group.get(name), Tensor):
                group[name].mul_(factor)
            elif isinstance(group.get(name), (int, float)):
                group[name] *= factor


def schedulers_in(schedulers: Sequence[Any]) -> Iterator[Any]:
    """Yield schedulers and those inside them, each once: SequentialLR and ChainedScheduler hold others."""
    seen: set[int] = set()
    waiting = list(schedulers)
    while waiting:
        scheduler = waiting.pop(0)
        if id(scheduler) in seen:
            continue
        seen.add(id(scheduler))
        yield scheduler
        for value in vars(scheduler).values():
            inside = value if isinstance(value, (list, tuple)) else [value]
            waiting += [s for s in inside if isinstance(s, LRScheduler)]


def are_scheduled(optimizer: Optimizer, schedulers: Sequence[Any]) -> bool:
    """Whether the rates of an optimizer are computed by a scheduler that ``multiply_rates`` reaches."""
    return any(isinstance(scheduler, LRScheduler) for scheduler in _of(optimizer, schedulers))


def was_overwritten(rate: float, left: float, factor: float) -> bool:
    """Whether a rate was computed afresh since it was left, without the factor that was on it.

    Args:
        rate: now.
        left: as it was left at the last update, with the factor.
        factor: on the rate.

    >>> was_overwritten(0.099, left=0.02, factor=0.2), was_overwritten(0.0198, left=0.02, factor=0.2)
    (True, False)
    """
    if not 0.0 < left < math.inf or not 0.0 < rate < math.inf or 1 / _CLEARLY < factor < _CLEARLY:
        return False
    return 1 / _NEAR <= rate * factor / left <= _NEAR


def _of(optimizer: Optimizer, schedulers: Sequence[Any]) -> list[Any]:
    # (one that wraps another need not name an optimizer)
    return [scheduler for scheduler in schedulers if getattr(scheduler, "optimizer", optimizer) is optimizer]
