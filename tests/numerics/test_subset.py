from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks.numerics.subset import bounded_sample, spread, subset


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 200), st.integers(1, 2000))
def test_of_every_period_all_positions_are_taken_equally_often(n: int, period: int, most: int) -> None:
    index = spread(n * period, most)
    assert len(index) == len(index.unique()) == min(most, n * period)
    assert int(index.min()) >= 0 and int(index.max()) < n * period
    for divisor in (period, n):
        taken = torch.bincount(index % divisor, minlength=divisor)
        assert int(taken.max() - taken.min()) <= 1


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 10**7), st.integers(1, 700))
def test_the_indices_lie_evenly_between_first_and_last(total: int, most: int) -> None:
    index = spread(total, most).sort().values
    gaps = torch.cat([index, index[:1] + total]).diff()
    assert int(gaps.max()) <= max(1, 4 * total / min(most, total))


@pytest.mark.parametrize("total", [10**9 + 7, 2**36, 223092870])
def test_also_of_very_many(total: int) -> None:
    index = spread(total, 65536)
    assert len(index.unique()) == 65536 and int(index.min()) >= 0 and int(index.max()) < total


def test_nothing_is_drawn_and_the_answer_is_always_the_same() -> None:
    before = torch.get_rng_state()
    rows = torch.arange(5000)
    assert torch.equal(subset(rows, 512), subset(rows, 512))
    assert torch.equal(before, torch.get_rng_state())
    assert subset(rows, 5000) is rows


@given(st.integers(1, 500), st.integers(1, 50))
def test_a_sample_is_bounded_and_of_different_elements(n: int, limit: int) -> None:
    sample = bounded_sample(torch.arange(n), limit)
    assert len(sample) == len(sample.unique()) == min(n, limit)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 2000))
def test_of_a_matrix_all_columns_and_rows_are_sampled(n: int, width: int, limit: int) -> None:
    """With every k-th element of it, only columns are seen that have a divisor in common with k."""
    places = torch.arange(n * width).reshape(n, width)
    sample = bounded_sample(places, limit)
    columns = torch.bincount(sample % width, minlength=width)
    assert int(columns.max() - columns.min()) <= 1
    rows = (sample // width).unique()
    assert int(torch.cat([rows, rows[:1] + n]).diff().max()) <= max(1, 4 * math.ceil(n / min(limit, n * width)))


def test_what_is_small_is_seen_whole_and_not_copied() -> None:
    tensor = torch.randn(4, 5)
    assert bounded_sample(tensor).data_ptr() == tensor.data_ptr()
