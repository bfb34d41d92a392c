"""Parameter groups: the values that they came with, and which curve and factor each of them follows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_tricks.errors import TrickError, UnsupportedError, message, nearest
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.schedules.curves import Decay
from lightning_tricks.schedules.spec import OWNER, ScheduleSpec


@dataclass(frozen=True)
class GroupPlan:
    """What ``overrides`` say about a parameter group.

    Args:
        curve: number of the curve that it follows: 0 for that of the schedule, then those of ``overrides`` in order.
        factor: on its rate.
        matched: positions of the patterns that match it.
    """

    curve: int = 0
    factor: float = 1.0
    matched: tuple[int, ...] = ()


@dataclass
class KnownGroup:
    """What is known of a parameter group.

    Args:
        parameters: of it; empty for one of a checkpoint.
        lr: the rate that it came with.
        weight_decay: that it came with.
        plan: which curve it follows.
        written: the rate that we wrote last; None before the first time.
    """

    parameters: tuple[Tensor, ...]
    lr: float
    weight_decay: float
    plan: GroupPlan = GroupPlan()
    written: float | Tensor | None = None


def known_groups(spec: ScheduleSpec, view: OptimizerView, before: Sequence[KnownGroup]) -> list[KnownGroup]:
    """Return the groups of an optimizer as they are now: with the base values of those that were known before.

    A callback may unfreeze layers and so add groups; a rebuilt optimizer has new ones.

    Raises:
        TrickError: a pattern of ``overrides`` matches only a part of a group, or a group has no momentum to schedule.
    """
    now = []
    for j, group in enumerate(view.optimizer.param_groups):
        known = recognised(group, j, before)
        lr, decay = (known.lr, known.weight_decay) if known is not None else _values_of(group)
        names = [name for name, k in zip(view.names, view.group_of, strict=True) if k == j]
        plan = planned_group(spec.overrides, names, str(group.get("name", "")))
        if spec.momentum is not None and "momentum" not in group and "betas" not in group:
            text = f"{type(view.optimizer).__name__} has neither momentum nor betas"
            raise TrickError(message(OWNER, "momentum", spec.momentum, text, "Leave momentum= out"))
        now.append(KnownGroup(tuple(group["params"]), lr, decay, plan))
    return now


def _values_of(group: Mapping[str, Any]) -> tuple[float, float]:
    # (a host read where they are tensors, once for each new group)
    return float(group["lr"]), float(group.get("weight_decay", 0.0))


def recognised(group: Mapping[str, Any], position: int, known: Sequence[KnownGroup]) -> KnownGroup | None:
    """Return what is known of a group: one of a checkpoint by its position, another one by what we wrote into it.

    A group that holds another rate than ours was given one: by an optimizer that was rebuilt, or by the user.
    """
    # A checkpoint holds values but no parameters, so only the position can tell which group they belong to.
    if position < len(known) and known[position].written is None:
        return known[position]
    ours = {id(p) for p in group["params"]}
    for i, candidate in enumerate(known):
        rate, written = group["lr"], candidate.written
        # (a tensor is told by identity: to compare its value would be a host read)
        same = rate is written or (not isinstance(rate, Tensor) and rate == written)
        if same and (i == position or any(id(p) in ours for p in candidate.parameters)):
            return candidate
    return None


def planned_group(overrides: Mapping[str, float | Decay], names: Sequence[str], group: str) -> GroupPlan:
    """Return which curve and factor a parameter group gets.

    Args:
        overrides: pattern -> factor or decay; later patterns win, factors are multiplied.
        names: of the parameters in the group.
        group: its own name; empty for none. A pattern that matches it holds for all of its parameters.

    Raises:
        TrickError: a pattern matches some of the parameters only.

    >>> planned_group({"^backbone": 0.1}, ["backbone.weight", "backbone.bias"], "")
    GroupPlan(curve=0, factor=0.1, matched=(0,))
    """
    plan, decays = GroupPlan(), 0
    for i, (pattern, override) in enumerate(overrides.items()):
        decays += isinstance(override, Decay)
        found, whole = [name for name in names if re.search(pattern, name)], re.search(pattern, group)
        if not found and not whole:
            continue
        if not whole and len(found) < len(names):
            other = next(name for name in names if name not in found)
            text = f"it matches {found[0]!r} but not {other!r} of the same parameter group"
            raise TrickError(message(OWNER, "overrides", pattern, text, "Make groups of their own of them"))
        factor = plan.factor if isinstance(override, Decay) else plan.factor * float(override)
        plan = GroupPlan(decays if isinstance(override, Decay) else plan.curve, factor, (*plan.matched, i))
    return plan


def refuse_unmatched(spec: ScheduleSpec, groups: Sequence[Sequence[KnownGroup]], view: OptimizerView) -> None:
    """Refuse a pattern that no group of any optimizer matches; one of parameters that are frozen for now may wait."""
    matched = {i for known in groups for group in known for i in group.plan.matched}
    missing = next((pattern for i, pattern in enumerate(spec.overrides) if i not in matched), None)
    if missing is None or any(re.search(missing, name) for name in view.module_names):
        return
    near = nearest(missing.strip("^$"), view.module_names)
    remedy = f"The nearest name is {near!r}" if near else f"Names are e.g. {view.names[0]!r}"
    raise TrickError(message(OWNER, "overrides", missing, "the pattern matches no parameter", remedy))


def refuse_copied_groups(view: OptimizerView) -> None:
    """Refuse an optimizer around another one that keeps copies of its groups: rates written there reach no update.

    Raises:
        UnsupportedError: it names both optimizers.
    """
    own = {id(group) for group in view.optimizer.param_groups}
    for inner in vars(view.optimizer).values():
        if isinstance(inner, Optimizer) and not any(id(group) in own for group in inner.param_groups):
            name = type(view.optimizer).__name__
            text = f"{name} wraps {type(inner).__name__} and keeps copies of its parameter groups"
            remedy = "A rate that is written there reaches no update. Let it share param_groups"
            raise UnsupportedError(message(OWNER, "optimizer", name, text, remedy))
