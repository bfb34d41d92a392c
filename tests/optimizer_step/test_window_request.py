from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import GradientAccumulation, GradientMonitor
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import Classifier, digits, fit, network, sgd, weights

BATCH, N = 8, 108  # 14 micro-batches, the last one smaller


class Asking(Trick):
    """Asks for a longer window after some batches."""

    def __init__(self, at: int, factor: int) -> None:
        self.at, self.factor = at, factor

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if batch_idx == self.at:
            self.run.window.ask(self.factor)


def plain(windows: list[int], exact: bool) -> torch.Tensor:
    """The same in a loop: means over the samples of a window, or over its micro-batches."""
    net, data = network(), digits(N)
    optimizer, at = sgd(net.parameters()), 0
    batches = [(data.tensors[0][i : i + BATCH], data.tensors[1][i : i + BATCH]) for i in range(0, N, BATCH)]
    for window in windows:
        part = batches[at : at + window]
        total = sum(len(y) for _, y in part)
        optimizer.zero_grad()
        for x, y in part:
            weight = len(y) / total if exact else 1 / len(part)
            (weight * nn.functional.cross_entropy(net(x), y)).backward()
        optimizer.step()
        at += window
    return weights(net)


def test_the_default_owner_begins_where_lightning_does_and_corrects_the_last_window() -> None:
    module = Classifier()
    t = fit(module, [Asking(at=1, factor=4)], n=N, batch=BATCH)
    # asked for after batch 1; Lightning begins windows of four at batches 4, 8 and 12; the last one has two
    torch.testing.assert_close(weights(module), plain([1, 1, 1, 1, 4, 4, 2], exact=False), rtol=1e-5, atol=1e-7)
    assert t.accumulate_grad_batches == 1, "given back"


def test_gradient_accumulation_carries_it_out_exactly_from_its_next_window_on() -> None:
    module = Classifier()
    fit(module, [GradientAccumulation(2), Asking(at=3, factor=3)], n=N, batch=BATCH)
    torch.testing.assert_close(weights(module), plain([2, 2, 6, 4], exact=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("first", [True, False])
def test_norms_are_those_of_the_corrected_gradient(first: bool) -> None:
    monitor, asking = GradientMonitor(), Asking(at=1, factor=4)
    module = Classifier()
    fit(module, [monitor, asking] if first else [asking, monitor], n=N, batch=BATCH)
    torch.testing.assert_close(weights(module), plain([1, 1, 1, 1, 4, 4, 2], exact=False), rtol=1e-5, atol=1e-7)
