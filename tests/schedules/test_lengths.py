from __future__ import annotations

import pytest

from lightning_tricks import InverseSqrt, InverseTime, LRSchedule, MultiStep, NaturalExponential
from lightning_tricks.decays import Exponential, Step
from lightning_tricks.schedules.curves import Span


def test_lengths_are_updates_epochs_or_shares_of_the_decay() -> None:
    span = Span(warmup=10, start=20, length=100, per_epoch=5.0)
    assert Step("2ep").resolve(span) == Step(10)
    assert Step("30%").resolve(span) == Step(30)
    assert Exponential(0.5, "7st").resolve(span) == Exponential(0.5, 7)
    assert NaturalExponential(0.5, "1ep").resolve(span) == NaturalExponential(0.5, 5)
    assert InverseTime(0.5, "50%").resolve(span) == InverseTime(0.5, 50)
    assert InverseSqrt().resolve(span) == InverseSqrt(10)
    assert InverseSqrt().resolve(Span(length=100)) == InverseSqrt(10_000)


def test_milestones_count_from_the_first_update_of_the_run() -> None:
    span = Span(warmup=10, start=20, length=80, per_epoch=5.0)
    curve = MultiStep(["6ep", "50%"], gamma=0.5).resolve(span)  # updates 30 and 50 of 100
    assert [curve.multiplier(k - 20, 80) for k in (29, 30, 49, 50)] == [1.0, 0.5, 0.5, 0.25]


def test_the_same_curve_in_any_unit() -> None:
    assert LRSchedule(Step("25%"), warmup=0).values(40) == LRSchedule(Step(10), warmup=0).values(40)


def test_under_the_wall_clock_only_shares_have_a_meaning() -> None:
    with pytest.raises(ValueError, match="max_time bounds this run"):
        InverseSqrt().resolve(Span(length=100, timed=True))
