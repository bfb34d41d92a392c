from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks import ClipNorm, ClipValue
from lightning_tricks.functional import clip_coefficients

norms = st.floats(1e-3, 1e6)


@given(norms, st.floats(1e-2, 1e3))
def test_clipping_bounds_the_norm_and_leaves_small_ones_alone(norm: float, limit: float) -> None:
    coefficient = float(clip_coefficients(torch.tensor(norm), limit))
    assert coefficient * norm <= limit * (1 + 1e-5)
    assert coefficient == pytest.approx(min(1.0, limit / (norm + 1e-6)), rel=1e-5)


@given(norms, st.floats(1e-2, 1e3))
def test_clipping_twice_is_clipping_once(norm: float, limit: float) -> None:
    once = norm * float(clip_coefficients(torch.tensor(norm), limit))
    twice = once * float(clip_coefficients(torch.tensor(once), limit))
    assert twice == pytest.approx(once, rel=1e-3)


def test_what_is_not_finite_is_not_scaled() -> None:
    assert clip_coefficients(torch.tensor([math.nan, math.inf, 0.0]), 1.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: ClipNorm(0.0),
            ValueError,
            r"ClipNorm\(max_norm=0\.0\): max_norm must be > 0 and finite\. Use e\.g\. 1\.0",
        ),
        (lambda: ClipNorm(1.0, 0.0), ValueError, "norm_type must be > 0"),
        (lambda: ClipNorm(1.0, "inf"), TypeError, "norm_type must be > 0"),
        (lambda: ClipValue(-1), ValueError, "max_value must be > 0"),
        (lambda: ClipValue(True), TypeError, "max_value must be > 0"),
    ],
)
def test_bad_arguments_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
