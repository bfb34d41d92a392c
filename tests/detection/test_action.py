from __future__ import annotations

import pytest

from lightning_tricks import AlarmError, Rollback, Verdict
from lightning_tricks.detection.action import as_action


@pytest.mark.parametrize("action", ["log", "warn", "stop", "raise", print, Rollback(keep=2)])
def test_known_actions_are_taken_as_they_are(action: object) -> None:
    assert as_action("DeadUnits", action) is action
    assert as_action("DeadUnits", "rollback") == Rollback()


@pytest.mark.parametrize(
    ("action", "error", "text"),
    [
        ("rolback", ValueError, "Did you mean 'rollback'"),
        ("explode!!", ValueError, "Use e.g. 'warn'"),
        (3, TypeError, "or a function that takes the verdict"),
        (Rollback, TypeError, "a Rollback"),
        (None, TypeError, "action must be one of log, warn, stop, raise, rollback"),
    ],
)
def test_other_actions_are_refused(action: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        as_action("DeadUnits", action)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"keep": 0}, "keep must be a whole number >= 1"),
        ({"lr_factor": 1.5}, "lr_factor must be > 0 and <= 1"),
        ({"lr_factor": 0.0}, "lr_factor must be > 0"),
        ({"accumulate_factor": 0}, "accumulate_factor must be"),
        ({"max_times": 0}, "max_times must be"),
    ],
)
def test_a_rollback_out_of_range_is_refused(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Rollback(**arguments)  # type: ignore[arg-type]


def test_an_alarm_error_carries_its_verdict() -> None:
    verdict = Verdict("DeadUnits", True, 9, 3, "dead units", ("a",), {}, ("b",))
    error = AlarmError(verdict, " 3 rollbacks did not help.")
    assert error.verdict is verdict
    assert str(error) == "DeadUnits: dead units since step 3 (seen at step 9): a. Try: b. 3 rollbacks did not help."
