"""What is written into a parameter group at a position: learning rate, momentum and weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lightning_tricks.schedules.groups import KnownGroup
from lightning_tricks.schedules.plan import Track
from lightning_tricks.schedules.position import Position
from lightning_tricks.schedules.spec import ScheduleSpec

_MOST_CURVES = 5  # of single groups, that one chart can show and a reader can distinguish


def momentum_at(momentum: tuple[float, float], lr_fraction: float) -> float:
    """Return the momentum, which falls while the rate rises: ``low_rate + (high_rate - low_rate) * lr_fraction``.

    Args:
        momentum: at the lowest and at the highest rate.
        lr_fraction: 0 where the rate is lowest, 1 where it is highest.

    Reference: Smith, Topin, "Super-Convergence", 2018, arXiv:1708.07120.
    """
    return momentum[0] + (momentum[1] - momentum[0]) * lr_fraction


def weight_decay_at(first: float, last: float, share: float) -> float:
    """Return the weight decay on a half cosine: ``last + (first - last) * (1 + cos(pi * share)) / 2``.

    Args:
        first: of the group at the beginning.
        last: at the end of the run.
        share: of the run that is over, in [0, 1].
    """
    return last + (first - last) * (1.0 + math.cos(math.pi * share)) / 2.0


def write_groups(
    spec: ScheduleSpec,
    groups: Sequence[dict[str, Any]],
    known: Sequence[KnownGroup],
    track: Track,
    position: Position,
    *,
    factor: float,
    multiplier: Callable[[int], float | Tensor],
) -> None:
    """Write the values of the next update into every group that is known.

    Args:
        known: their base values, in the same order.
        factor: on every rate, that other callbacks asked for.
        multiplier: number of a curve -> its multiplier at the position.
    """
    multipliers: dict[int, float | Tensor] = {}
    # (a group that was added since is taken up with the next update)
    for group, ours in zip(groups, known, strict=False):
        plan = ours.plan
        if plan.curve not in multipliers:
            multipliers[plan.curve] = multiplier(plan.curve)
        _put_rate(group, ours.lr * plan.factor * factor * multipliers[plan.curve])
        ours.written = group["lr"]
        curve = track.curves[plan.curve]
        if spec.momentum is not None:
            _put_momentum(group, momentum_at(spec.momentum, curve.lr_fraction(position.on_host)))
        # A group without weight decay (biases, norms) keeps none.
        if spec.weight_decay_final is not None and ours.weight_decay:
            share = min(1.0, position.on_host / curve.total) if curve.total else 0.0
            group["weight_decay"] = weight_decay_at(ours.weight_decay, spec.weight_decay_final, share)


def _put_rate(group: dict[str, Any], rate: float | Tensor) -> None:
    """Write a rate into the tensor that holds it, or put a new one there.

    A checkpoint brings rates back as tensors on the host. Copying a device's rate into one would wait for the device at
    every update, so that tensor is replaced.
    """
    now = group["lr"]
    if isinstance(rate, Tensor):
        if isinstance(now, Tensor) and now.device == rate.device:
            now.copy_(rate)
        else:
            # (a copy: groups of one curve must not share a tensor that somebody may write to)
            group["lr"] = rate.clone()
    elif isinstance(now, Tensor):
        now.fill_(rate)
    else:
        group["lr"] = rate


def _put_momentum(group: dict[str, Any], value: float) -> None:
    if "momentum" in group:
        group["momentum"] = value
    else:
        # (the momentum of Adam and its relatives is beta1)
        group["betas"] = (value, *group["betas"][1:])


def shown_groups(number: int) -> list[int]:
    """Return the indices of the groups whose rates are logged: all, or of many the first, the last, and some between.

    Decay by layer has a group for every parameter, in the order of depth, and all of them follow one curve. The choice
    depends on the number alone, so that curves keep their names.

    >>> shown_groups(3), shown_groups(57)
    ([0, 1, 2], [0, 14, 28, 42, 56])
    """
    if number <= _MOST_CURVES:
        return list(range(number))
    return [round(i * (number - 1) / (_MOST_CURVES - 1)) for i in range(_MOST_CURVES)]


def logged_values(spec: ScheduleSpec, groups: Sequence[dict[str, Any]], suffix: str) -> dict[str, float | Tensor]:
    """Return the values that an update uses, by log key.

    >>> from lightning_tricks import LRSchedule
    >>> logged_values(LRSchedule().spec, [{"lr": 0.1, "name": "head"}, {"lr": 0.2}], "")
    {'schedule/lr': 0.1, 'schedule/lr/head': 0.1, 'schedule/lr/group1': 0.2}
    """
    values = {f"schedule/lr{suffix}": groups[0]["lr"]}
    if len(groups) > 1:
        names = {j: str(groups[j].get("name", f"group{j}")) for j in shown_groups(len(groups))}
        values |= {f"schedule/lr{suffix}/{name}": groups[j]["lr"] for j, name in names.items()}
    if spec.momentum is not None:
        first = groups[0]
        values[f"schedule/momentum{suffix}"] = float(first["momentum"] if "momentum" in first else first["betas"][0])
    if spec.weight_decay_final is not None:
        values[f"schedule/weight_decay{suffix}"] = groups[0]["weight_decay"]
    return values
