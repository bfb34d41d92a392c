from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_tricks import DeadUnits, Rollback
from lightning_tricks.detection.watch import WatchSettings, log_prefix, watch_form
from lightning_tricks.numerics import form
from tests.problems import Classifier, fit


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0, "warn", 3, "10%"), ValueError, "every_n_steps"),
        ((1.5, "warn", 3, "10%"), TypeError, "every_n_steps"),
        ((1, "shout", 3, "10%"), ValueError, "action must be one of"),
        ((1, "warn", 0, "10%"), ValueError, "patience"),
        ((1, "warn", 3, "ten"), ValueError, "grace"),
    ],
)
def test_shared_arguments_are_checked_in_the_name_of_the_detector(arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=rf"Owner\(.*{text}"):
        WatchSettings.checked("Owner", *arguments)


def test_the_word_rollback_is_a_rollback_with_its_defaults() -> None:
    assert WatchSettings.checked("Owner", None, "rollback", 3, 0).action == Rollback()


def test_the_key_has_the_identity_only_where_there_are_several_of_a_class() -> None:
    one, two = DeadUnits(["a"]), DeadUnits(["b"])
    alone, both = (SimpleNamespace(tricks=tricks) for tricks in ([one], [one, two]))
    assert log_prefix(one, alone, "collapse") == "collapse/dead_units"  # type: ignore[arg-type]
    assert log_prefix(one, both, "collapse") == "collapse/dead_units.['a']"  # type: ignore[arg-type]
    assert log_prefix(one, both, "collapse", "first") == "collapse/dead_units.first"  # type: ignore[arg-type]


def test_a_state_has_the_form_that_it_is_checked_against() -> None:
    detector = DeadUnits(every_n_steps=2)
    fit(Classifier(), [detector], n=64, batch=8)
    state = detector.watch.trick_state()
    assert detector.state_form(state, "state") is None
    assert watch_form(more=form.whole)(state, "state") is not None, "a key that is missing"
    assert watch_form(optional={"more": form.whole})(state, "state") is None
