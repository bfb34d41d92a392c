from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientMonitor
from lightning_tricks.publishing.publish import Cadence, Publisher
from tests.problems import Classifier, Memory, fit, loader, trainer


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
        publisher.start_transfer()
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
