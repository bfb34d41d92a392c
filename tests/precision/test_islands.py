from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_tricks import UnsupportedError
from lightning_tricks.functional import in_fp32
from lightning_tricks.precision.islands import Islands


class Recorder(nn.Module):
    """Remembers what it was given and in what it computed."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.layer, self.fail, self.seen = nn.Linear(4, 4), fail, []

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        self.seen.append((x.dtype, None if scale is None else scale.dtype, torch.is_autocast_enabled("cpu")))
        if self.fail:
            raise ValueError("boom")
        return self.layer(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_are_cast_and_neighbours_are_not(dtype: torch.dtype) -> None:
    net = nn.ModuleDict({"a": Recorder(), "b": Recorder(), "c": Recorder()})
    islands = Islands("cpu")
    islands.add("b", net["b"])
    with torch.autocast("cpu", dtype):
        x = net["a"](torch.ones(1, 4))
        y = net["b"](x, scale=x)
        z = net["c"](y)
        assert torch.is_autocast_enabled("cpu")
    assert (x.dtype, y.dtype, z.dtype) == (dtype, torch.float32, dtype)
    assert net["b"].seen == [(torch.float32, torch.float32, False)]
    assert net["c"].seen == [(torch.float32, None, True)]
    torch.testing.assert_close(y, net["b"].layer(x.float()), rtol=0, atol=0)
    islands.remove()
    with torch.autocast("cpu", dtype):
        assert net["b"](x).dtype == dtype


def test_autocast_comes_back_when_the_module_raises() -> None:
    bad = Recorder(fail=True)
    outer = nn.Sequential(bad)
    islands = Islands("cpu")
    islands.add("outer", outer)
    islands.add("outer.0", bad)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="boom"):
            outer(torch.ones(1, 4))
        assert torch.is_autocast_enabled("cpu")
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_another_hook_that_fails_first_does_no_harm() -> None:
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda m, a: 1 / 0)
    islands = Islands("cpu")
    islands.add("layer", layer)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ZeroDivisionError):
            layer(torch.ones(1, 4))
        assert torch.is_autocast_enabled("cpu")


def test_a_module_within_itself_is_one_island() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            y = self.layer(x)
            return y if depth == 0 else self(y, depth - 1)

    net, islands = Twice(), Islands("cpu")
    islands.add("net", net)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.ones(1, 4)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")


def test_gradients_are_those_of_float32() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), torch.randn(3, 4).bfloat16()
    layer(x.float()).square().sum().backward()
    wanted, layer.weight.grad = layer.weight.grad.clone(), None
    islands = Islands("cpu")
    islands.add("layer", layer)
    with torch.autocast("cpu", torch.bfloat16):
        loss = layer(x).float().square().sum()
    loss.backward()
    torch.testing.assert_close(layer.weight.grad, wanted, rtol=0, atol=0)


def test_weights_in_16_bit_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="has weights in 16 bit"):
        Islands("cpu").add("a", nn.Linear(2, 2).half())


def test_a_function_becomes_an_island_on_its_own() -> None:
    seen = []

    @in_fp32
    def loss(x: Tensor, *, y: dict[str, Tensor]) -> Tensor:
        seen.append((x.dtype, y["y"].dtype, torch.is_autocast_enabled("cpu")))
        return (x * x).sum()

    with torch.autocast("cpu", torch.bfloat16):
        assert loss(torch.full((1,), 300.0).half(), y={"y": torch.zeros(1).bfloat16()}) == 90_000
    assert seen == [(torch.float32, torch.float32, False)]
    assert loss.__name__ == "loss"
