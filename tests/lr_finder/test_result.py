from __future__ import annotations

import math

import pytest

from lightning_tricks.lr_finder.result import Result, judged_result
from tests.lr_finder.curves import LRS, bowl


def result(losses: list[float], first: float | None = 2.0, rule: str = "minimum") -> Result:
    return judged_result(rule, LRS[: len(losses)], losses, losses, first, ended=False)


def test_a_clear_curve_is_believed_and_every_rule_is_told() -> None:
    found = result(bowl())
    assert found.confident and found.diverged and not found.reasons
    assert found.suggestion == found.suggestions["minimum"] == pytest.approx(1e-2)
    assert result(bowl(), rule="valley").suggestion == found.suggestions["valley"]
    assert all(f"{name} " in found.told for name in ("minimum", "slide", "valley", "steepest", "center"))


def test_a_sweep_without_losses_gives_its_one_reason() -> None:
    assert result([]).reasons == ["no finite loss"]
    assert result([], first=None).reasons == ["the loss is not finite before the first update"]
    assert math.isnan(result([], first=None).first_loss)
    assert result(bowl(), first=math.inf).reasons == ["the loss is not finite before the first update"]
    assert result([]).told == "none" and result([]).suggestion is None


def test_a_bake_off_moves_a_suggestion_that_was_believed_and_keeps_it_where_all_diverged() -> None:
    found = result(bowl())
    refined = found.refined({0.003: 1.5, 0.01: 1.01, 0.03: 1.0, 0.1: math.inf})
    assert refined.suggestion == 0.01, "the smallest that is about as good"
    assert refined.bake_off[0.1] == math.inf and refined.confident
    assert found.refined({0.01: math.inf}).suggestion == found.suggestion


def test_a_bake_off_decides_where_the_sweep_learnt_too_little() -> None:
    little = result([2.0 - 0.01 * (2.0 - loss) for loss in bowl()[:61]])
    assert not little.confident and little.may_be_refined
    learnt = little.refined({0.001: 1.9, 0.01: 1.0})
    assert learnt.confident and learnt.suggestion == 0.01 and learnt.reasons == []
    nothing = little.refined({0.001: 1.999, 0.01: 1.998})
    assert not nothing.confident and nothing.reasons[-1] == "no rate of the bake-off did better"
    assert nothing.suggestion == little.suggestion


def test_what_a_bake_off_cannot_repair_is_not_tried() -> None:
    assert not result(bowl()[-20:], first=5.0).may_be_refined, "too few points"
    assert not result(bowl(), first=math.nan).may_be_refined
