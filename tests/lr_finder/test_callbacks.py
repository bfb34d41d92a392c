from __future__ import annotations

import random
import warnings
from typing import Any

import lightning.pytorch as L
import numpy
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from lightning_tricks import (
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LRFinder,
    LRSchedule,
    TrickError,
    TrickWarning,
    UnsupportedError,
)
from tests.gradients.problems import Gan
from tests.problems import Classifier, Memory, digits, fit, loader, sgd, trainer

pytestmark = pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode")


class Everything(L.LightningModule):
    """BatchNorm, dropout, a metric, a non-persistent buffer, own numbers: all that a step may change."""

    def __init__(self, groups: bool = False, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10)]
        self.net = nn.Sequential(*layers)
        self.frozen = nn.BatchNorm1d(64).eval()
        self.register_buffer("steps", torch.zeros(()), persistent=False)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(10)
        self.seen: list[int] = []
        self.calls, self.groups, self.fused = 0, groups, fused

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.calls += 1
        self.seen.append(int(y[0]))
        self.steps = self.steps + 1
        noise = random.random() + float(numpy.random.rand()) + torch.rand(())
        logits = self.net(self.frozen(x))
        loss = cross_entropy(logits, y) + 0.0 * noise
        self.accuracy(logits, y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("loss", loss + noise)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        p = list(self.net.parameters())
        groups: Any = [{"params": p[:4], "lr": 0.01}, {"params": p[4:], "lr": 0.1}] if self.groups else p
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, fused=self.fused)


class Augmented(Dataset[Any]):
    """Draws from torch's, numpy's and Python's random numbers for each sample."""

    def __init__(self) -> None:
        self.data = digits(64)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        x, y = self.data[i]
        return x + 0.1 * torch.randn(64) + 0.1 * random.random() + 0.1 * numpy.random.rand(), y


def seed_everything() -> None:
    """(Lightning's function of this name changes the environment.)"""
    random.seed(7)
    numpy.random.seed(7)
    torch.manual_seed(7)


def after(
    finder: LRFinder | None, data: Any, others: list[Any], module: Any = None, **arguments: Any
) -> dict[str, Any]:
    """Train, and return everything that can be seen of it."""
    module, logger = module or Everything(), Memory()
    seed_everything()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = trainer([*([finder] if finder else []), *others], logger=logger, max_epochs=2, **arguments)
        t.fit(module, data() if callable(data) else data)
    return {
        "state": {k: v.clone() for k, v in module.state_dict().items()},
        "steps": module.steps.clone(),
        "seen": module.seen,
        "calls": module.calls,
        "modes": [m.training for m in module.modules()],
        "optimizer": t.optimizers[0].state_dict(),
        "logged": logger.rows,
        "random": (random.random(), float(numpy.random.rand()), float(torch.rand(()))),
        "global_step": t.global_step,
        "scaler": getattr(t.precision_plugin, "scaler", None) and t.precision_plugin.scaler.state_dict(),
    }


def same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b or (a != a and b != b)


