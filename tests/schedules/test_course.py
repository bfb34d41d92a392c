from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks import LRSchedule
from lightning_tricks.schedules.course import Course, transferred
from lightning_tricks.schedules.phases import DECAYS, Join, Phase
from lightning_tricks.schedules.plan import whole_curve
from lightning_tricks.schedules.run_curve import Curve

# every curve that is measured by the run's length: those with lengths of their own need no other drawing
STRETCHED = [name for name in sorted(DECAYS) if name != "plateau"]
JOINED = Join([Phase("linear", 20, start=0.0, end=1.0), Phase("constant", "40%"), Phase("cosine")])


def drawn(decay: object, total: int, warmup: int | str | None = None, hold: int | str = 0) -> Curve:
    return whole_curve(LRSchedule(decay, warmup=warmup, hold=hold).spec, total)  # type: ignore[arg-type]


def test_one_position_per_update_until_something_changes() -> None:
    course = Course(planned=10, total=10, end=10)
    assert [course.position(k, k) for k in range(11)] == list(range(11))
    counts = torch.arange(11)
    assert [int(course.position(k, int(k))) for k in counts] == list(range(11))


@pytest.mark.parametrize("decay", [*STRETCHED, JOINED])
@settings(max_examples=40, deadline=None)
@given(st.integers(60, 300), st.integers(60, 300), st.floats(0.0, 1.0))
def test_the_rate_is_the_same_on_the_other_drawing(decay: object, before: int, after: int, share: float) -> None:
    old, new = drawn(decay, before), drawn(decay, after)
    position = share * before
    place = transferred(position, old, new)
    assert 0 <= place <= after
    # between two whole positions both are interpolated, so the two differ by less than what one update changes
    step = max(abs(a - b) for curve in (old, new) for a, b in pairwise(curve.values()))
    assert abs(old.value(position) - new.value(place)) <= 2 * step + 1e-9


@pytest.mark.parametrize("decay", ["linear", "cosine", "polynomial", "one_minus_sqrt", JOINED])
@pytest.mark.parametrize("after", [50, 90, 140, 400])
@pytest.mark.parametrize("at", [5, 25, 60])
def test_what_is_left_of_the_curve_is_laid_over_what_is_left_of_the_run(decay: object, after: int, at: int) -> None:
    if at >= after:
        pytest.skip("the run is over")
    old = drawn(decay, 100, None if decay is JOINED else "10%")
    new = drawn(decay, after, None if decay is JOINED else "10%")
    course = Course(100, 100, 100).redrawn(old, new, after, at, at)
    values = [old.value(k) for k in range(at)] + [new.value(float(course.position(k, k))) for k in range(at, after + 1)]
    assert values[-1] == pytest.approx(new.value(after), abs=1e-6), "it ends at its end"
    steps = [abs(a - b) for a, b in pairwise(values)]
    usual = max(abs(a - b) for curve in (old, new) for a, b in pairwise(curve.values()))
    assert max(steps) <= 3 * usual * max(1.0, (100 - at) / (after - at)), "without a jump"


def test_a_warm_up_that_was_given_in_updates_stays_as_long() -> None:
    old, new = drawn("linear", 100, 20), drawn("linear", 400, 20)
    course = Course(100, 100, 100).redrawn(old, new, 400, 7, 7)
    assert [course.position(k, k) for k in (7, 20, 400)] == [7, 20, 400]


def test_skipped_attempts_are_caught_up_at_the_end_of_a_stretched_curve_too() -> None:
    old, new = drawn("linear", 100, 0), drawn("linear", 200, 0)
    course = Course(100, 100, 100).redrawn(old, new, 200, 50, 50)
    reached = [float(course.position(k - 10, k)) for k in range(60, 201)]
    assert reached[-1] == pytest.approx(200, abs=2)
    assert all(b >= a for a, b in pairwise(reached))


def test_a_state_is_what_it_was() -> None:
    course = Course(planned=10, total=12, end=11, place=3.5, updates=3, speed=1.25, held=2)
    assert Course.from_state(course.state_dict()) == course
