from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.errors import TrickError
from lightning_tricks.optimizers import OptimizerChoice, layers, parameter_groups


class Transformer(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.embedding = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(blocks))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight  # tied: one parameter, in one group


def by_name(module: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


def test_biases_and_norms_get_no_weight_decay_and_each_parameter_one_group() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4), nn.LayerNorm((2, 2)))
    found = by_name(net, parameter_groups(net, lr=0.1, weight_decay=0.3))
    assert {name for name, group in found.items() if group["weight_decay"] == 0.3} == {"0.weight", "3.weight"}
    assert set(found) == {name for name, _ in net.named_parameters()}
    assert found["4.weight"]["weight_decay"] == 0.0, "a norm's weight with two dimensions is one all the same"


def test_tied_and_frozen_parameters_are_in_one_group_and_in_none() -> None:
    net = Transformer()
    net.blocks[0].requires_grad_(False)
    groups = parameter_groups(net, lr=0.1, weight_decay=0.1)
    every = [id(p) for g in groups for p in g["params"]]
    assert len(every) == len(set(every)) == sum(p.requires_grad for p in net.parameters())


def test_each_layers_rate_is_that_of_the_layer_above_times_the_decay() -> None:
    net = Transformer(blocks=3)
    found = by_name(net, parameter_groups(net, lr=1.0, weight_decay=0.1, layer_decay=0.5))
    rates = {name: group["lr"] for name, group in found.items()}
    assert rates["norm.weight"] == 1.0
    assert [rates[f"blocks.{i}.1.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert rates["embedding.weight"] == rates["scale"] == 0.0625


def test_layers_follow_the_longest_stack_or_the_children() -> None:
    assert [names[0].split(".")[0] for names in layers(Transformer(2))] == ["scale", "blocks", "blocks", "norm"]
    flat = nn.Module()
    flat.body, flat.head = nn.Linear(2, 2), nn.Linear(2, 1)
    assert layers(flat) == [["body.weight", "body.bias"], ["head.weight", "head.bias"]]


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_torchs_own_optimizer(kind: str) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 4), nn.Linear(4, 4)
    theirs.load_state_dict(ours.state_dict())
    choice = OptimizerChoice(kind, lr=0.1, weight_decay=0.5, momentum=0.9, nesterov=True, betas=(0.8, 0.9))
    (mine,) = choice.build(ours)
    more: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if kind == "sgd" else {"betas": (0.8, 0.9)}
    groups = [{"params": [theirs.weight], "weight_decay": 0.5}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](
        groups, lr=0.1, **more
    )
    x = torch.randn(8, 4)
    for _ in range(3):
        for net, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_fused_where_the_device_has_it_and_not_where_it_has_not() -> None:
    assert OptimizerChoice().build(nn.Linear(2, 2))[0].param_groups[0]["fused"] is True
    assert not OptimizerChoice().build(nn.Linear(2, 2), fused=False)[0].param_groups[0]["fused"]
    assert not OptimizerChoice().build(nn.Linear(2, 2, dtype=torch.complex64))[0].param_groups[0].get("fused")


def test_parts_get_an_optimizer_each_and_a_wrong_name_is_told() -> None:
    net = nn.ModuleDict({"generator": nn.Linear(2, 2), "critic": nn.Linear(2, 1)})
    choice = OptimizerChoice("adam", parts=("generator", "critic"))
    optimizers = choice.build(net)
    assert [sum(len(g["params"]) for g in o.param_groups) for o in optimizers] == [2, 2]
    with pytest.raises(TrickError, match="no part 'critics' .*generator, critic.*Did you mean 'critic'"):
        choice.changed({"parts": ("critics",)}).build(net)
    assert OptimizerChoice(parts="critic").parts == ("critic",)  # type: ignore[arg-type]


def test_nothing_to_train_is_told() -> None:
    with pytest.raises(TrickError, match="no parameter of Linear requires a gradient"):
        OptimizerChoice().build(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "adamm"}, "Did you mean 'adam"),
        ({"lr": 0}, "lr must be > 0"),
        ({"lr": "big"}, "a number"),
        ({"weight_decay": -1}, "weight_decay must be >= 0"),
        ({"momentum": 1.0}, "momentum must be >= 0 and < 1"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"betas": (0.9, 1.0)}, "betas must be >= 0 and < 1"),
        ({"layer_decay": 0.0}, "layer_decay must be > 0"),
        ({"kind": "sgd", "nesterov": True}, "nesterov needs momentum"),
        ({"learning_rate": 0.1}, "there is no setting learning_rate"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        OptimizerChoice().changed(settings)


def test_it_prints_what_it_is() -> None:
    text = str(OptimizerChoice("sgd", lr=0.1, momentum=0.9, layer_decay=0.5))
    assert text == "SGD(lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=False, layer_decay=0.5)"
