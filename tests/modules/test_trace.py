from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_tricks.modules.trace import Call, Trace, floating, largest


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_the_largest(value: float) -> None:
    assert largest(torch.tensor([1.0, value, 2.0])) == math.inf
    assert largest(torch.tensor([1.0, value], dtype=torch.float16)).dtype == torch.float32


def test_tensors_are_found_in_all_kinds_of_outputs() -> None:
    class Output(dict):  # type: ignore[type-arg]
        pass

    t = torch.zeros(1)
    assert len(floating((t, {"a": [t, 1]}, Output(x=t), torch.zeros(0), torch.tensor(1)))) == 3


def test_a_trace_tells_where_it_began() -> None:
    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.exp(self.a(x) * 1000))

    net = Functions()
    with Trace({n: m for n, m in net.named_modules() if n}) as trace:
        net(torch.ones(1))
    assert trace.calls() == [Call("a", 1.0, 1.0), Call("b", math.inf, math.inf)]
    assert Trace({}).calls() == []


def test_a_mask_is_no_overflow() -> None:
    class Mask(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x > 0, -math.inf)

    with Trace({"mask": (mask := Mask())}) as trace:
        mask(torch.tensor([1.0, -1.0]))
        mask(torch.tensor([1.0, math.nan]))
    assert [call.masks for call in trace.calls()] == [True, False]


def test_a_trace_says_that_weights_are_broken() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    with Trace({"layer": layer}) as trace:
        layer(torch.ones(1, 2))
    assert trace.calls()[0][2:] == (math.inf, False, False)
