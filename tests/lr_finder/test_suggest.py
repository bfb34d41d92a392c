from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.lr_finder.suggest import (
    RULES,
    best_candidate,
    has_turned,
    judge,
    minimum,
    slide,
    steepest,
    valley,
)
from lightning_tricks.lr_finder.sweep import rates

LRS = rates(1e-7, 10.0, 81)  # ten per decade


def bowl(fall: float = 1e-3, turn: float = 1e-1, first: float = 2.0) -> list[float]:
    """A loss that falls linearly in the logarithm from ``fall`` to ``turn``, from ``first`` to 1, and then rises."""
    out = []
    for lr in LRS:
        x = (math.log10(lr) - math.log10(fall)) / (math.log10(turn) - math.log10(fall))
        out.append(first if x < 0 else first - (first - 1.0) * x if x <= 1 else 1.0 + 4.0 * (x - 1) ** 2)
    return out


def test_the_rules_on_a_curve_with_known_corners() -> None:
    losses = bowl()
    assert minimum(LRS, losses, 2.0) == pytest.approx(1e-2)
    assert valley(LRS, losses, 2.0) == pytest.approx(1e-2, rel=0.5), "half-way from 1e-3 to 1e-1"
    assert 1e-3 <= (steepest(LRS, losses, 2.0) or 0) <= 1e-1
    assert 1e-3 <= (slide(LRS, losses, 2.0) or 0) <= 1e-1


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


def test_what_speaks_against_a_suggestion_is_said() -> None:
    losses = bowl()
    found = {name: rule(LRS, losses, 2.0) or 0.0 for name, rule in RULES.items()}
    assert judge(found["minimum"], found, LRS, losses, losses, 2.0, True) == []

    def reasons(**changed: object) -> str:
        arguments = {"suggestion": found["minimum"], "suggestions": found, "lrs": LRS, "losses": losses,
                     "smooth": losses, "first": 2.0, "turned": True}  # fmt: skip
        return "; ".join(judge(**{**arguments, **changed}))  # type: ignore[arg-type]

    assert reasons(turned=False) == "", "a loss may be bounded"
    assert "only 20 points" in reasons(lrs=LRS[-20:], losses=losses[-20:], smooth=losses[-20:])
    assert "the loss never fell" in reasons(suggestion=None)
    noisy = [x + (-1) ** i for i, x in enumerate(losses)]
    assert "rates that do nothing" in reasons(losses=noisy)
    apart = {"minimum": 1e-2, "slide": 1.0, "valley": 1e-6, "steepest": 1e-5}
    assert "more than a decade apart (minimum 0.01, slide 1, valley 1e-06" in reasons(suggestions=apart)
    early = [1.0, *losses[1:]]
    assert "lower min_lr" in reasons(smooth=[0.5, *early[1:]])


def test_turning_is_losing_half_of_the_gain() -> None:
    assert has_turned(bowl(), 2.0, False)
    assert not has_turned(bowl()[:61], 2.0, False)
    assert has_turned([], 2.0, True)


def test_of_the_candidates_the_smallest_good_one_is_taken() -> None:
    assert best_candidate({0.1: 1.0, 0.3: 0.5, 1.0: 0.48}, 2.0) == 0.3
    assert best_candidate({0.1: math.inf, 0.3: math.nan}, 2.0) is None
    assert best_candidate({0.1: 3.0, 0.3: 4.0}, 2.0) == 0.1
