from __future__ import annotations

import inspect

import pytest

import lightning_tricks
from lightning_tricks import DeadUnits
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.watch import watch_form
from lightning_tricks.numerics import form
from tests.faults.problems import Logging, arguments, example
from tests.matrix import EXAMPLES
from tests.problems import Classifier, fit

DETECTORS = [n for n in EXAMPLES if inspect.isclass(c := getattr(lightning_tricks, n)) and issubclass(c, Detector)]


def test_a_state_has_the_form_that_it_is_checked_against() -> None:
    detector = DeadUnits(every_n_steps=2)
    fit(Classifier(), [detector], n=64, batch=8)
    state = detector.watch._trick_state()
    assert detector.state_form(state, "state") is None
    assert watch_form(more=form.count)(state, "state") is not None, "a key that is missing"
    assert watch_form(optional={"more": form.count})(state, "state") is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DETECTORS)
def test_no_part_of_a_state_overwrites_another(name: str) -> None:
    detector = example(name)
    fit(Logging(), [detector], n=32, **arguments(name))
    watch = detector.watch
    parts = [
        watch.judge.state(),
        watch.response.state(),
        watch.probe.state(),
        dict.fromkeys(("sums", "counters", "flags")),
    ]
    assert len(watch._trick_state()) == sum(len(part) for part in parts)
