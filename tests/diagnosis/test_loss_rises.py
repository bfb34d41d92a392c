"""Losses that rise for good, and healthy ones that look like them."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest

from lightning_tricks.diagnosis.loss_curve import (
    Check,
    finite_mean,
    finite_median,
    spread,
)
from lightning_tricks.diagnosis.loss_rises import blow_up, bottomless, divergence, relapse


def curve(*medians: float, **more: Any) -> list[Check]:
    """Checks of ten losses each, every ten steps."""
    return [Check(10 * i + 10, m, m, losses=10, **more) for i, m in enumerate(medians)]


FELL = (2.0, 1.5, 1.0, 0.6, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("early", "medians"),
    [
        ([2.3] * 5, (1.0, 0.5, 2.9, 2.9)),
        ([2.3] * 5, (2.3, 3.0, 5.0, 9.0, 17.0, 30.0)),
        ([-0.1] * 5, (-0.5, -0.9, -0.9, 0.4)),
        ([0.0] * 5, (-0.5, -1.0, -1.0, 0.4)),
    ],
    ids=["what was learned is lost", "a runaway", "a negative loss", "a loss that begins at 0"],
)
def test_divergence_has_a_meaning_for_losses_of_any_sign(early: list[float], medians: tuple[float, ...]) -> None:
    assert divergence(early, curve(*medians)) < 0


@pytest.mark.parametrize(
    ("early", "medians"),
    [
        ([2.3] * 5, (1.0, 1.5, 2.0)),
        ([2.3] * 5, (2.3, 2.4, 2.5, 2.6)),
        ([2.0, 0.4, 3.1, 1.0, 2.5], (0.5, 0.4, 2.9, 2.9)),
        ([2.3] * 5, (1.0, 0.5, 6.0, 4.0)),
        ([0.02] * 5, (0.03, 0.08, 0.15, 0.2, 0.24, 0.26, 0.27)),
        ([0.0] * 5, (3.0, 5.0, 6.0, 6.6, 6.9, 7.0, 7.0)),
        ([-0.1] * 5, (-0.5, -0.9, -0.5)),
        ([2.3] * 5, ()),
        ([2.3] * 5, (math.nan, math.nan, math.nan)),
    ],
    ids=[
        "below its beginning",
        "hardly above it",
        "below the largest of noisy first losses",
        "new classes: it falls again",
        "the errors of a value network grow with its values",
        "a queue of negatives fills",
        "negative, and below its beginning",
        "no check yet",
        "nothing finite",
    ],
)
def test_a_rise_that_has_another_reason_is_no_divergence(early: list[float], medians: tuple[float, ...]) -> None:
    bad = [divergence(early, curve(*medians[:n])) < 0 for n in range(len(medians) + 1)]
    assert not any(a and b for a, b in pairwise(bad)), "two in a row are an alarm"


def test_the_same_rise_is_a_divergence_after_updates_that_were_too_large() -> None:
    rise = (2.3, 3.5, 3.6, 3.6)
    assert divergence([2.3] * 5, curve(*rise, ratio=1e-3)) >= 0
    assert divergence([2.3] * 5, curve(*rise, ratio=0.2)) < 0


def test_a_loss_that_only_rises_is_a_divergence_once_the_same_data_have_become_worse_for_long() -> None:
    medians = [2.3, *[2.9 - 0.3 * 0.9**i for i in range(40)]]
    assert divergence([2.3] * 5, curve(*medians)) >= 0, "other data may be harder"
    same = [c._replace(fixed=c.median) for c in curve(*medians)]
    assert divergence([2.3] * 5, same) < 0
    assert divergence([2.3] * 5, same[:25]) >= 0


def test_a_run_of_sixteen_updates_is_too_short_to_say_anything() -> None:
    short = [Check(i + 1, m, m, losses=1) for i, m in enumerate([90.0, 100.0, 80.0, 95.0, *[200.0] * 12])]
    assert divergence([90.0, 100.0, 80.0, 95.0, 200.0], short) == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_losses_of_single_samples_differ_and_do_not_diverge(seed: int) -> None:
    generator = random.Random(seed)
    losses = [generator.expovariate(1.0) for _ in range(1000)]
    checks = [
        Check(10 * i + 10, finite_mean(part), finite_median(part), ratio=0.05, spread=spread(part), losses=10)
        for i, part in enumerate(losses[n : n + 10] for n in range(0, 1000, 10))
    ]
    margins = [divergence(losses[:10], checks[: n + 1]) for n in range(100)]
    assert not any(a < 0 and b < 0 for a, b in pairwise(margins)), "two in a row are an alarm"


def test_a_relapse_is_told_from_harder_data_new_classes_and_terms_that_grow() -> None:
    assert relapse(2.3, curve(*FELL, 1.8, 1.8, 1.8))
    assert not relapse(2.3, curve(*FELL, 1.8, 1.4, 1.1)), "it falls again"
    assert not relapse(2.3, curve(*FELL, 0.9, 0.9, 0.9)), "less than half of the gain"
    assert not relapse(2.3, curve(*FELL, *(0.5 + 0.1 * i for i in range(14)))), "slowly, as a term that is annealed"
    assert not relapse(2.3, curve(*[2.3] * 10)) and not relapse(2.3, curve(*FELL[:4]))
    jump = curve(*FELL, 1.8, 1.8, 1.8)
    assert relapse(2.3, [c._replace(fixed=c.median) for c in jump])
    assert not relapse(2.3, [c._replace(fixed=0.5) for c in jump]), "the first batch is as good: harder data"
    assert not relapse(2.3, [c._replace(spread=5.0) for c in jump]), "single batches differ by as much"


def test_a_relapse_is_more_than_the_best_of_many_noisy_checks_is_low_by_chance() -> None:
    # a weak signal: the loss falls by a tenth and then varies from batch to batch
    alarms, found = 0, 0
    for seed in range(60):
        draw = random.Random(seed)
        noisy = [0.75, 0.71, *(0.68 + 0.02 * draw.gauss(0, 1) for _ in range(40))]
        alarms += any(relapse(0.75, curve(*noisy[:n])) for n in range(6, 43))
        found += relapse(0.75, curve(*noisy, 0.63, *(0.80 + 0.02 * draw.gauss(0, 1) for _ in range(4))))
    assert alarms <= 1 and found >= 40


def test_a_blow_up_is_told_from_a_bad_start_that_recovers() -> None:
    violent = [Check(10, 90.0, 4.0, ratio=0.7, losses=10), *curve(2.4, 2.35, 2.4, 2.38, ratio=1e-5)]
    found = blow_up([2.3] * 5, violent)
    assert found is not None and found.mean == 90.0
    assert blow_up([2.3] * 5, violent[:4]) is None, "too early"
    gentle = [c._replace(ratio=1e-3) for c in violent]
    assert blow_up([2.3] * 5, gentle) is None, "the updates were not large: other data"
    grew = [c._replace(weights=1.0 if i == 0 else 40.0) for i, c in enumerate(gentle)]
    assert blow_up([2.3] * 5, grew) is not None, "between two checks"
    learns = [violent[0], *curve(2.4, 2.2, 1.9, 1.7, ratio=1e-3)]
    assert blow_up([2.3] * 5, learns) is None
    slowly = [violent[0], *curve(2.8, 2.7, 2.6, 2.5, 2.4, 2.3, ratio=1e-3)]
    assert blow_up([2.3] * 5, slowly) is None, "still coming down"


def test_a_loss_below_0_that_goes_to_0_has_not_diverged_and_one_that_goes_beyond_has() -> None:
    early = [-2.7, -2.6, -2.5, -2.8, -2.4, -2.2, -2.0, -1.9, -1.8, -1.8]

    def course(*medians: float) -> list[Check]:
        return [Check(10 * i, m, m, ratio=0.06, losses=10) for i, m in enumerate(medians)]

    assert divergence(early, course(-2.2, -1.6, -0.9, -0.3, 0.0)) >= 0
    assert divergence(early, course(-2.2, -1.6, 0.5, 3.0, 9.0)) < 0


def test_a_fall_that_does_not_slow_down_is_bottomless_where_no_likelihood_is_as_large() -> None:
    def curve(fall: Any, extent: float = 2.0) -> list[Check]:
        return [Check(10 * i, -fall(i), -fall(i), extent=extent) for i in range(40)]

    assert bottomless(-0.2, curve(lambda i: 8.0 * i))  # two numbers in a sample: 160 for each
    assert not bottomless(-0.2, curve(lambda i: 2.0 * i))  # 39 for each: of data that are far smaller than 1
    assert not bottomless(-0.2, curve(lambda i: 8.0 * i, extent=784.0))  # images
    assert not bottomless(-8.0, curve(lambda i: 8.0 * i))  # 40 times the first loss: a sum over the batch
    assert not bottomless(-0.2, curve(lambda i: 300 * (1 - 0.9**i)))  # slows down
    assert not bottomless(-0.2, [*curve(lambda i: 8.0 * i), *[Check(500, -320.0, -320.0, extent=2.0)] * 14])  # ended
