"""Graphs: operations and saved tensors, against what torch itself shows, and without running anything."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from lightning_tricks.dry_run.graphs import BYTES_OF_A_NODE, graph_below


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))


def storages(module: nn.Module) -> set[int]:
    return {p.untyped_storage()._cdata for p in module.parameters()}


def test_saved_bytes_are_those_that_torchs_own_hooks_count() -> None:
    module, x = net(), torch.randn(16, 8)
    counted: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage()._cdata not in storages(module):
            counted[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        module(x).square().mean()
    graph = graph_below(module(x).square().mean().grad_fn, without=storages(module))
    assert sum(graph.saved.values()) == sum(counted.values()) == 4 * (16 * 8 + 16 * 32 + 16 * 4)
    assert graph.complete and graph.nbytes == sum(graph.saved.values()) + graph.nodes * BYTES_OF_A_NODE


def test_after_the_backward_pass_only_operations_are_left() -> None:
    loss = net()(torch.randn(16, 8)).square().mean()
    nodes = graph_below(loss.grad_fn).nodes
    loss.backward()
    graph = graph_below(loss.grad_fn)
    assert (graph.nodes, graph.saved) == (nodes, {})


def test_what_a_hook_has_packed_is_not_unpacked() -> None:
    def refuse(t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("it was unpacked")

    with saved_tensors_hooks(lambda t: t, refuse):
        out = net()(torch.randn(16, 8))
    graph = graph_below(out.grad_fn)
    assert graph.packed > 0 and not graph.saved


def test_a_checkpointed_part_is_not_computed_again() -> None:
    module, calls = net(), []
    module[1].register_forward_hook(lambda *_: calls.append(1))
    out = checkpoint(module, torch.randn(16, 8), use_reentrant=False)
    graph_below(out.sum().grad_fn)
    assert len(calls) == 1


def test_a_large_graph_is_looked_at_up_to_a_limit() -> None:
    x = torch.ones(1, requires_grad=True)
    for _ in range(50):
        x = x + 1
    assert graph_below(x.grad_fn).nodes == 51
    graph = graph_below(x.grad_fn, most=20)
    assert graph.nodes == 20 and not graph.complete


def test_looking_leaves_the_gradients_as_they_are() -> None:
    gradients = []
    for look in (False, True):
        module = net()
        loss = module(torch.ones(4, 8)).square().sum()
        if look:
            graph_below(loss.grad_fn)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("none", [None])
def test_a_tensor_without_a_graph_keeps_nothing(none: None) -> None:
    assert graph_below(none).nbytes == 0
