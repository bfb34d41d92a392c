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
_LITTLE = 1e-9  # a change that is none


def multiply_rates(optimizer: Optimizer, schedulers: Sequence[Any], factor: float, *, limits: bool = False) -> None:
    """Multiply every rate that an optimizer and its schedulers know, so that none falls back to the old one.

    Args:
        optimizer: whose groups are written; rates that are tensors in place, since a captured CUDA graph or a compiled
            step reads this very tensor.
        schedulers: of the Trainer; those of other optimizers are left alone.
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
        multiply_group(group, factor, limits=limits)


def multiply_group(group: dict[str, Any], factor: float, *, limits: bool = False) -> None:
    """Multiply every rate that a group of an optimizer holds; see ``multiply_rates``.

    >>> group = {"lr": 0.5, "initial_lr": 1.0}
    >>> multiply_group(group, 0.5); group
    {'lr': 0.25, 'initial_lr': 0.5}
    """
    for name in _OF_A_GROUP + _LIMITS_OF_A_GROUP * limits:
        if isinstance(group.get(name), Tensor):
            group[name].mul_(factor)
        elif isinstance(group.get(name), (int, float)):
            group[name] *= factor


def schedulers_kept(holder: object) -> list[Any]:
    """Return schedulers that an object keeps beside the Trainer's, to advance them by hand."""
    kept = []
    for value in vars(holder).values():
        inside = value if isinstance(value, (list, tuple)) else [value]
        # (whatever has an optimizer and steps; an optimizer that wraps another one has groups of its own)
        kept += [
            one
            for one in inside
            if isinstance(getattr(one, "__dict__", None), dict)
            and isinstance(vars(one).get("optimizer"), Optimizer)
            and callable(getattr(type(one), "step", None))
            and not hasattr(type(one), "param_groups")
            and "param_groups" not in vars(one)
        ]
    return kept


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


def computes_as_torch(scheduler: Any) -> bool:
    """Whether a scheduler computes rates as one of torch does, from what ``multiply_rates`` reaches.

    >>> import torch
    >>> class Own(LRScheduler):
    ...     def get_lr(self):
    ...         return [0.1]
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> computes_as_torch(torch.optim.lr_scheduler.StepLR(optimizer, 5)), computes_as_torch(Own(optimizer))
    (True, False)
    """
    methods = [getattr(type(scheduler), name, None) for name in ("step", "get_lr")]
    # (some of torch's have no ``get_lr``)
    known = [str(getattr(method, "__module__", "")).startswith("torch.") for method in methods if method is not None]
    return isinstance(scheduler, LRScheduler) and all(known)


def are_scheduled(optimizer: Optimizer, schedulers: Sequence[Any]) -> bool:
    """Whether the rates of an optimizer are computed by schedulers that ``multiply_rates`` reaches, all of them."""
    own = list(schedulers_in(_of(optimizer, schedulers)))
    return bool(own) and all(map(computes_as_torch, own))


def are_scheduled_otherwise(optimizer: Optimizer, schedulers: Sequence[Any]) -> bool:
    """Whether one of the schedulers of an optimizer computes rates in a way that is not known."""
    return not all(map(computes_as_torch, schedulers_in(_of(optimizer, schedulers))))


def was_overwritten(rate: float, left: float, factor: float, surer: float = 4.0) -> bool | None:
    """Whether a rate that somebody has written since it was left was computed afresh, without the factor on it.

    A schedule moves little between two updates: of the two readings, the one that has moved it less. None where both
    are possible.

    Args:
        left: as it was left at the last update, with the factor.
        surer: how many times smaller the change is, as a logarithm, where a reading is believed.

    >>> was_overwritten(0.099, left=0.02, factor=0.2), was_overwritten(0.0198, left=0.02, factor=0.2)
    (True, False)
    """
    if not 0.0 < left < math.inf or not 0.0 < rate < math.inf or factor == 1.0:
        return None
    afresh, kept = (abs(math.log(change / left)) + _LITTLE for change in (rate * factor, rate))
    if max(afresh, kept) < surer * min(afresh, kept):
        return None
    return afresh < kept


def _of(optimizer: Optimizer, schedulers: Sequence[Any]) -> list[Any]:
    # (one that wraps another need not name an optimizer)
    return [scheduler for scheduler in schedulers if getattr(scheduler, "optimizer", optimizer) is optimizer]
