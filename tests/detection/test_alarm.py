from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

from lightning_tricks import Verdict
from lightning_tricks.detection.alarm import Alarm, steepness
from lightning_tricks.detection.causes import Cause


def heard(alarm: Alarm, values: list[float], ready_from: int = 0) -> list[int]:
    """Checks at which an alarm began."""
    state, begun = alarm.init(), []
    for step, value in enumerate(values):
        started, state = alarm.update(value, step=step, ready=step >= ready_from, state=state)
        json.dumps(state)  # plain values
        if started:
            begun.append(step)
    return begun


def test_patience_counts_bad_checks_in_a_row() -> None:
    alarm = Alarm(below=0.1, patience=3)
    assert heard(alarm, [0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]) == [5]
    assert heard(alarm, [0.5] * 10) == []


def test_a_relative_condition_needs_a_peak_and_joins_the_absolute_one() -> None:
    lost = Alarm(of_peak=0.25, least_peak=0.2, patience=1)
    assert heard(lost, [0.1, 0.01, 0.8, 0.3, 0.19]) == [4]
    both = Alarm(below=0.05, of_peak=0.5, patience=1)
    assert heard(both, [1.0, 0.1, 0.04]) == [2], "0.1 is below half of the peak, and not below 0.05"
    assert heard(both, [0.06, 0.04]) == [], "0.04 is below 0.05, and not below half of the peak"


def test_during_grace_nothing_is_said_and_the_streak_counts() -> None:
    assert heard(Alarm(below=0.1, patience=2), [0.0] * 6, ready_from=3) == [3]


def test_what_rises_is_left_alone() -> None:
    slow = [0.001 * i for i in range(12)]
    assert heard(Alarm(below=0.02, patience=3), slow) == [2]
    assert heard(Alarm(below=0.02, gain=0.01, patience=3), slow) == []
    assert heard(Alarm(below=0.02, growth=1.5, patience=3), slow[1:]) == []
    generator = random.Random(0)
    assert heard(Alarm(below=0.02, gain=0.05, patience=3), [generator.gauss(0, 0.004) for _ in range(20)])


def test_hysteresis_one_alarm_until_it_is_clearly_over() -> None:
    alarm = Alarm(below=0.1, patience=1, recovery=2.0)
    assert heard(alarm, [0.05, 0.15, 0.05, 0.19, 0.05]) == [0]
    assert heard(alarm, [0.05, 0.21, 0.05]) == [0, 2]


def test_nan_says_nothing() -> None:
    assert heard(Alarm(below=0.1, patience=2), [0.0, math.nan, 0.0]) == [2]
    assert heard(Alarm(below=0.1, patience=1), [math.nan] * 5) == []
    alarm = Alarm(below=0.1)
    assert not alarm.healthy(math.nan, alarm.init())


def test_since_is_the_first_bad_check() -> None:
    alarm, state = Alarm(below=0.1, patience=3), Alarm(below=0.1).init()
    for step in (10, 20, 30):
        _, state = alarm.update(0.0, step=step, ready=True, state=state)
    assert state["since"] == 10


def test_healthy_is_well_away_from_an_alarm() -> None:
    alarm = Alarm(below=0.1, patience=3)
    state = alarm.init()
    assert [alarm.healthy(v, state) for v in (0.09, 0.12, 0.16)] == [False, False, True]
    relative = Alarm(of_peak=0.25, least_peak=0.2)
    _, state = relative.update(0.8, step=0, ready=True, state=relative.init())
    assert [relative.healthy(v, state) for v in (0.3, 0.39, 0.41)] == [False, False, True]


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=20))
def test_steepness_is_that_of_scipy(values: list[float]) -> None:
    fit = linregress(range(len(values)), values)
    if fit.stderr > 1e-9 * max(1.0, max(map(abs, values))):
        assert steepness(values) == pytest.approx(fit.slope / fit.stderr, rel=1e-5, abs=1e-6)


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(1, 5))
def test_a_state_in_between_changes_nothing(values: list[float], cut: int) -> None:
    alarm = Alarm(below=0.3, of_peak=0.9, gain=0.2, patience=2)
    state = alarm.init()
    for step, value in enumerate(values):
        if step == cut:
            state = json.loads(json.dumps(state))
        _, state = alarm.update(value, step=step, ready=True, state=state)
    whole = alarm.init()
    for step, value in enumerate(values):
        _, whole = alarm.update(value, step=step, ready=True, state=whole)
    assert state == whole


def test_a_verdict_reads_as_a_sentence_and_survives_json() -> None:
    verdict = Verdict("ModeCollapse", True, 75, 25, Cause.MODE_COLLAPSE, ("recall 0.1",), {"recall": 0.1}, ("a", "b"))
    assert str(verdict) == "ModeCollapse: mode collapse since step 25 (seen at step 75): recall 0.1. Try: a; b."
    assert Verdict.from_dict(json.loads(json.dumps(verdict.as_dict()))) == verdict
    assert str(Verdict("ModeCollapse")) == "ModeCollapse: no alarm"
