"""Updates on a device are those of a plain torch loop; steps that a GradScaler skips are known without reading it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmarks.gpu import problems
from benchmarks.gpu.correctness import TOLERANCES
from benchmarks.gpu.problems import LARGEST_NORM, STEPS, Module, network
from lightning_tricks import GradientClip, GradientMonitor, LossScaleGuard, LRSchedule
from tests.gpu.devices import context, everywhere, of_cuda
from tests.problems import Memory

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deterministic:UserWarning", "ignore:.*synchroniz:UserWarning", "ignore::lightning_tricks.TrickWarning"
)
PRECISIONS = ("ieee-fp32", "bf16-mixed", "16-mixed")
CASES = [
    *(of_cuda("cuda", net, p) for net in problems.NETS for p in problems.PRECISIONS),
    *(("cpu", "conv", p) for p in PRECISIONS),
]


def cosine(update: int) -> float:
    return (1 + math.cos(math.pi * update / STEPS)) / 2


@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize(("device", "net", "precision"), CASES)
def test_clip_and_schedule_give_the_weights_of_a_plain_loop(
    device: str, net: str, precision: str, manual: bool, fused: bool
) -> None:
    start = network(net)
    with problems.deterministic():
        wanted, *_ = problems.plain(torch.device(device), start, precision, fused, rate=cosine)
        tricks = [GradientMonitor(), GradientClip(LARGEST_NORM), LRSchedule("cosine", warmup=0)]
        found = problems.fitted(context(device), Module(network(net), fused, manual), tricks, precision)
    way = float((wanted - problems.weights(start)).abs().max())
    assert way > 0
    assert float((found - wanted).abs().max()) <= TOLERANCES[precision] * way


@everywhere
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
def test_skipped_steps_are_those_of_torch_and_the_scale_too(device: str, fused: bool) -> None:
    spoilt = (2, 3, 9)
    wanted, scale, applied = problems.plain(torch.device(device), network("conv"), "16-mixed", fused, spoilt=spoilt)
    guard, clip = LossScaleGuard(), GradientClip(LARGEST_NORM)
    module = Module(network("conv"), fused, spoilt=spoilt)
    found = problems.fitted(context(device), module, [GradientMonitor(), clip, guard], "16-mixed")
    assert guard.skipped_steps == len(spoilt) == STEPS - applied
    assert module.trainer.precision_plugin.scaler.get_scale() == scale == problems.SCALE / 2 ** len(spoilt)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@everywhere
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
@pytest.mark.parametrize("nonfinite", ["skip", "zero"])
def test_without_a_scaler_a_gradient_that_is_not_finite_moves_no_weight(
    device: str, fused: bool, nonfinite: Any
) -> None:
    every = tuple(range(STEPS))
    module = Module(network("lstm"), fused, spoilt=every)
    before = problems.weights(module)
    found = problems.fitted(context(device), module, [GradientClip(1.0, nonfinite=nonfinite)])
    assert torch.equal(found, before) or nonfinite == "zero"
    assert found.isfinite().all()


@everywhere
@pytest.mark.parametrize("precision", ["ieee-fp32", "16-mixed"])
def test_the_norm_that_is_logged_is_that_of_the_unscaled_gradient(device: str, precision: str) -> None:
    logger = Memory()
    problems.fitted(context(device), Module(network("conv"), True), [GradientMonitor()], precision, logger=logger, log_every_n_steps=1)  # fmt: skip
    net = network("conv").to(device)
    x, y = next(iter(problems.batches()))
    dtype = torch.float16 if precision == "16-mixed" else torch.float32
    with torch.autocast(device, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        loss = torch.nn.functional.cross_entropy(net(x.to(device)), y.to(device))
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()  # type: ignore[union-attr]
    assert logger.series("grad/norm")[0] == pytest.approx(float(norm), rel=2e-3)
    assert len(logger.series("grad/norm")) == STEPS
