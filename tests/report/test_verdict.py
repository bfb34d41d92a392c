from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from lightning_tricks.publishing.events import Event
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.verdict import causes_in, conclude, duration, is_under_way

ALARM = [Event(40, "alarm", "dead units")]
NOW = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
STARTED = {"started": "2026-11-27T11:00:00+00:00"}


def logs(outcome: str | None = None, **more: Any) -> Logs:
    ended = None if outcome is None else "2026-11-27T12:00:00+00:00"
    facts = {**STARTED, "ended": ended, "outcome": outcome, "steps": 100, "updates": 100, "seconds": 3600.0}
    return Logs(Path("run"), {"loss": [(99, 1.0)]}, facts={**facts, **more})


@pytest.mark.parametrize(
    ("outcome", "alarms", "level", "words"),
    [
        ("finished", [], "good", "The run finished normally"),
        ("finished", ALARM, "warning", "a detector raised an alarm"),
        ("stopped early", [], "good", "stopped early, without an alarm"),
        ("stopped early", ALARM, "bad", "An alarm stopped the run"),
        ("failed: ValueError: boom", [], "bad", "The run failed"),
        ("failed: ValueError: boom", ALARM, "bad", "The run failed"),
    ],
)
def test_how_a_run_went(outcome: str, alarms: list[Event], level: str, words: str) -> None:
    conclusion = conclude(logs(outcome), alarms)
    assert conclusion.level == level and words in conclusion.title
    assert "100 steps and 60 minutes" in conclusion.text


def test_the_first_alarm_is_named_with_its_step_and_the_error_with_its_words() -> None:
    assert "Dead units at step 40. It ran to its end after" in conclude(logs("finished"), ALARM).text
    assert "ValueError: boom." in conclude(logs("failed: ValueError: boom"), []).text


def test_steps_that_changed_nothing_are_told() -> None:
    assert "100 steps (90 of them changed the weights)" in conclude(logs("finished", updates=90), []).text


@pytest.mark.parametrize(("age", "level"), [(10.0, "running"), (3600.0, "unknown")])
def test_a_run_without_an_end_is_under_way_as_long_as_its_logs_grow(age: float, level: str) -> None:
    unfinished = logs(None)
    unfinished.changed = NOW.timestamp() - age
    assert conclude(unfinished, [], NOW).level == level


def test_a_verdict_in_the_log_is_told_as_a_sentence() -> None:
    run = logs("stopped early")
    run.texts["collapse/x/verdict"] = [(9, "X: dead units since step 3 (seen at step 9): 90% are dead. Try: y.")]
    assert conclude(run, []).text.startswith("X reported dead units since step 3: 90% are dead. It was stopped after")


@pytest.mark.parametrize("alarms", [[], ALARM])
def test_a_run_whose_loss_ended_as_nan_failed_whether_or_not_a_detector_said_so(alarms: list[Event]) -> None:
    run = logs("finished")
    run.scalars["val_loss"] = [(49, 1.0), (99, math.nan)]
    conclusion = conclude(run, alarms)
    assert (conclusion.level, conclusion.title) == ("bad", "The run failed: its loss is NaN or inf")
    assert conclusion.text.endswith("It ran to its end after 100 steps and 60 minutes.")
    run.scalars["val_loss"] = [(49, math.nan), (99, 1.0)]
    assert conclude(run, []).level == "good"


def test_an_alarm_does_not_end_a_run() -> None:
    unfinished = logs(None)
    unfinished.changed = NOW.timestamp() - 10.0
    assert "Dead units at step 40. It is still under way, after" in conclude(unfinished, ALARM, NOW).text
    assert is_under_way(unfinished, NOW)
    unfinished.changed = NOW.timestamp() - 3600.0
    assert not is_under_way(unfinished, NOW) and "Its logs end after" in conclude(unfinished, ALARM, NOW).text
    assert not is_under_way(logs("finished"), NOW) and not is_under_way(Logs(Path("run")), NOW)


def test_the_causes_in_a_text_are_those_of_its_verdicts() -> None:
    text = "X: dead units since step 3 (seen at step 9): 90%. Try: y.\nY: plateau since step 1 (seen at step 2): flat."
    assert causes_in(text) == ["dead units", "plateau"] and causes_in("nothing") == []


def test_durations_are_in_words() -> None:
    assert [duration(s) for s in (1.0, 119.0, 600.0, 36000.0)] == [
        "1 second",
        "119 seconds",
        "10 minutes",
        "10.0 hours",
    ]
