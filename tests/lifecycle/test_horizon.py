from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_tricks import GradientMonitor, TrickError
from lightning_tricks.lifecycle.horizon import forecast_updates, updates_per_epoch
from tests.gradients.problems import Gan
from tests.problems import Classifier, digits, loader, trainer


class Ask(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.forecast = forecast_updates(trainer)
        self.per_epoch = updates_per_epoch(trainer)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 5},
        {"max_steps": 7, "max_epochs": -1},
        {"max_steps": 100, "max_epochs": 2},
        {"max_epochs": 2, "limit_train_batches": 5},
        {"max_epochs": 2, "limit_train_batches": 0.5, "accumulate_grad_batches": 4},
    ],
    ids=str,
)
def test_the_forecast_is_what_happens(arguments: dict[str, Any]) -> None:
    ask, monitor = Ask(), GradientMonitor()
    trainer([ask, monitor], **arguments).fit(Classifier(), loader(96))
    assert ask.forecast == monitor.run.clock.applied_on_host(0)


def test_scheduled_accumulation_is_forecast_where_lightning_is_wrong() -> None:
    ask, monitor = Ask(), GradientMonitor()
    t = trainer([ask, monitor, GradientAccumulationScheduler({0: 4, 1: 2})], max_epochs=3)
    t.fit(Classifier(), loader(96))
    assert ask.forecast == monitor.run.clock.applied_on_host(0) == 15
    assert t.estimated_stepping_batches != 15


def test_with_two_optimizers_max_steps_counts_both() -> None:
    ask, monitor = Ask(), GradientMonitor()
    trainer([ask, monitor], max_steps=6, max_epochs=-1).fit(Gan(), loader(96))
    assert ask.forecast == monitor.run.clock.applied_on_host(0) == 3


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield from digits(32)


def test_an_unknown_length_is_an_error_that_says_what_to_pass() -> None:
    data = torch.utils.data.DataLoader(Stream(), batch_size=8)
    with pytest.raises(TrickError, match=r"the data have no length\)\. Pass total="):
        trainer([Ask()], max_epochs=2).fit(Classifier(), data)
    ask = Ask()
    trainer([ask], max_epochs=2, limit_train_batches=3).fit(Classifier(), data)
    assert (ask.forecast, ask.per_epoch) == (6, 3.0)


def test_max_time_alone_gives_no_number() -> None:
    with pytest.raises(TrickError, match="max_time gives no number of updates"):
        trainer([Ask()], max_epochs=-1, max_time="00:00:00:05").fit(Classifier(), loader(32))
