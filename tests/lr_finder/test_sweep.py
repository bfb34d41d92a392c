from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.lr_finder.sweep import best_candidate, candidates, diverged, rates, smoothed


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


@given(st.floats(1e-7, 1.0), st.floats(1e-6, 1e3))
def test_the_bake_off_of_a_doubtful_sweep_reaches_a_third_of_its_last_rate(suggestion: float, last: float) -> None:
    near, wide = candidates(suggestion), candidates(suggestion, last)
    assert near == pytest.approx([0.1 * suggestion, 0.3 * suggestion, suggestion, 3.0 * suggestion])
    assert wide[:4] == near and wide == sorted(wide)
    assert all(lr <= last / 3.0 * 1.0001 for lr in wide[4:])
    assert all(high / low < 3.4 for low, high in itertools.pairwise(wide))
    assert wide[-1] * 3.4 > last / 3.0


def test_of_the_candidates_the_smallest_good_one_is_taken() -> None:
    assert best_candidate({0.1: 1.0, 0.3: 0.5, 1.0: 0.48}, 2.0) == 0.3
    assert best_candidate({0.1: math.inf, 0.3: math.nan}, 2.0) is None
    assert best_candidate({0.1: 3.0, 0.3: 4.0}, 2.0) == 0.1
