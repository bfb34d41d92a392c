from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.schedules.curves import Constant, Cosine, Linear, OneMinusSqrt, Polynomial
from lightning_tricks.schedules.run_curve import Curve

curves = st.builds(
    Curve,
    decay=st.sampled_from([Constant(), Cosine(), Linear(), OneMinusSqrt(), Polynomial(0.9)]),
    warmup=st.integers(0, 50),
    shape=st.sampled_from(["linear", "cosine", "exponential", "constant"]),
    start=st.floats(0.01, 1.0),
    hold=st.integers(0, 50),
    final=st.floats(0, 1),
    total=st.integers(101, 300),
)


@given(curves)
def test_a_curve_is_bounded_ends_where_it_should_and_stays_there(curve: Curve) -> None:
    values = curve.values()
    assert len(values) == curve.total
    assert all(0 <= v <= 1 + 1e-12 for v in values)
    end = 1.0 if curve.decay == Constant() else curve.final
    assert curve.value(curve.total) == pytest.approx(end)
    assert curve.value(10 * curve.total) == curve.value(curve.total)


@given(curves)
def test_a_curve_rises_to_its_peak_and_never_rises_again(curve: Curve) -> None:
    values = curve.values()
    rise, fall = values[: curve.warmup], values[curve.warmup :]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(rise))
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(fall))
    assert fall[0] == pytest.approx(1.0)
    if curve.warmup and curve.shape != "constant":
        assert rise[-1] == pytest.approx(1.0), "no jump at the joint"
