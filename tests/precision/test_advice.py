from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import PrecisionAdvice, TrickError, UnsupportedError, advise_precision
from lightning_tricks.precision import advice
from lightning_tricks.precision.advice import (
    Candidate,
    PrecisionRow,
    fp32_flags,
    fp32_mode,
    half_of,
    peak_bytes,
    recommend,
    shape_findings,
    speedup,
    unavailable,
)
from tests.gradients.plain import Classifier, digits, weights

CPU = torch.device("cpu")


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


def test_half_of_a_batch_is_the_first_half_of_its_samples() -> None:
    half = half_of({"x": torch.arange(6).reshape(3, 2), "y": torch.arange(6), "scale": torch.tensor(2.0), "n": 3})
    assert half["x"].tolist() == [[0, 1]]
    assert half["y"].tolist() == [0, 1]
    assert (float(half["scale"]), half["n"]) == (2.0, 3)
    assert half_of(torch.zeros(1, 3)) is None
    assert half_of((torch.zeros(4), torch.zeros(6))) is None
    assert half_of("words") is None


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


def test_an_optimizer_that_needs_the_trainer_is_replaced() -> None:
    class Needs(Classifier):
        def configure_optimizers(self) -> Any:
            return self.trainer.estimated_stepping_batches

    assert isinstance(Candidate(Needs(), batch(), CPU, "ieee-fp32").optimizer, torch.optim.AdamW)

    class Dict(Classifier):
        def configure_optimizers(self) -> Any:
            return [{"optimizer": torch.optim.SGD(self.parameters(), lr=1.0), "lr_scheduler": None}]

    assert isinstance(Candidate(Dict(), batch(), CPU, "ieee-fp32").optimizer, torch.optim.SGD)


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


# -- the recommendation, on made-up measurements ------------------------------------------------------------------


def row(precision: str, seconds: float, memory: int = 100, cosine: float = 1.0, **more: Any) -> PrecisionRow:
    return PrecisionRow(precision, [seconds, seconds * 1.01, seconds * 0.99], memory, cosine, 2.0, **more)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([("ieee-fp32", 1.0), ("bf16-mixed", 0.95)], "32-true"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 0.5)], "bf16-mixed"),
        ([("ieee-fp32", 1.0), ("tf32", 0.5), ("bf16-mixed", 0.5)], "32-true"),
        ([("ieee-fp32", 1.0), ("tf32", 0.5), ("bf16-mixed", 0.3), ("16-mixed", 0.3)], "bf16-mixed"),
        ([("ieee-fp32", 1.0), ("tf32", 0.5), ("bf16-mixed", 0.3), ("16-mixed", 0.2)], "16-mixed"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 1.0, 60)], "bf16-mixed"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 1.3, 60)], "32-true"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 0.5, 60, 0.8)], "32-true"),
        ([("ieee-fp32", 1.0), ("bf16-true", 0.2)], "32-true"),
    ],
    ids=str,
)
def test_the_recommendation_follows_from_the_numbers(rows: list[Any], wanted: str) -> None:
    assert recommend({r[0]: row(*r) for r in rows}, CPU)[0] == wanted


def test_reasons_are_given_with_their_baseline() -> None:
    rows = {r.precision: r for r in (row("ieee-fp32", 1.0, host_share=0.95), row("tf32", 0.5, host_share=0.95))}
    text = " ".join(recommend(rows, torch.device("cuda"))[1])
    assert "tf32: 2.00 times as fast as ieee-fp32" in text
    assert "Launch-bound: 95%" in text
    assert speedup(rows, "tf32", "bf16-mixed") is None


def test_shapes_that_idle_tensor_cores_are_named() -> None:
    net = nn.ModuleDict({
        "conv": nn.Conv2d(16, 30, 3), "first": nn.Conv2d(3, 32, 3), "bytes": nn.Embedding(257, 64),
        "loss": nn.BCELoss(), "fine": nn.Linear(64, 64), **{f"odd{i}": nn.Linear(9, 8) for i in range(4)},
    })  # fmt: skip
    on_gpu = shape_findings(net, torch.device("cuda"))
    assert "'conv' Conv2d(16, 30)" in on_gpu[0]
    assert "'bytes' Embedding(257, 64)" in on_gpu[0]
    assert "and 2 more" in on_gpu[0]
    assert "fine" not in on_gpu[0]
    assert "1 convolutions are not in channels_last" in on_gpu[1]
    assert "BCEWithLogitsLoss" in on_gpu[2]
    assert len(shape_findings(net, CPU)) == 2


def test_old_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    cuda = torch.device("cuda")
    assert "Tesla V100 does not have it" in unavailable("bf16-mixed", cuda)
    assert [unavailable(p, cuda) for p in ("16-mixed", "ieee-fp32")] == ["", ""]


@pytest.mark.parametrize(
    ("cosine", "length", "noise", "faithful"),
    [(0.33, 1.1, 0.10, True), (0.33, 1.1, 0.40, False), (0.33, 0.3, 0.10, False), (0.33, 3.0, 0.10, False),
     (-0.1, 1.0, -0.5, False), (0.995, 1.0, 0.999, True), (0.98, 1.0, math.nan, False), (math.nan, 1.0, 0.1, False)],
)  # fmt: skip
def test_a_gradient_may_differ_as_much_as_with_half_of_the_batch(
    cosine: float, length: float, noise: float, faithful: bool
) -> None:
    rows = {
        "ieee-fp32": row("ieee-fp32", 1.0, noise=noise),
        "bf16-mixed": row("bf16-mixed", 0.5, 60, cosine, length=length),
    }
    advice_given, reasons = recommend(rows, CPU)
    assert (advice_given == "bf16-mixed") is faithful
    assert any("gradient differs" in reason for reason in reasons) is not faithful


# -- flags and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tf32", [True, False])
def test_flags_are_put_back_also_after_an_error(tf32: bool) -> None:
    before, newer = fp32_flags(), [p.fp32_precision for p in advice._parts_with_new_flags()]
    with pytest.raises(ZeroDivisionError), fp32_mode(tf32):
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
        if newer:  # torch >= 2.9
            assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if tf32 else "ieee")
        1 / 0  # noqa: B018
    assert fp32_flags() == before
    assert [p.fp32_precision for p in advice._parts_with_new_flags()] == newer


@pytest.mark.skipif(not advice._parts_with_new_flags(), reason="this torch has only the old interface")
def test_the_new_interface_is_refused_by_name() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with pytest.raises(UnsupportedError, match="#21256"):
            fp32_flags()
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
        torch.set_float32_matmul_precision("highest")


def test_peak_memory_is_what_is_alive_at_once() -> None:
    def three() -> None:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b + 1
        c.add_(1)
        c[:10].add_(1)

    assert peak_bytes(three, CPU) == 8000

    net = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(4)])
    x = torch.randn(64, 32)

    def step() -> None:
        net(x).square().sum().backward()

    top = peak_bytes(step, CPU)
    activations, gradients = 4 * 64 * 32 * 4, 4 * 32 * 32 * 4
    assert activations + gradients / 4 < top < 2 * (activations + gradients)
    assert advice.peak_bytes(lambda: x.view(-1), CPU) == 0
