from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.lr_finder.sweep import diverged, rates, smoothed


@pytest.mark.parametrize(("low", "high", "n"), [(1e-7, 10.0, 100), (1e-3, 1.0, 11)])
def test_rates_are_evenly_spaced(low: float, high: float, n: int) -> None:
    exponential = torch.logspace(math.log10(low), math.log10(high), n, dtype=torch.float64).tolist()
    assert rates(low, high, n) == pytest.approx(exponential, rel=1e-9)
    linear = torch.linspace(low, high, n, dtype=torch.float64).tolist()
    assert rates(low, high, n, "linear") == pytest.approx(linear, rel=1e-9)
    assert rates(low, high, n)[-1] == high


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0, 0.99))
def test_smoothing_is_a_weighted_mean_with_geometric_weights(losses: list[float], beta: float) -> None:
    n = len(losses)
    weights = [beta ** (n - 1 - i) for i in range(n)]
    expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert smoothed(losses, beta)[-1] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_divergence_needs_no_positive_loss() -> None:
    assert diverged(-5.0, [-6.0, -7.0, -2.9])
    assert not diverged(-5.0, [-6.0, -7.0, -4.0])
    assert diverged(1.0, [math.nan])
    assert not diverged(1.0, [])
