from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_tricks import AlarmError, TrickWarning
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.causes import Cause
from lightning_tricks.detection.response import Response
from lightning_tricks.detection.settings import WatchSettings

ALARM = Verdict("DeadUnits", True, 5, 4, Cause.DEAD_UNITS, ("96 % are dead",), {}, ("a lower rate",))


class Run:
    stopped = False

    def stop_training(self) -> None:
        self.stopped = True


def response(action: Any) -> tuple[Response, list[Verdict], Any]:
    shown: list[Verdict] = []
    trick: Any = SimpleNamespace(state_key="DeadUnits")
    made = Response(
        trick, WatchSettings.checked("DeadUnits", 1, action, 1, 0), lambda run, verdict: shown.append(verdict)
    )
    made.pending = ALARM
    return made, shown, Run()


def test_an_alarm_is_shown_and_acted_on_once() -> None:
    told: list[Verdict] = []
    made, shown, run = response(told.append)
    made.act(run, healthy=False)
    made.act(run, healthy=False)
    assert told == shown == [ALARM] and made.pending is None


def test_stop_ends_the_run_while_it_goes_on_and_only_warns_when_it_is_over() -> None:
    for end in (False, True):
        made, _, run = response("stop")
        with pytest.warns(TrickWarning, match="dead units since step 4"):
            assert made.finish(run) if end else made.act(run, healthy=False) is None
        assert run.stopped is not end


def test_raise_raises_also_at_the_end() -> None:
    made, shown, run = response("raise")
    with pytest.raises(AlarmError, match="dead units"):
        made.finish(run)
    assert shown == [ALARM]


def test_without_an_alarm_there_is_nothing_to_finish() -> None:
    made, shown, run = response("warn")
    made.pending = None
    assert not made.finish(run) and shown == []


def test_what_is_pending_comes_back_from_a_state() -> None:
    made, _, run = response("warn")
    other, _, _ = response("warn")
    other.load(run, made.state())
    assert other.pending == ALARM and made.state()["rescue"] is None
    other.load(run, {"pending": None, "rescue": None})
    assert other.pending is None
