"""Whole trainings with gradients that are huge, tiny, float64, complex or empty, against plain torch loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import (
    AGC,
    AdaGC,
    AutoClip,
    ClipNorm,
    ClipValue,
    ExactResume,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LRSchedule,
    UnsupportedError,
    ZClip,
)
from tests.problems import Memory, trainer

SEED = 3


class Scaled(nn.Module):
    """A linear map whose loss, and with it every gradient, is multiplied by ``size``."""

    def __init__(self, dtype: torch.dtype, size: float) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.body, self.head = nn.Linear(6, 5).to(dtype), nn.Linear(5, 1).to(dtype)
        self.empty = nn.Parameter(torch.zeros(0, 4, dtype=dtype))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(torch.tanh(self.body(x.to(self.body.weight.dtype))))
        return self.size * (out.square().mean() + self.empty.sum())


class Filter(nn.Module):
    """Complex weights on the Fourier transform of a signal, as in neural operators, between real layers."""

    def __init__(self, dtype: torch.dtype = torch.complex64, size: float = 30.0) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        real = torch.float64 if dtype == torch.complex128 else torch.float32
        self.into = nn.Linear(6, 8, dtype=real)
        self.filter = nn.Parameter(torch.randn(5, dtype=dtype))
        self.mix = nn.Linear(5, 5, dtype=dtype)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(self.into(x.to(self.into.weight.dtype)))
        return self.size * torch.fft.irfft(self.mix(spectrum * self.filter), n=8).square().mean()


def signals(n: int = 24) -> TensorDataset:
    return TensorDataset(torch.randn(n, 6, generator=torch.Generator().manual_seed(SEED)))


class Module(L.LightningModule):
    def __init__(self, net: nn.Module, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.make = net, make

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch[0])
        return loss

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def loop(net: nn.Module, make: Callable[[Any], Any], clip: Callable[[list[Any]], Any], window: int = 1) -> nn.Module:
    """Train in plain torch; ``clip`` gets the parameters before every step."""
    optimizer = make(net.parameters())
    for i, (x,) in enumerate(DataLoader(signals(), batch_size=4)):
        (net(x) / window).backward()
        if (i + 1) % window == 0:
            clip([p for p in net.parameters() if p.numel()])
            optimizer.step()
            optimizer.zero_grad()
    return net


def fit(net: nn.Module, make: Callable[[Any], Any], tricks: list[Any], **arguments: Any) -> Module:
    module = Module(net, make)
    trainer(tricks, **arguments).fit(module, DataLoader(signals(), batch_size=4))
    return module


def by(lr: float, **more: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **more)


def alike(one: nn.Module, other: nn.Module, rel: float) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rel, atol=rel, msg=name)


# -- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("per", ["model", "layer"])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20, 1e45, 1e120])
def test_float64_gradients_of_any_size_are_clipped_in_float64(size: float, per: str, fused: bool) -> None:
    def clip(parameters: list[Any]) -> None:
        for part in [parameters] if per == "model" else [[p] for p in parameters]:
            nn.utils.clip_grad_norm_(part, 0.3)

    wanted = loop(Scaled(torch.float64, size), by(0.1), clip)
    logger, trick = Memory(), GradientClip(0.3, per=per)  # type: ignore[arg-type]
    # (a warning, of NaN or inf, would be an error)
    ours = fit(
        Scaled(torch.float64, size), by(0.1, fused=fused), [GradientMonitor(per_layer=True), trick], logger=logger
    )
    alike(ours.net, wanted, 1e-13)
    assert trick.run.clock.state_dict()["applied"] == [6]
    assert trick.clipped_fraction == 0.0 if size < 1.0 else trick.clipped_fraction > 0
    assert trick.clipped_fraction == 1.0 or size < 1e3
    first = Scaled(torch.float64, size)
    first(next(iter(DataLoader(signals(), batch_size=4)))[0]).backward()
    total = float(nn.utils.get_total_norm([p.grad for p in first.parameters() if p.numel()]))
    assert logger.series("grad/norm")[0] == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("size", [1e20, 1e30])
def test_float32_gradients_whose_squares_overflow_are_clipped_as_torch_does_in_float64(
    size: float, fused: bool
) -> None:
    wanted = loop(Scaled(torch.float64, size), by(0.1), lambda p: nn.utils.clip_grad_norm_(p, 0.3))
    trick = GradientClip(0.3)
    ours = fit(Scaled(torch.float32, size), by(0.1, fused=fused), [trick])
    alike(ours.net.double(), wanted, 3e-6)
    assert trick.clipped_fraction == 1.0


@pytest.mark.parametrize("size", [1e-28, 1e-12, 1.0, 1e12, 1e28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rules_that_learn_do_the_same_at_any_size(size: float, dtype: torch.dtype) -> None:
    for rule in (AutoClip(30.0, window=3), ZClip(warmup=2, z=0.5), AdaGC(warmup=1, absolute=size)):
        fractions = []
        for scale in (1.0, size):
            this = AdaGC(warmup=1, absolute=scale) if isinstance(rule, AdaGC) else rule
            trick = GradientClip(this)
            fit(Scaled(dtype, scale), by(0.2 / scale, maximize=True), [trick])  # norms grow
            fractions.append((trick.clipped_fraction, trick.mean_coefficient))
        assert fractions[0][0] > 0, rule
        assert fractions[1] == pytest.approx(fractions[0], rel=1e-3), rule
    never = GradientClip(AutoClip(100.0))
    fit(Scaled(dtype, size), by(0.1 / size), [never])
    assert never.clipped_fraction == 0.0


def test_a_run_that_resumes_in_float64_has_float32_statistics(tmp_path: Any) -> None:
    for rule in (ClipNorm(0.3), AutoClip(30.0), ZClip(warmup=2), AdaGC(warmup=2), AGC(), ClipValue(0.1)):
        first = trainer([GradientClip(rule)], logger=False)
        module = Module(Scaled(torch.float64, 1e50), by(1e-51))
        first.fit(module, DataLoader(signals(), batch_size=4))
        path = str(tmp_path / "a.ckpt")
        first.save_checkpoint(path)
        trick = GradientClip(rule)
        again = trainer([trick], max_epochs=2)
        again.fit(Module(Scaled(torch.float64, 1e50), by(1e-51)), DataLoader(signals(), batch_size=4), ckpt_path=path)
        state = trick._trick_state()["0"]
        assert state["statistics"]["updates"].max() == 12
        tensors = [t for part in ("statistics", "rule_state") for t in state[part].values() if isinstance(t, Tensor)]
        assert {t.dtype for t in tensors} <= {torch.float32, torch.int64}


# -- complex --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("per", ["model", "layer"])
def test_complex_gradients_are_clipped_as_by_torch(dtype: torch.dtype, norm_type: float, per: str) -> None:
    def clip(parameters: list[Any]) -> None:
        for part in [parameters] if per == "model" else [[p] for p in parameters]:
            nn.utils.clip_grad_norm_(part, 0.3, norm_type)

    wanted = loop(Filter(dtype), by(0.1), clip)
    trick, logger = GradientClip(ClipNorm(0.3, norm_type), per=per), Memory()  # type: ignore[arg-type]
    monitor = GradientMonitor(per_layer=True, norm_type=norm_type, update_ratio=True)
    ours = fit(Filter(dtype), by(0.1), [monitor, trick], logger=logger)
    alike(ours.net, wanted, 1e-13 if dtype == torch.complex128 else 1e-5)
    assert trick.clipped_fraction > 0
    first = Filter(dtype)
    first(next(iter(DataLoader(signals(), batch_size=4)))[0]).backward()
    gradient = first.filter.grad
    assert gradient is not None
    assert logger.series("grad/norm/net.filter")[0] == pytest.approx(float(gradient.norm(norm_type)), rel=1e-5)


def test_the_update_ratio_of_complex_weights_counts_both_parts() -> None:
    logger, net = Memory(), Filter()
    before = net.filter.detach().clone()
    module = Module(net, by(0.1))
    trainer([GradientMonitor(per_layer=True, update_ratio=True)], logger=logger, max_steps=1).fit(
        module, DataLoader(signals(), 4)
    )
    ratio = float((net.filter.detach() - before).norm() / before.norm())
    assert logger.series("grad/update_ratio/net.filter")[0] == pytest.approx(ratio, rel=1e-5)


def test_histograms_of_complex_gradients_hold_both_parts(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = L.loggers.TensorBoardLogger(str(tmp_path), name="run", version=0)
    fit(Filter(), by(0.1), [GradientMonitor(histograms=True)], logger=logger)
    events = EventAccumulator(str(tmp_path / "run" / "version_0"), size_guidance={"histograms": 0}).Reload()
    assert events.Histograms("grad/histogram/net.filter")[0].histogram_value.num == 10


@pytest.mark.parametrize("rule", [AutoClip(50.0), ZClip(warmup=2), AdaGC(warmup=2), AGC(0.05)], ids=repr)
@pytest.mark.parametrize("nonfinite", ["skip", "zero"])
def test_every_rule_but_the_clamp_takes_complex_parameters(rule: Any, nonfinite: Any) -> None:
    trick = GradientClip(rule, nonfinite=nonfinite)
    module = fit(Filter(), by(0.01), [trick])
    assert trick.run.clock.state_dict()["applied"] == [6]
    assert all(p.isfinite().all() for p in module.parameters())


def test_clamping_complex_numbers_is_refused_before_the_first_step() -> None:
    module = Module(Filter(), by(0.1))
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(UnsupportedError, match=r"ClipValue\(.*'net\.filter' is complex, .*no order.*Use ClipNorm"):
        trainer([GradientClip(ClipValue(0.1))]).fit(module, DataLoader(signals(), 4))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


def test_a_complex_parameter_that_comes_in_mid_run_is_refused_by_the_clamp_and_taken_by_the_rest() -> None:
    class Grow(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                net = pl_module.net
                trainer.optimizers[0].add_param_group({"params": [net.filter, *net.mix.parameters()]})

    def only_real(parameters: Any) -> Any:
        return torch.optim.SGD([p for p in parameters if not p.is_complex()], lr=0.01)

    logger = Memory()
    fit(Filter(), only_real, [Grow(), GradientMonitor(per_layer=True), GradientClip(1.0)], logger=logger)
    assert sorted(logger.series("grad/norm/net.filter")) == [2, 3, 4, 5]
    with pytest.raises(UnsupportedError, match=r"'net\.filter' is complex"):
        fit(Filter(), only_real, [Grow(), GradientClip(ClipValue(0.1))])


def test_complex_parameters_are_scheduled_accumulated_and_resumed(tmp_path: Any) -> None:
    rates = LRSchedule("linear", warmup=0).values(3)
    net = Filter()
    optimizer = by(0.1, momentum=0.9)(net.parameters())
    batches = list(DataLoader(signals(), batch_size=4))
    for update in range(3):
        for x in (batches[2 * update][0], batches[2 * update + 1][0]):
            (net(x) / 2).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.3)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * rates[update]
        optimizer.step()
        optimizer.zero_grad()

    def tricks() -> list[Any]:
        save = L.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        return [LRSchedule("linear", warmup=0), GradientAccumulation(2), GradientClip(0.3), ExactResume(), save]

    whole = fit(Filter(), by(0.1, momentum=0.9), tricks(), enable_checkpointing=True)
    alike(whole.net, net, 1e-5)
    resumed, half = Module(Filter(), by(0.1, momentum=0.9)), str(tmp_path / "step=2.ckpt")
    trainer(tricks(), enable_checkpointing=True).fit(resumed, DataLoader(signals(), batch_size=4), ckpt_path=half)
    assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), whole.parameters(), strict=True))
