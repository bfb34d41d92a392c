from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tricks import (
    AlarmError,
    GradientClip,
    LRFinder,
    SanityCheck,
    TrainingDoctor,
    TrickError,
    TrickWarning,
)
from tests.problems import Classifier, Memory, digits, fit, loader, network, sgd, trainer, weights

quiet = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


def nan_from(step: int) -> Any:
    return lambda i, loss: loss * math.nan if i >= step else loss


# -- SanityCheck ----------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize(
    ("precision", "kind", "beside"),
    [
        ("32-true", "sgd", "alone"),
        ("32-true", "adamw fused", "finder"),
        ("bf16-mixed", "adamw fused", "clip"),
        ("16-mixed", "sgd", "clip"),
        ("16-mixed", "adamw fused", "alone"),
        ("16-mixed", "sgd", "finder"),
    ],
)
def test_the_training_after_it_is_bit_identical(precision: str, kind: str, beside: str) -> None:
    def make() -> tuple[Any, list[Any]]:
        inner = network()
        net = nn.Sequential(*inner[:2], nn.Dropout(0.2), nn.BatchNorm1d(24), *inner[2:])
        optimizer = sgd if kind == "sgd" else lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True)
        tricks = {"alone": [], "clip": [GradientClip(0.5)], "finder": [LRFinder(num_steps=20)]}[beside]
        return Classifier(optimizer, net=net), tricks

    results = []
    for more in ([], [SanityCheck()]):
        module, tricks = make()
        torch.manual_seed(5)
        t = trainer([*more, *tricks], max_epochs=1, precision=precision)
        t.fit(module, DataLoader(digits(640), batch_size=32, shuffle=True))
        results.append((weights(module), [b.clone() for b in module.buffers()], torch.rand(1)))
    (a, buffers_a, drawn_a), (b, buffers_b, drawn_b) = results
    assert torch.equal(a, b)
    assert torch.equal(drawn_a, drawn_b)
    assert all(torch.equal(x, y) for x, y in zip(buffers_a, buffers_b, strict=True))


def test_a_failure_warns_or_ends_the_run_before_it_begins() -> None:
    def dead() -> Any:
        net = network()
        nn.init.constant_(net[0].bias, -50.0)
        return Classifier(net=net)

    module = dead()
    before = weights(module).clone()
    with pytest.raises(
        TrickError, match=r"SanityCheck: \d of 8 checks failed.*units are alive: 100% of net.1 are dead"
    ):
        fit(module, [SanityCheck(on_failure="raise")], n=640, batch=64)
    assert torch.equal(weights(module), before)
    with pytest.warns(TrickWarning, match="checks failed"):
        fit(dead(), [SanityCheck()], n=640, batch=64)


def test_the_table_is_printed_and_goes_to_the_logger(capsys: pytest.CaptureFixture[str]) -> None:
    told = []

    class Board(Memory):
        @property
        def experiment(self) -> Any:
            class Experiment:
                def add_text(self, name: str, text: str, step: int) -> None:
                    told.append((name, text))

            return Experiment()

    fit(Classifier(), [SanityCheck()], n=640, batch=64, logger=Board())
    printed = capsys.readouterr().out
    assert "overfits one batch" in printed
    assert "pass" in printed
    assert told[0][0] == "diagnosis/sanity"
    assert "| initial loss | pass |" in told[0][1]


