from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

from lightning_tricks.diagnosis.schedule_arguments import Schedule, misplanned


def optimizer(lr: float = 0.01) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=lr)


Maker = Callable[[SGD], Any]
WRONG: dict[str, tuple[Maker, dict[str, Any], str]] = {
    "a floor above the rate": (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=0.5), {}, "up to eta_min=0.5"),
    "restarts with a floor above": (
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10, eta_min=0.5),
        {},
        "CosineAnnealingWarmRestarts goes from 0.01 up",
    ),
    "a gamma above 1": (lambda o: schedulers.ExponentialLR(o, 1.05), {}, "multiplies the rate by gamma=1.05"),
    "steps up": (lambda o: schedulers.StepLR(o, 5, gamma=10.0), {}, "gamma=10"),
    "a loss that should rise": (
        lambda o: schedulers.ReduceLROnPlateau(o, mode="max"),
        {"monitor": "val/loss"},
        "mode='max') follows 'val/loss'",
    ),
    "an accuracy that should fall": (
        lambda o: schedulers.ReduceLROnPlateau(o),
        {"monitor": "val_accuracy"},
        "mode='min') follows 'val_accuracy'",
    ),
    "once in an epoch": (
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=1000),
        {"steps": 10.0, "updates": 1000.0},
        "made for 1,000 steps, and advanced 10 times",
    ),
    "a rate for a factor": (
        lambda o: schedulers.LambdaLR(o, lambda step: 1e-3 * (1 - step / 100)),
        {"steps": 100.0, "interval": "step"},
        "multiplies the rate 0.01 by 0.001 at most",
    ),
}
RIGHT: dict[str, tuple[Maker, dict[str, Any]]] = {
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=1e-5), {}),
    "cosine to the rate itself": (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=0.01), {}),
    "decay": (lambda o: schedulers.ExponentialLR(o, 0.9), {}),
    "loss": (lambda o: schedulers.ReduceLROnPlateau(o), {"monitor": "val_loss"}),
    "accuracy": (lambda o: schedulers.ReduceLROnPlateau(o, mode="max"), {"monitor": "val_acc"}),
    "something else": (lambda o: schedulers.ReduceLROnPlateau(o, mode="max"), {"monitor": "elbo"}),
    "loss of accuracy": (lambda o: schedulers.ReduceLROnPlateau(o, mode="max"), {"monitor": "acc_loss"}),
    "one cycle": (
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=1000),
        {"steps": 1000.0, "updates": 1000.0, "interval": "step"},
    ),
    "one cycle of epochs": (
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10),
        {"steps": 10.0, "updates": 1000.0},
    ),
    "warm-up": (
        lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 90)),
        {"steps": 100.0, "interval": "step"},
    ),
    "a function that raises": (
        lambda o: schedulers.LambdaLR(o, lambda step: [1e-3, 1e-3][step]),
        {"steps": 100.0},
    ),
    "a warm-up beyond the run": (
        lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, (step + 1) / 500)),
        {"steps": 1.0, "interval": "step"},
    ),
    "no known end": (lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step), {"steps": math.inf}),
    "in sequence": (
        lambda o: schedulers.SequentialLR(
            o, [schedulers.LinearLR(o, 0.1), schedulers.CosineAnnealingLR(o, 10)], milestones=[5]
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_schedule_cannot_mean_is_named(name: str) -> None:
    make, more, words = WRONG[name]
    own = optimizer()
    found = misplanned([Schedule(make(own), **more)], [own])
    assert found is not None and found.name == "learning rate schedule"
    assert found.passed is (None if name == "once in an epoch" else False)
    assert words in found.evidence and found.fix


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.filterwarnings("ignore")
def test_what_a_schedule_can_mean_is_left_alone(name: str) -> None:
    make, more = RIGHT[name]
    own = optimizer()
    assert misplanned([Schedule(make(own), **more)], [own]) is None


def test_noams_schedule_multiplies_a_unit() -> None:
    own = optimizer(lr=1.0)
    noam = schedulers.LambdaLR(own, lambda step: 512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 4000**-1.5))
    assert misplanned([Schedule(noam, interval="step", steps=1e5)], [own]) is None


def test_a_scheduler_of_an_optimizer_that_was_thrown_away_is_named() -> None:
    own, other = optimizer(), optimizer()
    found = misplanned([Schedule(schedulers.StepLR(other, 5))], [own])
    assert found is not None and "does not return" in found.evidence

    class Wrapper:
        param_groups = own.param_groups

    assert misplanned([Schedule(schedulers.StepLR(own, 5))], [Wrapper()]) is None
