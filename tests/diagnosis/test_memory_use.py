"""Bytes of the parts of a training, against sums by hand and what torch's own hooks count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lightning_tricks.diagnosis.memory_use import (
    IN_FUNCTIONS,
    Activations,
    batch_rows,
    batch_size,
    model_bytes,
    steps_foreach,
    storages,
)
from lightning_tricks.dry_run.graphs import Graph, graph_below


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, 4))


WEIGHTS = 4 * (8 * 32 + 32 + 32 + 32 + 32 * 4 + 4)


@pytest.mark.parametrize(
    ("make", "copies"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.RMSprop(p), 1),
        (lambda p: torch.optim.Adam(p), 2),
        (lambda p: torch.optim.AdamW(p), 2),
        (lambda p: torch.optim.NAdam(p), 2),
        (lambda p: torch.optim.Adagrad(p), 1),
    ],
)
def test_the_state_before_the_first_step_is_estimated_as_it_is_after_it(make: Any, copies: int) -> None:
    module = net()
    optimizer = make(module.parameters())
    before = model_bytes(module, [optimizer])
    module(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    after = model_bytes(module, [optimizer])
    assert (before.weights, before.gradients) == (after.weights, after.gradients) == (WEIGHTS, WEIGHTS)
    assert before.buffers == 4 * 64 + 8
    small = 8 * 4 * len(list(module.parameters()))  # counters of steps
    for found in (before, after):
        assert found.optimizer_state == pytest.approx(copies * WEIGHTS, abs=small)
    assert before.total == before.weights + before.buffers + before.gradients + before.optimizer_state


def test_tied_and_frozen_weights_are_counted_as_they_are() -> None:
    module: Any = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    assert model_bytes(module, []).weights == 64
    frozen = net().requires_grad_(False)
    assert model_bytes(frozen, []).gradients == model_bytes(frozen, []).trained == 0


def test_activations_by_module_add_up_to_what_torchs_hooks_count() -> None:
    module, x, notes = net(), torch.randn(16, 8), Activations()
    without = storages([*module.parameters(), *module.buffers()])
    counted: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage()._cdata not in without:
            counted[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        module(x).square().mean()
    for name, child in module.named_children():
        child.register_forward_hook(lambda m, a, out, name=name: notes.note(name, out))
    found = notes.by_module(graph_below(module(x).square().mean().grad_fn, without=without))
    assert sum(found.values()) == sum(counted.values())
    assert found["0"] == found["2"] == 4 * 16 * 32  # (the ReLU writes into what BatchNorm gave)
    assert found["3"] == 4 * 16 * 4
    assert found[IN_FUNCTIONS] == 4 * 16 * 8 + 2 * 4 * 32  # the input; means of BatchNorm


def test_where_the_graph_shows_nothing_the_outputs_are_counted() -> None:
    notes = Activations()
    notes.note("net", (torch.zeros(4, 4), {"y": torch.zeros(2)}))
    assert notes.by_module(Graph()) == {"net": 72}
    assert notes.by_module(Graph(packed=3)) == {}


@pytest.mark.parametrize(
    ("arguments", "foreach"),
    [({}, False), ({"foreach": True}, True), ({"fused": True}, False), ({"foreach": False}, False)],
)
def test_foreach_is_told_from_the_groups(arguments: dict[str, Any], foreach: bool) -> None:
    assert steps_foreach([torch.optim.AdamW(net().parameters(), **arguments)]) is foreach


@pytest.mark.parametrize(
    ("batch", "samples", "sequence"),
    [
        ((torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4)), 4, 7),
        (torch.zeros(4, 9, 3), 4, 9),
        (torch.zeros(4, 3, 8, 8), 4, None),
        ({"tokens": torch.zeros(2, 5, dtype=torch.int64), "mask": torch.ones(2, 6, dtype=torch.bool)}, 2, 6),
        ([], None, None),
        (None, None, None),
    ],
)
def test_a_batch_is_measured_whatever_its_form(batch: Any, samples: int | None, sequence: int | None) -> None:
    size = batch_size(batch)
    assert (size.samples, size.sequence) == (samples, sequence)


def test_rows_of_a_batch_name_place_type_and_shape() -> None:
    rows = batch_rows([torch.zeros(2, 3), {"y": torch.zeros(2, dtype=torch.int64)}, "name"])
    assert rows == ["[0]: float32 [2, 3]", "[1]['y']: int64 [2]"]
