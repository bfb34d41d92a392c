"""Steps that are not logged do not wait for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.gpu import problems
from benchmarks.gpu.correctness import Lenient, Strict, Watch, listed, waiting
from benchmarks.gpu.problems import Module, network
from lightning_tricks import (
    DeadUnits,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRSchedule,
    MemoryDoctor,
    PrecisionDoctor,
    RepresentationCollapse,
    TrainingDoctor,
)
from tests.gpu.devices import context, everywhere, only_cuda

pytestmark = pytest.mark.filterwarnings("ignore:.*ynchroniz:UserWarning", "ignore::lightning_tricks.TrickWarning")
ALONE: dict[str, Any] = {
    "GradientMonitor": lambda: [GradientMonitor()],
    "GradientClip": lambda: [GradientClip(1.0)],
    "LRSchedule": lambda: [LRSchedule("cosine")],
    "LossScaleGuard": lambda: [LossScaleGuard()],
    "PrecisionDoctor": lambda: [PrecisionDoctor()],
    "TrainingDoctor": lambda: [TrainingDoctor()],
    "MemoryDoctor": lambda: [MemoryDoctor()],
    "DeadUnits": lambda: [DeadUnits(every_n_steps=10**6)],
    "RepresentationCollapse": lambda: [RepresentationCollapse("net.0", every_n_steps=10**6)],
}


def per_step(device: str, tricks: list[Any], precision: str, fused: bool) -> float:
    watch = Watch(6, 12)
    problems.fitted(context(device), Module(network("conv"), fused), [*tricks, watch], precision)
    return watch.count / 6


@everywhere
@pytest.mark.parametrize("precision", ["ieee-fp32", "bf16-mixed", "16-mixed"])
def test_readmes_list_waits_no_more_than_a_bare_trainer_with_a_fused_optimizer(device: str, precision: str) -> None:
    assert per_step(device, listed(manual=True), precision, True) == per_step(device, [], precision, True)


@everywhere
def test_an_optimizer_that_is_not_fused_has_the_scalers_own_read_and_no_other(device: str) -> None:
    bare = per_step(device, [], "16-mixed", False)
    assert per_step(device, listed(manual=True), "16-mixed", False) == bare
    assert bare >= 1


@everywhere
@pytest.mark.parametrize("name", ALONE)
def test_each_callback_alone_waits_for_nothing(device: str, name: str) -> None:
    assert per_step(device, ALONE[name](), "16-mixed", True) == per_step(device, [], "16-mixed", True)


@everywhere
def test_accumulation_waits_for_nothing(device: str) -> None:
    assert per_step(device, [GradientAccumulation(2)], "ieee-fp32", True) == per_step(device, [], "ieee-fp32", True)


@only_cuda
@pytest.mark.parametrize("precision", ["ieee-fp32", "bf16-mixed", "16-mixed"])
def test_a_whole_step_passes_the_sync_debug_mode(device: str, precision: str) -> None:
    on_device = [tuple(t.to(device) for t in batch) for batch in problems.batches()]
    loader = DataLoader(on_device, batch_size=None)  # type: ignore[arg-type]
    try:
        problems.fitted(context(device), Module(network("conv"), True), [Strict(), *listed(manual=True), Lenient()], precision, loader=loader)  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")


@everywhere
def test_what_counts_waiting_counts(device: str) -> None:
    x = torch.ones(3, device=device).sum()
    with waiting(torch.device(device)) as found:
        x.item()
        x.item()
    assert found() >= 2
    with waiting(torch.device(device)) as found:
        x.add_(1)
    assert found() == 0
