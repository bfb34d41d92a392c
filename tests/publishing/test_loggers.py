from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_tricks import GradientMonitor
from lightning_tricks.publishing.loggers import guard, release, system_error
from tests.problems import Classifier, Memory, fit


class Failing(Memory):
    """Has no space for some calls; or is of somebody who makes mistakes."""

    def __init__(self, error: Exception | None, calls: range) -> None:
        super().__init__()
        self.error, self.bad, self.calls = error, calls, 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls += 1
        if self.calls in self.bad and self.error is not None:
            raise self.error
        super().log_metrics(metrics, step)


class Logging(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


def test_lightning_ends_the_run_when_a_logger_cannot_write() -> None:
    with pytest.raises(OSError, match="no space"):
        fit(Logging(), n=64, logger=Failing(OSError("no space"), range(3, 100)))


def test_a_logger_that_fails_for_a_while_is_told_once_and_gets_the_values_after_it() -> None:
    logger = Failing(OSError("no space"), range(5, 9))
    with pytest.warns(RuntimeWarning, match=r"Failing failed.*no space.*training goes on") as told:
        fit(Logging(), [GradientMonitor()], n=96, logger=logger)
    assert len([w for w in told if "failed" in str(w.message)]) == 1
    assert max(logger.series("loss")) == 11 and max(logger.series("grad/norm")) == 11
    assert len(logger.rows) == logger.calls - 4


def test_a_mistake_in_a_logger_comes_out_where_lightning_calls_it() -> None:
    class Mistaken(Failing):
        def save(self) -> None:
            raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError, match="a mistake"):
        fit(Logging(), [GradientMonitor()], n=64, logger=Mistaken(None, range(0)))


def test_a_logger_has_its_own_methods_again_after_a_fit(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path), Memory()]
    before = [set(vars(logger)) & {"log_metrics", "save", "finalize"} for logger in loggers]
    fit(Logging(), [GradientMonitor()], n=32, logger=loggers)
    assert [set(vars(logger)) & {"log_metrics", "save", "finalize"} for logger in loggers] == before == [set()] * 3

    class Broken(Exception): ...

    def spoil(i: int, loss: Any) -> Any:
        raise Broken

    with pytest.raises(Broken):
        fit(Classifier(spoil=spoil), [GradientMonitor()], n=32, logger=loggers)
    assert not any("log_metrics" in vars(logger) for logger in loggers)


def test_a_method_that_somebody_replaced_is_given_back_as_it_was() -> None:
    logger = Memory()
    mine = lambda *args, **kwargs: None  # noqa: E731
    logger.save = mine  # type: ignore[method-assign]
    guard(logger, lambda error, step: None)
    guard(logger, lambda error, step: None)  # (the last fit was never finalized)
    assert logger.save is not mine
    release(logger)
    assert logger.save is mine
    assert "finalize" not in vars(logger)


def test_what_a_system_error_was_wrapped_in_is_one_too() -> None:
    try:
        try:
            raise FileNotFoundError("gone")
        except OSError as error:
            raise ValueError("you tried to log 1.0") from error
    except ValueError as error:
        assert isinstance(system_error(error), FileNotFoundError)
    assert system_error(KeyError("x")) is None
