from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientMonitor
from lightning_tricks.publishing import publish
from lightning_tricks.publishing.publish import Cadence, Publisher
from tests.problems import Classifier, Memory, fit, loader, trainer, weights


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


def test_every_logger_gets_every_step() -> None:
    one, two = Memory(), Memory()
    fit(Classifier(), [GradientMonitor()], logger=[one, two], log_every_n_steps=4)
    assert sorted(one.series("grad/norm")) == [3, 7, 11]
    assert one.rows == two.rows


def test_steps_are_those_of_lightnings_own_values() -> None:
    class Logging(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    logger = Memory()
    fit(Logging(), [GradientMonitor()], logger=logger, log_every_n_steps=3, accumulate_grad_batches=2)
    assert sorted(logger.series("grad/norm")) == sorted(set(logger.series("loss"))) != []


def test_what_was_measured_before_an_exception_is_delivered() -> None:
    class Dies(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.seen == 3:
                raise ValueError("dead")
            return super().training_step(batch, batch_idx)

    logger = Memory()
    with pytest.raises(ValueError, match="dead"):
        fit(Dies(), [GradientMonitor()], logger=logger)
    assert sorted(logger.series("grad/norm")) == [0, 1, 2]


def test_values_wait_for_the_device_and_keep_their_step() -> None:
    class Slow:
        ready = False

        def query(self) -> bool:
            return self.ready

        def synchronize(self) -> None:
            self.ready = True

    logger, heard = Memory(), []
    publisher = Publisher(lambda: [logger])
    for step in (5, 6):
        publisher.put(step, {"a": torch.tensor(float(step)), "b": 1.0})
        publisher.put_private(step, torch.tensor([1.0, 2.0]), heard.append)
        parcel = publisher._open
        assert parcel is not None
        parcel.arrived = Slow()
        publisher.ship()
    assert logger.rows == []
    publisher.flush()
    assert logger.rows == [(5, {"a": 5.0, "b": 1.0}), (6, {"a": 6.0, "b": 1.0})]
    assert heard == [[1.0, 2.0], [1.0, 2.0]]


def test_a_value_is_that_of_its_moment() -> None:
    logger = Memory()
    publisher, value = Publisher(lambda: [logger]), torch.tensor(1.0)
    publisher.put(0, {"a": value})
    value.fill_(2.0)
    publisher.flush()
    assert logger.rows == [(0, {"a": 1.0})]


def test_a_cadence_catches_up_where_not_every_batch_steps() -> None:
    cadence = Cadence(10)
    assert [s for s in range(3, 60, 4) if cadence.due(s)] == [11, 19, 31, 39, 51, 59]
    resumed = Cadence(10, start=25)
    assert [s for s in range(25, 45) if resumed.due(s)] == [29, 39]
    assert not Cadence(0).due(0)


def test_without_a_logger_and_in_a_fast_run_nothing_breaks() -> None:
    fit(Classifier(), [GradientMonitor()], logger=False)
    t = trainer([GradientMonitor()], fast_dev_run=2)
    t.fit(Classifier(), loader(32))


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

    publisher = Publisher(lambda: loggers)
    loggers = [Memory(), Breaks(), Draws()]
    with pytest.warns(RuntimeWarning, match="Breaks failed at step 3 .*disk full"):
        publisher.draw(3, "picture", lambda: "figure")
    publisher.draw(4, "picture", lambda: "figure")
    assert drawn == [("picture", "figure", 3), ("picture", "figure", 4)]

    def missing() -> None:
        raise ImportError("no matplotlib")

    publisher.draw(5, "picture", missing)
    assert len(drawn) == 2


def test_a_rank_that_does_not_log_is_not_told_of_a_failure(recwarn: pytest.WarningsRecorder) -> None:
    from lightning.fabric.loggers.logger import _DummyExperiment

    class OfAnotherRank(Memory):
        @property
        def experiment(self) -> Any:
            return _DummyExperiment()

    publisher = Publisher(lambda: [OfAnotherRank()])
    publisher.introduce({"a": 1})
    publisher.tell(0, "name", "text")
    publisher.draw(0, "name", lambda: pytest.fail("drawn for nobody"))
    assert not recwarn


@pytest.mark.parametrize("order", [["cpu", "meta", "meta", "cpu", "meta"], ["cpu", "cpu"], ["meta"], ["meta", "cpu"]])
def test_values_are_gathered_where_the_first_one_of_a_device_lies(order: list[str]) -> None:
    tensors = [torch.zeros(2, device=kind) for kind in order]
    assert publish.device_of(tensors).type == ("meta" if "meta" in order else "cpu")


def test_values_of_the_host_and_of_a_device_keep_their_order() -> None:
    """What is copied run by run, as to pinned memory, is what the tensors in a row are."""
    remote, sizes = [False, True, True, False, False, True], [2, 1, 3, 1, 2, 2]
    pieces = list(torch.arange(float(sum(sizes))).split(sizes))
    host = torch.full((sum(sizes),), -1.0)
    for place, piece, there in zip(host.split(sizes), pieces, remote, strict=True):
        if not there:
            place.copy_(piece)
    for start, end, run in publish.runs_of(remote, sizes):
        assert all(remote[run])
        host[start:end] = torch.cat(pieces[run])
    assert host.tolist() == torch.cat(pieces).tolist()
