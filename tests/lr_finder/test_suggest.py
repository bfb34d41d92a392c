from __future__ import annotations

import itertools
import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.lr_finder.suggest import (
    RULES,
    best_candidate,
    candidates,
    center,
    has_learnt,
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


def _reasons(losses: list[float], first: float, lrs: list[float] = LRS, **more: bool) -> str:
    found = {name: lr for name, rule in RULES.items() if (lr := rule(lrs, losses, first)) is not None}
    arguments = {"turned": has_turned(losses, first, False), **more}
    return "; ".join(judge(found.get("minimum"), found, lrs, losses, losses, first, **arguments))


def test_a_bounded_loss_that_never_rises_is_believed() -> None:
    losses = [2.0 - 1.0 / (1.0 + math.exp(-8.0 * (math.log10(lr) + 1.5))) for lr in LRS]
    assert not has_turned(losses, 2.0, False)
    assert _reasons(losses, 2.0) == ""


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize(("fall", "believed"), [(0.001, False), (0.019, False), (0.021, True), (0.9, True)])
def test_a_fall_of_less_than_two_percent_is_chance(scale: float, fall: float, believed: bool) -> None:
    lrs, losses = LRS[:71], bowl()[:71]  # (it ends where all is lost again)
    curve = [scale * (1.0 - fall * (2.0 - loss)) for loss in losses]
    assert _reasons(curve, scale, lrs) == ("" if believed else "the loss fell by less than 2% of the first one")
    assert "raise max_lr" in _reasons(curve[:61], scale, lrs[:61]) or believed
    assert has_learnt(min(curve), scale) == believed


def test_a_fall_just_before_the_divergence_is_not_lost_in_the_smoothing() -> None:
    losses = [1.0] * 60 + [0.7]
    found = {name: 1e-2 for name in RULES}
    smooth = [1.0 - 1e-4 * i for i in range(61)]
    assert judge(1e-2, found, LRS[:61], losses, smooth, 1.0, True, ended=True) == []


def test_losses_below_0_have_no_share_to_fall_by() -> None:
    lrs, losses = LRS[:71], bowl()[:71]
    assert _reasons([loss - 100.0 for loss in losses], -98.0, lrs) == ""
    assert _reasons([loss - 1.5 for loss in losses], 0.5, lrs) == ""


@pytest.mark.parametrize("fall", [0.05, 0.14, 0.16, 0.5])
def test_a_small_fall_that_far_larger_rates_did_not_end_is_an_easy_mode(fall: float) -> None:
    losses = [1.0 - fall * math.exp(-((math.log10(lr) + 3.0) ** 2) / 0.5) for lr in LRS]  # lowest at 1e-3, up to 10
    assert ("learnt only biases or a mean" in _reasons(losses, 1.0)) == (fall < 0.15)
    assert _reasons(losses, 1.0, settled=True) == ""
    near = LRS.index(pytest.approx(10**-1.6))
    assert _reasons(losses[:near], 1.0, LRS[:near]) == "", "1.4 decades above"


@pytest.mark.parametrize(("turn", "believed"), [(1e-1, True), (5e-2, False), (1e-3, False)])
def test_a_divergence_far_above_the_lowest_point_is_not_believed(turn: float, believed: bool) -> None:
    losses = [min(loss, 2.0) for loss in bowl(fall=turn / 100.0, turn=turn)]
    said = _reasons(losses, 2.0, ended=True)
    assert ("decades above its lowest point" in said) != believed
    assert _reasons(losses, 2.0, ended=False) == "", "a bounded loss may stay as long as it likes"
    assert _reasons(losses, 2.0, ended=True, settled=True) == ""


@given(st.floats(1e-7, 1.0), st.floats(1e-6, 1e3))
def test_the_bake_off_of_a_doubtful_sweep_reaches_a_third_of_its_last_rate(suggestion: float, last: float) -> None:
    near, wide = candidates(suggestion), candidates(suggestion, last)
    assert near == pytest.approx([0.1 * suggestion, 0.3 * suggestion, suggestion, 3.0 * suggestion])
    assert wide[:4] == near and wide == sorted(wide)
    assert all(lr <= last / 3.0 * 1.0001 for lr in wide[4:])
    assert all(high / low < 3.4 for low, high in itertools.pairwise(wide))
    assert wide[-1] * 3.4 > last / 3.0


def test_turning_is_losing_half_of_the_gain() -> None:
    assert has_turned(bowl(), 2.0, False)
    assert not has_turned(bowl()[:61], 2.0, False)
    assert has_turned([], 2.0, True)


def test_of_the_candidates_the_smallest_good_one_is_taken() -> None:
    assert best_candidate({0.1: 1.0, 0.3: 0.5, 1.0: 0.48}, 2.0) == 0.3
    assert best_candidate({0.1: math.inf, 0.3: math.nan}, 2.0) is None
    assert best_candidate({0.1: 3.0, 0.3: 4.0}, 2.0) == 0.1