LOADERS: dict[str, Any] = {
    "in order": lambda: loader(64),
    "shuffled": lambda: DataLoader(digits(64), 8, shuffle=True),
    "own generator": lambda: DataLoader(digits(64), 8, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "weighted": lambda: DataLoader(
        digits(64), 8, sampler=WeightedRandomSampler([1.0] * 64, 64, generator=torch.Generator().manual_seed(3))
    ),
    "augmented": lambda: DataLoader(Augmented(), 8, shuffle=True),
    "persistent workers": lambda: DataLoader(Augmented(), 8, shuffle=True, num_workers=1, persistent_workers=True),
    "short": lambda: DataLoader(digits(16), 8, shuffle=True),
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("probe", [True, False])
def test_training_after_it_is_bit_identical_to_training_without_it(name: str, probe: bool) -> None:
    finder = LRFinder(num_steps=20, apply=False, probe=probe)
    alone, with_finder = after(None, LOADERS[name], []), after(finder, LOADERS[name], [])
    assert finder.result is not None and len(finder.result.lrs) > 5
    same(with_finder, alone)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "others",
    [
        list,
        lambda: [GradientClip(1.0), GradientMonitor(), LRSchedule(warmup=2)],
        lambda: [GradientAccumulation(3), GradientClip(0.5)],
        lambda: [GradientAccumulation({0: 2, 3: 1}, on_oom="split")],
    ],
)
def test_it_is_bit_identical_with_every_precision_and_trick(precision: str, fused: bool, others: Any) -> None:
    runs = []
    for finder in (None, LRFinder(num_steps=12, apply=False, refine=True)):
        module = Everything(groups=True, fused=fused)
        runs.append(after(finder, LOADERS["augmented"], others(), module, precision=precision))
    same(runs[1], runs[0])


@pytest.mark.parametrize("arguments", [{"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.5}])
def test_it_is_bit_identical_under_lightnings_own_accumulation_and_clipping(arguments: dict[str, Any]) -> None:
    runs = [after(f, LOADERS["shuffled"], [], **arguments) for f in (None, LRFinder(num_steps=12, apply=False))]
    same(runs[1], runs[0])


def test_lightnings_finder_is_not_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until lightning>2.6.6 (#6675)."""
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # its progress bar starts a thread
    alone = after(None, LOADERS["shuffled"], [])
    module, logger = Everything(), Memory()
    module.lr = 0.05  # type: ignore[assignment]
    seed_everything()
    theirs = L.callbacks.LearningRateFinder(num_training_steps=20, update_attr=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer([theirs], logger=logger, max_epochs=2, enable_checkpointing=True).fit(module, LOADERS["shuffled"]())
    assert module.seen != alone["seen"]


def test_an_error_in_a_step_ends_the_dry_run_and_not_the_training() -> None:
    class Fails(Everything):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.calls == 7 and self.trainer.global_step == 0:  # (training itself has made updates by then)
                raise ValueError("boom")
            return super().training_step(batch, batch_idx)

    def fitted(*finder: Any) -> Any:
        module = Fails()
        t = trainer([*finder, GradientClip(1.0), GradientAccumulation(2)])
        seed_everything()
        t.fit(module, loader(64))
        return t, module

    _, alone = fitted()
    with pytest.warns(TrickWarning, match=r"the learning rate stays 0\.05: the dry run failed \(ValueError: boom\)"):
        t, module = fitted(LRFinder(num_steps=20))
    same(dict(module.state_dict()), dict(alone.state_dict()))
    assert module.calls == 8
    assert {type(c).__name__ for c in t.callbacks} == {"LRFinder", "GradientClip", "GradientAccumulation"}
    assert t.accumulate_grad_batches == 1
    assert not {"log", "training_step"} & set(vars(module))


# -- what it finds ----------------------------------------------------------------------------------------------------


def quadratic(curvature: float = 1.0) -> Any:
    """Ill-conditioned, with the largest curvature given: plain gradient descent diverges above ``2/curvature``."""

    class Bowl(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(10))
            self.register_buffer("h", curvature * torch.logspace(-4, 0, 10))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return 0.5 * (self.h * self.w.square()).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.123)

    return Bowl()


@pytest.mark.parametrize("curvature", [0.01, 1.0, 100.0])
def test_on_a_quadratic_the_lowest_loss_is_at_the_known_rate(curvature: float) -> None:
    finder = LRFinder(1e-6, 1e4, num_steps=100)
    with pytest.raises(TrickError, match="nothing to draw before Trainer.fit"):
        finder.plot()
    trainer([finder], max_steps=1, max_epochs=-1).fit(quadratic(curvature), loader(64))
    result = finder.result
    assert result is not None and result.confident, result
    assert result.suggestion is not None
    # rates above 2/curvature diverge; the sweep notices it some updates later, hence the tenth
    assert 0.1 / curvature < result.suggestion < 2.0 / curvature
    assert result.lrs[-1] < 100 / curvature, "stopped when it diverged"
    assert list(finder.plot().axes[0].lines[0].get_ydata()) == result.losses


def test_the_rate_that_is_found_is_what_training_and_schedule_use() -> None:
    rates: list[list[float]] = []

    class Note(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            rates.append([float(g["lr"]) for g in optimizer.param_groups])

    for order in (0, 1):
        rates.clear()
        finder = LRFinder(num_steps=60)
        tricks: list[Any] = [finder, LRSchedule("constant", warmup=2)]
        module = Everything(groups=True)
        trainer([*(tricks if order else tricks[::-1]), Note()]).fit(module, DataLoader(digits(512), 32, shuffle=True))
        assert finder.result is not None and finder.result.confident, finder.result
        found = finder.result.suggestion
        assert found is not None
        assert rates[0] == pytest.approx([0.5 * found, 5 * found])
        assert rates[5] == pytest.approx([found, 10 * found]), "groups keep their ratio"


def test_a_scheduler_of_the_module_starts_from_the_rate_that_was_found() -> None:
    """Lightning's finder is forgotten after one step where a scheduler computes from its base rates."""
    rates: list[float] = []

    class Scheduled(Everything):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [
                {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0), "interval": "step"}
            ]

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            rates.append(float(optimizer.param_groups[0]["lr"]))

    finder = LRFinder(num_steps=60)
    trainer([finder]).fit(Scheduled(), DataLoader(digits(512), 32, shuffle=True))
    assert finder.result is not None and finder.result.suggestion is not None
    assert rates[-16:] == pytest.approx([finder.result.suggestion] * 16)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_tensor_rate_is_written_in_place(tensor: bool) -> None:
    held = torch.tensor(0.05)
    module = Classifier(lambda p: torch.optim.AdamW(p, lr=held if tensor else 0.05, foreach=False))
    finder = LRFinder(num_steps=60)
    t = trainer([finder])
    t.fit(module, DataLoader(digits(512), 32))
    rate = t.optimizers[0].param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor) == tensor
    assert finder.result is not None
    assert float(rate) == pytest.approx(finder.result.suggestion)


def test_the_window_and_the_clip_of_the_run_are_in_the_sweep() -> None:
    def curve(*others: Any) -> list[float]:
        finder = LRFinder(num_steps=40, apply=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(Classifier(), [finder, *others], n=64)
        assert finder.result is not None
        return finder.result.losses

    plain, clipped = curve(), curve(GradientClip(1e-3))
    assert clipped != plain
    assert len(clipped) > len(plain), "a clipped run diverges later"
    assert curve(GradientAccumulation(4)) != plain


def test_no_rate_is_written_without_confidence() -> None:
    class Flat(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * 0.0 + 1.0

    finder, t = LRFinder(num_steps=40), trainer()
    t = trainer([finder])
    with pytest.warns(TrickWarning, match=r"the learning rate stays 0.05: the loss never fell"):
        t.fit(Flat(), loader(64))
    assert t.optimizers[0].param_groups[0]["lr"] == 0.05
    assert finder.result is not None
    assert not finder.result.confident
    with pytest.raises(TrickError, match="no learning rate can be recommended: the loss never fell"):
        fit(Flat(), [LRFinder(num_steps=40, on_low_confidence="raise")])
    with pytest.warns(TrickWarning, match="had not risen again at the largest rate"):
        fit(Classifier(), [LRFinder(max_lr=1e-3, num_steps=40)])
    with pytest.warns(TrickWarning, match="fewer than 30"):
        fit(Classifier(), [LRFinder(num_steps=20)])
    with pytest.warns(TrickWarning, match="not finite before the first update"):
        fit(Classifier(spoil=lambda i, loss: loss * float("nan")), [LRFinder(num_steps=40)])


def test_the_curve_is_cut_at_a_nan_and_negative_losses_do_not_stop_it() -> None:
    class Negative(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) - 100.0

    finder = LRFinder(num_steps=60, apply=False)
    fit(Negative(), [finder], n=64)
    assert finder.result is not None and len(finder.result.lrs) > 30
    spoiled = LRFinder(num_steps=60, apply=False, probe=False)
    with pytest.warns(TrickWarning):
        fit(Classifier(spoil=lambda i, loss: loss * float("nan") if i == 10 else loss), [spoiled], n=64)
    assert spoiled.result is not None
    assert len(spoiled.result.lrs) == 10 and all(x == x for x in spoiled.result.losses)


def test_a_clip_that_raises_ends_the_sweep_and_not_the_run() -> None:
    finder = LRFinder(num_steps=60, max_lr=1e6, apply=False)
    clip = GradientClip(1e9, nonfinite="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(Classifier(), [finder, clip], n=64)
    assert finder.result is not None
    assert clip.run.clock.applied_on_host(0) == 8


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_the_bake_off_takes_the_smallest_of_the_good_candidates() -> None:
    finder = LRFinder(num_steps=60, refine=True)
    trainer([finder]).fit(Everything(), DataLoader(digits(512), 32, shuffle=True))
    result = finder.result
    assert result is not None and len(result.bake_off) == 4
    lowest = min(result.bake_off.values())
    good = [lr for lr, loss in result.bake_off.items() if loss <= lowest + 0.05 * (result.first_loss - lowest)]
    assert result.suggestion == min(good)
    assert result.suggestions["minimum"] in result.bake_off


def two_modes(hard: float, easy: float) -> Any:
    """An offset that is learnt at rates of 1e-3 and forgotten at larger ones, and a weight that has to go far."""

    class TwoModes(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.weight = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            away = 1.0 - torch.exp(-((self.offset / 0.01 - 1.0).square()))
            return 1.0 - easy - hard + easy * away + hard * (self.weight - 100.0).abs() / 100.0

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.123)

    return TwoModes()


def test_an_easy_mode_is_not_believed_and_the_bake_off_finds_the_other() -> None:
    finder, module = LRFinder(max_lr=1.0), two_modes(hard=0.9, easy=0.1)
    with pytest.warns(TrickWarning, match=r"stays 0\.123: .* learnt only biases or a mean.*refine=True"):
        trainer([finder], max_steps=1, max_epochs=-1).fit(module, loader(64))
    assert finder.result is not None and (finder.result.suggestion or 1.0) < 1e-3
    assert not finder.result.bake_off
    refined = LRFinder(max_lr=1.0, refine=True)
    t = trainer([refined], max_steps=1, max_epochs=-1)
    t.fit(two_modes(hard=0.9, easy=0.1), loader(64))
    result = refined.result
    assert result is not None and result.confident and result.reasons == []
    assert len(result.bake_off) > 4 and max(result.bake_off) <= 1.0 / 3.0 * 1.001
    assert result.suggestion == max(result.bake_off), "100 updates at every rate are too few: the largest gets furthest"
    assert t.optimizers[0].param_groups[0]["lr"] == result.suggestion


def test_a_bake_off_in_which_nothing_is_learnt_gives_no_confidence() -> None:
    finder = LRFinder(max_lr=1.0, refine=True)
    with pytest.warns(TrickWarning, match="less than 2% of the first one; no rate of the bake-off did better"):
        trainer([finder], max_steps=1, max_epochs=-1).fit(two_modes(hard=0.0, easy=0.01), loader(64))
    assert finder.result is not None and len(finder.result.bake_off) > 4


def test_a_loss_that_is_bounded_is_believed_and_the_end_of_the_rates_is_told(caplog: Any) -> None:
    class Bounded(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(10))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return (1.0 / (1.0 + self.w.square())).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.123)

    finder = LRFinder()
    with caplog.at_level("INFO"):
        trainer([finder], max_steps=1, max_epochs=-1).fit(Bounded(), loader(64))
    assert finder.result is not None and finder.result.confident and not finder.result.diverged
    assert "had not risen again there" in caplog.text


def test_it_does_not_run_on_a_resume_nor_in_a_trial(tmp_path: Any) -> None:
    first = trainer([LRFinder(num_steps=40)], max_epochs=1)
    first.fit(Classifier(), loader(256))
    first.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    finder, module = LRFinder(num_steps=40), Classifier()
    t = trainer([finder], max_epochs=2)
    t.fit(module, loader(256), ckpt_path=tmp_path / "a.ckpt")
    assert finder.result is None
    assert t.optimizers[0].param_groups[0]["lr"] == first.optimizers[0].param_groups[0]["lr"] != 0.05
    quick = LRFinder()
    fit(Classifier(), [quick], fast_dev_run=True)
    assert quick.result is None


# -- refusals ---------------------------------------------------------------------------------------------------------


class Stateful(DataLoader):  # type: ignore[type-arg]
    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (lambda: Stateful(digits(32), 8), r"Stateful keeps a position of its own \(state_dict\)"),
        (lambda: (batch for batch in loader(32)), "generator can be iterated only once"),
    ],
)
def test_data_that_cannot_be_put_back_are_refused_by_name(data: Any, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        trainer([LRFinder()]).fit(Classifier(), data())


@pytest.mark.filterwarnings("ignore:.*dataloader_iter.*")
def test_runs_that_cannot_be_tried_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="LRFinder does not work with manual optimization"):
        fit(Classifier(manual=True), [LRFinder()])
    with pytest.raises(UnsupportedError, match="manual optimization|2 optimizers"):
        fit(Gan(), [LRFinder()])
    with pytest.raises(UnsupportedError, match="LBFGS"):
        fit(Classifier(lambda p: torch.optim.LBFGS(p)), [LRFinder()])

    class TakesTheIterator(Classifier):
        def training_step(self, dataloader_iter: Any) -> Any:
            batch, batch_idx, _ = next(dataloader_iter)
            return super().training_step(batch, batch_idx)

    with pytest.raises(UnsupportedError, match=r"training_step\(dataloader_iter\)"):
        fit(TakesTheIterator(), [LRFinder()])

    class ModelParallelStrategy(L.strategies.SingleDeviceStrategy):
        pass

    with pytest.raises(UnsupportedError, match="ModelParallelStrategy, whose state cannot be put back"):
        fit(Classifier(), [LRFinder()], strategy=ModelParallelStrategy("cpu"))
    with pytest.raises(TrickError, match="all learning rates are 0"):
        fit(Classifier(lambda p: sgd(p, lr=0.0)), [LRFinder()])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"min_lr": 0.0}, ValueError, "min_lr must be > 0"),
        ({"max_lr": 1e-8}, ValueError, "max_lr must be > 1e-07"),
        ({"num_steps": 5}, ValueError, "num_steps must be a whole number >= 10"),
        ({"suggestion": "steep"}, ValueError, "Did you mean 'steepest'"),
        ({"probe": 1}, TypeError, "probe must be True or False"),
        ({"on_low_confidence": "stop"}, ValueError, "on_low_confidence must be one of keep, raise"),
        ({"mode": "log"}, ValueError, "mode must be one of exponential, linear"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        LRFinder(**arguments)


def test_tensorboard_gets_the_figure(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = L.loggers.TensorBoardLogger(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(Classifier(), [LRFinder(num_steps=40)], logger=logger)
    assert EventAccumulator(logger.log_dir).Reload().Tags()["images"] == ["lr_finder"]
