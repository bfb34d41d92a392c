"""Rules on curves: each with failing ones, and with healthy ones that look like them."""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import Any

import pytest

from lightning_tricks.diagnosis import loss_curve
from lightning_tricks.diagnosis.course import Course
from lightning_tricks.diagnosis.loss_curve import (
    Check,
    beginning,
    ends_nonfinite,
    falling,
    finite_mean,
    finite_median,
    in_balance,
    largest_early,
    never_generalises,
    overfitting,
    spike_limit,
    spiking,
    spread,
    vanishing,
)


def curve(*medians: float, **more: Any) -> list[Check]:
    """Checks of ten losses each, every ten steps."""
    return [Check(10 * i + 10, m, m, losses=10, **more) for i, m in enumerate(medians)]


def balance(*medians: float, spread: float = 0.1) -> list[Check]:
    return curve(*medians, spread=spread)


def test_means_leave_out_what_is_not_finite() -> None:
    assert finite_mean([1.0, math.inf, 3.0]) == 2.0
    assert finite_median([1.0, math.nan, 3.0, 8.0]) == 3.0
    assert math.isnan(finite_mean([math.nan])) and math.isnan(finite_median([])) and math.isnan(spread([math.nan]))
    assert spread([1.0, math.inf, 3.0]) == 1.0
    assert beginning([2.3, math.nan, math.nan]) == 2.3


def test_one_bad_batch_is_no_broken_model() -> None:
    assert not ends_nonfinite([1.0, math.nan, 1.0])
    assert not ends_nonfinite([math.nan, math.nan, 1.0])
    assert ends_nonfinite([1.0, math.nan, math.nan, math.inf])
    assert not ends_nonfinite([])


def test_the_largest_early_loss_is_not_one_that_has_run_away() -> None:
    assert largest_early([2.3, 2.0, 2.8, 2.1, 2.2]) == 2.8
    assert largest_early([2.3, 90.0, 1e4, 1e6, 1e7]) == 2.3
    assert largest_early([2.3, math.nan]) == 2.3
    noisy = [0.05, 0.7, 1.4, 0.02, 0.9]
    assert largest_early(noisy) == 1.4 and beginning(noisy) == 0.7, "single samples differ by as much"
    assert beginning([2.3, 1409.0, 523.0, 452.0, 60.0]) == 2.3, "the first one is before any update"


def test_on_its_way_down_is_told_from_noise_at_a_high_level() -> None:
    assert falling(curve(0.5, 6.0, 4.0), 0.5)
    assert not falling(curve(0.5, 6.0, 4.0, 4.2), 0.5)
    assert not falling(curve(0.5), 0.5) and not falling([], 0.5)
    generator = random.Random(0)
    noisy = [5.0 + 0.2 * generator.gauss(0, 1) for _ in range(40)]
    found = [falling(curve(0.5, *noisy[: n + 1]), 0.5) for n in range(40)]
    assert sum(found) <= 4


def test_the_first_loss_of_an_empty_queue_is_an_exception_and_no_beginning() -> None:
    early = [0.009, 3.5, 4.1, 4.1, 4.9, 4.9]
    assert beginning(early) == 4.1 and largest_early(early) == 4.9


@pytest.mark.parametrize("level", [2.0, 0.02, -0.9])
def test_spikes_are_told_from_noise_at_any_level(level: float) -> None:
    generator = random.Random(0)
    usual = [level + 0.05 * abs(level) * generator.gauss(0, 1) for _ in range(150)]
    assert not spiking(usual[100:], usual[:100])
    assert spiking([level + 2 * abs(level)] * 5, usual[:100])
    assert not spiking([level, level + 2 * abs(level), level], usual[:100]), "one of them is a bad batch"
    assert not spiking([1e9] * 5, usual[:49]), "too little is known"
    assert spike_limit(usual) > max(usual)


def test_overfitting_needs_a_turn_and_a_training_that_goes_on() -> None:
    assert overfitting(0.1, [1.0, 0.6, 1.1], 2.3)
    assert not overfitting(0.04, [0.18, 0.06, 0.12, 0.15], 0.7), "most of what was gained is still there"
    assert not overfitting(0.1, [1.0, 0.6, 0.7], 2.3), "a small rise"
    assert not overfitting(0.9, [1.0, 0.6, 1.0], 2.3), "training got worse as well, or dropout raises its loss"
    assert not overfitting(0.001, [0.01, 0.02], 2.3), "both are next to nothing"
    assert overfitting(1e-5, [1e-3, 2e-3], 3e-3), "in a task whose losses are small, the same is much"
    assert not overfitting(math.nan, [1.0, 2.0], 2.3)
    assert not overfitting(0.1, [], 2.3)


