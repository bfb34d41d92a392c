from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tricks.modules.graph import layers_with_parameters_behind


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(1, 1, 3, padding=1)


@pytest.mark.parametrize("penalty", [False, True])
def test_only_what_a_parameter_comes_after_is_hidden(penalty: bool) -> None:
    net, x = Two(), torch.randn(5, 4)
    hidden = net.one(x).tanh()
    middle = net.two(hidden * 2).sigmoid()
    output = net.three(middle[:, None]).squeeze(1).sigmoid()
    loss = nn.functional.binary_cross_entropy(output, torch.ones_like(output))
    if penalty:
        loss = loss + sum(p.square().sum() for p in net.parameters())
    nodes = {"hidden": [hidden.grad_fn], "middle": [middle.grad_fn], "output": [output.grad_fn]}
    assert layers_with_parameters_behind(loss, nodes) == {"hidden", "middle"}


def test_a_second_head_is_not_behind_the_output_of_the_first() -> None:
    net, x = Two(), torch.randn(5, 4)
    first = net.one(x).sigmoid()
    second = net.two(x)
    loss = first.mean() + second.mean()
    assert layers_with_parameters_behind(loss, {"first": [first.grad_fn]}) == set()


def test_what_does_not_lead_to_the_loss_is_not_known_to_be_an_output() -> None:
    net, x = Two(), torch.randn(5, 4)
    unused = net.one(x).sigmoid()
    nodes = {"unused": [unused.grad_fn], "none": [None]}
    assert layers_with_parameters_behind(net.two(x).mean(), nodes) == {"unused", "none"}
    assert layers_with_parameters_behind(torch.zeros(()), {"none": [None]}) == {"none"}
    inner = net.one(x).sigmoid()
    assert layers_with_parameters_behind(inner.grad_fn and inner.sum(), {"inner": [inner.grad_fn]}) == set()
