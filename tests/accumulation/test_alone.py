"""Micro-batches that are an update by themselves: nothing is weighed there, and nothing may differ from a plain run."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

from lightning_tricks import GradientAccumulation
from tests.accumulation.problems import Gradients, big_batches, errors, feed, ragged, run
from tests.problems import Classifier, trainer

SIZES = (8, 8, 5, 8, 3, 8, 8, 2)


class TwicePerStep(torch.optim.SGD):
    """Evaluates its closure twice before it steps, as sharpness-aware optimizers do."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


class Twice(Classifier):
    """Trains with it."""

    def configure_optimizers(self) -> Any:
        return TwicePerStep(self.parameters(), lr=0.05)


class Enlarges(L.Callback):
    """Asks for windows of two micro-batches from a batch on, as a rollback does."""

    def __init__(self, trick: GradientAccumulation, at: int) -> None:
        self.trick, self.at = trick, at

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at:
            self.trick.run.window.ask(2)


def final(callbacks: list[Any], module: Any, data: Any) -> Tensor:
    trainer(callbacks).fit(module, feed(data))
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("module", [Classifier, Twice])
@pytest.mark.parametrize("weight", ["samples", "equal"])
def test_weights_are_those_of_a_run_without_it_to_the_last_bit(module: Any, weight: Any) -> None:
    data = ragged(SIZES)
    assert torch.equal(final([GradientAccumulation(1, weight=weight)], module(), data), final([], module(), data))


def test_a_window_that_is_made_longer_in_mid_run_has_the_gradient_of_the_big_batches() -> None:
    data, trick = ragged(SIZES), GradientAccumulation(1)
    measured, _ = run(trick, data, Enlarges(trick, at=3))
    assert max(errors(measured, big_batches(data, [1, 1, 1, 1, 2, 2]))) <= 1e-6


def test_an_empty_batch_is_left_out_and_the_next_ones_count_as_before() -> None:
    data = ragged(SIZES)
    x, y = data[2]
    empty = (x[:0], y[:0])
    noted = Gradients()
    trainer([GradientAccumulation(1), noted]).fit(Classifier(), feed([*data[:4], empty, *data[4:]]))
    assert noted.rows[4].abs().max() == 0.0, "the mean over nothing is NaN"
    rows = [row for i, row in enumerate(noted.rows) if i != 4]
    assert max(errors(rows, big_batches(data, [1] * len(data)))) <= 1e-6


def test_the_size_of_the_last_update_is_told() -> None:
    trick = GradientAccumulation(1)
    run(trick, ragged(SIZES))
    assert trick.effective_batch_size == SIZES[-1]
