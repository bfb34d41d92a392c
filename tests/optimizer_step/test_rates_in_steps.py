"""What a script has written comes back after each step, and what it writes meanwhile stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tricks.optimizer_step.rate_request import RateRequest
from lightning_tricks.optimizer_step.rates_in_steps import RatesInSteps


def test_a_rate_that_is_written_meanwhile_stays() -> None:
    group, rates = {"lr": 0.1}, RatesInSteps()
    rates.multiply(0, group, 0.5)
    group["lr"] = 0.3
    rates.give_all_back()
    assert group["lr"] == 0.3


@pytest.mark.parametrize("tensor", [False, True])
def test_a_step_that_is_skipped_leaves_a_script_its_own_rates(tensor: bool) -> None:
    rate = torch.tensor(0.1) if tensor else 0.1
    optimizer, request = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=rate), RateRequest()
    group = optimizer.param_groups[0]
    for height in (0.2, 0.1):  # (somebody writes it)
        request.hold(0, optimizer)
        request.release()
        group["lr"] = rate.fill_(height) if isinstance(rate, Tensor) else height
    request.hold(0, optimizer)
    request.release()
    request.ask(0.5, [optimizer], "rollback")
    for _ in range(3):  # (a GradScaler calls no step)
        request.hold(0, optimizer)
        assert float(group["lr"]) == pytest.approx(0.05)
    request.release()
    assert float(group["lr"]) == pytest.approx(0.1)
    assert not tensor or group["lr"] is rate
