from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from lightning_tricks import (
    CachedMixedPrecision,
    FP32Islands,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    NonFiniteError,
    PrecisionDoctor,
    TrickError,
    TrickWarning,
    UnsupportedError,
)
from tests.problems import (
    Classifier,
    Memory,
    fit,
    loader,
    network,
    plain_loop,
    scaler,
    sgd,
    trainer,
    weights,
)

quiet = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


def adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


OPTIMIZERS = {"foreach": lambda p: sgd(p, foreach=True), "fused": adamw}


@pytest.fixture(params=["foreach", "fused", "fused, as on a GPU"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """The optimizer; on a GPU, a fused one alone knows what it skipped, and nobody may look."""
    if request.param == "fused, as on a GPU":
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    return OPTIMIZERS[request.param.split(",")[0]]


def nan_at(*bad: int) -> Callable[[int, Tensor], Tensor]:
    return lambda i, loss: loss * math.nan if i in bad else loss


def always_nan(i: int, loss: Tensor) -> Tensor:
    return loss * math.nan


# -- LossScaleGuard -----------------------------------------------------------------------------------------------


def test_lightning_calls_320_skipped_steps_a_success() -> None:
    module = Classifier(spoil=always_nan)
    before = weights(module).clone()
    t = fit(module, n=320, batch=1, precision="16-mixed")
    assert torch.equal(weights(module), before)
    assert t.precision_plugin.scaler.get_scale() == 0.0
    assert t.state.status == "finished"
    assert t.global_step == 320


@pytest.mark.parametrize("limit", [1, 5, 20])
@pytest.mark.parametrize("manual", [False, True])
def test_a_run_in_which_all_is_skipped_ends_in_time(kind: Any, limit: int, manual: bool) -> None:
    module = Classifier(kind, manual=manual, spoil=always_nan)
    before = weights(module).clone()
    with pytest.raises(NonFiniteError, match=rf"{limit + 1} attempts in a row were skipped") as error:
        fit(module, [LossScaleGuard(max_consecutive_skips=limit)], n=400, precision="16-mixed", log_every_n_steps=50)
    assert module.seen == limit + 1
    assert torch.equal(weights(module), before)
    for words in ("net.0.weight", "The loss was not finite", f"attempt {limit + 1}", "PrecisionDoctor() beside it"):
        assert words in str(error.value)


def test_a_streak_that_ends_in_time_is_forgiven(kind: Any) -> None:
    bad = [*range(2, 7), *range(8, 13)]
    module, guard = Classifier(kind, spoil=nan_at(*bad)), LossScaleGuard(max_consecutive_skips=5)
    fit(module, [guard], n=160, precision="16-mixed", log_every_n_steps=50)
    assert guard.skipped_steps == len(bad)
    assert guard.run.clock.applied_on_host(0) == 20 - len(bad)


def test_a_late_failure_is_found_too(kind: Any) -> None:
    module = Classifier(kind, spoil=lambda i, loss: loss * math.nan if i >= 30 else loss)
    with pytest.raises(NonFiniteError):
        fit(module, [LossScaleGuard(max_consecutive_skips=6)], n=600, precision="16-mixed", log_every_n_steps=50)
    assert module.seen == 30 + 7


@quiet
def test_the_doctor_beside_it_names_the_module() -> None:
    net = deep(gain=1e6)
    with pytest.raises(NonFiniteError, match=r"forward overflow in net\.blocks\.1\.mlp"):
        fit(Classifier(net=net), [LossScaleGuard(max_consecutive_skips=3), PrecisionDoctor()], precision="16-mixed")


def test_warn_says_it_once_per_failure_and_goes_on(kind: Any) -> None:
    bad = [*range(0, 8), *range(9, 16)]
    guard = LossScaleGuard(max_consecutive_skips=3, on_failure="warn")
    with pytest.warns(TrickWarning, match="4 attempts in a row") as told:
        fit(Classifier(kind, spoil=nan_at(*bad)), [guard], n=160, precision="16-mixed")
    assert len([w for w in told if w.category is TrickWarning]) == 2
    assert guard.skipped_steps == len(bad)


@pytest.mark.parametrize(("choice", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("namespace", [L, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_a_failed_run_goes_on_in_another_precision(choice: Any, dtype: torch.dtype, namespace: Any) -> None:
    dtypes: list[torch.dtype] = []

    class Net(namespace.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = deep(gain=1e6)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            out = self.net(batch[0])
            dtypes.append(out.dtype)
            return nn.functional.cross_entropy(out * 1e-4, batch[1])

        def configure_optimizers(self) -> Any:
            return sgd(self.parameters(), lr=1e-6)

    guard, module = LossScaleGuard(max_consecutive_skips=3, on_failure=choice), Net()
    plugins = importlib_plugins(namespace)
    t = namespace.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[guard], plugins=[plugins.MixedPrecision("16-mixed", "cpu", scaler())],
    )  # fmt: skip
    before = weights(module).clone()
    with pytest.warns(TrickWarning, match="Training goes on in "):
        t.fit(module, loader(96))
    assert dtypes == [torch.float16] * 4 + [dtype] * 8
    assert guard.fallback == choice
    assert guard.run.clock.applied_on_host(0) == 8
    assert not torch.equal(weights(module), before)
    assert weights(module).isfinite().all()


def importlib_plugins(namespace: Any) -> Any:
    import importlib

    return importlib.import_module(f"{namespace.__name__}.plugins")


@quiet
@pytest.mark.cache
def test_the_weight_cache_stays_after_a_change_of_precision() -> None:
    t = trainer([LossScaleGuard(max_consecutive_skips=1, on_failure="bf16")], precision="16-mixed")
    t.strategy.precision_plugin = CachedMixedPrecision("16-mixed", "cpu", scaler())
    t.fit(Classifier(spoil=nan_at(0, 1)), loader(48))
    assert isinstance(t.precision_plugin, CachedMixedPrecision)
    assert t.precision == "bf16-mixed"


@quiet
@pytest.mark.parametrize("choice", ["bf16", "fp32"])
def test_when_the_other_precision_does_not_help_the_run_ends(kind: Any, choice: Any) -> None:
    module = Classifier(kind, spoil=always_nan)
    with pytest.raises(NonFiniteError, match=f"also in {choice} the loss stays NaN or inf"):
        fit(module, [LossScaleGuard(max_consecutive_skips=3, on_failure=choice)], n=400, precision="16-mixed")
    assert module.seen == 8


@quiet
def test_the_precision_that_was_changed_to_holds_after_a_resume(tmp_path: Any) -> None:
    def part(epochs: int, path: Any = None) -> tuple[Any, Any]:
        guard = LossScaleGuard(max_consecutive_skips=2, on_failure="bf16")
        t = trainer([guard], precision="16-mixed", max_epochs=epochs)
        t.fit(Classifier(spoil=nan_at(*range(3)) if path is None else None), loader(48), ckpt_path=path)
        return t, guard

    t, _ = part(1)
    t.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    t, guard = part(2, tmp_path / "a.ckpt")
    assert t.precision == "bf16-mixed"
    assert guard.fallback == "bf16"
    assert guard.skipped_steps == 3


def test_counts_are_in_the_checkpoint(kind: Any, tmp_path: Any) -> None:
    """Three skips before the checkpoint and two after it are five in a row."""

    def part(spoil: Any, epochs: int, path: Any = None) -> Any:
        guard = LossScaleGuard(max_consecutive_skips=4)
        t = trainer([guard], precision="16-mixed", max_epochs=epochs)
        t.fit(Classifier(kind, spoil=spoil), loader(48), ckpt_path=path)
        return t

    t = part(nan_at(3, 4, 5), 1)
    t.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(NonFiniteError, match="5 attempts in a row"):
        part(nan_at(0, 1), 2, tmp_path / "a.ckpt")


@pytest.mark.parametrize(("low", "high", "wanted"), [(512.0, None, 512.0), (1.0, 2048.0, 2.0**-1)])
def test_the_scale_stays_within_bounds(kind: Any, low: float, high: float | None, wanted: float) -> None:
    guard = LossScaleGuard(low, high, max_consecutive_skips=100)
    memory = Memory()
    fit(Classifier(kind, spoil=always_nan), [guard], n=120, precision="16-mixed", logger=memory)
    scales = list(memory.series("amp/scale").values())
    assert min(scales) == max(low, 2.0**-4) if low > 1 else min(scales) == 1.0
    assert max(scales) <= (high or math.inf)


def test_a_scale_that_begins_too_high_is_lowered_and_growth_is_bounded(kind: Any) -> None:
    memory = Memory()
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=2))
    t = trainer([LossScaleGuard(max_scale=512.0)], logger=memory)
    t.strategy.precision_plugin = plugin
    t.fit(Classifier(kind), loader(96))
    assert set(memory.series("amp/scale").values()) == {512.0}


def test_what_is_logged_is_the_scale_in_use_and_the_skips_so_far(kind: Any) -> None:
    memory = Memory()
    fit(Classifier(kind, spoil=nan_at(1, 4)), [LossScaleGuard()], n=64, precision="16-mixed", logger=memory)
    assert list(memory.series("amp/scale").values()) == [1024, 1024, 512, 512, 512, 256, 256, 256]
    assert list(memory.series("amp/skipped_steps").values()) == [0, 1, 1, 1, 2, 2, 2, 2]


class TwoPlayers(L.LightningModule):
    """Manual optimization with two optimizers; the second one's loss is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.two = network(), network(1)
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        for player, optimizer in zip((self.one, self.two), self.optimizers(), strict=True):
            loss = nn.functional.cross_entropy(player(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss * (math.nan if player is self.two else 1.0))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [sgd(self.one.parameters()), adamw(self.two.parameters())]


def test_each_optimizer_is_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module, memory = TwoPlayers(), Memory()
    with pytest.raises(NonFiniteError, match=r"two\.0\.weight"):
        fit(module, [LossScaleGuard(max_consecutive_skips=5)], n=400, precision="16-mixed", logger=memory)
    assert module.seen == 6
    assert set(memory.series("amp/skipped_steps/optimizer0").values()) == {0.0}
    assert list(memory.series("amp/skipped_steps/optimizer1").values()) == [1, 2, 3, 4, 5, 6]


def test_a_healthy_run_is_bit_identical_and_reads_nothing(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    from benchmarks.overhead import Reads

    def reads(n: int, tricks: list[Any]) -> tuple[int, Tensor]:
        module = Classifier(kind)
        with Reads() as counted:
            fit(module, tricks, n=n, precision="16-mixed", log_every_n_steps=1000)
        return counted.count, weights(module)

    for make in (
        lambda: [LossScaleGuard()],
        lambda: [PrecisionDoctor()],
        lambda: [LossScaleGuard(), PrecisionDoctor()],
    ):
        bare, alone = zip(*(reads(n, []) for n in (80, 160)), strict=True)
        ours, watched = zip(*(reads(n, make()) for n in (80, 160)), strict=True)
        assert ours[1] - ours[0] == bare[1] - bare[0]
        assert torch.equal(watched[1], alone[1])


def test_without_a_loss_scale_there_is_nothing_to_guard(caplog: Any) -> None:
    guard = LossScaleGuard()
    fit(Classifier(), [guard], n=16)
    assert guard.skipped_steps == 0
    assert guard.fallback is None


@pytest.mark.filterwarnings("ignore:You passed")
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_bf16_run_on_a_cpu_is_told_nothing_that_lightning_does_not_say_itself(precision: str, caplog: Any) -> None:
    t = L.Trainer(
        accelerator="cpu", precision=precision, callbacks=[LossScaleGuard(), PrecisionDoctor()], max_epochs=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    t.fit(Classifier(), loader(16))  # (warnings are errors)
    assert not [r for r in caplog.records if "LossScaleGuard" in r.message or "PrecisionDoctor" in r.message]


def test_islands_in_a_float32_run_say_that_they_have_nothing_to_do(caplog: Any) -> None:
    with caplog.at_level("INFO"):
        fit(Classifier(), [FP32Islands(["net*"])], n=16)
    assert "FP32Islands: this run computes in 32-true, so it has nothing to do." in caplog.text


def test_polluted_buffers_are_named() -> None:
    net = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    with torch.no_grad():
        net[0].weight.mul_(1e6)
    guard = LossScaleGuard(max_consecutive_skips=1, on_failure="fp32")
    with pytest.warns(TrickWarning, match=r"left in the buffers net\.1\.running_mean.*reset_running_stats"):
        fit(Classifier(net=net), [guard], n=64, precision="16-mixed")


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    t = trainer([guard := LossScaleGuard(on_failure="bf16")])
    monkeypatch.setattr(type(t.strategy), "root_device", torch.device("cuda:0"))
    with pytest.raises(UnsupportedError, match="Tesla V100 has no bfloat16"):
        guard.setup(t, Classifier(), "fit")


def test_fused_momentum_survives_a_skipped_first_step() -> None:
    """torch's fused SGD leaves its buffer uninitialised there; the oracle is the loop that is not fused."""

    def momentum(fused: bool) -> Any:
        return lambda p: sgd(p, momentum=0.9, fused=fused)

    plain, fused = (Classifier(momentum(f), spoil=nan_at(0)) for f in (False, True))
    for module in (plain, fused):
        fit(module, [LossScaleGuard()], precision="16-mixed")
    torch.testing.assert_close(weights(fused), weights(plain), rtol=1e-5, atol=1e-6)
    with pytest.raises(UnsupportedError, match="dampening"):
        fit(
            Classifier(lambda p: sgd(p, momentum=0.9, dampening=0.1, fused=True)),
            [LossScaleGuard()],
            precision="16-mixed",
        )


def test_steps_without_a_loss_are_no_skips() -> None:
    module, guard = Classifier(spoil=lambda i, loss: None if i % 2 else loss), LossScaleGuard(max_consecutive_skips=1)
    fit(module, [guard], n=96, precision="16-mixed")
    assert guard.skipped_steps == 0


@quiet
def test_clipping_beside_it_counts_the_same(kind: Any) -> None:
    guard = LossScaleGuard()
    fit(Classifier(kind, spoil=nan_at(2, 5)), [GradientClip(1.0), guard, GradientMonitor()], n=96, precision="16-mixed")
    assert guard.skipped_steps == 2


# -- PrecisionDoctor ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp, self.act = nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.mlp(self.norm(x)))


class Deep(nn.Module):
    def __init__(self, gain: float, at: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks, self.head = (
            nn.Linear(64, 16),
            nn.ModuleList(Block() for _ in range(3)),
            nn.Linear(16, 10),
        )
        with torch.no_grad():
            self.blocks[at].mlp.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def deep(gain: float = 1.0, at: int = 1) -> Deep:
    return Deep(gain, at)


def diagnosed(module: Any, doctor: PrecisionDoctor | None = None, **arguments: Any) -> list[tuple[str, str]]:
    doctor = doctor or PrecisionDoctor()
    fit(module, [doctor], **{"precision": "16-mixed", "log_every_n_steps": 50, **arguments})
    return [(f.kind, f.module) for f in doctor.findings]


@pytest.mark.parametrize("manual", [False, True])
def test_a_forward_overflow_is_named_and_no_other_is(kind: Any, manual: bool) -> None:
    with pytest.warns(TrickWarning, match=r"forward overflow in net\.blocks\.1\.mlp"):
        found = diagnosed(Classifier(kind, net=deep(1e6), manual=manual), log_every_n_steps=4)
    assert [where for what, where in found if what == "forward overflow"] == ["net.blocks.1.mlp"]
    assert not any(what in ("loss scale too large", "backward overflow") for what, _ in found)


@quiet
def test_an_overflow_of_a_single_batch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Outlier(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return super().training_step((x * (1e7 if batch_idx == 3 else 1.0), y), batch_idx)

    assert diagnosed(Outlier(net=deep())) == [("forward overflow", "net.stem")]


def test_a_loss_scale_that_is_too_large_is_ordinary(kind: Any) -> None:
    found = diagnosed(Classifier(kind), init_scale=2.0**19, log_every_n_steps=3)
    kinds = {what for what, _ in found} - {"underflow", "little headroom"}
    assert kinds <= {"loss scale too large", "unexplained skip"}
    assert kinds


@quiet
def test_a_loss_that_overflows_outside_of_modules_is_told() -> None:
    module = Classifier(net=deep())
    module.spoil = lambda i, loss: loss + torch.log(loss * 0)
    found = diagnosed(module)
    assert found[0][0] == "loss overflow"


@quiet
def test_a_derivative_that_is_infinite_is_told() -> None:
    module = Classifier(spoil=lambda i, loss: loss + torch.sqrt((loss - loss).abs()).float())
    found = diagnosed(module, n=320)
    assert [what for what, _ in found][:1] == ["backward overflow"]


@quiet
def test_broken_data_and_broken_weights_are_told() -> None:
    class BadData(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                batch[0][0, 0] = math.nan

    assert diagnosed(BadData(net=deep())) == [("nonfinite input", "")]
    net = deep()
    with torch.no_grad():
        net.head.weight[0, 0] = math.inf
    assert diagnosed(Classifier(net=net))[0] == ("nonfinite weight", "net.head")


@quiet
def test_looking_again_leaves_no_trace() -> None:
    """Dropout, BatchNorm, a metric and logs: the run is the same as without the doctor."""
    from torchmetrics.classification import MulticlassAccuracy

    class Net(Classifier):
        def __init__(self) -> None:
            net = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10))
            super().__init__(net=net, spoil=None)
            torch.manual_seed(3)
            for m in net.modules():
                if hasattr(m, "reset_parameters"):
                    m.reset_parameters()
            self.accuracy, self.calls = MulticlassAccuracy(10), 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            self.calls += 1
            out = self.net(x)
            self.accuracy(out, y)
            self.log("accuracy", self.accuracy, on_epoch=True, on_step=False)
            loss = nn.functional.cross_entropy(out, y)
            return loss * (math.nan if batch_idx in (2, 5) else 1.0)

    def run(tricks: list[Any]) -> Any:
        module, memory = Net(), Memory()
        torch.manual_seed(7)
        fit(module, tricks, precision="16-mixed", logger=memory)
        return weights(module), dict(module.named_buffers()), module.calls, memory.series("accuracy")

    alone, watched = run([]), run([doctor := PrecisionDoctor()])
    assert doctor.findings
    assert torch.equal(alone[0], watched[0])
    assert all(torch.equal(a, watched[1][n]) for n, a in alone[1].items())
    assert alone[2:] == watched[2:]


def test_what_is_measured_is_what_a_plain_loop_sees() -> None:
    memory, doctor = Memory(), PrecisionDoctor(modules=["net.0", "net.4"])
    fit(Classifier(), [doctor], n=8, logger=memory)
    net = network().double()
    outs = {}
    for i in (0, 4):
        net[i].register_forward_hook(lambda m, a, o, i=i: (o.retain_grad(), outs.update({i: o}))[0])
    x, y = next(iter(loader(8)))
    nn.functional.cross_entropy(net(x.double()), y).backward()
    for i, out in outs.items():
        gradient = (out.grad * 65536).abs()
        small = ((gradient > 0) & (gradient < 2**-14)).sum() / (gradient > 0).sum()
        top = float(out.detach().abs().max())
        assert memory.series(f"amp/headroom/net.{i}")[0] == pytest.approx(math.log2(65504 / top), abs=1e-4)
        assert memory.series(f"amp/underflow/net.{i}")[0] == pytest.approx(float(small), abs=1e-3)
        assert doctor.table[f"net.{i}"]["largest_gradient"] == pytest.approx(float(out.grad.abs().max()), rel=1e-4)


def test_gradients_in_the_table_are_without_the_loss_scale(kind: Any) -> None:
    doctor = PrecisionDoctor()
    fit(Classifier(kind), [doctor], n=8, precision="16-mixed", init_scale=1024.0)
    plain = PrecisionDoctor()
    fit(Classifier(kind), [plain], n=8)
    for name, found in doctor.table.items():
        assert found["largest_gradient"] == pytest.approx(plain.table[name]["largest_gradient"], rel=0.02)


@pytest.mark.parametrize("recompute", [True, False])
def test_recomputed_activations_are_measured_once_and_nothing_changes(recompute: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Recomputed(nn.Module):
        def __init__(self, on: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.head, self.on = nn.Linear(64, 24), nn.Linear(24, 10), on
            self.middle = nn.Sequential(nn.Linear(24, 24), nn.ReLU(inplace=True), nn.Dropout(0.1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = checkpoint(self.middle, x, use_reentrant=recompute) if self.on else self.middle(x)
            return self.head(x)

    def run(on: bool, tricks: list[Any]) -> tuple[Tensor, dict[str, float]]:
        module, memory = Classifier(net=Recomputed(on)), Memory()
        torch.manual_seed(5)
        fit(module, tricks, n=24, precision="16-mixed", logger=memory)
        return weights(module), {k: v for _, row in memory.rows for k, v in row.items() if k.startswith("amp/h")}

    (alone, _), (watched, rows), (_, plain) = (
        run(True, []),
        run(True, [PrecisionDoctor()]),
        run(False, [PrecisionDoctor()]),
    )
    assert torch.equal(alone, watched)
    assert len(rows) == 6, "the five modules, and the worst of them"
    assert rows == pytest.approx(plain)


def test_only_logged_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    fit(Classifier(), [PrecisionDoctor(every_n_steps=4, modules=["*"])], n=96, logger=memory, log_every_n_steps=1)
    assert sorted(memory.series("amp/headroom/net.0")) == [3, 7, 11]
    assert "amp/headroom/net.1" in memory.rows[0][1]


def test_validation_is_not_measured() -> None:
    class Loud(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0] * 1e9)

    memory = Memory()
    t = trainer([PrecisionDoctor(every_n_steps=1, modules=["*"])], logger=memory, val_check_interval=2)
    t.fit(Loud(), loader(48), loader(16))
    assert min(memory.series("amp/headroom/net.0").values()) > 10


def test_nothing_piles_up_when_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    monkeypatch.setattr("lightning_tricks.precision.skip_explainer._LATE", 4)
    doctor = PrecisionDoctor()
    module = Classifier(adamw, spoil=nan_at(1))
    fit(module, [doctor], precision="16-mixed", log_every_n_steps=0)
    assert [f.kind for f in doctor.findings] == ["unexplained skip"]


def test_metrics_are_no_layers() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    module, memory = Classifier(), Memory()
    module.accuracy = MulticlassAccuracy(10)
    fit(module, [doctor := PrecisionDoctor()], n=8, logger=memory)
    assert doctor.table and not any("accuracy" in name for name in doctor.table)


def test_two_optimizers_and_accumulation_give_one_row_per_step() -> None:
    memory = Memory()
    fit(TwoPlayersHealthy(), [PrecisionDoctor(modules=["*"])], n=16, precision="16-mixed", logger=memory)
    assert all(math.isfinite(memory.series(f"amp/headroom/{p}.0")[s]) for p in ("one", "two") for s in (0, 1))
    other = Memory()
    fit(
        Classifier(),
        [PrecisionDoctor(modules=["*"])],
        n=32,
        precision="16-mixed",
        logger=other,
        accumulate_grad_batches=2,
    )
    assert sorted(other.series("amp/headroom/net.0")) == [0, 1]


class TwoPlayersHealthy(TwoPlayers):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        for player, optimizer in zip((self.one, self.two), self.optimizers(), strict=True):
            loss = nn.functional.cross_entropy(player(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


def test_findings_survive_a_resume(tmp_path: Any) -> None:
    def part(epochs: int, path: Any = None) -> PrecisionDoctor:
        doctor = PrecisionDoctor()
        t = trainer([doctor], precision="16-mixed", max_epochs=epochs, init_scale=2.0**18)
        t.fit(Classifier(), loader(48), ckpt_path=path)
        t.save_checkpoint(tmp_path / "a.ckpt")
        return doctor

    first = part(1)
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    second = part(2, tmp_path / "a.ckpt")
    assert first.findings[0].kind == second.findings[0].kind == "loss scale too large"
    assert second.findings[0].times >= first.findings[0].times


def test_an_eps_that_float16_does_not_have_is_found() -> None:
    class Half(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    doctor = PrecisionDoctor()
    with pytest.warns(TrickWarning, match="eps=1e-08 is 0 in float16"):
        t = trainer([doctor], precision="16-true")
        t.fit(Half(), loader(8))
    assert doctor.findings[0].kind == "small eps"


def test_the_final_table_is_shown_once(capsys: Any) -> None:
    diagnosed(Classifier(), init_scale=2.0**18)
    shown = capsys.readouterr().out
    assert shown.count("PrecisionDoctor") == 1
    assert "loss scale" in shown
    diagnosed(Classifier(), init_scale=1.0)
    assert "loss scale" not in capsys.readouterr().out


@quiet
def test_a_step_that_cannot_be_run_twice_does_not_end_the_run() -> None:
    class Once(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.used: dict[int, bool] = {}
            self.tokens = iter(range(12))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            next(self.tokens)
            return super().training_step(batch, batch_idx) * (math.nan if batch_idx == 11 else 1.0)

    assert diagnosed(Once()) == [("unexplained skip", "")]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_parts_are_measured_from_outside() -> None:
    net = network()
    net[2] = torch.compile(nn.Sequential(nn.Linear(24, 24), nn.ReLU()), backend="eager")  # type: ignore[assignment]
    memory = Memory()
    fit(Classifier(net=net), [doctor := PrecisionDoctor()], n=16, logger=memory)
    assert set(doctor.table) == {f"net.{i}" for i in range(5)}
    with pytest.raises(UnsupportedError, match=r"'net\.2\.0' is part of a compiled graph"):
        fit(Classifier(net=net), [PrecisionDoctor(modules=["net.2.0"])], n=16)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_takes_no_hooks_and_is_left_out_or_refused_by_name() -> None:
    net, memory = network(), Memory()
    net[2] = torch.jit.script(nn.Sequential(nn.Linear(24, 24)))
    fit(Classifier(net=net), [doctor := PrecisionDoctor()], n=16, logger=memory)
    assert set(doctor.table) == {f"net.{i}" for i in (0, 1, 3, 4)}
    for trick in (PrecisionDoctor(modules=["net.2"]), FP32Islands(["net.2"])):
        with pytest.raises(UnsupportedError, match=r"'net\.2' is part of a compiled graph"):
            fit(Classifier(net=net), [trick], n=16, precision="bf16-mixed")


def test_a_module_that_is_not_called_logs_nothing() -> None:
    module, memory = Classifier(), Memory()
    module.unused = nn.Linear(2, 2)
    fit(module, [PrecisionDoctor()], n=16, logger=memory)
    assert not any("unused" in key for _, row in memory.rows for key in row)
    assert all(math.isfinite(v) for _, row in memory.rows for k, v in row.items() if k.startswith("amp/"))


@pytest.mark.parametrize("trick", [lambda: PrecisionDoctor(), lambda: FP32Islands(["net.0"])])
def test_a_module_that_is_compiled_as_a_whole_is_refused(trick: Any) -> None:
    module: Any = torch.compile(Classifier(), backend="eager")
    with pytest.raises(UnsupportedError, match="whole LightningModule is compiled"):
        trainer([trick()]).fit(module, loader(16))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: PrecisionDoctor(every_n_steps=0), ValueError, "whole number >= 1"),
        (lambda: PrecisionDoctor(modules="net"), TypeError, "list of names or globs"),
        (lambda: PrecisionDoctor(modules=[]), ValueError, "at least one module"),
        (lambda: FP32Islands("head"), TypeError, "list of names or globs"),
        (lambda: FP32Islands([]), ValueError, "at least one module"),
        (lambda: LossScaleGuard(on_failure="bf32"), ValueError, "Did you mean 'fp32'"),
        (lambda: LossScaleGuard(min_scale=-1.0), ValueError, "min_scale must be > 0"),
    ],
)
def test_bad_arguments_are_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_module_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(TrickError, match=r"The nearest name is 'net\.blocks\.0\.mlp'"):
        fit(Classifier(net=deep()), [PrecisionDoctor(modules=["net.block.0.mlp"])], n=16)


# -- FP32Islands --------------------------------------------------------------------------------------------------


def dtypes_of(module: Any, tricks: list[Any], **arguments: Any) -> dict[str, set[torch.dtype]]:
    seen: dict[str, set[torch.dtype]] = {}
    for name, part in module.named_modules():
        part.register_forward_hook(lambda m, a, o, n=name: seen.setdefault(n, set()).add(o.dtype) and None)
    fit(module, tricks, n=16, **arguments)
    return seen


@pytest.mark.parametrize(("precision", "half"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)])
@quiet
def test_named_modules_compute_in_float32(precision: str, half: torch.dtype) -> None:
    islands = FP32Islands(["net.head", "net.blocks.*.mlp"])
    seen = dtypes_of(Classifier(net=deep()), [islands], precision=precision)
    assert islands.islands == ["net.blocks.0.mlp", "net.blocks.1.mlp", "net.blocks.2.mlp", "net.head"]
    assert seen["net.stem"] == {half}
    assert seen["net.head"] == seen["net.blocks.1.mlp"] == {torch.float32}


def test_an_island_rescues_a_module_that_overflows() -> None:
    class Rescued(Deep):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = self.blocks[0](x)
            return self.head(self.blocks[1].mlp(x) * 1e-5)

    for tricks, updates in (([], 0), ([FP32Islands(["net.blocks.1.mlp"])], 12)):
        guard = LossScaleGuard(max_consecutive_skips=100)
        fit(
            Classifier(lambda p: sgd(p, lr=1e-6), net=Rescued(1e7, 1)),
            [guard, *tricks],
            precision="16-mixed",
            init_scale=1.0,
        )
        assert guard.run.clock.applied_on_host(0) == updates


@quiet
def test_auto_makes_islands_of_what_the_doctor_finds_and_resumes(tmp_path: Any) -> None:
    def part(epochs: int, path: Any = None) -> tuple[Any, FP32Islands]:
        islands, guard = FP32Islands(["auto"]), LossScaleGuard(max_consecutive_skips=6)
        t = trainer([PrecisionDoctor(), islands, guard], precision="16-mixed", max_epochs=epochs)
        net = deep(1.0)
        with torch.no_grad():
            net.head.weight.mul_(1e6)
        module = Classifier(net=net)
        module.spoil = lambda i, loss: loss * 1e-6
        t.fit(module, loader(48), ckpt_path=path)
        return t, islands

    t, islands = part(1)
    assert islands.islands == ["net.head"]
    assert islands.run.clock.applied_on_host(0) == 5
    t.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    t, islands = part(2, tmp_path / "a.ckpt")
    assert islands.islands == ["net.head"]
    assert islands.run.clock.applied_on_host(0) == 11


@pytest.mark.filterwarnings("ignore:predict returned None")
def test_islands_hold_in_validation_test_and_prediction_and_leave() -> None:
    class Net(Classifier):
        seen_dtypes: list[torch.dtype]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.seen_dtypes.append(self.net(batch[0]).dtype)

        test_step = predict_step = validation_step

    module, islands = Net(net=deep()), FP32Islands(["net.head"])
    module.seen_dtypes = []
    t = trainer([islands], precision="bf16-mixed", inference_mode=False)
    for stage in (t.validate, t.test, t.predict):
        stage(module, loader(8))
    t.fit(module, loader(8), loader(8))
    assert len(module.seen_dtypes) >= 5
    assert set(module.seen_dtypes) == {torch.float32}
    assert not module.net.head._forward_pre_hooks
    assert not module.net.head._forward_hooks


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_precisions_with_16_bit_weights_are_refused(precision: str) -> None:
    with pytest.raises(UnsupportedError, match="keeps the weights themselves in 16 bit"):
        fit(Classifier(), [FP32Islands(["net.0"])], precision=precision)


def test_auto_without_a_doctor_and_a_misspelt_name_are_refused() -> None:
    with pytest.raises(TrickError, match=r"Add PrecisionDoctor\(\) to callbacks"):
        fit(Classifier(), [FP32Islands(["auto"])], precision="16-mixed")
    with pytest.raises(TrickError, match=r"The nearest name is 'net\.head'"):
        fit(Classifier(net=deep()), [FP32Islands(["net.haed"])], precision="16-mixed")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_graphs_are_refused_and_their_wrappers_are_not() -> None:
    net = network()
    net[2] = torch.compile(nn.Sequential(nn.Linear(24, 24)), backend="eager")  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match="part of a compiled graph"):
        fit(Classifier(net=net), [FP32Islands(["net.2.0"])], n=16, precision="bf16-mixed")
    islands = FP32Islands(["net.2"])
    fit(Classifier(net=net), [islands], n=16, precision="bf16-mixed")
    assert islands.islands == ["net.2"]


def test_in_full_precision_an_island_changes_nothing() -> None:
    alone, island = Classifier(), Classifier()
    fit(alone)
    fit(island, [FP32Islands(["net.*"])])
    assert torch.equal(weights(alone), weights(island))


def test_an_island_over_everything_is_float32_training() -> None:
    module = Classifier()
    fit(module, [FP32Islands(["net"])], precision="bf16-mixed")
    wanted, _ = plain_loop()
    torch.testing.assert_close(weights(module), weights(wanted), rtol=1e-5, atol=1e-6)


# -- states of 0.1.0, in which each callback listed its arguments itself ------------------------------------------------

CLOCK = {"version": 1, "attempted": [5], "applied": [3]}


def test_an_old_state_of_the_guard_loads(tmp_path: Any) -> None:
    old = {
        "version": 1,
        "configuration": {"min_scale": 1.0, "max_scale": None, "max_consecutive_skips": 20, "on_failure": "raise"},
        "clock": CLOCK,
        "state": {"counts": [{"version": 1, "consecutive": 2, "skipped": 4}], "fallback": None},
    }
    guard = LossScaleGuard()
    guard.load_state_dict(old)
    fit(Classifier(spoil=nan_at(0)), [guard], n=32, precision="16-mixed")
    assert guard.skipped_steps == 5
    assert guard.state_dict()["configuration"] == old["configuration"]


def test_an_old_state_of_the_doctor_loads() -> None:
    finding = {"kind": "underflow", "module": "net.0", "text": "a", "advice": "b", "step": 3, "times": 2}
    old = {
        "version": 1,
        "configuration": {"every_n_steps": None, "modules": ["net.*"]},
        "clock": CLOCK,
        "state": {"findings": [finding], "looks": 7},
    }
    doctor = PrecisionDoctor(modules=["net.*"])
    doctor.load_state_dict(old)
    fit(Classifier(), [doctor], n=16)
    assert [vars(f) for f in doctor.findings] == [finding]
    assert doctor.state_dict()["state"]["looks"] == 7
    assert doctor.state_dict()["configuration"] == old["configuration"]


def test_an_old_state_of_the_islands_loads_and_other_arguments_are_told() -> None:
    old = {"version": 1, "configuration": {}, "clock": CLOCK, "state": {"found": ["net.0"]}}
    islands = FP32Islands(["auto"])
    islands.load_state_dict(old)
    fit(Classifier(), [PrecisionDoctor(), islands], n=16, precision="bf16-mixed")
    assert islands.islands == ["net.0"]
    with pytest.warns(TrickWarning, match="every_n_steps: 4 -> 5"):
        PrecisionDoctor(5).load_state_dict(
            {
                "version": 1,
                "configuration": {"every_n_steps": 4},
                "clock": CLOCK,
                "state": {"findings": [], "looks": 0},
            }
        )
