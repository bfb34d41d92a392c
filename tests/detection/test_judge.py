from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks.detection.alarm import Alarm, Verdict
from lightning_tricks.detection.causes import Cause, Explained
from lightning_tricks.detection.judge import MOST_POINTS, Judge, Raised, keep_bounded, worst


def explain(active: list[str]) -> Explained:
    return (Cause.DEAD_UNITS if "dead" in active else Cause.OVERFITTING), ("seen",), ("try",)


def judged(judge: Judge, step: int, **values: float) -> Verdict | None:
    judge.step = step
    judge.progress += 1
    begun = judge.follow(values)
    judge.remember(dict(values))
    return judge.conclude(begun, values, explain)


def two(**more: Any) -> Judge:
    return Judge("Owner", {"dead": Alarm(below=0.5, patience=2), "fit": Alarm(below=0.5, patience=1)}, lambda _: 1.0)


def test_an_alarm_begins_after_patience_and_is_told_once() -> None:
    judge = two()
    assert judged(judge, 1, dead=0.1, fit=1.0) is None
    verdict = judged(judge, 2, dead=0.1, fit=1.0)
    assert verdict is not None and (verdict.cause, verdict.since_step, verdict.step) == (Cause.DEAD_UNITS, 1, 2)
    assert judged(judge, 3, dead=0.1, fit=1.0) is None and judge.active == ["dead"]
    assert judge.raised == [Raised(verdict, 2)]


def test_within_the_grace_time_there_is_no_alarm() -> None:
    judge = Judge("Owner", {"dead": Alarm(below=0.5, patience=1)}, lambda _: 2.0)
    judge.grace = 2.0
    assert [judged(judge, i, dead=0.1) is not None for i in range(5)] == [False, False, False, True, False]


def test_without_an_alarm_the_verdict_is_that_of_the_last_check() -> None:
    judge = two()
    judged(judge, 4, dead=1.0, fit=1.0)
    assert not judge.verdict.alarmed and judge.verdict.step == 4 and judge.healthy


def test_a_state_comes_back_and_one_of_an_older_version_has_the_alarm_that_was_on() -> None:
    judge, other, old = two(), two(), two()
    for step in (1, 2, 3):
        judged(judge, step, dead=0.1, fit=1.0)
    other.load(judge.state())
    assert other.state() == judge.state()
    old.load({k: v for k, v in judge.state().items() if k != "raised"})
    assert [r.verdict for r in old.raised] == [judge.verdict]


def test_an_alarm_without_a_beginning_is_refused() -> None:
    judge = two()
    state = judge.state()
    state["alarms"]["dead"] |= {"alarmed": True, "since": None}
    with pytest.raises(ValueError, match="an alarm without a beginning"):
        judge.load(state)


def test_the_worst_is_the_most_severe_then_the_longest_then_the_first() -> None:
    def raised(cause: Cause, checks: int, step: int) -> Raised:
        return Raised(Verdict("D", True, step, step, cause), checks)

    assert worst([]) is None
    found = worst([raised(Cause.OVERFITTING, 9, 1), raised(Cause.NON_FINITE, 1, 2), raised(Cause.NON_FINITE, 1, 3)])
    assert found is not None and found.step == 2


def test_after_a_rollback_the_same_cause_is_told_again() -> None:
    judge = two()
    for step in (1, 2):
        judged(judge, step, dead=0.1, fit=1.0)
    judge.rolled_back()
    assert not judge.active and judge.progress == 0.0
    judged(judge, 3, dead=0.1, fit=1.0)
    assert judged(judge, 4, dead=0.1, fit=1.0) is not None and len(judge.raised) == 2


def test_curves_are_thinned_out_together_and_keep_both_ends() -> None:
    a, b = list(range(MOST_POINTS + 1)), list(range(MOST_POINTS + 1))
    keep_bounded(a, b)
    assert a == b and len(a) < MOST_POINTS and (a[0], a[-1]) == (0, MOST_POINTS)


def test_the_grace_ends_where_a_schedule_stays_far_below_the_rate_that_it_multiplies() -> None:
    def made(rates: list[float]) -> Judge:
        judge = Judge("Test", {"level": Alarm(below=0.5, patience=1)}, lambda name: 1.0)
        judge.grace = 40.0
        for step, rate in enumerate(rates):
            judge.step = step
            judge.advance(10.0, rate)
            judge.follow({"level": 0.1})
        return judge

    assert made([0.002] * 40).active == ["level"]
    assert not made([0.002] * 16).active
    assert not made([0.002] * 12 + [1.0]).active  # a constant warm-up, and then learning begins
    assert made([0.002] * 12 + [1.0] * 4).active
    judge = made([0.002] * 17)
    resumed = made([])
    resumed.load(judge.state())
    assert (resumed.updates, resumed.highest, resumed.progress) == (170.0, 0.002, judge.progress)


def test_what_an_alarm_has_learnt_is_forgotten_where_the_task_is_another_one_but_not_while_it_is_on() -> None:
    judge = two()
    judged(judge, 1, dead=0.1, fit=2.0)
    judge.restart("dead")
    judge.restart("fit")
    assert judge.states["fit"]["peak"] is None and judged(judge, 2, dead=0.1, fit=1.0) is None
    assert judged(judge, 3, dead=0.1, fit=1.0) is not None
    judge.restart("dead")
    assert judge.active == ["dead"]


def test_what_waits_is_seen_and_concludes_nothing_but_an_alarm_that_is_on_goes_on() -> None:
    judge = two()
    judge.waits = {"dead"}
    assert [judged(judge, i, dead=0.1 * i, fit=1.0) for i in range(4)] == [None] * 4
    assert judge.states["dead"]["last"] == [0.1, 0.2, pytest.approx(0.3)], "it is measured from where the rise began"
    judge.waits = set()
    assert judged(judge, 4, dead=0.1, fit=1.0) is None and judged(judge, 5, dead=0.1, fit=1.0) is not None
    judge.waits = {"dead"}
    judged(judge, 6, dead=0.1, fit=1.0)
    assert judge.active == ["dead"]
