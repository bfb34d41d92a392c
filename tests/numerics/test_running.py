from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks.numerics.running import Ema, Percentile, Welford

numbers = st.one_of(st.floats(0.01, 1e4), st.sampled_from([float("nan"), float("inf"), 0.0]))
CPU = torch.device("cpu")


def usable(values: list[float]) -> list[float]:
    return [v for v in values if np.isfinite(v) and v > 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=30))
def test_mean_and_standard_deviation_are_numpys_over_the_usable_values(values: list[float]) -> None:
    state = Welford().init(1, CPU)
    for v in values:
        state = Welford().update(torch.tensor([v]), state)
    good = usable(values)
    assert int(state["count"]) == len(good)
    if good:
        assert float(state["mean"]) == pytest.approx(np.mean(good), rel=1e-4)
        assert float(state["std"]) == pytest.approx(np.std(good), rel=1e-2, abs=1e-3 * max(good))


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=30), st.integers(1, 8), st.floats(0, 100))
def test_percentiles_are_numpys_over_the_last_usable_values(values: list[float], window: int, percent: float) -> None:
    rule = Percentile(window)
    state = rule.init(None, CPU)
    for v in values:
        state = rule.update(torch.tensor(v), state)
    good = usable(values)[-window:]
    got = float(rule.percentile(percent, state))
    assert np.isnan(got) if not good else got == pytest.approx(np.percentile(good, percent), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(-100, 100), st.just(float("nan"))), min_size=1, max_size=20))
def test_the_average_is_the_weighted_mean(values: list[float]) -> None:
    rule = Ema(0.9)
    state = rule.init(1, CPU)
    for v in values:
        state = rule.update(torch.tensor([v]), state)
    good = [v for v in values if np.isfinite(v)]
    weights = [0.9 ** (len(good) - 1 - i) for i in range(len(good))]
    if good:
        assert float(rule.mean(state)) == pytest.approx(np.average(good, weights=weights), rel=1e-3, abs=1e-3)


def test_series_are_followed_apart() -> None:
    rule = Percentile(4)
    state = rule.init(2, CPU)
    for pair in ([1.0, float("nan")], [2.0, 5.0], [3.0, float("inf")]):
        state = rule.update(torch.tensor(pair), state)
    assert rule.percentile(100.0, state).tolist() == [3.0, 5.0]
    assert state["seen"].tolist() == [3, 1]
