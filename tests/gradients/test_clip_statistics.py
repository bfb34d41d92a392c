from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_tricks.gradients.clip_statistics import ClipStatistics


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
    assert float(rule.mean_coefficient(state)) == pytest.approx(coefficients[hit].mean(), rel=1e-5)
    last = np.where(good, norms, np.nan)[-16:]
    assert rule.percentiles(90.0, state).tolist() == pytest.approx(
        np.nanpercentile(last, 90, axis=0).tolist(), rel=1e-5
    )
