from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.accumulation.window import ByUpdate, Fixed, Target, Window, as_window

windows = st.one_of(
    st.builds(Fixed, st.integers(1, 9)),
    st.builds(ByUpdate, st.dictionaries(st.integers(0, 20), st.integers(1, 9), min_size=1)),
    st.builds(Target, st.integers(1, 90)),
)


@given(windows, st.integers(1, 200), st.integers(0, 30))
def test_the_forecast_is_what_a_simulation_of_equal_batches_gives(window: Window, batches: int, done: int) -> None:
    updates, count, size = 0, 0, 0.0
    for i in range(batches):
        count, size = count + 1, size + 8.0
        if window.closes(count, size, done + updates) or i + 1 == batches:
            updates, count, size = updates + 1, 0, 0.0
    assert window.updates(batches, 8.0, done) == updates


def test_what_is_not_known_is_none() -> None:
    assert Fixed(2).updates(math.inf, 8.0, 0) is None
    assert Target(20).updates(10, None, 0) is None


def test_arguments_make_windows() -> None:
    assert as_window(3, None) == Fixed(3)
    assert as_window({0: 2}, None) == ByUpdate({0: 2})
    assert as_window(1, 64) == Target(64)
    with pytest.raises(TypeError, match="batches must be a whole number"):
        as_window({"a": 2}, None)
