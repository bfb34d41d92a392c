"""The values that a reader asks for first: the best value of each validation measure, and where training ended."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lightning_tricks.publishing.log_keys import OURS
from lightning_tricks.report.advice import BETTER_IS_LESS
from lightning_tricks.report.blocks import Block, Heading, Table
from lightning_tricks.report.logs import Logs, Points

# ``hp_metric`` comes from TensorBoardLogger, ``lr-...`` from LearningRateMonitor
NOT_THE_USERS = (*OURS, "hp_metric", "lr_finder", "lr-")
_MOST = 16


@dataclass(frozen=True)
class Measure:
    """A measure of the training script.

    Args:
        name: its log key.
        best: finite value; the least for losses and errors, the greatest for all else.
        step: of the best value.
        last: at the end.
    """

    name: str
    best: float
    step: int
    last: float


def of_the_user(logs: Logs) -> dict[str, Points]:
    """Return what the training script logs, without copies per step of what is there per epoch."""
    own = {k: p for k, p in logs.scalars.items() if p and not k.startswith(NOT_THE_USERS) and k != "epoch"}
    return {k: p for k, p in own.items() if not (k.endswith("_step") and f"{k.removesuffix('_step')}_epoch" in own)}


def is_validation(key: str) -> bool:
    """Whether a measure is taken on data that are not trained on.

    >>> is_validation("val/loss"), is_validation("valve_loss"), is_validation("test_acc"), is_validation("train/loss")
    (True, False, True, False)
    """
    return re.search(r"(^|[/_.-])(val|valid|validation|test|eval|dev)([/_.-]|$)", key, re.I) is not None


def best_of(name: str, points: Points) -> Measure | None:
    """Return a measure with its best value; None where no value is finite.

    >>> best_of("val/loss", [(0, 2.0), (9, 1.0), (19, 1.5)])
    Measure(name='val/loss', best=1.0, step=9, last=1.5)
    """
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if not finite:
        return None
    choose = min if BETTER_IS_LESS.search(name) else max
    step, best = choose(finite, key=lambda point: point[1])
    return Measure(name, best, step, points[-1][1])


def measures(logs: Logs) -> tuple[list[Measure], list[Measure]]:
    """Return the measures of validation, and all others of the training script."""
    found = [m for m in (best_of(name, points) for name, points in of_the_user(logs).items()) if m is not None]
    return [m for m in found if is_validation(m.name)], [m for m in found if not is_validation(m.name)]


def results(logs: Logs) -> list[Block]:
    """Return the table of results: with validation the best values, and the last values of training."""
    validation, training = measures(logs)
    rows = [(m.name, f"{m.best:.4g}", f"{m.step:,}", f"{m.last:.4g}") for m in (*validation, *training)]
    lost = [name for name, points in of_the_user(logs).items() if best_of(name, points) is None]
    rows = [*((name, "NaN or inf at all steps", "", "") for name in lost), *rows][:_MOST]
    return [Heading("Results"), Table(("measure", "best", "at step", "at the end"), tuple(rows))] if rows else []
