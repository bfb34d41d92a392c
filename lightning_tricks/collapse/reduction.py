"""Sums over processes, and the check of a name, for all detectors of this package."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_tricks.errors import message
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics import form
from lightning_tricks.numerics.shards import reduced


def over_all(
    run: TrainingRun, gathered: dict[str, Tensor], operation: Literal["sum", "max"] = "sum"
) -> dict[str, Tensor]:
    """Return sums, or maxima, over all processes: one all-reduce. All ranks must call."""
    if run.trainer.world_size == 1:
        return gathered
    flat = torch.cat([t.reshape(-1) for t in gathered.values()])
    total = reduced(run.trainer.strategy, flat, operation)
    parts = torch.split(total, [t.numel() for t in gathered.values()])
    return {name: part.view_as(t) for (name, t), part in zip(gathered.items(), parts, strict=True)}


def averaged(run: TrainingRun, vector: Tensor) -> Tensor:
    """Return the mean over all processes. All ranks must call."""
    return reduced(run.trainer.strategy, vector, "mean")


def require_name(owner: str, argument: str, value: object) -> str:
    """Return the name of a module or of a method; raise a TypeError that says how to write one."""
    if not isinstance(value, str) or not value:
        rule = f"{argument} must be a name"
        raise TypeError(message(owner, argument, value, rule, "Use e.g. 'encoder', as in named_modules()"))
    return value


def form_of(**dimensions: int) -> form.Form:
    """Return the form of what rows are gathered in: nothing yet, or a tensor of so many dimensions by name.

    >>> form_of(rows=2)({"rows": torch.zeros(3)}, "sums")
    "sums['rows'] must have 2 dimensions"
    """
    tensors = form.either_empty_or(form.record(dict.fromkeys(dimensions, form.tensor)))

    def check(value: Any, where: str) -> str | None:
        fault = tensors(value, where)
        if fault is not None or not value:
            return fault
        wrong = next((name for name, n in dimensions.items() if value[name].ndim != n), None)
        return None if wrong is None else f"{where}[{wrong!r}] must have {dimensions[wrong]} dimensions"

    return check
