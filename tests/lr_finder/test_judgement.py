from __future__ import annotations

import math

import pytest

from lightning_tricks.lr_finder.judgement import has_learnt, has_turned, judge
from lightning_tricks.lr_finder.suggest import RULES
from tests.lr_finder.curves import LRS, bowl


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


def test_turning_is_losing_half_of_the_gain() -> None:
    assert has_turned(bowl(), 2.0, False)
    assert not has_turned(bowl()[:61], 2.0, False)
    assert has_turned([], 2.0, True)


def test_a_loss_that_comes_to_0_at_large_rates_may_only_count_nothing_any_more() -> None:
    losses = [max(x - 1.0, 0.0) if lr > 0.1 else x for lr, x in zip(LRS, bowl(), strict=True)]
    reached = [*losses[:-5], *[0.0] * 5]
    assert "the loss comes to exactly 0" in _reasons(reached, 2.0)
    assert "exactly 0" not in _reasons(bowl(), 2.0)
