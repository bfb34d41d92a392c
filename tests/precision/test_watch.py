from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_tricks import UnsupportedError
from lightning_tricks.precision.watch import Watch, chosen, underflow_counts, watchable

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.second = nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def measured(net: Block, x: Tensor, recompute: bool | None = None) -> dict[str, list[float]]:
    watch = Watch({n: m for n, m in net.named_children() if n != "act"})
    watch.attach()
    y = net(x) if recompute is None else checkpoint(net, x, use_reentrant=recompute)
    y.square().sum().backward()
    watch.detach()
    return dict(zip(watch.names, watch.collect(CPU).T.tolist(), strict=True))


def oracle(net: Block, x: Tensor) -> dict[str, list[float]]:
    """In float64, with retained gradients instead of hooks."""
    net = net.double()
    a = net.first(x.double())
    b = torch.relu(a)
    c = net.second(b)
    a.retain_grad()
    c.retain_grad()
    c.square().sum().backward()
    rows = {}
    for name, out in (("first", a), ("second", c)):
        g = out.grad.abs()
        rows[name] = [
            float(out.detach().abs().max()),
            float(g.max()),
            float(((g > 0) & (g < 2**-14)).sum()),
            float((g > 0).sum()),
        ]
    return rows


@pytest.mark.parametrize("recompute", [None, False, True])
def test_activations_and_gradients_are_those_of_float64(recompute: bool | None) -> None:
    torch.manual_seed(1)
    x = (torch.randn(32, 8) * 1e-3).requires_grad_()
    found = measured(Block(), x, recompute)
    wanted = oracle(Block(), x.detach())
    for name, row in wanted.items():
        assert found[name][:2] == pytest.approx(row[:2], rel=1e-5)
        assert found[name][2] / found[name][3] == pytest.approx(row[2] / row[3], abs=0.02)


def test_hooks_change_nothing() -> None:
    x = torch.randn(4, 8)
    plain, watched = Block(), Block()
    plain(x).sum().backward()
    measured_net = Watch(dict(watched.named_children()))
    measured_net.attach()
    watched(x).sum().backward()
    measured_net.detach()
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert not any(m._forward_hooks for m in watched.modules())


def test_what_was_not_called_is_told_apart_from_zero() -> None:
    net = Block()
    watch = Watch(dict(net.named_children()))
    watch.attach()
    net.first(torch.zeros(1, 8)).sum().backward()
    watch.detach()
    table = watch.collect(CPU)
    assert table[0, 0] > 0
    assert table[:, 1:].tolist() == [[-1.0, -1.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_collected_table_begins_anew() -> None:
    net = Block()
    watch = Watch({"first": net.first})
    watch.attach()
    net(torch.full((1, 8), 5.0))
    big = watch.collect(CPU)[0, 0]
    net(torch.full((1, 8), 0.1))
    assert watch.collect(CPU)[0, 0] < big
    watch.detach()


def test_underflow_of_a_log_uniform_gradient_is_the_one_of_the_notes() -> None:
    exponent = torch.linspace(-9, -3, 100_001, dtype=torch.float64)
    gradient = 10.0**exponent
    for scale in (1.0, 2.0**8, 2.0**16):
        small, there = underflow_counts(gradient, scale).tolist()
        share = (math.log10(2**-14 / scale) + 9) / 6  # of the decades from 1e-9 to 1e-3
        assert small / there == pytest.approx(min(1, max(0, share)), abs=1e-3)


def test_a_gradient_that_vanished_in_float16_is_a_full_underflow() -> None:
    gone = torch.full((4,), 1e-9).half()
    assert underflow_counts(gone).tolist() == [1.0, 1.0]
    broken = torch.tensor([math.nan, 0.0])
    assert underflow_counts(broken).tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch, on the way to its compiler
def test_modules_without_children_are_measured_unless_they_are_named() -> None:
    net = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.ReLU()), "head": nn.Linear(2, 1)})
    assert list(chosen(net, None, owner="PrecisionDoctor")) == ["body.0", "body.2", "head"]
    assert list(chosen(net, ["body", "h*"], owner="PrecisionDoctor")) == ["body", "head"]
    assert list(watchable(net)) == ["body", "body.0", "body.1", "body.2", "head"]
    net["body"].compile()
    assert list(watchable(net)) == ["head"]
    with pytest.raises(UnsupportedError, match="part of a compiled graph"):
        chosen(net, ["body.0"], owner="PrecisionDoctor")
