from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks import CosineRestarts, Noam, OneCycle


@given(first=st.integers(1, 9), t_mul=st.integers(1, 10), m_mul=st.floats(0.1, 1.0), k=st.integers(0, 5000))
def test_restarts_are_those_of_a_loop_over_cycles(first: int, t_mul: int, m_mul: float, k: int) -> None:
    start, length, height = 0, first, 1.0
    while k >= start + length:
        start, length, height = start + length, length * t_mul, height * m_mul
    expected = height * (1 + math.cos(math.pi * (k - start) / length)) / 2
    assert CosineRestarts(first, t_mul, m_mul).multiplier(k, 10**9) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_at_the_end_of_the_run_no_cycle_begins() -> None:
    assert CosineRestarts(10).multiplier(40, 40) == pytest.approx(0.0, abs=1e-15)
    assert CosineRestarts(10).multiplier(40, 41) == 1.0


def test_the_fraction_of_the_rate_is_the_place_between_the_lowest_and_the_highest_rate() -> None:
    cycle = OneCycle(pct_start=0.5)
    assert [round(cycle.lr_fraction(k, 21), 6) for k in (0, 20)] == [0.0, 0.0]
    assert max(cycle.lr_fraction(k, 21) for k in range(21)) > 0.97
    assert Noam(10, d_model=64).lr_fraction(9, 100) == pytest.approx(1.0)
