"""Rules on curves: each with failing ones, and with healthy ones that look like them."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
import torch

from lightning_tricks.diagnosis import loss_curve
from lightning_tricks.diagnosis.course import Course
from lightning_tricks.diagnosis.loss_curve import (
    Check,
    at_floor,
    beginning,
    blow_up,
    bottomless,
    divergence,
    ends_nonfinite,
    falling,
    finite_mean,
    finite_median,
    in_balance,
    largest_early,
    never_generalises,
    never_moves,
    never_warms_up,
    overfitting,
    ran_out,
    relapse,
    shrinking,
    spike_limit,
    spiking,
    spread,
    vanishing,
)


def curve(*medians: float, **more: Any) -> list[Check]:
    """Checks of ten losses each, every ten steps."""
    return [Check(10 * i + 10, m, m, losses=10, **more) for i, m in enumerate(medians)]


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


FELL = (2.0, 1.5, 1.0, 0.6, 0.5, 0.5, 0.5)


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


def test_a_rate_that_is_gone_early_is_told_from_schedules_that_end_or_begin_low() -> None:
    def rates(*values: float) -> list[Check]:
        return [Check(10 * i + 10, 2.3, 2.3, rate=r, ratio=0.1 * r) for i, r in enumerate(values)]

    steps = torch.arange(100) / 100
    cosine = (0.5 + 0.5 * torch.cos(math.pi * steps)).tolist()
    restarts = (0.5 + 0.5 * torch.cos(math.pi * (5 * steps % 1))).tolist()
    rise = [10 ** (-8 + 0.4 * i) for i in range(20)]
    for schedule in (cosine, restarts, rise, [0.1] * 100, (0.97 ** (100 * steps)).tolist()):
        bad = [ran_out(rates(*schedule[:n]), 1000) for n in range(1, len(schedule) + 1)]
        assert not any(a and b and c for a, b, c in zip(bad, bad[1:], bad[2:], strict=False))
    assert ran_out(rates(0.1, 0.01, 1e-3, 1e-6, 1e-9), 1000)
    assert ran_out([c._replace(ratio=1e-9, rate=1e-8) for c in rates(0.1, 0.1, 0.1)], 1000), "before the first check"
    resting = [
        c._replace(ratio=1e-9, fixed=loss) for c, loss in zip(rates(0.1, 0.1, 0.1), (2.0, 1.8, 1.6), strict=True)
    ]
    assert not ran_out(resting, 1000), "most weights rest, as those of experts that are not chosen, and others learn"
    assert ran_out([c._replace(fixed=2.0) for c in resting], 1000)
    assert not ran_out(rates(*[math.nan] * 5), 1000) and not ran_out(rates(0.1, 1e-9), 0)


def test_the_first_loss_of_an_empty_queue_is_an_exception_and_no_beginning() -> None:
    early = [0.009, 3.5, 4.1, 4.1, 4.9, 4.9]
    assert beginning(early) == 4.1 and largest_early(early) == 4.9


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


def test_no_gradients_at_the_floor_of_the_loss_are_a_success() -> None:
    assert at_floor(0.2, curve(0.1, 0.02, 0.0)), "every triplet keeps its margin"
    assert at_floor(0.2, curve(0.0)), "already before training"
    assert at_floor(1.0, curve(0.5, 0.3, 0.3)), "a floor that is not 0"
    assert not at_floor(0.2, curve(0.2, 0.2)), "all embeddings are the same: the loss is the margin"
    assert not at_floor(1.0, curve(0.4, 0.9)) and not at_floor(1.0, [])


def test_weights_that_shrink_to_nothing_are_told_from_an_equilibrium() -> None:
    def weights(*shares: float, loss: float = 2.3) -> list[Check]:
        return [Check(i, loss, loss, weights=w) for i, w in enumerate(shares)]

    assert shrinking(2.3, weights(*(0.8**i for i in range(12))))
    assert shrinking(2.3, weights(*([1.0] + [1e-4] * 12))), "they are gone, and fall no more"
    assert not shrinking(2.3, weights(*(max(0.2, 0.8**i) for i in range(30)))), (
        "an equilibrium, as of normalised layers"
    )
    assert not shrinking(2.3, weights(*(0.8**i for i in range(12)), loss=0.3)), "learned: a sparse network"
    better = [Check(i, 2.3 - 0.1 * i, 2.3 - 0.1 * i, weights=0.8**i) for i in range(12)]
    assert not shrinking(2.3, better), "the loss gets better"
    assert not shrinking(2.3, weights(*(0.9**i for i in range(6)))), "not yet by much"


def test_a_median_deviation_becomes_the_standard_deviation_of_a_normal_distribution() -> None:
    assert pytest.approx(1 / NormalDist().inv_cdf(0.75), rel=1e-5) == loss_curve.MAD_TO_STD


def test_weights_that_a_whole_run_changes_by_less_than_a_hundredth_never_move() -> None:
    still = [Check(10 * i + 10, 0.7, 0.7, rate=2e-8, ratio=4e-7, fixed=0.7) for i in range(8)]
    assert never_moves(0.7, still, 1000)
    assert not never_moves(0.7, still[:7], 1000), "too early"
    assert not never_moves(0.7, still, 0), "nobody knows how long it will train"
    assert not never_moves(0.7, still, 10**6), "a long run moves them after all"
    assert not never_moves(0.7, [c._replace(fixed=0.7 - 0.01 * i) for i, c in enumerate(still)], 1000), "it learns"
    warm = [c._replace(rate=1e-8 * (i + 1)) for i, c in enumerate(still)]
    assert not never_moves(0.7, warm, 1000), "the rate rises"
    unknown = [c._replace(fixed=math.nan) for c in still]
    assert never_moves(0.7, unknown, 1000)
    assert not never_moves(0.7, [*unknown[:-1], unknown[-1]._replace(median=0.6)], 1000)


def test_a_warm_up_that_is_longer_than_the_run_never_ends() -> None:
    def rising(n: int, step: float = 1e-6) -> list[Check]:
        return [Check(10 * i + 10, 4.0, 4.0, rate=step * (i + 1)) for i in range(n)]

    assert never_warms_up(rising(45), 1e-2, 1000)
    assert not never_warms_up(rising(39), 1e-2, 1000), "the first 40 % of a run"
    assert not never_warms_up(rising(45, 1e-4), 1e-2, 1000), "it gets there"
    assert not never_warms_up(rising(45), math.nan, 1000) and not never_warms_up(rising(45), 1e-2, 0)
    falling = [*rising(45), Check(460, 4.0, 4.0, rate=1e-7)]
    assert not never_warms_up(falling, 1e-2, 1000), "a decay"


def test_validation_that_was_never_better_than_before_training_is_of_other_data() -> None:
    assert never_generalises(0.2, [1.0, 1.2, 1.5, 1.6], 1.0)
    assert not never_generalises(0.2, [1.0, 1.2, 1.5], 1.0), "too few"
    assert not never_generalises(0.5, [1.0, 1.2, 1.5, 1.6], 1.0), "training has not learned much either"
    assert not never_generalises(0.2, [1.6, 1.4, 1.2, 1.0], 1.0), "it gets better"
    assert not never_generalises(0.2, [64.0, 65.0, 66.0, 70.0], 1.0), "another unit"
    assert not never_generalises(0.2, [0.5, 0.6, 0.7, 0.9], 1.0), "it had learned"
    assert not never_generalises(-3.0, [1.0, 1.2, 1.5, 1.6], -1.0) and not never_generalises(math.nan, [1.0] * 4, 1.0)


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


def balance(*medians: float, spread: float = 0.1) -> list[Check]:
    return curve(*medians, spread=spread)


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
