"""The data of a dry run: the batches of the run, again and again, or those that are held."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.dry_run.second_data import SecondData
from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import Classifier, fit


class Try(Trick):
    """Calls a function inside of a dry run, before training."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def _before_start(self, run: TrainingRun) -> None:
        with DryRun(run, "Try") as dry_run:
            self.found = self.function(dry_run.data)


def tried(function: Any) -> Any:
    trick = Try(function)
    fit(Classifier(), [trick], n=32)
    return trick.found


def test_batches_come_again_after_an_epoch_and_after_a_rewind() -> None:
    def look(data: SecondData) -> tuple[Any, ...]:
        count = int(data.batches_per_epoch)
        batches = [data.next_batch()[0] for _ in range(count + 1)]
        data.rewind()
        return count, batches, data.next_batch()[0]

    count, batches, again = tried(look)
    assert count > 1 and not torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[count]) and torch.equal(batches[0], again)


def test_batches_that_are_held_are_copies_until_a_restart() -> None:
    def look(data: SecondData) -> tuple[Any, ...]:
        first = data.next_batch()
        data.hold([first])
        held = [data.next_batch()[0] for _ in range(2)]
        held[0].zero_()
        data.restart()
        return first[0], held[1], data.next_batch()[0]

    first, held, after = tried(look)
    assert torch.equal(first, held), "what was written into one copy is not in the next"
    assert torch.equal(first, after)


def test_data_without_a_batch_are_refused_by_name() -> None:
    empty = DataLoader(TensorDataset(torch.zeros(0, 2)), batch_size=2)
    loop = SimpleNamespace(_combined_loader=CombinedLoader(empty, "max_size_cycle"))
    data = SecondData(SimpleNamespace(fit_loop=loop, num_training_batches=0), "LRFinder")
    data.restart()
    with pytest.raises(TrickError, match="LRFinder: the training data are empty"):
        data.next_batch()
