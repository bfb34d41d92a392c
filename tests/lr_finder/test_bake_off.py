from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.lr_finder.bake_off import best_candidate, candidates


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
