from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.accumulation.window_gradients import WindowGradients, trained


def run_of(net: nn.Module, sharded: bool = False) -> Any:
    return SimpleNamespace(views=[SimpleNamespace(parameters=list(net.parameters()), sharded=sharded)])


def written(net: nn.Module) -> WindowGradients:
    net(torch.ones(1, 2)).sum().backward()
    gradients = WindowGradients()
    gradients.note(run_of(net))
    return gradients


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_somebody_cleared_are_gone(set_to_none: bool) -> None:
    net = nn.Linear(2, 2)
    gradients = written(net)
    assert not gradients.thrown_away(run_of(net))
    net.zero_grad(set_to_none=set_to_none)
    assert gradients.thrown_away(run_of(net))
    assert not gradients.thrown_away(run_of(net, sharded=True)), "FSDP2 keeps them elsewhere"
    gradients.forget()
    assert not gradients.thrown_away(run_of(net)), "nothing is known of a new window"


def test_gradients_that_were_only_changed_are_still_there() -> None:
    net = nn.Linear(2, 2)
    gradients = written(net)
    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)
    assert not gradients.thrown_away(run_of(net))


@pytest.mark.parametrize("factor", [0.0, torch.tensor(0.0)])
def test_a_backward_pass_that_counts_nothing_leaves_no_nan(factor: Any) -> None:
    net = nn.Linear(2, 2)
    gradients = written(net)
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    gradients.leave_out(net, factor)
    (net(torch.full((1, 2), math.nan)).sum() * factor).backward()
    gradients.count_again()
    assert all(torch.equal(p.grad, b) for p, b in zip(net.parameters(), before, strict=True) if p.grad is not None)
    net(torch.ones(1, 2)).sum().backward()
    assert all(torch.equal(p.grad, 2 * b) for p, b in zip(net.parameters(), before, strict=True) if p.grad is not None)


def test_frozen_parameters_have_no_gradients() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    assert trained(net) == [net.weight]


def test_gradients_of_a_backward_pass_that_is_over_join_the_window_once() -> None:
    net = nn.Linear(2, 2)
    gradients = written(net)
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert not gradients.join_apart(net)
    gradients.apart = [torch.ones_like(p) for p in net.parameters()]
    assert gradients.join_apart(net)
    assert not gradients.join_apart(net)
    assert all(torch.equal(p.grad, b + 1) for p, b in zip(net.parameters(), before, strict=True) if p.grad is not None)
    gradients.apart = [torch.ones_like(p) for p in net.parameters()]
    gradients.drop_apart()
    assert not gradients.join_apart(net)
