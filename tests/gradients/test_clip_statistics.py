from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_tricks.gradients.clip_statistics import (
    ClipStatistics,
    clipped_fraction,
    mean_coefficient,
    suggested_threshold,
    summary,
)


def test_statistics_are_numpys_whatever_the_chunks() -> None:
    draw = np.random.default_rng(0)
    norms = draw.lognormal(0, 1, (50, 2)).astype(np.float32)
    norms[3, 0], norms[7, 1], norms[9, 0] = np.nan, np.inf, 0.0
    with np.errstate(divide="ignore"):
        coefficients = np.minimum(1.0, 1.0 / norms)
    rule = ClipStatistics(window=16)
    state, start = rule.init(2, torch.device("cpu")), 0
    for size in (1, 5, 20, 3, 21):
        rows = slice(start, start + size)
        state = rule.update(torch.tensor(norms[rows]), torch.tensor(coefficients[rows]), state)
        start += size
    good = np.isfinite(norms) & (norms > 0)
    hit = good & (coefficients < 1)
    assert float(rule.clipped_fraction(state)) == pytest.approx(hit.sum() / good.sum())
    totals = {name: float(state[name].sum()) for name in ("updates", "clipped", "coefficients")}
    assert mean_coefficient(totals) == pytest.approx(coefficients[hit].mean(), rel=1e-5)
    last = np.where(good, norms, np.nan)[-16:]
    assert rule.percentiles(90.0, state).tolist() == pytest.approx(
        np.nanpercentile(last, 90, axis=0).tolist(), rel=1e-5
    )


def test_ratios_of_nothing_are_those_of_a_run_without_clipping() -> None:
    nothing = {"updates": 0.0, "clipped": 0.0, "coefficients": 0.0}
    assert (clipped_fraction(nothing), mean_coefficient(nothing)) == (0.0, 1.0)
    whole = {"updates": 10.0, "clipped": 4.0, "coefficients": 1.0}
    assert (clipped_fraction(whole), mean_coefficient(whole)) == (0.4, 0.25)


def test_a_threshold_is_a_number_only_for_one_model() -> None:
    assert suggested_threshold({}) is None
    assert suggested_threshold({0: {}}) is None
    assert suggested_threshold({0: {"head": 1.0, "body": 2.0}}) == {"head": 1.0, "body": 2.0}
    assert suggested_threshold({2: {"model": 1.5}}) == 1.5


def test_the_line_at_the_end_leaves_out_what_is_not_known() -> None:
    assert summary("AGC()", 0.0, 1.0, None) == "GradientClip(AGC()): clipped 0.0% of the updates."
    assert summary("r", 0.5, 0.25, {"a": 1.0}).endswith(
        "clipped 50.0% of the updates, to 0.25 of their norm on average."
    )
