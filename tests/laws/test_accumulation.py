"""Accumulation: k micro-batches are the one big batch, and the number of updates is what a child would count."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tricks import GradientAccumulation, GradientMonitor
from tests.laws.strategies import flat, law
from tests.problems import Classifier, digits, fit, network, sgd, trainer

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=10)


class Batches(torch.utils.data.Sampler[list[int]]):
    """Batches of given sizes, one after the other."""

    def __init__(self, sizes: list[int]) -> None:
        ends = list(itertools.accumulate(sizes))
        self.parts = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]

    def __iter__(self) -> Any:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A mean over the labels that count."""
    return nn.functional.cross_entropy(net(x), y) if (y >= 0).any() else net(x).sum() * 0.0


class Plain(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return loss_of(self.net, batch[0].to(next(self.parameters()).dtype), batch[1])


def data(total: int, ignored: list[bool]) -> tuple[Tensor, Tensor]:
    x, y = digits(total).tensors
    out = torch.tensor([ignored[i % len(ignored)] for i in range(total)])
    return x, torch.where(out, -100, y)


def big_batches(x: Tensor, y: Tensor, sizes: list[int], window: int) -> Tensor:
    """The oracle: a plain loop in float64 over the windows, each of them one batch."""
    net = network().double()
    optimizer, start = sgd(net.parameters()), 0
    for i in range(0, len(sizes), window):
        end = start + sum(sizes[i : i + window])
        optimizer.zero_grad()
        loss_of(net, x[start:end].double(), y[start:end]).backward()
        optimizer.step()
        start = end
    return flat(net.parameters())


@given(sizes, st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=4), st.sampled_from([64, 32]))
@law(50)
def test_micro_batches_of_any_sizes_make_the_update_of_the_big_batch(
    sizes: list[int], window: int, ignored: list[bool], bits: int
) -> None:
    x, y = data(sum(sizes), ignored)
    module = Plain(net=network())
    t = trainer([GradientAccumulation(window, weight="tokens")], precision=f"{bits}-true")
    t.fit(module, DataLoader(torch.utils.data.TensorDataset(x, y), batch_sampler=Batches(sizes)))
    close = {"rtol": 1e-5, "atol": 1e-7} if bits == 64 else {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(flat(module.net.parameters()), big_batches(x, y, sizes, window), **close)


@given(sizes, st.integers(1, 5))
@law(30)
def test_weighing_by_samples_is_weighing_by_labels_where_all_count(sizes: list[int], window: int) -> None:
    x, y = data(sum(sizes), [False])
    module = Plain(net=network())
    t = trainer([GradientAccumulation(window, weight="samples")], precision="64-true")
    t.fit(module, DataLoader(torch.utils.data.TensorDataset(x, y), batch_sampler=Batches(sizes)))
    wanted = big_batches(x, y, sizes, window)
    torch.testing.assert_close(flat(module.net.parameters()), wanted, rtol=1e-5, atol=1e-7)


class Counted(torch.optim.SGD):
    """Counts its own steps: the oracle of the clock."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        done = super().step(closure)
        self.steps += 1
        return done


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@given(
    batches=st.integers(1, 12),
    window=st.integers(1, 6),
    epochs=st.integers(1, 3),
    ours=st.booleans(),
    manual=st.booleans(),
    precision=st.sampled_from(["32-true", "16-mixed"]),
)
@law(40)
def test_the_clock_counts_a_window_once(
    batches: int, window: int, epochs: int, ours: bool, manual: bool, precision: str
) -> None:
    ours, window = ours and not manual, 1 if manual else window
    monitor, made = GradientMonitor(), []
    module = Classifier(lambda p: made.append(Counted(p, lr=0.01)) or made[-1], manual=manual)
    fit(
        module,
        [*([GradientAccumulation(window)] if ours else []), monitor],
        n=4 * batches,
        batch=4,
        max_epochs=epochs,
        precision=precision,
        accumulate_grad_batches=1 if ours else window,
    )
    clock, wanted = monitor.run.clock, epochs * math.ceil(batches / window)
    assert (clock.attempted(0), clock.applied_on_host(0), made[0].steps) == (wanted, wanted, wanted)


@given(st.dictionaries(st.integers(1, 9), st.integers(1, 5), max_size=3), st.integers(1, 5), st.integers(1, 20))
@law(40)
def test_a_window_that_changes_is_counted_too(later: dict[int, int], first: int, batches: int) -> None:
    windows, monitor = {0: first, **later}, GradientMonitor()
    fit(Classifier(), [GradientAccumulation(windows), monitor], n=2 * batches, batch=2)
    updates = left = 0
    for batch in range(batches):
        left = left or windows[max(k for k in windows if k <= updates)]
        left = 0 if batch == batches - 1 else left - 1
        updates += left == 0
    assert monitor.run.clock.applied_on_host(0) == updates
