from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.overhead import Reads
from lightning_tricks import (
    AlarmError,
    DeadUnits,
    LRSchedule,
    ModeCollapse,
    PosteriorCollapse,
    PredictionCollapse,
    RepresentationCollapse,
    TrainingDoctor,
    TrickError,
    TrickWarning,
    UnsupportedError,
    UsageCollapse,
    Verdict,
)
from lightning_tricks.collapse.callbacks.features_probe import FeaturesProbe
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.causes import Cause, Explained
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import Classifier, Collapsed, Memory, fit, loader, network, sgd, trainer, weights

QUICK: dict[str, Any] = {"every_n_steps": 2, "patience": 2, "grace": 0}


def all_of_them(**more: Any) -> list[Any]:
    arguments = {"every_n_steps": 3, **more}
    return [
        RepresentationCollapse("net.2", **arguments),
        PredictionCollapse("net", **arguments),
        ModeCollapse("echo", **arguments),
        DeadUnits(**arguments),
        UsageCollapse("net", "router", **arguments),
        PosteriorCollapse("net.0", "net.2", **arguments),
        TrainingDoctor(3),
    ]


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("manual", [False, True])
def test_detectors_leave_the_weights_and_random_numbers_bit_identical(precision: str, manual: bool) -> None:
    def net() -> Any:
        inner = network()
        return nn.Sequential(*inner[:2], nn.Dropout(0.3), nn.BatchNorm1d(24), *inner[2:])

    alone, watched = (Classifier(manual=manual, net=net()) for _ in range(2))
    torch.manual_seed(3)
    fit(alone, n=640, batch=64, precision=precision)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    fit(watched, all_of_them(), n=640, batch=64, precision=precision)
    assert torch.equal(weights(alone), weights(watched))
    assert torch.equal(drawn, torch.rand(1))
    named = dict(alone.named_buffers())
    assert all(torch.equal(b, named[n]) for n, b in watched.named_buffers())


@pytest.mark.parametrize("name", ["stop", "raise", "warn", "log", "function"])
def test_each_action_does_what_it_says(name: str) -> None:
    told: list[Verdict] = []
    detector = RepresentationCollapse("net", **QUICK, action=told.append if name == "function" else name)
    module = Collapsed(lambda p: sgd(p, lr=1e-4))
    n, batch = 1797, 150  # 12 batches
    if name == "raise":
        with pytest.raises(AlarmError, match="complete collapse since step 1 ") as error:
            fit(module, [detector], n=n, batch=batch)
        assert error.value.verdict.cause == "complete collapse"
        assert module.seen == 5, "the check at step 3, acted on after the next update"
        return
    if name in ("warn", "stop"):
        with pytest.warns(TrickWarning, match="RepresentationCollapse: complete collapse since step 1 "):
            fit(module, [detector], n=n, batch=batch)
    else:
        fit(module, [detector], n=n, batch=batch)
    assert module.seen == (5 if name == "stop" else 12)
    assert [v.cause for v in told] == (["complete collapse"] if name == "function" else [])
    assert detector.verdict.alarmed
    assert detector.verdict.since_step == 1


def test_grace_is_counted_in_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def alarm(callbacks: list[Any], make: Any) -> int:
        detector = RepresentationCollapse("net", every_n_steps=1, patience=1, grace=4, action="stop")
        fit(module := Collapsed(make), [detector, *callbacks], n=1797, batch=128, max_epochs=3)
        return module.seen

    def scheduled(p: Any) -> Any:
        optimizer = sgd(p, lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    with pytest.warns(TrickWarning):
        assert alarm([], sgd) == 5
    with pytest.warns(TrickWarning):
        assert alarm([], scheduled) == 9, "at half the rate an update counts half"
    with pytest.warns(TrickWarning):  # 0.1, 0.2, ... 0.9, 1, 1
        assert 8 <= alarm([LRSchedule("constant", warmup=10)], sgd) <= 11


def test_a_share_of_the_run_is_bounded_and_needs_no_horizon() -> None:
    detector = RepresentationCollapse("net", grace="50%")
    fit(Classifier(), [detector], n=640, batch=64, max_epochs=3)
    assert detector.watch.judge.grace == 15
    fit(Classifier(), [detector], n=64, batch=64, max_epochs=-1, max_steps=100_000, limit_train_batches=0)
    detector = RepresentationCollapse("net", grace="1ep")
    fit(Classifier(), [detector], n=640, batch=64, max_epochs=1)
    assert detector.watch.judge.grace == 10


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_between_checks_there_is_no_host_read_and_at_a_check_one_copy() -> None:
    def reads(callbacks: list[Any]) -> int:
        module = Classifier()
        with Reads() as counted:
            fit(module, callbacks, n=1200, batch=100, log_every_n_steps=100)
        return counted.count

    bare = reads([])
    far = [RepresentationCollapse("net", every_n_steps=100), DeadUnits(every_n_steps=100), ModeCollapse("echo", 100)]
    assert reads(far) == bare
    assert reads([PredictionCollapse("net", every_n_steps=100)]) <= bare + 1, "once, to compare labels with classes"
    assert reads([RepresentationCollapse("net", every_n_steps=6)]) <= bare + 8
    latent = [UsageCollapse("net", every_n_steps=100), PosteriorCollapse("net.0", "net.2", every_n_steps=100)]
    assert reads(latent) == bare
    assert reads([UsageCollapse("net", "policy", every_n_steps=6)]) <= bare + 4


def test_hooks_look_at_training_steps_only() -> None:
    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0] * 0)

    detector = RepresentationCollapse("net", every_n_steps=2)
    module = Validated()
    from tests.problems import loader, trainer

    t = trainer([detector], val_check_interval=2)
    t.fit(module, loader(640, 64), loader(640, 64))
    assert all(values["sphere_variance"] > 0.1 for _, values in detector.history)


