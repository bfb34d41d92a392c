from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, RandomSampler

from lightning_tricks import ExactResume
from lightning_tricks.resume.changes import at_checkpoint, at_first_batch
from lightning_tricks.resume.held import held, held_by_data


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.count = torch.zeros(2), 0


class Saves(Module):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["table"] = self.table


def run(*callbacks: Any) -> Any:
    sampler = RandomSampler([1, 2], generator=torch.Generator())
    loader = DataLoader([1, 2], sampler=sampler)  # type: ignore[arg-type]
    loop = SimpleNamespace(_combined_loader=SimpleNamespace(flattened=[loader]))
    return SimpleNamespace(callbacks=list(callbacks), fit_loop=loop, datamodule=None, lightning_module=Module())


def test_generators_of_loaders_and_what_the_first_batch_moved_are_found() -> None:
    trainer = run()
    before = held_by_data(trainer)
    trainer.fit_loop._combined_loader.flattened[0].sampler.epoch = 1
    (found,) = at_first_batch(trainer, before, held(trainer.lightning_module))
    assert "loader 0.sampler" in found.what and "are in no checkpoint" in found.what
    assert found.fix == "Add ExactResume()"
    exact = run(ExactResume())
    assert at_first_batch(exact, held_by_data(exact), held(exact.lightning_module)) == []


def test_tensors_that_the_steps_change_are_found_and_counters_are_not() -> None:
    module = Module()
    before = held(module)
    module.table.add_(1)
    module.count += 1
    (found,) = at_checkpoint(module, before, exact=False)
    assert "module.table changes" in found.what and "count" not in found.what
    assert at_checkpoint(module, before, exact=True) == []
    assert at_checkpoint(module, None, exact=False) == []


def test_a_module_that_saves_something_itself_is_left_alone() -> None:
    module = Saves()
    before = held(module)
    module.table.add_(1)
    assert at_checkpoint(module, before, exact=False) == []
