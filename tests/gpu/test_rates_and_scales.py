"""Rates as tensors on the device, the loss scale handed over to a fused optimizer, and what float32 means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from benchmarks.gpu import problems
from benchmarks.gpu.problems import RATE, STEPS, Module, network
from benchmarks.settings import Setting
from lightning_tricks import GradientClip, LRSchedule
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.precision.fp32_flags import fp32_flags, fp32_mode
from tests.gpu.devices import context, everywhere, only_cuda

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*ynchroniz:UserWarning",
    "ignore:.*deterministic:UserWarning",
    "ignore::lightning_tricks.TrickWarning",
    "ignore:Be aware that when using `ckpt_path`:UserWarning",
)


def curve(update: int, total: int = STEPS) -> float:
    return RATE * (1 + math.cos(math.pi * update / total)) / 2


@everywhere
@pytest.mark.parametrize("precision", ["ieee-fp32", "16-mixed"])
def test_the_rate_after_the_last_update_is_the_curves(device: str, precision: str) -> None:
    module = Module(network("lstm" if device == "cuda" else "conv"), True)
    problems.fitted(context(device), module, [LRSchedule("cosine", warmup=0)], precision)
    (group,) = module.trainer.optimizers[0].param_groups
    assert float(group["lr"]) == pytest.approx(curve(STEPS), abs=1e-9)
    if device == "cuda" and precision == "16-mixed":
        assert isinstance(group["lr"], torch.Tensor)
        assert group["lr"].device.type == "cuda"


@everywhere
def test_a_rate_counts_updates_and_not_skipped_steps(device: str) -> None:
    spoilt = (1, 4, 5)
    module = Module(network("conv"), True, spoilt=spoilt)
    schedule = LRSchedule("cosine", warmup=0, total=4 * STEPS)
    problems.fitted(context(device), module, [GradientClip(1.0), schedule], "16-mixed")
    (group,) = module.trainer.optimizers[0].param_groups
    assert float(group["lr"]) == pytest.approx(curve(STEPS - len(spoilt), 4 * STEPS), rel=1e-5)


@everywhere
def test_a_resumed_rate_lies_where_the_schedule_computes_it(device: str, tmp_path: Any) -> None:
    """The checkpoint brings the rate back as a tensor on the host."""
    keep = ModelCheckpoint(tmp_path, "half", every_n_train_steps=STEPS // 2, save_top_k=-1)
    more: dict[str, Any] = {"enable_checkpointing": True, "max_steps": STEPS // 2}
    first = [LRSchedule("cosine", warmup=0, total=STEPS), keep]
    problems.trainer(context(device), first, "16-mixed", **more).fit(Module(network("conv"), True), problems.batches())
    module = Module(network("conv"), True)
    again = problems.trainer(
        context(device), [LRSchedule("cosine", warmup=0, total=STEPS)], "16-mixed", max_steps=STEPS - 2
    )
    again.fit(module, problems.batches(), ckpt_path=tmp_path / "half.ckpt")
    rate = again.optimizers[0].param_groups[0]["lr"]
    assert float(rate) == pytest.approx(curve(STEPS - 2), rel=1e-5)
    if isinstance(rate, torch.Tensor):
        assert rate.device.type == device


def scaled(device: str, gradient: float, found: bool, divisor: float | None) -> tuple[float, float]:
    """One step of a fused SGD whose gradient is scaled by 8; return the weight, and the scale afterwards."""
    weight = nn.Parameter(torch.zeros(1, device=device))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    grad_scaler = torch.amp.GradScaler(device, init_scale=8.0)
    grad_scaler.scale(torch.ones((), device=device))
    weight.grad = torch.full((1,), 8.0 * gradient, device=device)
    by = None if divisor is None else torch.full((), divisor, device=device)
    LossScale(grad_scaler).hand_over(optimizer, torch.tensor(found, device=device), by)
    grad_scaler.step(optimizer)
    grad_scaler.update()
    return float(weight.detach()), grad_scaler.get_scale()


@everywhere
@pytest.mark.parametrize(("gradient", "found", "divisor", "wanted"), [
    (3.0, False, None, (-3.0, 8.0)), (3.0, False, 2.0, (-1.5, 8.0)), (math.inf, True, None, (0.0, 4.0)), (1.0, True, 2.0, (0.0, 4.0)),
])  # fmt: skip
def test_a_fused_step_divides_by_the_scale_and_by_the_clip_and_skips(
    device: str, gradient: float, found: bool, divisor: float | None, wanted: tuple[float, float]
) -> None:
    assert scaled(device, gradient, found, divisor) == wanted


# -- what float32 means -----------------------------------------------------------------------------------------------


def relative_error(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    wanted = a.double() @ b.double()
    return float((product.double() - wanted).norm() / wanted.norm())


@everywhere
@pytest.mark.parametrize("tf32", [False, True])
def test_products_have_the_precision_of_the_mode(device: str, tf32: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=draw).to(device) for _ in range(2))
    before = fp32_flags()
    with fp32_mode(tf32):
        error = relative_error(a @ b, a, b)
    assert fp32_flags() == before
    coarse = tf32 and device == "cuda" and torch.cuda.get_device_capability()[0] >= 8
    assert (error > 1e-5) is coarse
    assert error < 2e-3


@only_cuda
@pytest.mark.parametrize(("name", "coarse"), [("ieee-fp32", False), ("tf32", True), ("torch-default", True)])
def test_convolutions_have_the_precision_of_the_setting(device: str, name: str, coarse: bool) -> None:
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU has no TF32")
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(8, 64, 32, 32, generator=draw), torch.randn(64, 64, 3, 3, generator=draw)
    wanted = nn.functional.conv2d(x.double(), weight.double())
    with Setting(name).flags():
        found = nn.functional.conv2d(x.to(device), weight.to(device)).double().cpu()
    error = float((found - wanted).norm() / wanted.norm())
    assert (error > 2e-5) is coarse
    assert error < 2e-3