@pytest.mark.parametrize("seed", range(5))
def test_a_validation_set_of_few_samples_goes_up_and_down_without_overfitting(seed: int) -> None:
    generator = random.Random(seed)
    noisy = [0.6 * math.exp(0.5 * generator.gauss(0, 1)) for _ in range(40)]
    found = [overfitting(0.1, noisy[: n + 1], 2.3) for n in range(6, 40)]
    assert not any(all(found[n : n + 3]) for n in range(len(found))), "three in a row are an alarm"
    turned = [*noisy[:20], *(1.0 + 0.3 * i for i in range(20))]
    assert overfitting(0.1, turned, 2.3)


def test_vanishing_gradients() -> None:
    assert vanishing([1e-9, 1e-9, 1e-4, 1e-2, 0.3, 0.1])
    assert not vanishing([1e-3, 1e-3, 0.2, 0.3])
    assert not vanishing([1e-6] * 6), "small everywhere: a small loss"
    assert not vanishing([1e-9, 0.5])


def test_a_median_deviation_becomes_the_standard_deviation_of_a_normal_distribution() -> None:
    assert pytest.approx(1 / NormalDist().inv_cdf(0.75), rel=1e-5) == loss_curve.MAD_TO_STD


def test_validation_that_was_never_better_than_before_training_is_of_other_data() -> None:
    assert never_generalises(0.2, [1.0, 1.2, 1.5, 1.6], 1.0)
    assert not never_generalises(0.2, [1.0, 1.2, 1.5], 1.0), "too few"
    assert not never_generalises(0.5, [1.0, 1.2, 1.5, 1.6], 1.0), "training has not learned much either"
    assert not never_generalises(0.2, [1.6, 1.4, 1.2, 1.0], 1.0), "it gets better"
    assert not never_generalises(0.2, [64.0, 65.0, 66.0, 70.0], 1.0), "another unit"
    assert not never_generalises(0.2, [0.5, 0.6, 0.7, 0.9], 1.0), "it had learned"
    assert not never_generalises(-3.0, [1.0, 1.2, 1.5, 1.6], -1.0) and not never_generalises(math.nan, [1.0] * 4, 1.0)


@pytest.mark.parametrize(
    ("start", "checks", "expected"),
    [
        (-0.17, balance(-0.4, -0.85, -0.3, -0.1, -0.15), True),
        (0.05, balance(-3.0, -9.0, -4.0, 0.5, spread=0.4), True),
        (0.0, balance(-1.0, -2.0, -1.0), False),
        (-0.17, balance(-0.4, -0.85, -0.3, 0.5), False),
        (2.3, balance(0.5, 0.1, 1.8, 0.05), False),
        (4.0, balance(-1.0, -6.0, -6.0, 0.1), False),
        (0.1, balance(-30.0, -60.0, -60.0, -3.0, spread=0.5), False),
        (math.nan, balance(-1.0, 0.0), False),
        (0.0, balance(0.0), False),
    ],
    ids=[
        *("energies", "a critic", "on the way", "above 0", "never below", "a likelihood from far above"),
        *("a likelihood that is lost", "unknown", "one check"),
    ],
)
def test_a_difference_that_is_back_at_0_is_told_from_a_loss_that_is_lost(
    start: float, checks: list[Check], expected: bool
) -> None:
    assert in_balance(start, checks) == expected


def test_a_course_of_a_difference_has_no_spike_where_both_terms_agree_again() -> None:
    def stays(*medians: float) -> bool:
        course = Course(3)
        draw = random.Random(0)
        for i, median in enumerate(medians):
            losses = [median + 0.1 * draw.gauss(0, 1) for _ in range(10)]
            course.add(Check(10 * i, 0.0, 0.0, losses=10), losses, [1.0], [1.0])
        return course.stays()

    fell = [-0.1, -0.4, -0.8, -0.9, -0.9, -0.9]
    assert not stays(*fell, 0.0, 0.0, 0.0, 0.0) and stays(*fell, 0.6, 0.6, 0.6, 0.6)
