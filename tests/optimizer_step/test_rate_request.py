from __future__ import annotations

import pytest
import torch

from lightning_tricks.optimizer_step.rate_request import RateRequest


@pytest.mark.parametrize("tensor", [False, True])
def test_without_a_schedule_the_factor_is_multiplied_into_the_groups(tensor: bool) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "lr": torch.tensor(r) if tensor else r} for w, r in zip(weights, (0.1, 0.2), strict=True)]
    optimizer = torch.optim.SGD(groups)
    held = optimizer.param_groups[0]["lr"]
    rate = RateRequest()
    for factor in (4.0, 2.0, 2.0):
        rate.ask(factor, [optimizer], "a")
    assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx([0.2, 0.4])
    assert not tensor or held is optimizer.param_groups[0]["lr"], "a tensor is written in place"


def test_a_schedule_that_claims_the_request_is_told_instead() -> None:
    told: list[float] = []
    rate = RateRequest()
    rate.claim(lambda: told.append(rate.factor), lambda index: [0.1])
    rate.ask(4.0, [], "a")
    rate.ask(4.0, [], "a")
    assert told == [4.0]
    assert rate.claimed
    rate.close()
    assert not rate.claimed


def test_factors_of_several_askers_are_multiplied() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    rate = RateRequest()
    rate.ask(4.0, [optimizer], "accumulation")
    rate.ask(0.2, [optimizer], "rollback")
    rate.ask(2.0, [optimizer], "accumulation")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 2.0 * 0.2)
    assert rate.factor == pytest.approx(0.4)


def test_a_restored_factor_is_not_multiplied_twice() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)  # the checkpoint's rate: 0.1 * 0.2
    rate = RateRequest()
    rate.restore(0.2, "rollback")
    assert optimizer.param_groups[0]["lr"] == 0.02
    rate.ask(0.04, [optimizer], "rollback")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.004)
    told: list[float] = []
    rate.claim(lambda: told.append(rate.factor), lambda index: [0.1])
    rate.restore(0.5, "rollback")
    assert told == [0.5], "a schedule that has written already writes again"


def test_height_is_the_rate_over_its_highest() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    rate = RateRequest()
    assert rate.height(0, optimizer) == 1.0, "no schedule is known"
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.25)
    assert rate.height(0, optimizer) == pytest.approx(0.25)
    optimizer.param_groups[0]["max_lr"] = 0.2  # OneCycleLR starts below it
    assert rate.height(0, optimizer) == pytest.approx(0.125)
    rate.claim(lambda: None, lambda index: [0.05])
    assert rate.height(0, optimizer) == pytest.approx(0.5)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    assert isinstance(rate.height(0, optimizer), torch.Tensor)
