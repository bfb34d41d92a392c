from __future__ import annotations

import math
import random

import pytest

from lightning_tricks.diagnosis import loss_curve
from lightning_tricks.diagnosis.loss_curve import (
    beginning,
    divergence,
    ends_nonfinite,
    finite_mean,
    named,
    oscillation,
    overfitting,
    plateau,
    spiking,
    too_slow,
    update_advice,
    vanishing,
    waiting,
)


def test_means_leave_out_what_is_not_finite() -> None:
    assert finite_mean([1.0, math.inf, 3.0]) == 2.0
    assert math.isnan(finite_mean([math.nan]))
    assert beginning([2.3, math.nan, math.nan]) == 2.3


def test_one_bad_batch_is_no_broken_model() -> None:
    assert not ends_nonfinite([1.0, math.nan, 1.0])
    assert not ends_nonfinite([math.nan, math.nan, 1.0])
    assert ends_nonfinite([1.0, math.nan, math.nan, math.inf])
    assert not ends_nonfinite([])


@pytest.mark.parametrize(
    ("means", "diverged"),
    [
        ([2.3, 1.0, 2.0], False),
        ([2.3, 2.5, 2.7], False),
        ([2.3, 1.0, 2.8], True),
        ([-0.1, -0.9, -0.5], False),
        ([-0.1, -0.9, 0.3], True),
        ([0.0, -1.0, 0.1], False),
        ([2.3], False),
        ([2.3, math.nan, 1.0], False),
    ],
)
def test_divergence_has_a_meaning_for_losses_of_any_sign(means: list[float], diverged: bool) -> None:
    assert (divergence(means) < 0) is diverged


@pytest.mark.parametrize("level", [2.0, 0.02, -0.9])
def test_spikes_are_told_from_noise_at_any_level(level: float) -> None:
    generator = random.Random(0)
    usual = [level + 0.05 * abs(level) * generator.gauss(0, 1) for _ in range(150)]
    assert not spiking(usual[100:], usual[:100])
    assert spiking([level + 2 * abs(level)] * 5, usual[:100])
    assert not spiking([level, level + 2 * abs(level), level], usual[:100]), "one of them is a bad batch"
    assert not spiking([1e9] * 5, usual[:49]), "too little is known"


def test_plateau_and_oscillation() -> None:
    steps = list(range(0, 1000, 50))
    falling = [2.0 * math.exp(-s / 300) for s in steps]
    flat = [2.0 * math.exp(-s / 60) for s in steps]
    assert plateau(steps, falling, 1000) is None
    assert "in the last 200 steps" in (plateau(steps, flat, 1000) or "")
    assert plateau(steps[:3], flat[:3], 1000) is None
    assert oscillation([1.0, 1.6] * 6) is not None
    assert oscillation(falling) is None
    assert oscillation([1.0, 2.0]) is None


def test_overfitting_needs_a_turn_and_a_training_that_goes_on() -> None:
    assert overfitting(0.1, [1.0, 0.6, 1.0])
    assert not overfitting(0.1, [1.0, 0.6, 0.7]), "a small rise"
    assert not overfitting(0.9, [1.0, 0.6, 1.0]), "training got worse as well"
    assert not overfitting(0.001, [0.01, 0.02]), "both are next to nothing"
    assert not overfitting(math.nan, [1.0, 2.0])
    assert not overfitting(0.1, [])


def test_vanishing_gradients() -> None:
    assert vanishing([1e-9, 1e-9, 1e-4, 1e-2, 0.3, 0.1])
    assert not vanishing([1e-3, 1e-3, 0.2, 0.3])
    assert not vanishing([1e-6] * 6), "small everywhere: a small loss"
    assert not vanishing([1e-9, 0.5])


def test_advice_on_updates_and_data() -> None:
    assert update_advice(1e-3, 1) is None
    assert update_advice(math.nan, 1) is None
    assert (update_advice(1e-6, 1) or update_advice(1.0, 1)).kind == "small updates"  # type: ignore[union-attr]
    assert too_slow([2.3, 2.0, 1.0, 0.5, 0.3], 1e-6, 1) is None
    assert too_slow([2.3] * 5, 1e-3, 1) is None
    found = too_slow([2.3] * 5, 1e-6, 7)
    assert found is not None
    assert str(found).startswith("learning rate too low (step 7, confidence 70%)")
    assert waiting(0.4, 1.0, 1) is None
    assert waiting(1.0, 0.0, 1) is None


@pytest.mark.parametrize(
    ("alarm", "values", "cause", "words"),
    [
        ("finite", {}, "non-finite values", "first 'net.2.weight'"),
        ("divergence", {}, "divergence", "began at 2 and is 9"),
        ("flow", {"first_gradient": 1e-9, "last_gradient": 0.2}, "vanishing gradients", "1e-09 in the first layer"),
        ("flow", {"_silent": 1.0}, "no gradients", "no parameter of the optimizer gets a gradient"),
        ("spike", {}, "loss spikes", "jumped from about 2 to 9"),
        ("generalisation", {}, "overfitting", "rose from 0.5 to 0.9"),
    ],
)
def test_every_alarm_has_a_name_evidence_and_advice(
    alarm: str, values: dict[str, float], cause: str, words: str
) -> None:
    found, evidence, advice = named(alarm, values, [2.0, 9.0], [0.5, 0.9], "first 'net.2.weight'")
    assert found == cause
    assert words in evidence
    assert len(advice) == 3
    assert pytest.approx(1 / 0.6745, rel=1e-3) == loss_curve.MAD_TO_STD
