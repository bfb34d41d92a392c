"""The way back is tried on whole trainings in ``test_rollback.py``; here what is in a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tricks.detection.training_state import put_training_state, training_state


def test_a_state_is_plain_and_goes_into_another_model(tmp_path: Path) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        net(torch.tensor([[1.0, 2.0], [3.0, 1.0]])).square().sum().backward()
        optimizer.step()

    net, optimizer = made()
    step(net, optimizer)
    torch.save(training_state(net, [optimizer], None), tmp_path / "state.pt")
    step(net, optimizer)
    other, its_optimizer = made()
    put_training_state(torch.load(tmp_path / "state.pt", weights_only=True), other, [its_optimizer], None)
    assert all(p.grad is None for p in other.parameters())
    step(other, its_optimizer)
    for one, two in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


class CountsInGroups(torch.optim.Optimizer):
    """Keeps its count and a mean of squares in the groups, as those of schedulefree and pytorch_optimizer do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            squares = sum(p.grad.square().mean() for p in group["params"])
            group["mean"] = group.get("mean", 0.0) + (squares - group.get("mean", 0.0)) / group["k"]
            for p in group["params"]:
                p -= group["lr"] * p.grad / (1 + group["mean"]) / group["k"]


class Slow(torch.optim.Optimizer):
    """Goes half of the way of another optimizer, which has a state of its own."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        members = [p for group in self.param_groups for p in group["params"]]
        before = [p.clone() for p in members]
        self.inner.step()
        for p, old in zip(members, before, strict=True):
            p.lerp_(old, 0.5)


@pytest.mark.parametrize("make", [CountsInGroups, lambda p: Slow(torch.optim.Adam(p, lr=0.1))])
def test_what_optimizers_keep_in_groups_and_inside_of_them_goes_back(make: Any) -> None:
    def trained(updates: list[int], back_at: int | None) -> Tensor:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer, net = make([weight]), torch.nn.Module()
        net.weight = weight
        saved: Any = None
        for number, update in enumerate(updates):
            if update == 4 and saved is None:
                saved = training_state(net, [optimizer], None)
            if number == back_at:
                put_training_state(saved, net, [optimizer], None)
            weight.grad = torch.full((3,), torch.nan) if update < 0 else torch.arange(3.0) + update
            optimizer.step()
        return weight.detach().clone()

    straight = trained([0, 1, 2, 3, 4, 5, 6], None)
    torch.testing.assert_close(trained([0, 1, 2, 3, 4, 5, -1, 4, 5, 6], 7), straight, rtol=0, atol=0)


def test_rates_that_a_schedule_has_written_stay() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    saved = training_state(torch.nn.Module(), [optimizer], None)
    optimizer.param_groups[0].update(lr=0.05, weight_decay=0.5)
    put_training_state(saved, torch.nn.Module(), [optimizer], None)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.05, 0.5)
