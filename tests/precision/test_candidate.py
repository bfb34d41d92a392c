from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.precision.candidate import Candidate
from tests.problems import Classifier, digits

CPU = torch.device("cpu")


def batch(n: int = 32) -> Any:
    return tuple(t[:n] for t in digits(n).tensors)


def test_the_gradient_is_the_one_of_plain_torch() -> None:
    module, (x, y) = Classifier(), batch()
    gradient, loss = Candidate(module, (x, y), CPU, "ieee-fp32").gradient()
    net = copy.deepcopy(module.net).double()
    wanted = nn.functional.cross_entropy(net(x.double()), y)
    wanted.backward()
    torch.testing.assert_close(
        gradient.double(), torch.cat([p.grad.reshape(-1) for p in net.parameters()]), rtol=1e-4, atol=1e-6
    )
    assert loss == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e3])
def test_the_gradient_of_16_mixed_is_taken_under_a_loss_scale_that_fits(size: float) -> None:
    module = Classifier(spoil=lambda i, loss: loss * size)
    plain, _ = Candidate(module, batch(), CPU, "ieee-fp32").gradient()
    half, _ = Candidate(module, batch(), CPU, "16-mixed").gradient()
    assert torch.nn.functional.cosine_similarity(plain, half, dim=0) > 0.999
    torch.testing.assert_close(half.norm(), plain.norm(), rtol=2e-2, atol=0)


def test_memory_is_measured_when_the_optimizer_has_its_state() -> None:
    candidate = Candidate(
        Classifier(lambda p: torch.optim.AdamW(p), spoil=lambda i, loss: loss * 1e3), batch(), CPU, "16-mixed"
    )
    candidate.warm_up()
    assert candidate.skipped > 0
    assert candidate.optimizer.state


def test_a_scaler_that_skips_is_counted() -> None:
    module = Classifier(spoil=lambda i, loss: loss * 1e6)
    candidate = Candidate(module, batch(), CPU, "16-mixed")
    for _ in range(30):
        candidate.step()
    assert 0 < candidate.skipped < 30
    assert candidate.scaler is not None
    assert candidate.scaler.get_scale() == 65536.0 / 2**candidate.skipped


def test_an_optimizer_that_needs_the_trainer_is_replaced() -> None:
    class Needs(Classifier):
        def configure_optimizers(self) -> Any:
            return self.trainer.estimated_stepping_batches

    assert isinstance(Candidate(Needs(), batch(), CPU, "ieee-fp32").optimizer, torch.optim.AdamW)

    class Dict(Classifier):
        def configure_optimizers(self) -> Any:
            return [{"optimizer": torch.optim.SGD(self.parameters(), lr=1.0), "lr_scheduler": None}]

    assert isinstance(Candidate(Dict(), batch(), CPU, "ieee-fp32").optimizer, torch.optim.SGD)


def test_counting_skipped_steps_reads_nothing_from_the_device() -> None:
    module = Classifier(spoil=lambda i, loss: loss * 1e6)
    candidate = Candidate(module, batch(), CPU, "16-mixed")
    assert candidate.scaler is not None

    def refused() -> float:
        raise AssertionError("the loss scale was read")

    candidate.scaler.get_scale = refused  # type: ignore[method-assign]
    for _ in range(40):
        candidate.step()
    assert 0 < candidate.skipped < 40


def test_skipped_steps_of_a_fused_optimizer_are_counted_from_its_flag() -> None:
    def fused(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.01, fused=True)

    candidate = Candidate(Classifier(fused, spoil=lambda i, loss: loss * 1e6), batch(), CPU, "16-mixed")
    for _ in range(30):
        candidate.step()
    assert candidate.scaler is not None
    assert 0 < candidate.skipped < 30
    assert candidate.scaler.get_scale() == 65536.0 / 2**candidate.skipped
