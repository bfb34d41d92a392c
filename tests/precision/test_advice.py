from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import PrecisionAdvice, TrickError, UnsupportedError, advise_precision
from lightning_tricks.precision.fp32_flags import fp32_flags
from tests.problems import Classifier, digits, weights


def batch(n: int = 32) -> Any:
    return tuple(t[:n] for t in digits(n).tensors)


def test_a_lightning_module_is_measured_and_left_as_it_was() -> None:
    module = Classifier()
    before, state, flags = weights(module).clone(), torch.get_rng_state(), fp32_flags()
    found = advise_precision(module, batch(), device="cpu", seconds=0.3)
    assert isinstance(found, PrecisionAdvice)
    assert torch.equal(weights(module), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert fp32_flags() == flags
    assert module.seen == 0
    measured = [r for r in found.rows.values() if not r.problem]
    assert [r.precision for r in measured] == ["ieee-fp32", "bf16-mixed", "bf16-true"]
    assert all(len(r.seconds) == 3 and r.peak_bytes > 0 for r in measured)
    assert measured[0].cosine == pytest.approx(1.0, abs=1e-12)
    assert 0.99 < measured[1].cosine < 1
    assert found.recommended in ("32-true", "bf16-mixed")
    assert "| bf16-mixed |" in str(found)
    assert repr(found) == f"PrecisionAdvice(recommended={found.recommended!r}, reasons={found.reasons}, device='cpu')"


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    ("module", "data"),
    [
        (nn.Linear(3, 4), (torch.ones(2, 3), torch.tensor([0, 1]))),
        (Regression(), (torch.ones(2, 3), torch.ones(2))),
        (Regression(), torch.ones(2, 3)),
        (Regression(), torch.ones(1, 3)),
    ],
    ids=["classes", "numbers", "no target", "a loss"],
)
def test_plain_modules_get_a_loss(module: nn.Module, data: Any) -> None:
    found = advise_precision(module, data, device="cpu", seconds=0.05)
    assert math.isfinite(found.rows["ieee-fp32"].loss)


def test_what_fails_in_one_precision_leaves_the_others() -> None:
    class NoHalf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.layer.weight.dtype == torch.bfloat16:
                raise torch.OutOfMemoryError("no")
            if torch.is_autocast_enabled("cpu"):
                raise ValueError("not in autocast")
            return self.layer(x).sum()

    found = advise_precision(NoHalf(), torch.ones(2, 3), device="cpu", seconds=0.05)
    assert found.rows["bf16-true"].problem == "out of memory"
    assert found.rows["bf16-mixed"].problem == "ValueError: not in autocast"
    assert found.recommended == "32-true"
    assert "Mixed precision will not help here" in found.reasons[0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"seconds": 0}, ValueError, "seconds must be > 0"),
        ({"module": "net"}, TypeError, "LightningModule"),
        ({"module": Classifier(manual=True)}, UnsupportedError, "manual optimization"),
        ({"batch": "nonsense"}, TrickError, "could not be trained a step outside of a Trainer"),
    ],
    ids=str,
)
def test_bad_input_is_named(arguments: Any, error: type[Exception], words: str) -> None:
    given = {"module": Classifier(), "batch": batch(), "device": "cpu", **arguments}
    with pytest.raises(error, match=words):
        advise_precision(**given)


def test_steps_without_an_index_and_with_a_dict_work() -> None:
    class Short(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def training_step(self, batch: Any) -> Any:
            loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
            self.log("loss", loss)
            return {"loss": loss}

    assert advise_precision(Short(), batch(), device="cpu", seconds=0.05).rows["bf16-mixed"].problem == ""


def test_a_healthy_deep_network_with_batch_norm_is_not_called_unfaithful() -> None:
    """Its first gradient turns with any rounding, though less than with another batch."""
    torch.manual_seed(0)
    layers = [x for _ in range(16) for x in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())]
    found = advise_precision(nn.Sequential(*layers, nn.Linear(64, 10)), batch(), device="cpu", seconds=0.1)
    half, full = found.rows["bf16-mixed"], found.rows["ieee-fp32"]
    assert half.cosine < 0.99, "else this test shows nothing"
    assert half.cosine > full.noise
    assert not any("gradient differs" in reason for reason in found.reasons)
    assert any("than half a batch does" in reason for reason in found.reasons)


def test_a_module_that_refuses_half_a_batch_is_compared_as_before() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.reshape(32, 64))

    found = advise_precision(Whole(), batch(), device="cpu", seconds=0.05)
    assert math.isnan(found.rows["ieee-fp32"].noise)
    assert found.rows["bf16-mixed"].cosine > 0.99