def test_activation_checkpointing_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Checkpointed(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x = batch[0].requires_grad_()
            out = torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=True)
            return nn.functional.cross_entropy(out, batch[1])

    seen: list[Any] = []
    monkeypatch.setattr(FeaturesProbe, "_add", lambda self, layer, output: seen.append(output))
    monkeypatch.setattr(FeaturesProbe, "gather", lambda *_, first: 64)
    for module in (Classifier(), Checkpointed()):
        seen.clear()
        fit(module, [RepresentationCollapse("net", every_n_steps=5)], n=640, batch=64)
        assert len(seen) == 1 + 8 + 0 or len(seen) in (9, 10), "one per watched batch"


def test_compiled_parts_are_watched_from_outside_and_refused_inside() -> None:
    class Compiled(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    detector = RepresentationCollapse("net", **QUICK)
    fit(Compiled(), [detector], n=640, batch=64)
    assert detector.history
    with pytest.raises(UnsupportedError, match=r"'net\.2' is part of a compiled graph"):
        fit(Compiled(), [RepresentationCollapse("net.2")], n=64)
    with pytest.raises(UnsupportedError, match="the whole LightningModule is compiled"):
        from tests.problems import loader, trainer

        trainer([RepresentationCollapse("net")]).fit(torch.compile(Classifier(), backend="eager"), loader(64))


def test_modules_that_configure_model_makes_are_found() -> None:
    class Late(Classifier):
        def configure_model(self) -> None:
            if not hasattr(self, "late"):
                self.late = nn.Linear(10, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.late(self.net(batch[0])), batch[1])

    detector = RepresentationCollapse("late", **QUICK)
    fit(Late(), [detector], n=640, batch=64)
    assert detector.history
    with pytest.raises(TrickError, match="The nearest name is 'late'"):
        fit(Late(), [RepresentationCollapse("latte")], n=64)


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_keys_name_the_layer_where_there_are_several() -> None:
    logger = Memory()
    fit(Classifier(), [RepresentationCollapse("net", **QUICK)], n=640, batch=160, logger=logger)
    assert logger.series("collapse/representation_collapse/alarm")
    logger = Memory()
    pair = [RepresentationCollapse("net", **QUICK), RepresentationCollapse("net.2", **QUICK)]
    fit(Classifier(), pair, n=640, batch=160, logger=logger)
    for layer in ("net", "net.2"):
        assert logger.series(f"collapse/representation_collapse.{layer}/effective_rank")


def test_small_batches_wait_until_there_are_samples_enough() -> None:
    detector = PredictionCollapse("net", every_n_steps=5)
    fit(Classifier(), [detector], n=400, batch=4)  # 100 steps, 20 samples between two checks
    assert [step for step, _ in detector.history] == [34, 69]


def test_a_text_and_a_figure_go_to_loggers_that_take_them() -> None:
    told: list[tuple[str, str]] = []

    class Board(Memory):
        @property
        def experiment(self) -> Any:
            class Experiment:
                def add_text(self, name: str, text: str, step: int) -> None:
                    told.append((name, text))

                def add_figure(self, name: str, figure: Any, step: int) -> None:
                    told.append((name, type(figure).__name__))

            return Experiment()

    with pytest.warns(TrickWarning):
        fit(
            Collapsed(lambda p: sgd(p, lr=1e-4)),
            [RepresentationCollapse("net", **QUICK)],
            n=1600,
            batch=160,
            logger=Board(),
        )
    assert ("collapse/representation_collapse/figure", "InlineFigure") in told
    assert any(name == "collapse/representation_collapse/verdict" and "complete collapse" in x for name, x in told)


def test_the_same_on_a_gpu_where_values_arrive_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent at a check is waited for after the next update, not before."""

    class Late:
        def __init__(self) -> None:
            self.asked = 0

        def query(self) -> bool:
            self.asked += 1
            return False

        def synchronize(self) -> None:
            pass

    from lightning_tricks.publishing.transfer import Transfer

    real = Transfer.send

    def send(parcel: Any) -> None:
        real(parcel)
        if parcel.host is not None:
            parcel.arrived = Late()

    monkeypatch.setattr(Transfer, "send", send)
    module = Collapsed(lambda p: sgd(p, lr=1e-4))
    detector = RepresentationCollapse("net", **QUICK, action="stop")
    with pytest.warns(TrickWarning):
        fit(module, [detector], n=1797, batch=150)
    assert module.seen == 5


MILD, SEVERE = Cause.OVERFITTING, Cause.NON_FINITE


class ScriptedProbe(Probe):
    """Finds what a script says at each check: a cause, or nothing."""

    hooks_modules = False

    def __init__(self, script: list[Cause | None]) -> None:
        super().__init__()
        self.script = script

    def rules(self) -> dict[str, Alarm]:
        return {cause.value: Alarm(below=0.5, patience=1) for cause in (MILD, SEVERE, Cause.DEAD_UNITS)}

    def ready(self, run: Any, samples: int, waited: int) -> bool:
        return True

    def measure(self, run: Any) -> torch.Tensor:
        return torch.tensor([float(run.step)])

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        found = self.script[int(vector[0])] if int(vector[0]) < len(self.script) else None
        return {cause: float(cause != found) for cause in self.rules()}

    def explain(self, active: list[str], values: Any, judge: Judge) -> Explained:
        return Cause(active[0]), ("seen",), ("nothing",)


class Scripted(Detector, Trick):  # type: ignore[misc]
    state_form = watch_form()

    def __init__(self, script: list[Cause | None], action: Any = "log") -> None:
        self.script = script
        self.take(WatchSettings.checked("Scripted", 1, action, 1, 0))

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Watch(self, ScriptedProbe(self.script), self.settings),)


def names(detector: Detector) -> list[Cause]:
    return [verdict.cause for verdict in detector.alarms]


def test_the_verdict_keeps_the_worst_alarm_and_alarms_all_of_them() -> None:
    told: list[Verdict] = []
    detector = Scripted([None, MILD, None, SEVERE, None, MILD, MILD, MILD, None], told.append)
    assert detector.alarms == [] and not detector.verdict.alarmed
    fit(Classifier(), [detector], n=12 * 8)
    assert names(detector) == [MILD, SEVERE, MILD]
    assert detector.alarms == told, "the action gets the same ones"
    assert detector.verdict == told[1] and detector.verdict.alarmed, "the most severe, also when it is over"


def test_of_alarms_that_are_as_severe_the_longer_one_is_worse_and_then_the_first() -> None:
    longer = Scripted([MILD, None, MILD, MILD, MILD, None])
    fit(Classifier(), [longer], n=8 * 8)
    assert longer.verdict is longer.alarms[1]
    same = Scripted([MILD, None, MILD, None])
    fit(Classifier(), [same], n=8 * 8)
    assert same.verdict is same.alarms[0]


def test_without_an_alarm_the_verdict_is_that_of_the_last_check() -> None:
    detector = Scripted([])
    fit(Classifier(), [detector], n=6 * 8)
    assert not detector.verdict.alarmed and detector.verdict.step == 5 and detector.alarms == []


def test_alarms_survive_a_resume_and_states_without_them_load(tmp_path: Path) -> None:
    script: list[Cause | None] = [SEVERE, None, None, MILD, MILD, MILD, MILD, None, None, Cause.DEAD_UNITS, None, None]
    whole = Scripted(script)
    trainer([whole], max_epochs=2).fit(Classifier(), loader(48))
    first = Scripted(script)
    t = trainer([first], max_epochs=1)
    t.fit(Classifier(), loader(48))
    t.save_checkpoint(tmp_path / "a.ckpt")
    second = Scripted(script)
    trainer([second], max_epochs=2).fit(Classifier(), loader(48), ckpt_path=tmp_path / "a.ckpt")
    assert second.alarms == whole.alarms and len(whole.alarms) == 3
    assert second.verdict == whole.verdict
    assert [r.checks for r in second.watch.judge.raised] == [r.checks for r in whole.watch.judge.raised] == [1, 4, 1]

    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    (key,) = [k for k in checkpoint["callbacks"] if "Scripted" in k]
    del checkpoint["callbacks"][key]["state"]["raised"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    old = Scripted(script)
    trainer([old], max_epochs=2).fit(Classifier(), loader(48), ckpt_path=tmp_path / "old.ckpt")
    assert names(old) == [MILD, Cause.DEAD_UNITS], "what an older version saved is the alarm that was on"
