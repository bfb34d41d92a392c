"""What weights tell of their past, against layers that were made and trained here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.diagnosis.weights import as_initialised, as_often_drawn, units_alike

LAYERS = [
    lambda: nn.Linear(40, 30),
    lambda: nn.Linear(3, 5),
    lambda: nn.Conv2d(3, 16, 3),
    lambda: nn.Conv1d(8, 16, 3, groups=2),
    lambda: nn.GRU(10, 20),
    lambda: nn.LSTM(10, 20, bidirectional=True),
    lambda: nn.Embedding(30, 20),
    lambda: nn.BatchNorm2d(6),
    lambda: nn.LayerNorm(6),
    lambda: nn.GroupNorm(2, 6, affine=False),
]


@pytest.mark.parametrize("make", LAYERS)
def test_a_layer_as_pytorch_makes_it_is_as_initialised(make: object) -> None:
    torch.manual_seed(0)
    assert all(as_initialised(make()) for _ in range(50))  # type: ignore[operator]


@pytest.mark.parametrize("make", [m for m in LAYERS if list(m().parameters())])
def test_a_layer_that_was_trained_is_not(make: object) -> None:
    torch.manual_seed(0)
    layer: nn.Module = make()  # type: ignore[operator]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(200):
        loss = -sum((p.square() * torch.linspace(0, 1, p.numel()).view_as(p)).sum() for p in layer.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not as_initialised(layer)


def test_what_cannot_be_told_is_not_as_initialised() -> None:
    assert not as_initialised(nn.ReLU()) and not as_initialised(nn.Linear(1, 2))
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    assert not as_initialised(norm), "its statistics were gathered"


def test_units_are_alike_whatever_the_kind_of_layer() -> None:
    conv = nn.Conv2d(2, 4, 3)
    assert not units_alike(conv.weight)
    nn.init.constant_(conv.weight, 0.1)
    assert units_alike(conv.weight) and not units_alike(torch.ones(1, 5)) and not units_alike(torch.ones(5))


def drawn(draw: Any, changed: float = 0.0, kept: int = 0) -> list[Any]:
    """Return which of several layers look as an initialisation made them; some are changed, as by training."""
    torch.manual_seed(0)
    layers = [nn.Linear(96, 80), nn.Conv2d(32, 48, 3), nn.Conv2d(64, 64, 3), nn.Linear(128, 300), nn.Linear(4, 4)]
    for i, layer in enumerate(layers):
        draw(layer.weight)
        if i >= kept:
            with torch.no_grad():
                layer.weight.add_(changed * layer.weight.std() * torch.randn_like(layer.weight).pow(3))
    return as_often_drawn(layers)


DRAWS = {
    "outputs": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "inputs": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "one": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "both": nn.init.xavier_normal_,
    "small": lambda w: nn.init.trunc_normal_(w, std=0.02),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_layers_as_libraries_draw_them_are_told_from_such_that_were_trained(draw: Any) -> None:
    assert len(drawn(draw)) == 4, "the smallest one says nothing"
    assert not drawn(draw, 0.1), "a heavy tail"
    assert not drawn(draw, 0.1, kept=2), "half of them"


def test_layers_of_another_variance_were_not_drawn_so() -> None:
    assert not drawn(lambda w: nn.init.normal_(w, std=0.035))
    assert not as_often_drawn([]) and not as_often_drawn([nn.ReLU(), nn.LayerNorm(9000)])
