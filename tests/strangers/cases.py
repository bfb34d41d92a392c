"""The lists of callbacks, and which stranger meets which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from lightning_tricks import (
    DeadUnits,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRFinder,
    LRSchedule,
    PrecisionDoctor,
    ResumeGuard,
    SanityCheck,
    TrainingDoctor,
)
from tests.strangers.defects import DEFECTS
from tests.strangers.packages import STRANGERS
from tests.strangers.stranger import Stranger

OBSERVERS: dict[str, tuple[type, dict[str, Any]]] = {
    "SanityCheck": (SanityCheck, {}),
    "LRFinder": (LRFinder, {"apply": False, "num_steps": 20}),
    "GradientMonitor": (GradientMonitor, {}),
    "PrecisionDoctor": (PrecisionDoctor, {}),
    "TrainingDoctor": (TrainingDoctor, {}),
    "DeadUnits": (DeadUnits, {}),
    "ResumeGuard": (ResumeGuard, {}),
}

# the list of the README, with fewer steps of the finder, and with fewer batches in a window
FULL_LIST: dict[str, tuple[type, dict[str, Any]]] = {
    "SanityCheck": (SanityCheck, {}),
    "LRFinder": (LRFinder, {"num_steps": 30}),
    "GradientMonitor": (GradientMonitor, {}),
    "GradientClip": (GradientClip, {"rule": 1.0, "nonfinite": "skip"}),
    "LRSchedule": (LRSchedule, {"decay": "cosine", "warmup": "5%", "conflict": "replace"}),
    "GradientAccumulation": (GradientAccumulation, {"batches": 2}),
    "LossScaleGuard": (LossScaleGuard, {}),
    "PrecisionDoctor": (PrecisionDoctor, {}),
    "TrainingDoctor": (TrainingDoctor, {"action": "stop"}),
}


def made(callbacks: dict[str, tuple[type, dict[str, Any]]], stranger: Stranger) -> list[Any]:
    """Return the callbacks that are not refused for this stranger, with the arguments that they need there."""
    return [
        make(**{**arguments, **stranger.arguments.get(name, {})})
        for name, (make, arguments) in callbacks.items()
        if name not in stranger.refused
    ]


def strangers(test: str, chosen: Any = lambda stranger: True) -> list[Any]:
    """Return the parameters of a test, each with the defects that are known of it."""
    return with_defects(filter(chosen, STRANGERS), test, DEFECTS)


def with_defects(named: Iterable[Any], test: str, defects: Mapping[tuple[str, str], str]) -> list[Any]:
    """Return one parameter of a test for each, expected to fail where a defect is known.

    Args:
        named: what a test is about, each with a ``name``.
        test: what the table calls it.
        defects: name and test -> reason.
    """
    parameters = []
    for one in named:
        reason = defects.get((one.name, test))
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        parameters.append(pytest.param(one, id=one.name.replace(" ", "-"), marks=marks))
    return parameters
