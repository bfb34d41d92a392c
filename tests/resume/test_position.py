"""Positions in loops that are made up; those of a true Trainer are in test_exact.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from lightning_tricks import TrickError, UnsupportedError
from lightning_tricks.resume import position
from lightning_tricks.resume.loop_hooks import LoopHooks


def loop_of(loaders: list[Any], ready: int = 0, total: int = 0) -> Any:
    progress = SimpleNamespace(current=SimpleNamespace(ready=ready), total=SimpleNamespace(ready=total))
    epoch = SimpleNamespace(batch_progress=progress, _should_check_val_fx=lambda fetcher: True)
    combined = SimpleNamespace(flattened=loaders, _mode="max_size_cycle")
    trainer = SimpleNamespace(lightning_module=nn.Linear(1, 1))
    return SimpleNamespace(
        _combined_loader=combined, epoch_loop=epoch, trainer=trainer, max_batches=4, _data_fetcher=object()
    )


def shuffled() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(range(8), sampler=RandomSampler(range(8), generator=generator))  # type: ignore[arg-type]


def draw(loop: Any) -> tuple[float, float]:
    generator = loop._combined_loader.flattened[0].sampler.generator
    return float(torch.rand(1)), float(torch.rand(1, generator=generator))


def test_a_state_puts_all_random_numbers_back() -> None:
    loop = loop_of([shuffled()], total=4)
    found = position.state_of(loop, held={}, began=None, validated=0)
    assert (found["batches"], found["seeds"], found["validation"]) == (4.0, [None], True)
    first = [draw(loop) for _ in range(3)]
    position.check_numbers(loop, found)  # (leaves today's numbers as they are)
    second = draw(loop)
    position.put_numbers(loop, found)
    assert [draw(loop) for _ in range(3)] == first and second not in first


def test_numbers_that_fit_no_generator_are_refused_and_todays_stay() -> None:
    loop = loop_of([shuffled()])
    found = position.state_of(loop, held={}, began=None, validated=0)
    wanted = [draw(loop) for _ in range(2)]
    position.put_numbers(loop, found)
    damaged = {**found, "held": {"module": {"x": {"kind": "unknown", "content": []}}}}
    with pytest.raises(TrickError, match=r"random state in the checkpoint cannot be used \(KeyError\)"):
        position.check_numbers(loop, damaged)
    assert [draw(loop) for _ in range(2)] == wanted


@pytest.mark.parametrize(("total", "validated", "due"), [(0, 0, False), (4, 0, True), (4, 4, False), (8, 4, True)])
def test_a_validation_is_due_until_it_has_been(total: int, validated: int, due: bool) -> None:
    assert position.validation_is_due(loop_of([], total=total), validated) is due


def test_a_validation_is_made_up_for_once_and_the_trainer_trains_afterwards() -> None:
    told: list[Any] = []
    connector = SimpleNamespace(_first_loop_iter="before")
    trainer: Any = SimpleNamespace(_logger_connector=connector, training=False, validating=False)
    validation = SimpleNamespace(restarting=True, run=lambda: told.append((trainer.validating, validation.restarting)))
    trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=validation))
    found = {"validation": True}
    position.make_up_for_validation(trainer, found)
    position.make_up_for_validation(trainer, found)
    assert told == [(True, False)] and trainer.training and connector._first_loop_iter == "before"


def test_the_middle_of_a_stream_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([1])

    loop = loop_of([DataLoader(Stream())], ready=2)
    with pytest.raises(UnsupportedError, match="after 2 batches, and Stream is an iterable data set"):
        position.find_place(loop, None, {"began": None}, lambda values: None)


def test_data_are_made_as_they_were_before_the_iterator_is() -> None:
    loop = loop_of([shuffled()], ready=0)
    made: list[str] = []

    class Fetcher:
        def __iter__(self) -> Any:
            made.append("iterator")
            return iter([])

    position.find_place(loop, Fetcher(), {"began": None}, lambda values: made.append("data"))
    assert made == ["iterator"], "between two epochs there is nothing to pass over"


def test_a_checkpoint_waits_for_the_first_update_and_other_callbacks_do_not() -> None:
    hooks = LoopHooks(lambda function: function())
    told: list[int] = []

    class Saver(ModelCheckpoint):
        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            told.append(trainer.global_step)

    class Other:
        def on_train_batch_end(self, trainer: Any) -> None:
            told.append(-trainer.global_step)

    saver, other = Saver(), Other()
    for each in (saver, other):
        position.hold_back(each, 3, hooks)
    for step in (3, 4):
        saver.on_train_batch_end(SimpleNamespace(global_step=step))
        other.on_train_batch_end(SimpleNamespace(global_step=step))
    assert told == [-3, 4, -4]
    hooks.end()
    saver.on_train_batch_end(SimpleNamespace(global_step=3))
    assert told[-1] == 3


def test_the_beginning_of_an_epoch_tells_which_workers_are_made_for_it() -> None:
    loader = shuffled()
    found = position.beginning_of_epoch(SimpleNamespace(flattened=[loader]), nn.Linear(1, 1), {"a": {}})
    assert found["workers"] == [True] and found["held"] == {"a": {}}
    assert found.keys() == {"random", "generators", "workers", "held"}
