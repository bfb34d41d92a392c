from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks import GradientClip, GradientMonitor, TrickError, TrickWarning
from lightning_tricks.errors import NotRestorableError, RunEndsError
from lightning_tricks.lifecycle.guard import FROM_USER, survives


class Run:
    has_stepped = True


class Observer:
    _off = False

    def __init__(self, begun: bool = True) -> None:
        self.run_or_none, self.begun, self.told = Run(), begun, []  # type: ignore[var-annotated]

    def _settled(self, run: Any) -> bool:
        return self.begun

    def call_stage(self, *arguments: Any) -> None:
        self.told.append(arguments)


def test_an_error_of_its_own_costs_one_warning_and_switches_it_off() -> None:
    observer = Observer()
    with pytest.warns(TrickWarning, match=r"Observer: ValueError: a b.*switched off.*training goes on") as said:
        assert survives(observer, ValueError("a\nb")) and survives(observer, ValueError("c"))
    assert len(said) == 1 and observer._off and observer.told == [("_cleanup", observer.run_or_none)]


def test_what_the_user_asked_for_ends_the_run() -> None:
    meant = KeyError("prune")
    setattr(meant, FROM_USER, True)
    assert not survives(Observer(), meant) and not survives(Observer(), RunEndsError("alarm"))


def test_a_refusal_ends_the_run_before_the_first_update_only() -> None:
    assert not survives(Observer(begun=False), TrickError("no such module"))
    with pytest.warns(TrickWarning, match="switched off"):
        assert survives(Observer(begun=True), TrickError("no such module"))


def test_what_cannot_be_restored_never_ends_a_run() -> None:
    with pytest.warns(TrickWarning, match="It does nothing in this run; training goes on"):
        assert survives(Observer(begun=False), NotRestorableError("an open file"))


def test_where_warnings_are_errors_it_is_said_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    import warnings

    with warnings.catch_warnings(), caplog.at_level("INFO"):
        warnings.simplefilter("error")
        assert survives(Observer(), ValueError("a"))
    assert "Observer: ValueError: a" in caplog.text


def test_hooks_of_observers_are_wrapped_and_those_of_actors_are_not() -> None:
    assert hasattr(GradientMonitor.on_train_end, "_unguarded")
    assert not hasattr(GradientClip.on_train_end, "_unguarded")
