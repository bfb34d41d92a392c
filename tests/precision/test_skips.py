from __future__ import annotations

import math

import pytest

from lightning_tricks.modules.trace import Call
from lightning_tricks.precision import skips
from lightning_tricks.precision.skips import StreakRule, overflows

CALL = {"fine": Call("a", 1.0, 2.0), "bad": Call("b", 2.0, math.inf), "mask": Call("m", 2.0, math.inf, masks=True)}


@pytest.mark.parametrize(
    ("calls", "loss", "data", "kind", "module"),
    [
        (["fine", "bad"], False, True, "forward overflow", "b"),
        (["fine", "bad"], False, False, "nonfinite input", ""),
        (["fine"], False, True, "loss overflow", ""),
        (["mask", "bad"], False, True, "forward overflow", "b"),
        (["mask", "fine"], False, True, "loss overflow", ""),
    ],
)
def test_a_forward_pass_is_explained(calls: list[str], loss: bool, data: bool, kind: str, module: str) -> None:
    found = skips.explain([CALL[c] for c in calls], loss_finite=loss, input_finite=data, step=3)
    assert found is not None
    assert (found.kind, found.module, found.step) == (kind, module, 3)


def test_a_function_between_modules_and_broken_weights_are_told_apart() -> None:
    between = skips.explain([Call("b", math.inf, math.inf)], loss_finite=False, input_finite=True, step=0)
    assert between is not None
    assert between.module == "before b"
    weight = skips.explain([Call("b", 1.0, math.inf, False)], loss_finite=False, input_finite=True, step=0)
    assert weight is not None
    assert weight.kind == "nonfinite weight"
    assert skips.explain([CALL["mask"]], loss_finite=True, input_finite=True, step=0) is None
    assert skips.explain([CALL["fine"]], loss_finite=True, input_finite=True, step=0) is None


def test_a_streak_is_unrecoverable_at_a_small_scale_or_when_it_is_twice_as_long() -> None:
    """A scale of 2^16 that is halved at each skip: from how many skips on is it no search for a scale any more?"""
    rule = StreakRule()
    scales = [2.0**16 / 2**streak for streak in range(20)]
    assert next(streak for streak, scale in enumerate(scales) if rule.unrecoverable(streak, scale)) == 12
    assert next(streak for streak in range(40) if rule.unrecoverable(streak, 2.0**16)) == 16
    assert next(streak for streak in range(40) if rule.unrecoverable(streak, 1.0)) == 8


@pytest.mark.parametrize(("attempts", "most"), [(0, 10), (99, 11), (100, 11), (101, 12), (5000, 60)])
def test_forward_passes_are_run_again_in_ten_attempts_and_in_one_percent_of_all(attempts: int, most: int) -> None:
    assert sum(StreakRule().may_look(looks, attempts) for looks in range(1000)) == most


def test_all_processes_note_the_overflows_of_all() -> None:
    own = skips.explain([CALL["bad"]], loss_finite=False, input_finite=True, step=3)
    other = skips.too_large(8.0, [], 3)
    assert own is not None
    both = overflows(["a", "b", "c"], [True, True, False], own, 3)
    assert [f.module for f in both] == ["a", "b"]
    assert both[1] is own and "another process" in both[0].text
    assert [f.module for f in overflows(["a", "b"], [False, True], other, 3)] == ["b"]
    assert overflows(["a"], [False], other, 3) == [other]
    assert overflows(["a"], [False], None, 3) == []
