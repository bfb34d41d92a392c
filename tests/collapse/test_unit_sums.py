from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tricks.collapse.unit_sums import add_units, measured_units


def test_units_are_followed_over_calls_by_their_largest_output() -> None:
    gathered: dict[str, Tensor] = {}
    add_units(gathered, "relu", torch.tensor([[0.0, 0.0, 1.0]]), 0.0, torch.inf)
    add_units(gathered, "relu", torch.tensor([[0.0, 2.0, 0.0]]), 0.0, torch.inf)
    add_units(gathered, "image", torch.zeros(2, 4, 3, 3), 0.0, torch.inf)
    add_units(gathered, "tanh", torch.tensor([[0.99, -1.0, 0.0, 0.1]]), -1.0, 1.0)
    layers, shares = measured_units(gathered)
    rows = dict(zip(layers, shares.reshape(-1, 3).tolist(), strict=True))
    assert rows["relu/3"][0] == pytest.approx(1 / 3), "sparse is not dead"
    assert rows["image/4"][0] == 1.0
    assert rows["tanh/4"][2] == 0.5
    assert rows["image/4"][1] == 1.0, "a silent layer is dormant"
