"""Islands of float32, the doctor, and the memory that runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.gpu import problems
from benchmarks.gpu.correctness import Hungry, _little_memory
from benchmarks.gpu.problems import Module, network
from lightning_tricks import FP32Islands, GradientAccumulation, PrecisionDoctor, TrickWarning, advise_precision
from tests.gpu.devices import context, everywhere, only_cuda
from tests.problems import Memory

pytestmark = pytest.mark.filterwarnings("ignore:.*ynchroniz:UserWarning", "ignore:.*deterministic:UserWarning")


class Seen(nn.Module):
    """A linear layer that remembers the type of what it gets and gives."""

    def __init__(self, into: int, out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.layer, self.types, self.gain = nn.Linear(into, out), list[Any](), gain

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) * self.gain
        self.types.append((x.dtype, y.dtype))
        return y


def islanded() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), Seen(432, 16), Seen(16, 16), Seen(16, 10))


@everywhere
@pytest.mark.parametrize(("precision", "half"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_an_island_computes_in_float32_and_its_neighbours_do_not(
    device: str, precision: str, half: torch.dtype
) -> None:
    net = islanded()
    problems.fitted(context(device), Module(net), [FP32Islands(["net.2"])], precision, max_steps=2)
    assert set(net[1].types) == {(torch.float32, half)}  # type: ignore[index]
    assert set(net[2].types) == {(torch.float32, torch.float32)}  # type: ignore[index]
    assert set(net[3].types) == {(torch.float32, half)}  # type: ignore[index]


@everywhere
@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
def test_the_doctor_names_the_module_that_overflows(device: str, fused: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), Seen(432, 16), Seen(16, 16, gain=1e6), Seen(16, 10, gain=1e-6))
    doctor = PrecisionDoctor(every_n_steps=1)
    problems.fitted(context(device), Module(net, fused), [doctor], "16-mixed", max_steps=4)
    assert [f.module for f in doctor.findings if f.kind == "forward overflow"] == ["net.2"]


@everywhere
def test_the_doctor_measures_the_room_that_is_left(device: str) -> None:
    doctor, logger = PrecisionDoctor(every_n_steps=1), Memory()
    problems.fitted(context(device), Module(network("conv")), [doctor], "16-mixed", logger=logger, max_steps=3)
    assert doctor.findings == []
    row = doctor.table["net.7"]
    assert 0 < row["largest_output"] < 65504
    assert any(key.startswith("amp/headroom/") for _, values in logger.rows for key in values)


@everywhere
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
def test_a_batch_that_has_no_room_is_split_with_the_same_update(device: str, fused: bool) -> None:
    room = 2**29
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    module, trick = (
        Hungry(3 * room if device == "cuda" else 256, device == "cpu"),
        GradientAccumulation(1, on_oom="split"),
    )
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.1, fused=fused or None)  # type: ignore[method-assign]
    weight = module.net.weight.detach().double().clone().requires_grad_()
    bias = module.net.bias.detach().double().clone()
    nn.functional.linear(x.double(), weight, bias).square().mean().backward()
    with pytest.warns(TrickWarning, match="no memory for a batch of 16"), _little_memory(torch.device(device), room):
        problems.fitted(context(device), module, [trick], loader=DataLoader([(x, x)], batch_size=None))  # type: ignore[arg-type]
    assert trick.max_split_size is not None
    assert trick.max_split_size < 16
    wanted = weight.detach() - 0.1 * weight.grad  # type: ignore[operator]
    torch.testing.assert_close(module.net.weight.detach().double().cpu(), wanted, rtol=1e-4, atol=1e-5)


@only_cuda
def test_the_advice_has_numbers_for_every_precision_of_the_device(device: str) -> None:
    module, flags = Module(network("conv")), torch.get_rng_state()
    found = advise_precision(module, next(iter(problems.batches())), device=device, seconds=2.0)
    assert torch.equal(torch.get_rng_state(), flags)
    assert {name: row.problem for name, row in found.rows.items()} == dict.fromkeys(found.rows, "")
    assert all(row.peak_bytes > 0 for row in found.rows.values())
