from __future__ import annotations

from lightning_tricks import DeadUnits
from lightning_tricks.detection.watch import watch_form
from lightning_tricks.numerics import form
from tests.problems import Classifier, fit


def test_a_state_has_the_form_that_it_is_checked_against() -> None:
    detector = DeadUnits(every_n_steps=2)
    fit(Classifier(), [detector], n=64, batch=8)
    state = detector.watch._trick_state()
    assert detector.state_form(state, "state") is None
    assert watch_form(more=form.count)(state, "state") is not None, "a key that is missing"
    assert watch_form(optional={"more": form.count})(state, "state") is None
