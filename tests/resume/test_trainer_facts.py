from __future__ import annotations

import datetime
import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_tricks import ExactResume
from lightning_tricks.resume.trainer_facts import is_exact, loader_of, setting, unfreezing_callbacks, writer_of
from lightning_tricks.resume.training_data import Loader
from lightning_tricks.resume.writers import Writer


def trainer(*callbacks: Any, check: float | None = 5, validates: bool = True) -> Any:
    return SimpleNamespace(
        callbacks=list(callbacks),
        num_training_batches=10,
        val_check_batch=check,
        num_val_batches=[3] if validates else [],
        enable_validation=validates,
    )


@pytest.mark.parametrize(
    ("saver", "wanted"),
    [
        (ModelCheckpoint(), Writer(after_validation=True)),
        (ModelCheckpoint(every_n_train_steps=7), Writer(every_n_steps=7, every_n_epochs=0, after_validation=True)),
        (
            ModelCheckpoint(train_time_interval=datetime.timedelta(minutes=10), save_last=True, save_on_exception=True),
            Writer(save_last=True, every_n_epochs=0, interval="0:10:00", on_exception=True, after_validation=True),
        ),
        (
            ModelCheckpoint(monitor="loss", save_top_k=3, save_weights_only=True, save_on_train_epoch_end=True),
            Writer(save_top_k=3, monitor="loss", weights_only=True),
        ),
    ],
    ids=["default", "steps", "time", "best"],
)
def test_a_checkpoint_callback_is_read(saver: ModelCheckpoint, wanted: Writer) -> None:
    before_2_6 = "weights_only" not in inspect.signature(Trainer.fit).parameters
    assert writer_of(saver, trainer()) == replace(wanted, last_always=before_2_6)


@pytest.mark.parametrize(
    ("options", "within"), [({}, True), ({"check": 10}, False), ({"check": None}, True), ({"validates": False}, False)]
)
def test_a_validation_within_the_epoch_makes_it_write(options: dict[str, Any], within: bool) -> None:
    assert writer_of(ModelCheckpoint(), trainer(**options)).after_validation is within


def test_a_setting_that_a_callback_does_not_have_is_the_default() -> None:
    assert setting(object(), "save_last", 3) == 3


def test_loaders_are_told_apart() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([1])

    class Stateful(DataLoader[Any]):
        state_dict = load_state_dict = None

    assert loader_of(DataLoader([1, 2])) == Loader("DataLoader")  # type: ignore[arg-type]
    assert loader_of(DataLoader([1, 2], shuffle=True)) == Loader("DataLoader", shuffled=True)  # type: ignore[arg-type]
    assert loader_of(DataLoader(Stream())) == Loader("DataLoader", iterable=True)
    assert loader_of(Stateful([1])) == Loader("Stateful", stateful=True)  # type: ignore[arg-type]
    assert loader_of([1, 2]) == Loader("list", iterable=True)


def test_callbacks_are_known_by_what_they_are() -> None:
    run = trainer(ExactResume(), BackboneFinetuning())
    assert is_exact(run) and not is_exact(trainer(ModelCheckpoint()))
    assert unfreezing_callbacks(run) == ["BackboneFinetuning"]
