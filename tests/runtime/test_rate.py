from __future__ import annotations

import pytest
import torch

from lightning_tricks.runtime.rate import RateRequest


@pytest.mark.parametrize("tensor", [False, True])
def test_without_a_schedule_the_factor_is_multiplied_into_the_groups(tensor: bool) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "lr": torch.tensor(r) if tensor else r} for w, r in zip(weights, (0.1, 0.2), strict=True)]
    optimizer = torch.optim.SGD(groups)
    held = optimizer.param_groups[0]["lr"]
    rate = RateRequest()
    for factor in (4.0, 2.0, 2.0):
        rate.ask(factor, [optimizer])
    assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx([0.2, 0.4])
    assert not tensor or held is optimizer.param_groups[0]["lr"], "a tensor is written in place"


def test_a_schedule_that_claims_the_request_is_told_instead() -> None:
    told: list[float] = []
    rate = RateRequest()
    rate.claim(lambda: told.append(rate.factor))
    rate.ask(4.0, [])
    rate.ask(4.0, [])
    assert told == [4.0]
    assert rate.claimed
    rate.close()
    assert not rate.claimed
