"""Hints: true ones, healthy trainings that look like them, and which are shown."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from lightning_tricks.detection.causes import Cause, Hint, Rate
from lightning_tricks.diagnosis.findings import (
    LEAST_CONFIDENCE,
    Finding,
    forgetting,
    oscillation,
    plateau,
    ranked,
    solved,
    too_slow,
    update_size,
    waiting,
)
from lightning_tricks.diagnosis.loss_curve import Check


def curve(*medians: float, **more: Any) -> list[Check]:
    return [Check(50 * i + 50, m, m, losses=50, **more) for i, m in enumerate(medians)]


def finding(kind: Cause | Hint, confidence: float, step: int = 1) -> Finding:
    return Finding(kind, "evidence", confidence, "do it", step)


def test_findings_are_ranked_and_weak_ones_are_not_shown() -> None:
    weak, strong = finding(Hint.PLATEAU, 0.5), finding(Hint.WAITING, 0.8)
    alarm = finding(Cause.OVERFITTING, 0.9, step=9)
    assert ranked([weak, strong, alarm]) == [alarm, strong]
    assert ranked([]) == []


@pytest.mark.parametrize("lower", [k for k in (*Hint, *Cause) if k.rate is Rate.LOWER])
@pytest.mark.parametrize("higher", [k for k in (*Hint, *Cause) if k.rate is Rate.HIGHER])
def test_no_list_asks_for_a_lower_and_a_higher_rate(lower: Cause | Hint, higher: Cause | Hint) -> None:
    for confidences in ((0.7, 0.8), (0.8, 0.7), (0.7, 0.7)):
        shown = ranked([finding(lower, confidences[0]), finding(higher, confidences[1])])
        assert len(shown) == 1
    assert len(ranked([finding(lower, 0.7), finding(Hint.WAITING, 0.7)])) == 2


def test_a_plateau_is_told_where_the_loss_stays_above_its_best() -> None:
    lost = plateau(curve(2.0, 1.5, 1.0, 0.5, 0.5, 0.5, *[1.0] * 10), 1100)
    assert lost is not None and lost.confidence >= LEAST_CONFIDENCE
    assert "at 1, above the 0.5" in lost.evidence
    done = plateau(curve(2.0, 1.5, 1.0, *[0.5] * 13), 1100)
    assert done is not None and done.confidence < LEAST_CONFIDENCE, "what every good end looks like"


def test_what_is_no_plateau() -> None:
    flat = [2.0, 1.5, 1.0, *[0.5] * 13]
    assert plateau(curve(*(2.0 * math.exp(-i / 6) for i in range(16))), 1100) is None, "it falls"
    assert plateau(curve(*flat[:10]), 1100) is None, "too early"
    assert plateau(curve(*[2.0] * 16), 1100) is None, "nothing was gained yet"
    decayed = [c._replace(rate=0.1 * (1 - i / 16)) for i, c in enumerate(curve(*flat))]
    assert plateau(decayed, 1100) is None, "the schedule has lowered the rate"


def test_an_oscillation_is_more_than_batches_that_differ() -> None:
    found = oscillation(curve(*[1.0, 2.5] * 6, spread=0.1))
    assert found is not None and found.confidence >= LEAST_CONFIDENCE
    assert oscillation(curve(*[1.0, 2.5] * 6, spread=5.0)) is None, "single batches differ by as much"
    assert oscillation(curve(*[1.0, 2.5] * 3)) is None, "too early"
    cyclic = [c._replace(rate=0.1 if i % 2 else 0.01) for i, c in enumerate(curve(*[1.0, 2.5] * 6))]
    assert oscillation(cyclic) is None, "the rate goes up and down"
    weak = oscillation(curve(*[1.0, 1.3] * 6))
    assert weak is not None and weak.confidence < LEAST_CONFIDENCE


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_oscillation(seed: int) -> None:
    generator = random.Random(seed)
    noisy = [1.0 + 0.4 * generator.gauss(0, 1) for _ in range(40)]
    checks = curve(*noisy, spread=0.4 * math.sqrt(50))
    assert all(oscillation(checks[: n + 1]) is None for n in range(40))


def test_a_rate_that_is_too_low() -> None:
    slow = curve(*[2.3] * 6, ratio=1e-6, rate=1e-6)
    found = too_slow(slow, 2.3)
    assert found is not None
    assert str(found).startswith("learning rate too low (step 300, confidence 70%)")
    assert too_slow([c._replace(ratio=1e-3) for c in slow], 2.3) is None
    assert too_slow(curve(2.0, 1.5, 1.0, 0.5, 0.3, ratio=1e-6), 2.3) is None, "it learns"
    warming = [c._replace(rate=1e-6 * (i < 5) + 1e-3 * (i < 1)) for i, c in enumerate(slow)]
    assert too_slow(warming, 2.3) is None, "at the end of a decay"
    assert too_slow(slow[:4], 2.3) is None


def test_the_size_of_updates_alone_is_never_shown() -> None:
    assert update_size(1e-3, 1) is None and update_size(math.nan, 1) is None
    for ratio, kind in ((1e-6, Hint.SMALL_UPDATES), (1.0, Hint.LARGE_UPDATES)):
        found = update_size(ratio, 1)
        assert found is not None and found.kind is kind and found.confidence < LEAST_CONFIDENCE


def test_waiting_counts_in_seconds_that_matter() -> None:
    assert waiting(60.0, 100.0, 1) is not None
    assert waiting(40.0, 100.0, 1) is None
    assert waiting(1.0, 1.1, 1) is None and waiting(0.0, 0.0, 1) is None


def test_what_was_learned_and_is_lost_while_present_data_are_learned_is_forgotten() -> None:
    losses = [(2.0, 1.8), (0.5, 0.4), (0.3, 0.2), (0.3, 6.0), (0.2, 6.1), (0.1, 6.2)]
    checks = [Check(i, m, m, fixed=f) for i, (m, f) in enumerate(losses)]
    found = forgetting(checks, 2.0)
    assert found is not None and "fallen to 0.2 and is 6.2, above the 2" in found.evidence
    assert forgetting([c._replace(fixed=c.median) for c in checks], 2.0) is None
    assert forgetting([c._replace(median=3.0) for c in checks], 2.0) is None, "present data are lost too: a divergence"
    mislabelled = [Check(i, m, m, fixed=2.0 + i) for i, (m, _) in enumerate(losses)]
    assert forgetting(mislabelled, 2.0) is None, "the first batch was never learned"


def test_a_solved_task() -> None:
    assert solved(curve(0.5, 0.05, 0.05, 0.05), 2.3)
    assert not solved(curve(0.5, 0.4), 2.3) and not solved([], 2.3)
    assert not solved(curve(-1.0, -2.0), -0.1), "a loss below 0 has no floor that is known"


def test_a_loss_below_0_that_has_come_to_0_is_no_lost_plateau() -> None:
    course = [-0.2, -0.9, -1.0, -0.8, -0.5, -0.3, -0.1, *[0.0] * 9]
    found = plateau([Check(50 * i, m, m, rate=0.1) for i, m in enumerate(course)], 1000)
    assert found is None or found.confidence == 0.5
    lost = [2.0, 0.9, -0.9, -1.0, -1.0, -0.9, -0.9, *[0.8] * 9]
    again = plateau([Check(50 * i, m, m, rate=0.1) for i, m in enumerate(lost)], 1000)
    assert again is not None and again.confidence == 0.65
