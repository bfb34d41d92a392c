from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientMonitor
from lightning_tricks.publishing.recipients import Recipients
from tests.problems import Classifier, Memory, fit, weights


class Full(Memory):
    """A logger on a full disk."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("grad/") for key in metrics):
            raise OSError(28, "No space left on device")
        super().log_metrics(metrics, step)


def test_a_logger_that_fails_costs_one_warning_and_not_the_training() -> None:
    good, module, alone = Memory(), Classifier(), Classifier()
    with pytest.warns(RuntimeWarning, match=r"Full failed at step 0 \(OSError: .*No space left") as caught:
        fit(module, [GradientMonitor()], logger=[Full(), good])
    assert len([w for w in caught if "Full failed" in str(w.message)]) == 1
    fit(alone)
    assert torch.equal(weights(module), weights(alone))
    assert len(good.series("grad/norm")) == 12


def test_a_figure_goes_to_loggers_that_draw_and_a_failing_one_is_told_once() -> None:
    drawn: list[Any] = []

    class Draws(Memory):
        class experiment:
            add_figure = staticmethod(lambda name, figure, step: drawn.append((name, figure, step)))

    class Breaks(Memory):
        class experiment:
            @staticmethod
            def add_figure(name: str, figure: Any, step: int) -> None:
                raise OSError("disk full")

    recipients = Recipients(lambda: loggers)
    loggers = [Memory(), Breaks(), Draws()]
    with pytest.warns(RuntimeWarning, match="Breaks failed at step 3 .*disk full"):
        recipients.give("figure", 3, "picture", lambda: "figure")
    recipients.give("figure", 4, "picture", lambda: "figure")
    assert drawn == [("picture", "figure", 3), ("picture", "figure", 4)]

    def missing() -> None:
        raise ImportError("no matplotlib")

    recipients.give("figure", 5, "picture", missing)
    assert len(drawn) == 2


def test_a_rank_that_does_not_log_is_not_told_of_a_failure(recwarn: pytest.WarningsRecorder) -> None:
    from lightning.fabric.loggers.logger import _DummyExperiment

    class OfAnotherRank(Memory):
        @property
        def experiment(self) -> Any:
            return _DummyExperiment()

    recipients = Recipients(lambda: [OfAnotherRank()])
    recipients.introduce({"a": 1})
    recipients.give("text", 0, "name", lambda: "text")
    recipients.give("figure", 0, "name", lambda: pytest.fail("drawn for nobody"))
    assert not recwarn


def test_a_logger_that_refuses_values_gets_no_more_and_one_without_space_is_tried_again() -> None:
    class Refuses(Memory):
        error: Exception = ValueError("not a name")
        tried = 0

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.tried += 1
            raise self.error

    class NoSpace(Refuses):
        error = OSError(28, "No space left on device")

    refuses, no_space, works = Refuses(), NoSpace(), Memory()
    recipients = Recipients(lambda: [refuses, no_space, works])
    with pytest.warns(RuntimeWarning) as caught:
        for step in range(3):
            recipients.log({"a": 1.0}, {}, step)
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "Refuses failed at step 0 (ValueError: not a name). lightning_tricks logs no more to it" in told[0]
    assert "NoSpace failed at step 0" in told[1] and "Each value is tried, and may be lost" in told[1]
    assert (refuses.tried, no_space.tried, len(works.rows)) == (1, 3, 3)
