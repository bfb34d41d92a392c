from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.lr_finder.suggest import RULES, center, minimum, slide, steepest, valley
from tests.lr_finder.curves import LRS, bowl


def test_the_rules_on_a_curve_with_known_corners() -> None:
    losses = bowl()
    assert minimum(LRS, losses, 2.0) == pytest.approx(1e-2)
    assert valley(LRS, losses, 2.0) == pytest.approx(1e-2, rel=0.5), "half-way from 1e-3 to 1e-1"
    assert 1e-3 <= (steepest(LRS, losses, 2.0) or 0) <= 1e-1
    assert 1e-3 <= (slide(LRS, losses, 2.0) or 0) <= 1e-1


@pytest.mark.parametrize("middle", [1e-4, 3e-3, 0.1])
def test_the_center_of_a_symmetric_fall_is_a_quarter_of_its_middle(middle: float) -> None:
    losses = [2.0 - math.exp(-((math.log10(lr / middle)) ** 2) / 0.2) for lr in LRS]
    assert center(LRS, losses, 2.0) == pytest.approx(middle / 4.0, rel=1e-2)


def test_the_center_is_numpys_weighted_mean_of_the_logarithms() -> None:
    losses = bowl(fall=1e-4, turn=3e-2)
    found = numpy.average(numpy.log10(LRS), weights=numpy.clip(2.0 - numpy.array(losses), 0.0, None))
    assert center(LRS, losses, 2.0) == pytest.approx(10.0**found / 4.0)


def test_noise_on_the_curve_moves_the_center_less_than_the_minimum() -> None:
    draw = numpy.random.default_rng(0)
    flat = [max(loss, 1.2) for loss in bowl(fall=1e-4, turn=1e-1)]
    noisy = [[loss + 0.05 * draw.standard_normal() for loss in flat] for _ in range(50)]
    spread = {
        name: numpy.std([math.log10(RULES[name](LRS, losses, 2.0) or 0.0) for losses in noisy])
        for name in ("minimum", "center")
    }
    assert spread["center"] < 0.3 * spread["minimum"]


def test_the_steepest_point_is_found() -> None:
    losses = [2.0 - 1.0 / (1.0 + math.exp(-8.0 * (math.log10(lr) + 3.0))) for lr in LRS]
    assert steepest(LRS, losses, 2.0) == pytest.approx(1e-3, rel=1e-6)


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3))
def test_suggestions_do_not_depend_on_the_losses_scale_or_offset(offset: float, scale: float) -> None:
    def curve(lr: float) -> float:
        x = math.log10(lr)
        return 2.0 - 1.0 / (1.0 + math.exp(-4.0 * (x + 2.5))) + max(0.0, x + 1.0) ** 2

    plain = [curve(lr) for lr in LRS]
    moved = [scale * x + offset for x in plain]
    for name, rule in RULES.items():
        if abs(scale) < 1e-3 * abs(offset):  # rounding eats the curve
            continue
        assert rule(LRS, moved, 2.0 * scale + offset) == pytest.approx(rule(LRS, plain, 2.0), rel=0.3), name


def test_a_flat_or_rising_curve_gives_no_suggestion() -> None:
    for losses in ([2.0] * 81, [2.0 + i for i in range(81)], []):
        assert all(rule(LRS[: len(losses)], losses, 2.0) is None for rule in RULES.values())
