from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import LRSchedule
from tests.schedules.test_callbacks import closed_form


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_values_are_the_closed_form(decay: str, warmup: int) -> None:
    values = LRSchedule(decay, warmup=warmup).values(20)
    assert values == pytest.approx([closed_form(k, 20, warmup, decay) for k in range(20)], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant_with_warmup"])
def test_values_are_transformers_one_update_later_in_the_warmup(name: str) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = []
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=40)
    for _ in range(41):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = LRSchedule(name.replace("_with_warmup", ""), warmup=5).values(40)
    # theirs wastes its first update at rate 0; our warm-up is theirs one index later, the decay is the same
    assert ours[:5] == pytest.approx(theirs[1:6], rel=1e-12)
    assert ours[5:] == pytest.approx(theirs[5:40], rel=1e-12)


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1)
    theirs = []
    for _ in range(30):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert LRSchedule("cosine", warmup=0, final=0.1).values(30) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.1 + 0.9 * x for x in (0.25, 0.5, 0.75, 1)]),
        ("cosine", [0.1 + 0.9 * (1 - math.cos(math.pi * x)) / 2 for x in (0.25, 0.5, 0.75, 1)]),
        ("exponential", [0.1 ** (1 - x) for x in (0.25, 0.5, 0.75, 1)]),
        ("constant", [0.1] * 4),
    ],
)
def test_warmup_shapes_are_the_closed_form(shape: Any, expected: list[float]) -> None:
    schedule = LRSchedule("linear", warmup=4, warmup_shape=shape, warmup_start=0.1, hold=2)
    assert schedule.values(10)[:6] == pytest.approx([*expected, 1.0, 1.0], rel=1e-12)
