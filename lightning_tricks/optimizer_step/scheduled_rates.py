"""The rates that schedulers start from, end at or stay above: what a factor on the learning rate has to reach as well.

A scheduler that computes each rate afresh from its base rate (LambdaLR, OneCycleLR, CosineAnnealingWarmRestarts,
CyclicLR) would undo a factor on ``group["lr"]`` alone with its next step, and one that stops at ``eta_min`` would come
to rest at another share of its course.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_OF_GROUPS = ("initial_lr", "max_lr", "min_lr", "swa_lr")  # LRScheduler; OneCycleLR; SWALR
_OF_SCHEDULERS = ("base_lrs", "max_lrs", "min_lrs", "eta_min")  # LRScheduler; CyclicLR; ReduceLROnPlateau; cosines
_CLEARLY = 2.0  # a factor beyond this, either way, is told from a step of a schedule
_NEAR = 1.25  # how far a schedule moves between two updates, at most, to be known again


def scale_bases(optimizers: Iterable[Any], schedulers: Iterable[Any], factor: float) -> None:
    """Multiply what the schedulers of these optimizers compute rates from.

    Args:
        optimizers: whose groups hold a part of it.
        schedulers: of the Trainer; those of other optimizers are left alone, parts of a SequentialLR are reached.
        factor: on every rate.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> halving = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    >>> optimizer.param_groups[0]["lr"] *= 0.1; scale_bases([optimizer], [halving], 0.1)
    >>> optimizer.step(); halving.step(); optimizer.param_groups[0]["lr"]
    0.05
    """
    own = list(optimizers)
    for optimizer in own:
        for group in optimizer.param_groups:
            group.update({name: group[name] * factor for name in _OF_GROUPS if _is_rate(group.get(name))})
    for scheduler in schedulers:
        if any(getattr(scheduler, "optimizer", None) is optimizer for optimizer in own):
            for part in _with_parts(scheduler):
                _scale(part, factor)


def _with_parts(scheduler: Any) -> list[Any]:
    """Return a scheduler and those that it is made of (SequentialLR, ChainedScheduler), each once."""
    inner = vars(scheduler).get("_schedulers") or ()
    found = [scheduler, *(part for one in inner for part in _with_parts(one))]
    return list({id(part): part for part in found}.values())


def _scale(scheduler: Any, factor: float) -> None:
    for name in _OF_SCHEDULERS:
        value = vars(scheduler).get(name)
        if _is_rate(value):
            setattr(scheduler, name, value * factor)
        elif isinstance(value, list) and all(map(_is_rate, value)):
            setattr(scheduler, name, [rate * factor for rate in value])


def _is_rate(value: object) -> bool:
    return isinstance(value, (float, int, Tensor)) and not isinstance(value, bool)


def are_scheduled(optimizer: Any, schedulers: Iterable[Any]) -> bool:
    """Whether the rates of an optimizer are computed by a scheduler that ``scale_bases`` reaches."""
    own = (scheduler for scheduler in schedulers if getattr(scheduler, "optimizer", None) is optimizer)
    return any(name in vars(part) for scheduler in own for part in _with_parts(scheduler) for name in _OF_SCHEDULERS)


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