@quiet
def test_it_is_not_run_on_a_resume_nor_under_fast_dev_run(tmp_path: Path) -> None:
    first = trainer([SanityCheck()], max_epochs=1)
    first.fit(Classifier(), loader(64))
    first.save_checkpoint(tmp_path / "a.ckpt")
    check = SanityCheck()
    trainer([check], max_epochs=2).fit(Classifier(), loader(64), ckpt_path=tmp_path / "a.ckpt")
    assert check.checks == []
    fit(Classifier(), [check], fast_dev_run=True)
    assert check.checks == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"initial_loss": 1}, TypeError, "initial_loss must be True or False"),
        ({"on_failure": "rais"}, ValueError, "Did you mean 'raise'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SanityCheck(**arguments)


def test_manual_optimization_is_asked_what_its_steps_do_to_the_weights() -> None:
    check = SanityCheck()
    fit(Classifier(manual=True), [check])
    assert {c.name: c.passed for c in check.checks} == {"inputs matter": True, "all parameters learn": True}


# -- TrainingDoctor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manual", [False, True])
def test_nan_for_good_is_an_alarm_at_the_next_check(manual: bool, tmp_path: Path) -> None:
    module = Classifier(spoil=nan_from(7), manual=manual)
    doctor = TrainingDoctor(every_n_steps=5, action="raise")
    with pytest.raises(AlarmError, match="non-finite values") as error:
        fit(module, [doctor], n=320, default_root_dir=tmp_path)
    assert module.seen == 11, "seen at the check after ten updates, acted on after the eleventh"
    assert error.value.verdict.since_step == 9
    report = json.loads((tmp_path / "health.json").read_text())
    assert report["why"].startswith("AlarmError")
    assert report["exception"]["type"] == "AlarmError"
    assert report["last_batch"][0]["shape"] == [8, 64]


@quiet
def test_one_bad_batch_that_was_skipped_is_none() -> None:
    module = Classifier(spoil=lambda i, loss: loss * math.nan if i == 7 else loss)
    doctor = TrainingDoctor(every_n_steps=4, action="raise")
    fit(module, [doctor, GradientClip(1.0, nonfinite="skip")], n=320)
    assert not doctor.verdict.alarmed


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("batch", "the batch itself holds NaN or inf"),
        ("weights", "weights or buffers are not finite, first 'net.3.weight'"),
        ("module", "the output of 'net.1' is the first that is not finite"),
        ("loss", "every module's output is finite, the loss is not"),
    ],
)
def test_the_culprit_is_named(fault: str, words: str, tmp_path: Path) -> None:
    class Overflow(nn.Module):
        active = False

        def forward(self, x: Tensor) -> Tensor:
            return x / 0 if self.active else x.relu()

    class Faulty(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx < 4:
                return
            if fault == "batch":
                batch[0].fill_(math.nan)
            elif fault == "weights" and batch_idx == 4:
                nn.init.constant_(self.net[3].weight, math.nan)
            elif fault == "module":
                self.net[1].active = True

    net = network()
    net[1] = Overflow()
    module = Faulty(net=net, spoil=nan_from(4) if fault == "loss" else None)
    doctor = TrainingDoctor(every_n_steps=4, action="raise")
    with pytest.raises(AlarmError) as error:
        fit(module, [doctor], n=160)
    assert words in str(error.value)


@quiet
def test_divergence_and_its_picture() -> None:
    doctor = TrainingDoctor(every_n_steps=3, action="log")
    fit(Classifier(lambda p: sgd(p, lr=0.02, maximize=True)), [doctor], n=640, batch=8)
    assert doctor.verdict.cause in ("divergence", "loss spikes")
    assert any(f.kind == doctor.verdict.cause for f in doctor.findings)
    figure = doctor.plot()
    assert figure.axes[1].images, "predictions on the first batch"
    assert not Path("health.json").exists(), "the run goes on"


class Validated(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


@quiet
def test_overfitting_is_seen_by_the_validation_loss() -> None:
    data = digits(1500)
    few = torch.utils.data.TensorDataset(data.tensors[0][:40], torch.randint(10, (40,)))
    held = DataLoader(torch.utils.data.TensorDataset(data.tensors[0][1000:], data.tensors[1][1000:]), batch_size=500)
    doctor = TrainingDoctor(every_n_steps=5, action="stop")
    module = Validated(lambda p: torch.optim.AdamW(p, lr=3e-2))
    t = trainer([doctor], max_epochs=60, val_check_interval=5, num_sanity_val_steps=0)
    t.fit(module, DataLoader(few, batch_size=8), held)
    assert doctor.verdict.cause == "overfitting"
    assert t.current_epoch < 50
    assert json.loads(Path("health.json").read_text())["why"].startswith("alarm: TrainingDoctor: overfitting")


@quiet
def test_a_healthy_training_is_left_alone_and_the_curves_are_true() -> None:
    losses: list[float] = []

    class Noting(Classifier):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(float(outputs["loss"]))

    doctor, logger = TrainingDoctor(every_n_steps=4, action="raise"), Memory()
    module = Noting()
    fit(module, [doctor], n=640, batch=16, logger=logger)
    assert logger.series("diagnosis/training_doctor/loss")[7] == pytest.approx(sum(losses[4:8]) / 4, rel=1e-6)
    assert set(logger.series("diagnosis/training_doctor/alarm").values()) == {0.0}
    assert doctor.history[-1][1]["fixed_batch_loss"] < doctor.history[0][1]["fixed_batch_loss"]


@quiet
def test_update_ratios_are_those_of_the_weights() -> None:
    class Noting(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.before = [p.detach().clone() for p in self.parameters() if p.ndim > 1]

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            after = [p.detach() for p in self.parameters() if p.ndim > 1]
            self.ratios = [float((a - b).norm() / b.norm()) for a, b in zip(after, self.before, strict=True)]

    doctor, module = TrainingDoctor(every_n_steps=4), Noting()
    fit(module, [doctor], n=64, batch=16)
    assert doctor.history[0][1]["update_ratio"] == pytest.approx(
        sorted(module.ratios)[len(module.ratios) // 2], rel=1e-4
    )


@quiet
def test_any_exception_leaves_a_report_also_when_the_logger_is_broken(tmp_path: Path) -> None:
    class Broken(Memory):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            raise OSError("disk full")

    class Dies(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 6:
                raise RuntimeError("boom")
            return super().training_step(batch, batch_idx)

    with pytest.warns(RuntimeWarning, match="disk full"), pytest.raises(RuntimeError, match="boom"):
        fit(Dies(), [TrainingDoctor(every_n_steps=2)], logger=Broken(), default_root_dir=tmp_path)
    report = json.loads((tmp_path / "health.json").read_text())
    assert report["why"] == "RuntimeError: boom"
    assert report["step"] == 6
    assert len(report["last_losses"]) == 6
    assert report["learning_rates"] == [0.05]
    assert "boom" in (tmp_path / "health.txt").read_text()


@quiet
def test_an_interrupt_leaves_no_report_and_a_folder_that_cannot_be_written_no_second_error(tmp_path: Path) -> None:
    class Stops(Classifier):
        error: type[BaseException] = KeyboardInterrupt

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise self.error("boom")

    with pytest.raises(SystemExit):
        fit(Stops(), [TrainingDoctor()], default_root_dir=tmp_path)
    assert not (tmp_path / "health.json").exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    module = Stops()
    module.error = ValueError
    with pytest.warns(RuntimeWarning, match="no report"), pytest.raises(ValueError, match="boom"):
        fit(module, [TrainingDoctor()], default_root_dir=blocked)


@quiet
def test_waiting_for_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("lightning_tricks.diagnosis.data_wait.time.perf_counter", lambda: float(next(clock)))
    doctor = TrainingDoctor(every_n_steps=4)
    fit(Classifier(), [doctor], n=64, batch=8)
    share = doctor.history[0][1]["waiting"]
    assert 0.2 < share < 0.8, "each reading of the clock is a second later"


@quiet
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_resumed_run_has_the_same_curves(epochs: int, tmp_path: Path) -> None:
    def make() -> tuple[Any, TrainingDoctor]:
        return Classifier(), TrainingDoctor(every_n_steps=3, action="log")

    module, whole = make()
    trainer([whole], max_epochs=4).fit(module, loader(200))
    module, first = make()
    t = trainer([first], max_epochs=epochs)
    t.fit(module, loader(200))
    t.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    module, second = make()
    trainer([second], max_epochs=4).fit(module, loader(200), ckpt_path=tmp_path / "a.ckpt")
    assert repr(second.probe.course.checks) == repr(whole.probe.course.checks), "bit for bit"
    assert [f.kind for f in second.findings if f.kind != "waiting for data"] == [
        f.kind for f in whole.findings if f.kind != "waiting for data"
    ]


def test_validation_is_no_waiting_for_data_and_frozen_layers_are_no_small_updates() -> None:
    class Net(Classifier):
        def __init__(self) -> None:
            super().__init__(lambda p: torch.optim.AdamW(p, lr=0.01))
            self.net[0].requires_grad_(False)  # type: ignore[index,union-attr]
            self.net[2].requires_grad_(False)  # type: ignore[index,union-attr]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            clock[0] += 100.0

    clock = [0.0]

    def now() -> float:
        clock[0] += 0.001
        return clock[0]

    doctor = TrainingDoctor(every_n_steps=5, action="log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_tricks.diagnosis.data_wait.time.perf_counter", now)
        t = trainer([doctor], max_epochs=4)
        t.fit(Net(), loader(80), loader(16))
    assert all(values["waiting"] < 0.9 for _, values in doctor.history)
    assert not [f for f in doctor.findings if f.kind in ("waiting for data", "small updates")]


def test_a_trial_that_a_search_prunes_is_no_failure(tmp_path: Path, capsys: Any) -> None:
    class TrialPruned(Exception):
        pass

    class Search(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                raise TrialPruned

    with pytest.raises(TrialPruned):
        fit(Classifier(), [TrainingDoctor(every_n_steps=2), Search()], n=64, default_root_dir=tmp_path)
    assert not list(tmp_path.rglob("health.*")) and "health" not in capsys.readouterr().out


class Towers(L.LightningModule):
    """Two halves of an image are matched, at a temperature that divides, or is multiplied in."""

    def __init__(self, multiplied: bool) -> None:
        super().__init__()
        self.temperature = 0.002 if multiplied else 1 / 0.07
        self.upper, self.lower = (nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16)) for _ in range(2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].flatten(1)
        one, two = (nn.functional.normalize(t, dim=1) for t in (self.upper(x[:, :32]), self.lower(x[:, 32:])))
        return nn.functional.cross_entropy(self.temperature * one @ two.T, torch.arange(len(x)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@quiet
@pytest.mark.parametrize("multiplied", [True, False])
def test_a_temperature_that_is_multiplied_in_makes_a_loss_that_never_falls(multiplied: bool) -> None:
    torch.manual_seed(0)
    doctor = TrainingDoctor(every_n_steps=10, action="log")
    trainer([doctor], max_epochs=-1, max_steps=300).fit(
        Towers(multiplied), DataLoader(digits(1280), batch_size=64, shuffle=True)
    )
    assert doctor.verdict.alarmed is multiplied
    if multiplied:
        assert doctor.verdict.cause == "labels do not follow from inputs" and 180 <= doctor.verdict.step <= 220
        assert "the loss is where it began: 4.159" in doctor.verdict.reasons[0]


class WeakSignal(L.LightningModule):
    """A click that depends on what is known of it a little."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.net(batch[0]).squeeze(1), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def regression_from_zero() -> nn.Module:
    layer = nn.Linear(8, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))


@quiet
@pytest.mark.parametrize("batch", [128, pytest.param(2048, marks=pytest.mark.slow)])
@pytest.mark.parametrize("slope", [0.1, 0.25])  # areas under the curve of 0.53 and 0.57
@pytest.mark.parametrize("make", [small_network, regression_from_zero])
def test_a_weak_signal_is_no_loss_that_never_falls(make: Any, slope: float, batch: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000, 8)
    clicked = torch.bernoulli((slope * x[:, 0]).sigmoid())
    doctor = TrainingDoctor(every_n_steps=10, action="log")
    data = torch.utils.data.TensorDataset(x, clicked)
    trainer([doctor], max_epochs=-1, max_steps=300).fit(WeakSignal(make()), DataLoader(data, batch, shuffle=True))
    assert not doctor.verdict.alarmed
