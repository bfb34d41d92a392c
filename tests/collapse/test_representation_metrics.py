"""Measures of embeddings beside their functions in float64."""

from __future__ import annotations

import pytest
import torch

import lightning_tricks
from lightning_tricks import EffectiveRank
from tests.collapse.problems import data


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_added_up_in_float64(dtype: torch.dtype) -> None:
    metric, wanted = EffectiveRank(6), EffectiveRank(6)
    (features,) = data("EffectiveRank", 2000)
    metric.update(features.to(dtype))
    wanted.update(features)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(wanted.compute().item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1e3])
@pytest.mark.parametrize("batches", [1, 40])
def test_equal_rows_have_no_dimension(dtype: torch.dtype, mean: float, batches: int) -> None:
    """Sums of squares leave rounding where nothing varies, and rounding has a rank like any noise (24 of 64 once)."""
    torch.manual_seed(0)
    for d in (2, 16, 64):
        row = (torch.randn(1, d) + mean).to(dtype)
        for name, expected in (("EffectiveRank", 0.0), ("ParticipationRatio", 0.0), ("DeadDimensions", 1.0)):
            metric = getattr(lightning_tricks, name)(d)
            for n in torch.arange(batches):
                metric.update(row.expand(5 + int(n), d))
            assert float(metric.compute()) == expected


@pytest.mark.parametrize("std", [1e-2, 1e-4, 1e-5])
def test_a_small_spread_beside_a_large_mean_still_counts(std: float) -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 2, dtype=torch.float64)).Q
    rows = 1.0 + std * torch.randn(300, 2, dtype=torch.float64) @ basis.T
    sigma = torch.linalg.svdvals(rows - rows.mean(0))[:2]
    share, variance = sigma / sigma.sum(), sigma.square()
    rank, ratio, dead = EffectiveRank(12), lightning_tricks.ParticipationRatio(12), lightning_tricks.DeadDimensions(12)
    for metric in (rank, ratio, dead):
        for part in rows.split(30):
            metric.update(part)
    assert float(rank.compute()) == pytest.approx(float(torch.special.entr(share).sum().exp()), rel=1e-3)
    assert float(ratio.compute()) == pytest.approx(float(variance.sum() ** 2 / variance.square().sum()), rel=1e-3)
    spread = rows.std(0, correction=0)
    assert float(dead.compute()) == float((spread < 0.01 * spread.max()).double().mean())
