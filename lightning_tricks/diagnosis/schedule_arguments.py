"""What a schedule of torch is told and cannot mean: a floor above the rate, a rate where a factor belongs.

Each rule is about the arguments of one scheduler. Plain values in, a check out, or None. No Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import lr_scheduler as schedulers

from lightning_tricks.diagnosis.examination import Examination
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.lifecycle.horizon import UnknownHorizonError, forecast_updates, updates_per_epoch

NAME = "learning rate schedule"
_FACTOR = 0.05  # the largest that a function returns: below it, no update has the rate that the optimizer was given
_RATE = 0.1  # of the optimizer; a larger one may be a unit that a function multiplies, as in Noam's schedule
_ASKED, _BEYOND = 64, 10_000  # positions that a function is asked for, and how far at least
_LOWER, _HIGHER = ("loss", "error", "mse", "mae", "rmse", "perplexity"), ("acc", "auc", "auroc", "f1", "recall", "iou")


@dataclass(frozen=True)
class Schedule:
    """One scheduler, and how Lightning advances it.

    Args:
        scheduler: of torch, or like it.
        interval: ``"step"`` or ``"epoch"``.
        monitor: what a plateau is looked for in.
        steps: times that the run advances it, ``math.inf`` where that is not known.
        updates: of the run, ``math.inf`` where that is not known.
    """

    scheduler: Any
    interval: str = "epoch"
    monitor: str | None = None
    steps: float = math.inf
    updates: float = math.inf


def misplanned(schedules: Sequence[Schedule], optimizers: Sequence[Any]) -> Check | None:
    """Return what is wrong with the first schedule that is; None where nothing is.

    Args:
        schedules: of a run.
        optimizers: of the run.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    >>> rising = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0.1)
    >>> misplanned([Schedule(rising)], [optimizer]).evidence
    'CosineAnnealingLR goes from 0.001 up to eta_min=0.1'
    """
    for schedule in schedules:
        for rule in (lambda s: _of_another(s, optimizers), _floor, _growth, _plateau, _pace, _factors):
            found = rule(schedule)
            if found is not None:
                return found
    return None


def _failed(seen: str, fix: str) -> Check:
    return Check(NAME, False, seen, fix)


def _kind(schedule: Schedule) -> str:
    return type(schedule.scheduler).__name__


def _of_another(schedule: Schedule, optimizers: Sequence[Any]) -> Check | None:
    """A scheduler whose optimizer takes no part in training changes nothing."""
    own = getattr(schedule.scheduler, "optimizer", None)
    # (a wrapper shares the groups of the optimizer that it holds)
    held = [getattr(o, "param_groups", None) for o in optimizers]
    if own is None or any(own is o for o in optimizers) or any(groups is own.param_groups for groups in held):
        return None
    seen = f"{_kind(schedule)} holds an optimizer that configure_optimizers does not return"
    return _failed(seen, "make the scheduler of the optimizer that is returned")


def _floor(schedule: Schedule) -> Check | None:
    floor, bases = getattr(schedule.scheduler, "eta_min", None), getattr(schedule.scheduler, "base_lrs", [])
    if not isinstance(floor, (int, float)) or not bases or not floor > max(bases):
        return None
    seen = f"{_kind(schedule)} goes from {max(bases):.4g} up to eta_min={floor:.4g}"
    return _failed(seen, "eta_min is a learning rate, the lowest one, and no factor")


def _growth(schedule: Schedule) -> Check | None:
    """A rate that is multiplied by more than 1 again and again."""
    decays = (schedulers.ExponentialLR, schedulers.MultiStepLR, schedulers.StepLR)
    gamma = getattr(schedule.scheduler, "gamma", None)
    if not isinstance(schedule.scheduler, decays) or not isinstance(gamma, (int, float)) or not gamma > 1:
        return None
    return _failed(f"{_kind(schedule)} multiplies the rate by gamma={gamma:.4g}, again and again", "a gamma below 1")


def _plateau(schedule: Schedule) -> Check | None:
    """What should fall is told to rise, or the other way round: the rate falls while training goes well."""
    if not isinstance(schedule.scheduler, schedulers.ReduceLROnPlateau) or not schedule.monitor:
        return None
    words = schedule.monitor.lower().replace("/", "_").replace("-", "_").replace(".", "_").split("_")
    good = [mode for mode, names in (("min", _LOWER), ("max", _HIGHER)) if any(w.startswith(names) for w in words)]
    mode = schedule.scheduler.mode
    if len(good) != 1 or good[0] == mode:
        return None
    seen = f"ReduceLROnPlateau(mode={mode!r}) follows {schedule.monitor!r}, so the rate falls while that gets better"
    return _failed(seen, f"mode={good[0]!r}")


def _pace(schedule: Schedule) -> Check | None:
    """A schedule of updates that is advanced once in an epoch stays at its beginning."""
    total = getattr(schedule.scheduler, "total_steps", None)
    if schedule.interval != "epoch" or not isinstance(total, int) or not math.isfinite(schedule.steps):
        return None
    if schedule.steps < 1 or total < 5 * schedule.steps or total < 0.5 * schedule.updates:
        return None
    seen = f"{_kind(schedule)} is made for {total:,} steps, and advanced {schedule.steps:,.0f} times, once in an epoch"
    # (training goes on at the first rates of the schedule, and may succeed)
    return Check(NAME, None, seen, "return {'scheduler': scheduler, 'interval': 'step'}")


def _factors(schedule: Schedule) -> Check | None:
    """``LambdaLR`` multiplies the optimizer's rate with what its function returns."""
    if not isinstance(schedule.scheduler, schedulers.LambdaLR):
        return None
    bases = schedule.scheduler.base_lrs
    functions = [f for f in schedule.scheduler.lr_lambdas if f is not None]
    # (a short run may end in the warm-up of a schedule that is right)
    last = max(_BEYOND, int(schedule.steps) if math.isfinite(schedule.steps) else 0)
    places = sorted({0, 1, *(round(last ** (i / _ASKED)) for i in range(_ASKED + 1))})  # evenly on a logarithmic scale
    try:
        most = max(float(function(place)) for function in functions for place in places)
    except Exception:  # (whatever a user's function raises at a place that training need not reach)
        return None
    if not 0 < most < _FACTOR or max(bases) > _RATE:
        return None
    seen = f"LambdaLR multiplies the rate {max(bases):.4g} by {most:.2g} at most"
    return _failed(seen, "the function returns a factor, 1 for the optimizer's rate, and no rate")


def schedules(exam: Examination) -> list[Check]:
    """Look at the arguments of the schedulers that ``configure_optimizers`` returned; nothing where there are none."""
    trainer = exam.dry_run.steps.trainer
    configs = trainer.lr_scheduler_configs
    if not configs:
        return []
    try:
        updates: float = forecast_updates(trainer)
    except UnknownHorizonError:
        updates = math.inf
    in_epoch = updates_per_epoch(trainer) or math.inf
    epochs = updates / in_epoch if math.isfinite(updates) and math.isfinite(in_epoch) else math.inf
    found = [
        Schedule(
            config.scheduler,
            config.interval,
            config.monitor,
            (updates if config.interval == "step" else epochs) / max(1, config.frequency),
            updates,
        )
        for config in configs
    ]
    wrong = misplanned(found, exam.optimizers)
    if wrong is not None:
        return [wrong]
    kinds = ", ".join(dict.fromkeys(type(schedule.scheduler).__name__ for schedule in found))
    return [Check(NAME, True, f"nothing in the arguments of {kinds} contradicts the run")]
