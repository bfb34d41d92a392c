"""A factor on the rates beside schedulers of other packages: against the same course, multiplied by hand."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from lightning_tricks.optimizer_step.rate_request import RateRequest

pytestmark = [pytest.mark.strangers, pytest.mark.filterwarnings("ignore")]
BATCHES = 4  # of an epoch


def cosine(package: Any, optimizer: Any) -> Any:
    return package.CosineLRScheduler(optimizer, 24, lr_min=1e-3, warmup_t=9, warmup_lr_init=1e-4, t_in_epochs=False)


def epochs(package: Any, optimizer: Any) -> Any:
    return package.CosineLRScheduler(optimizer, 6, lr_min=1e-3, warmup_t=2, warmup_lr_init=1e-4)


def steps(package: Any, optimizer: Any) -> Any:
    return package.StepLRScheduler(optimizer, 2, decay_rate=0.1)


def plateau(package: Any, optimizer: Any) -> Any:
    return package.PlateauLRScheduler(optimizer, patience_t=0, warmup_t=2, warmup_lr_init=1e-3)


def linear(package: Any, optimizer: Any) -> Any:
    return package.get_linear_schedule_with_warmup(optimizer, 9, 24)


def course(make: Any, package: Any, factor: float | None, at: int) -> list[float]:
    """Rates at each step, as the documentation of timm advances its schedulers."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(package, optimizer)
    request, rates = RateRequest(lambda: [scheduler]), []
    for number in range(24):
        if number == at and factor is not None:
            request.ask(factor, [optimizer], "rollback")
        request.hold(0, optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        request.release(0)
        if not hasattr(scheduler, "step_update"):
            scheduler.step()
            continue
        scheduler.step_update(number + 1)
        if (number + 1) % BATCHES == 0:
            scheduler.step((number + 1) // BATCHES, 1.0)
    return rates


@pytest.mark.parametrize("factor", [0.2, 0.7, 4.0])
@pytest.mark.parametrize("at", [0, 2, 6, 11])
@pytest.mark.parametrize("make", [cosine, epochs, steps, plateau, linear])
def test_the_rest_of_the_course_is_multiplied(make: Any, at: int, factor: float) -> None:
    name = "transformers" if make is linear else "timm.scheduler"
    pytest.importorskip(name, reason=f"{name} is not installed; ./dev strangers installs it")
    package = importlib.import_module(name)
    plain, scaled = (course(make, package, f, at) for f in (None, factor))
    assert scaled == pytest.approx([rate * (factor if i >= at else 1.0) for i, rate in enumerate(plain)], rel=1e-9)
