"""The way back is tried on whole trainings in ``test_rollback.py``; here what is in a state."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

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
