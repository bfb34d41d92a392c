from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn

from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.sampler import Sampler
from lightning_tricks.diagnosis.first_step import BatchInHand, FirstStep, keeps_activations


def attached(net: nn.Module) -> FirstStep:
    run: Any = SimpleNamespace(trainer=SimpleNamespace(lightning_module=net))
    step = FirstStep()
    step.attach(Attachment("MemoryDoctor", run, lambda see: see(), Sampler(1, 1)))
    return step


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 2)))


def test_activations_are_counted_by_module_in_the_first_step_and_hooks_are_gone_after_it() -> None:
    net = network()
    step, x = attached(net), torch.ones(4, 3)
    loss = net(x).square().sum()
    step.on_before_backward(None, net, loss)
    step.on_train_batch_end(None, net, None, x, 0)
    found = step.by_module()
    assert found["1"] == 4 * 5 * 4, "tanh keeps its output: 4 rows of 5 numbers of 4 bytes"
    assert found["2.0"] == 4 * 2 * 4, "the square keeps the output of the last layer"
    assert step.batch.elements == 12 and step.batch.samples == 4
    assert not any(module._forward_hooks for module in net.modules())
    net(torch.ones(400, 3))
    step.on_before_backward(None, net, net(torch.ones(400, 3)).sum())
    assert step.by_module() == found, "later steps are not looked at"


def test_of_several_losses_the_one_with_the_largest_graph_counts() -> None:
    net = network()
    step = attached(net)
    for rows in (8, 2):
        step.on_before_backward(None, net, net(torch.ones(rows, 3)).square().sum())
    assert step.by_module()["1"] == 8 * 5 * 4


def test_a_loss_without_a_graph_is_passed_over() -> None:
    net = network()
    step = attached(net)
    step.on_before_backward(None, net, torch.tensor(1.0))
    assert step.by_module() == {}


def test_of_an_unfinished_first_step_the_modules_that_were_reached_are_known() -> None:
    net = network()
    step = attached(net)
    net[0](torch.ones(4, 3))
    assert step.by_module() == {"0": 4 * 5 * 4}
    step.forget()
    assert step.by_module() == {}


@pytest.mark.parametrize(
    ("module", "keeps"),
    [(nn.ReLU(), True), (nn.Sequential(nn.ReLU()), False), (torchmetrics.MeanMetric(), False)],
)
def test_leaves_that_are_not_metrics_may_keep_activations(module: nn.Module, keeps: bool) -> None:
    assert keeps_activations(module) is keeps


@pytest.mark.parametrize("end", ["_transfer_started", "_cleanup"])
def test_the_batch_and_its_outputs_are_known_until_the_step_or_the_fit_ends(end: str) -> None:
    hand = BatchInHand()
    hand.on_train_batch_start(None, None, "batch", 0)
    assert (hand.batch, hand.outputs) == ("batch", None)
    hand.on_train_batch_end(None, None, "outputs", "batch", 0)
    assert (hand.batch, hand.outputs) == ("batch", "outputs")
    getattr(hand, end)(None)
    assert (hand.batch, hand.outputs) == (None, None)
