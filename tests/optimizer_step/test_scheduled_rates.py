"""A factor on the rates holds, whatever schedules them: against the same schedule, multiplied by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from lightning_tricks.optimizer_step.rate_request import RateRequest
from lightning_tricks.optimizer_step.scheduled_rates import multiply_rates, schedulers_kept, was_overwritten

Make = Callable[[Any], Any]
SCHEDULES: dict[str, Make] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.95),
    "StepLR": lambda o: schedulers.StepLR(o, 4),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [3, 12]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=12),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=12),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 20, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 7, eta_min=0.01),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5, eta_min=0.01),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.02, 0.3, step_size_up=4, cycle_momentum=False),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.4, total_steps=24, cycle_momentum=False),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=8), schedulers.CosineAnnealingLR(o, 12, eta_min=0.001)], [8]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, total_iters=11), schedulers.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1, min_lr=0.004),
}


def course(make: Make, factor: float | None, *, at: int = 6, steps: int = 20) -> list[list[float]]:
    """Rates of two groups at each step; from step ``at`` on a factor is asked for."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)]}, {"params": [torch.zeros(1, requires_grad=True)]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    optimizer.param_groups[1]["lr"] = 0.03
    scheduler = make(optimizer)
    request = RateRequest(lambda: [scheduler])
    rates = []
    for step in range(steps):
        if step == at and factor is not None:
            request.ask(factor, [optimizer], "rollback")
        request.hold(0, optimizer)
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        request.release()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step(1.0) if isinstance(scheduler, schedulers.ReduceLROnPlateau) else scheduler.step()
    return rates


@pytest.mark.parametrize("factor", [0.2, 0.9])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rest_of_every_schedule_is_multiplied(name: str, factor: float) -> None:
    plain, scaled = course(SCHEDULES[name], None), course(SCHEDULES[name], factor)
    assert scaled[:6] == plain[:6]
    for was, now in zip(plain[6:], scaled[6:], strict=True):
        assert now == pytest.approx([factor * rate for rate in was], rel=1e-9)


def test_all_schedulers_of_torch_are_tried() -> None:
    known = {
        n for n, v in vars(schedulers).items() if isinstance(v, type) and n.endswith(("LR", "Restarts", "Plateau"))
    }
    assert known - {"SWALR"} <= set(SCHEDULES)


def test_rates_that_are_tensors_are_multiplied_in_place() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1))
    scheduler = schedulers.LambdaLR(optimizer, lambda step: 1.0)
    rate, request = optimizer.param_groups[0]["lr"], RateRequest(lambda: [scheduler])
    request.ask(0.2, [optimizer], "rollback")
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.02)


def test_schedulers_of_other_optimizers_are_left_alone() -> None:
    one, two = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1) for _ in range(2))
    other = schedulers.CosineAnnealingWarmRestarts(two, 5, eta_min=0.01)
    multiply_rates(one, [other], 0.1, limits=True)
    assert other.base_lrs == [0.1]
    assert other.eta_min == 0.01


@pytest.mark.parametrize(
    "written",
    [
        lambda step, rate: 0.1 * (1 + math.cos(math.pi * step / 40)) / 2,  # afresh, as many scripts do
        lambda step, rate: rate * 0.98,  # from the one before
        lambda step, rate: rate * (0.1 if step == 12 else 1.0),  # a step of a schedule
        lambda step, rate: rate,
    ],
)
def test_a_rate_that_a_script_writes_before_each_step_keeps_the_factor(written: Callable[[int, float], float]) -> None:
    def rates(factor: float | None) -> list[float]:
        optimizer, request = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), RateRequest()
        group, found = optimizer.param_groups[0], []
        for step in range(20):
            group["lr"] = written(step, group["lr"])
            if step == 6 and factor is not None:
                request.ask(factor, [optimizer], "rollback")
            request.hold(0, optimizer)
            found.append(group["lr"])
            optimizer.step()
            request.release(0)
        return found

    plain, scaled = rates(None), rates(0.2)
    assert scaled[:6] == plain[:6]
    assert scaled[6:] == pytest.approx([0.2 * rate for rate in plain[6:]])


class Peak(schedulers.LRScheduler):
    """Computes rates from a number of its own, and never from what torch's keep."""

    def __init__(self, optimizer: Any, peak: float = 0.1) -> None:
        self.peak = peak
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        step = max(1, self.last_epoch)
        return [self.peak * min(step / 8, (8 / step) ** 0.5) for _ in self.optimizer.param_groups]


class Ramp(schedulers.LRScheduler):
    """Rises from a start to the base rate, each rate from the one before, as that of lightning-bolts."""

    def __init__(self, optimizer: Any, start: float = 0.01, steps: int = 15) -> None:
        self.start, self.steps = start, steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [self.start for _ in self.base_lrs]
        rising = self.last_epoch < self.steps
        pairs = zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        return [group["lr"] + rising * (base - self.start) / self.steps for base, group in pairs]


@pytest.mark.parametrize("factor", [0.2, 0.7, 2.0])
@pytest.mark.parametrize("at", [1, 6, 11])
@pytest.mark.parametrize("make", [Peak, Ramp])
def test_schedulers_that_somebody_wrote_are_multiplied(make: Make, at: int, factor: float) -> None:
    plain, scaled = course(make, None), course(make, factor, at=at)
    assert scaled[:at] == plain[:at]
    for was, now in zip(plain[at:], scaled[at:], strict=True):
        assert now == pytest.approx([factor * rate for rate in was], rel=1e-9)


@pytest.mark.parametrize(("at", "factor"), [(0, 3.0), (0, 0.7), (6, 0.2), (6, 0.9), (6, 2.0)])
def test_a_warmup_and_an_abrupt_decay_by_hand_keep_the_factor(at: int, factor: float) -> None:
    """Each rate afresh, twice the one before at the beginning and a tenth of it at the end of a phase."""

    def rates(asked: float | None) -> list[float]:
        optimizer, request = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), RateRequest()
        found = []
        for step in range(20):
            if step == at and asked is not None:
                request.ask(asked, [optimizer], "accumulation")
            optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, (step + 1) / 5) * (0.1 if step >= 12 else 1.0)
            request.hold(0, optimizer)
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            request.release(0)
        return found

    plain, scaled = rates(None), rates(factor)
    assert scaled == pytest.approx([rate * (factor if step >= at else 1.0) for step, rate in enumerate(plain)])


def test_a_resumed_run_knows_which_rates_hold_the_factor() -> None:
    optimizer, request = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), RateRequest()
    group = optimizer.param_groups[0]
    request.ask(0.5, [optimizer], "rollback")
    assert group["lr"] == pytest.approx(0.05)
    for written in (False, True):
        for _ in range(3):
            if written:
                group["lr"] = 0.1
            request.hold(0, optimizer)
            request.release()
        again = RateRequest()
        again.restore(0.5, "rollback", request.inside())
        again.hold(0, optimizer)
        assert group["lr"] == pytest.approx(0.05), written
        again.release()


def test_schedulers_that_a_module_keeps_for_itself_are_found() -> None:
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.schedule, module.optimizer = [schedulers.StepLR(optimizer, 3)], optimizer
    assert schedulers_kept(module) == module.schedule


def test_nothing_is_taken_for_overwritten_that_cannot_be_told() -> None:
    assert was_overwritten(0.05, left=0.1, factor=0.25) is None
    assert was_overwritten(0.0, left=0.1, factor=0.2) is None
    assert was_overwritten(math.nan, left=0.1, factor=0.2) is None
