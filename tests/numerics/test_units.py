from __future__ import annotations

import torch

from lightning_tricks.numerics import units


def test_dead_is_never_above_zero() -> None:
    torch.manual_seed(0)
    outputs = torch.relu(torch.randn(512, 10) - torch.tensor([0.0] * 7 + [100.0] * 3))
    assert units.dead_share(outputs.amax(0)).item() == torch.tensor(0.3).item()


def test_a_sparse_layer_is_not_dormant_and_a_silent_one_is() -> None:
    sparse = torch.relu(torch.randn(4096, 8, generator=torch.Generator().manual_seed(0)) - 1.5)
    assert (sparse == 0).float().mean() > 0.9
    assert units.dormant_share(sparse.mean(0)) == 0
    assert units.dead_share(sparse.amax(0)) == 0
    assert units.dormant_share(torch.zeros(4)) == 1


def test_saturation_is_at_both_ends_of_the_range() -> None:
    assert units.saturated_share(torch.tensor([-0.99, 0.0, 0.5, 0.96]), -1.0, 1.0) == 0.5
    assert units.saturated_share(torch.tanh(torch.tensor([-9.0, 9.0])), -1.0, 1.0) == 1
