"""Observers change no bit of a training, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks.gpu import problems
from benchmarks.gpu.correctness import OBSERVERS
from benchmarks.gpu.problems import LARGEST_NORM, STEPS, Module, network
from lightning_tricks import ExactResume, GradientClip, LRFinder
from tests.gpu.devices import context, everywhere, only_cuda

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deterministic:UserWarning", "ignore:.*ynchroniz:UserWarning", "ignore::lightning_tricks.TrickWarning"
)


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with problems.deterministic():
        yield


@everywhere
@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("precision", ["ieee-fp32", "16-mixed"])
def test_an_observer_leaves_no_trace(device: str, name: str, precision: str) -> None:
    def run(*callbacks: Any) -> torch.Tensor:
        return problems.fitted(context(device), Module(network("conv", 0.2), True), callbacks, precision)

    assert torch.equal(run(OBSERVERS[name]()), run())


@only_cuda
@pytest.mark.parametrize("make", [LRFinder, lambda: LRFinder(apply=False)], ids=["applied", "only looking"])
def test_the_finder_puts_the_generators_of_the_device_back(device: str, make: Any) -> None:
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    problems.trainer(context(device), [make()], max_steps=0).fit(Module(network("conv", 0.2)), problems.batches())
    assert torch.equal(torch.cuda.get_rng_state(), state)


@everywhere
@pytest.mark.parametrize("precision", ["ieee-fp32", "16-mixed"])
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
def test_a_resumed_run_is_the_same_run_with_the_generator_of_the_device(
    device: str, precision: str, fused: bool, tmp_path: Any
) -> None:
    def run(folder: str, seed: int, steps: int, checkpoint: Any = None) -> torch.Tensor:
        torch.manual_seed(seed)  # the generators of all devices
        keep = ModelCheckpoint(tmp_path / folder, "half", every_n_train_steps=STEPS // 2, save_top_k=-1)
        module = Module(network("conv", 0.3), fused)
        callbacks = [ExactResume(), GradientClip(LARGEST_NORM), keep]
        t = problems.trainer(context(device), callbacks, precision, max_steps=steps, enable_checkpointing=True)
        t.fit(module, problems.batches(shuffle=True), ckpt_path=checkpoint)
        return problems.weights(module)

    run("a", 0, STEPS // 2)
    resumed = run("a", 5, STEPS, tmp_path / "a" / "half.ckpt")
    assert torch.equal(resumed, run("b", 0, STEPS))
