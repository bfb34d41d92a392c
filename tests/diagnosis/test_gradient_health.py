from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.diagnosis.gradient_health import GradientHealth, GradientReading, reading_of
from lightning_tricks.diagnosis.slices import layout_of, numbers_of


def stepped(net: nn.Module, rate: Any) -> tuple[GradientHealth, Any]:
    """Measure one step of plain SGD at a rate of 0.5."""
    parameters = list(net.parameters())
    view = SimpleNamespace(index=0, parameters=parameters)
    norms = torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None])
    health = GradientHealth()
    health.before_check(SimpleNamespace(view=view, norms=lambda: norms))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p -= 0.5 * p.grad
    health._updated(view, None)  # type: ignore[arg-type]
    assert health.norms is not None
    slices = health.measure(health.norms, rate)
    (numbers,) = numbers_of(layout_of([slices]), torch.cat(slices.shared).tolist())
    return health, reading_of(numbers)


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_norms_sizes_and_ratios_are_those_of_the_step(rate: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    net(torch.randn(7, 6)).square().mean().backward()
    weights = [p.detach().clone() for p in net.parameters() if p.ndim > 1]
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    health, reading = stepped(net, rate)
    assert reading.norms == pytest.approx([float(g.norm()) for g in gradients], rel=1e-6)
    assert reading.sizes == pytest.approx([float(w.norm()) for w in weights], rel=1e-6)
    matrices = [g for g in gradients if g.ndim > 1]
    ratios = sorted(0.5 * float(g.norm() / w.norm()) for g, w in zip(matrices, weights, strict=True))
    assert reading.ratio == pytest.approx(ratios[1], rel=1e-5), "the median of three"
    assert reading.rate == 0.5
    assert health.norms is None, "it is forgotten once it is measured"


def test_without_matrices_there_is_no_ratio() -> None:
    net = nn.LayerNorm(3)
    net(torch.randn(2, 3)).square().sum().backward()
    _, reading = stepped(net, None)
    assert math.isnan(reading.ratio) and reading.sizes == [] and math.isnan(reading.rate)


def test_the_ends_of_the_network_are_its_first_and_last_norms_above_0() -> None:
    assert GradientReading([0.0, 1.0, 3.0, 5.0, 2.0, 0.0], 0.0, [], 0.1).first_and_last == (3.0, 5.0)
    assert GradientReading([0.0], 0.0, [], 0.1).first_and_last == (0.0, 0.0)


def test_a_rollback_and_the_end_of_a_fit_forget_gradients() -> None:
    for forget in ("_rolled_back", "_cleanup"):
        health = GradientHealth()
        health.norms = torch.ones(2)
        getattr(health, forget)(None)
        assert health.norms is None
