from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest
from torch import nn

import lightning_tricks
from lightning_tricks import DeadUnits, PredictionCollapse
from lightning_tricks.collapse.prediction_probe import PredictionProbe
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
    own = dict.fromkeys(("sums", "counters", "flags"))
    parts = [watch.judge.state(), watch.response.state(), watch.probe.state(), own]
    written = Counter(key for part in parts for key in part)
    # (it means to: a verdict without what this process alone has measured)
    meant = {"verdict"} if name == "MemoryDoctor" else set()
    assert {key for key, times in written.items() if times > 1} <= meant


class Grows(Classifier):
    """Its head is exchanged when training begins, and made wider in the middle of it."""

    def on_train_start(self) -> None:
        self.widen(10)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 6:
            self.widen(12)

    def widen(self, classes: int) -> None:
        self.net[-1] = nn.Linear(self.net[-1].in_features, classes)


def test_a_module_that_takes_the_place_of_a_watched_one_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen, see = Grows(), [], PredictionProbe._see

    def note(probe: PredictionProbe, output: Any) -> None:
        seen.append(output.shape[1])
        see(probe, output)

    monkeypatch.setattr(PredictionProbe, "_see", note)
    last = f"net.{len(module.net) - 1}"
    fit(module, [PredictionCollapse(output=last, every_n_steps=1)], n=80, max_steps=10)
    # (the new head is followed from the next batch on)
    assert seen == [10] * 6 + [12] * 3 and not module.net[-1]._forward_hooks
