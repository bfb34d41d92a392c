"""Callbacks and tools of others beside ours: the training is that of the same run without us, or without them.

Each row of ``PARTNERS`` in ``tests/matrix.py`` names a test of this file.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    DeviceStatsMonitor,
    EMAWeightAveraging,
    ModelPruning,
    RichProgressBar,
    StochasticWeightAveraging,
)
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn

import lightning_tricks
from lightning_tricks import ConflictError, GradientClip, LRSchedule, TrickWarning
from tests.matrix import EXAMPLES, OBSERVERS, PARTNERS, VARIANTS
from tests.problems import Classifier, Memory, digits, loader, sgd, trainer
from tests.together.problems import CALLBACKS, assert_clean, example

EPOCHS, STEPS = 4, 6  # of each epoch


class Tuned(Classifier):
    """A classifier with a backbone, an optimizer of what is not frozen, and a scheduler where one is asked for."""

    def __init__(self, decays: bool = False) -> None:
        super().__init__(lambda p: sgd([q for q in p if q.requires_grad], momentum=0.9))
        self.decays = decays
        self.rates: list[list[float]] = []

    @property
    def backbone(self) -> nn.Module:
        return self.net[0]  # type: ignore[index,no-any-return]

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if not self.decays:
            return optimizer
        linear = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (EPOCHS * STEPS))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": linear, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])


class Validated(Tuned):
    """It logs the loss by which the best checkpoint is found."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def val_dataloader(self) -> Any:
        return loader(16)


class Weights(L.Callback):
    """The weights after each update and at the end of each epoch."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Tensor]] = []
        self.epochs: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.updates.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(self.updates[-1])


def train(
    callbacks: Sequence[Any], module: L.LightningModule | None = None, **arguments: Any
) -> tuple[L.LightningModule, Weights]:
    """Train with callbacks; return the module as it is after the fit, and the weights on the way."""
    torch.manual_seed(0)
    module, weights = module or Tuned(), Weights()
    logger = arguments.pop("logger", None) or Memory()
    t = trainer([*callbacks, weights], max_epochs=EPOCHS, logger=logger, **arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*", module="lightning")  # of the partners themselves
        warnings.filterwarnings("error", category=TrickWarning)
        t.fit(module, loader(8 * STEPS))
    assert_clean(t, module)
    return module, weights


def assert_same(one: tuple[Any, Weights], other: tuple[Any, Weights], **tolerance: float) -> None:
    """The same weights after every update, and at the end also where somebody averages or masks them."""
    assert len(one[1].updates) == len(other[1].updates) >= EPOCHS * STEPS
    pairs = [*zip(one[1].updates, other[1].updates, strict=True), (one[0].state_dict(), other[0].state_dict())]
    for a, b in pairs:
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


SWA = {"swa_lrs": 0.01, "swa_epoch_start": 2, "annealing_epochs": 2}
MAKE: dict[str, Callable[[], Any]] = {
    "EMAWeightAveraging": lambda: EMAWeightAveraging(decay=0.9),
    "StochasticWeightAveraging": lambda: StochasticWeightAveraging(**SWA),  # type: ignore[arg-type]
    "BackboneFinetuning": lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=2),
    "ModelPruning": lambda: ModelPruning("l1_unstructured", amount=0.2, parameter_names=["weight"]),
    "RichProgressBar": lambda: RichProgressBar(),
    "DeviceStatsMonitor": lambda: DeviceStatsMonitor(cpu_stats=False),
}
OURS_DECIDE_THE_RATE = [name for name in MAKE if name not in ("StochasticWeightAveraging", "BackboneFinetuning")]


@pytest.mark.parametrize("name", MAKE)
def test_all_observers_leave_the_training_with_a_partner_as_it_is(name: str) -> None:
    shown = {"enable_progress_bar": name == "RichProgressBar"}
    observers = [example(o) for o in OBSERVERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrickWarning)  # (a small model that is made to fail)
        ours = _observed([MAKE[name](), *observers], **shown)
    assert_same(ours, train([MAKE[name]()], **shown))


def _observed(callbacks: Sequence[Any], **arguments: Any) -> tuple[Any, Weights]:
    torch.manual_seed(0)
    module, weights = Tuned(), Weights()
    trainer([*callbacks, weights], max_epochs=EPOCHS, logger=Memory(), **arguments).fit(module, loader(8 * STEPS))
    return module, weights


@pytest.mark.parametrize("name", MAKE)
def test_clipping_beside_a_partner_is_that_of_lightning(name: str) -> None:
    shown = {"enable_progress_bar": name == "RichProgressBar"}
    ours = train([MAKE[name](), GradientClip(1.0)], **shown)
    assert_same(ours, train([MAKE[name]()], gradient_clip_val=1.0, **shown), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OURS_DECIDE_THE_RATE)
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_a_schedule_beside_a_partner_is_that_of_torch(name: str, first: bool) -> None:
    shown = {"enable_progress_bar": name == "RichProgressBar"}
    both = [MAKE[name](), LRSchedule("linear", warmup=0)]
    ours = train(both[:: 1 if first else -1], **shown)
    assert_same(ours, train([MAKE[name]()], Tuned(decays=True), **shown), rtol=1e-5, atol=1e-6)


def test_the_average_of_ema_is_that_of_the_clipped_weights() -> None:
    """By hand, from the run without it: the callback takes the first weights, and then 0.9 of what it has."""
    module, weights = train([EMAWeightAveraging(decay=0.9), GradientClip(0.5), LRSchedule("cosine", warmup=2)])
    _, alone = train([GradientClip(0.5), LRSchedule("cosine", warmup=2)])
    average = alone.updates[0]
    for now in alone.updates[1:]:
        average = {name: 0.9 * average[name] + 0.1 * now[name] for name in average}
    torch.testing.assert_close(dict(module.named_parameters()), average, rtol=1e-5, atol=1e-6, check_stride=False)
    for one, other in zip(weights.updates, alone.updates, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


def test_a_schedule_beside_stochastic_averaging_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match=r"StochasticWeightAveraging anneals.*conflict='replace'"):
        train([MAKE["StochasticWeightAveraging"](), LRSchedule("linear", warmup=0)])


def test_a_schedule_that_replaces_it_decides_the_rates_of_stochastic_averaging() -> None:
    """The average is that of the weights after the epochs but the last, of the run without the averaging."""
    schedule = lambda: LRSchedule("linear", warmup=0, conflict="replace")  # noqa: E731
    module, weights = train([StochasticWeightAveraging(**SWA), schedule()])  # type: ignore[arg-type]
    alone, path = train([schedule()])
    assert module.rates == alone.rates
    for one, other in zip(weights.updates, path.updates, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    taken = path.epochs[:-1]  # (Lightning takes the weights with which an epoch begins, here of the second to the last)
    average = {name: torch.stack([now[name] for now in taken]).mean(0) for name in taken[0]}
    found = {name: p.detach() for name, p in module.named_parameters()}
    torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-6)


def test_a_schedule_decides_the_rate_of_an_unfrozen_backbone_and_says_so() -> None:
    tuning = lambda: BackboneFinetuning(2, backbone_initial_lr=0.01)  # noqa: E731
    with pytest.raises(TrickWarning, match="BackboneFinetuning sets the rate of the backbone at every epoch"):
        train([tuning(), LRSchedule("linear", warmup=0)])
    module, weights = train([tuning(), LRSchedule("linear", warmup=0, conflict="replace")])
    curve = [1 - k / (EPOCHS * STEPS) for k in range(EPOCHS * STEPS)]
    assert [rates[0] for rates in module.rates] == pytest.approx([0.05 * c for c in curve])
    unfrozen = [rates[1] for rates in module.rates if len(rates) == 2]
    assert unfrozen == pytest.approx([0.01 * c for c in curve[2 * STEPS :]])
    start, later = weights.updates[2 * STEPS - 1], weights.updates[2 * STEPS]
    moved = {name for name in start if not torch.equal(start[name], later[name])}
    assert {"net.0.weight", "net.0.bias"} <= moved
    assert torch.equal(weights.updates[0]["net.0.weight"], start["net.0.weight"])


def test_pruned_weights_stay_pruned_and_keep_their_names_in_the_logs() -> None:
    logger = Memory()
    monitor = lightning_tricks.GradientMonitor(per_layer=True)
    module, _ = train([MAKE["ModelPruning"](), GradientClip(1.0), monitor], logger=logger)
    pruned = torch.cat([p.detach().flatten() for name, p in module.named_parameters() if name.endswith("weight")])
    assert float((pruned == 0).float().mean()) == pytest.approx(1 - 0.8**EPOCHS, abs=0.01)
    assert len(logger.series("grad/norm/net.0.weight")) == EPOCHS * STEPS


def test_device_statistics_are_logged_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their values are those of the accelerator, at the steps at which they are logged without us."""
    from lightning.pytorch.accelerators import CPUAccelerator

    monkeypatch.setattr(CPUAccelerator, "get_device_stats", lambda self, device: {"load": 0.5})
    alone, beside = Memory(), Memory()
    train([DeviceStatsMonitor(cpu_stats=True)], logger=alone)
    train([DeviceStatsMonitor(cpu_stats=True), lightning_tricks.GradientMonitor()], logger=beside)
    theirs = [(step, row) for step, row in alone.rows if any("load" in key for key in row)]
    assert theirs
    assert [(step, row) for step, row in beside.rows if any("load" in key for key in row)] == theirs


def test_the_bar_shows_its_numbers_and_ours() -> None:
    seen: list[Any] = []

    class Bar(RichProgressBar):
        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            seen.append(super().get_metrics(trainer, pl_module))
            return seen[-1]

    train([Bar(), GradientClip(1.0), lightning_tricks.ProgressMetrics()], enable_progress_bar=True)
    assert {"grad/norm", "v_num"} & set(seen[-1])


# -- packages of others ---------------------------------------------------------------------------------------------


def needs(package: str) -> Callable[[Any], Any]:
    missing = importlib.util.find_spec(package) is None
    reason = f"partners: {package} is not installed (pip install 'lightning-tricks[partners]')"

    def marked(test: Any) -> Any:
        return pytest.mark.partners(pytest.mark.skipif(missing, reason=reason)(test))

    return marked


@pytest.fixture
def levels_are_put_back(leak_police: None) -> Iterator[None]:
    """The scheduler lets Lightning say more than it does."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = log.level
    yield
    log.setLevel(level)


@needs("finetuning_scheduler")
@pytest.mark.filterwarnings("ignore")
def test_a_fine_tuning_schedule_is_clipped_and_watched(tmp_path: Path, levels_are_put_back: None) -> None:
    from finetuning_scheduler import FinetuningScheduler

    schedule = tmp_path / "schedule.yaml"
    schedule.write_text(
        "0:\n  params: ['net.4.*']\n  max_transition_epoch: 2\n"
        "1:\n  params: ['net.2.*', 'net.3.*']\n  max_transition_epoch: 3\n"
        "2:\n  params: ['net.0.*']\n  max_transition_epoch: 4\n"
    )

    def fine_tuned(callbacks: Sequence[Any], **arguments: Any) -> tuple[Any, Weights]:
        tuning = FinetuningScheduler(ft_schedule=str(schedule), epoch_transitions_only=True)
        arguments |= {"enable_checkpointing": True, "default_root_dir": str(tmp_path)}
        return train([tuning, *callbacks], Validated(), **arguments)

    stock = fine_tuned([], gradient_clip_val=1.0)
    assert_same(fine_tuned([GradientClip(1.0)]), stock, rtol=1e-5, atol=1e-6)
    observers = [lightning_tricks.GradientMonitor(), lightning_tricks.TrainingDoctor(), lightning_tricks.DeadUnits()]
    assert_same(fine_tuned(observers), fine_tuned([]))
    assert len(stock[0].rates[-1]) > len(stock[0].rates[0]), "nothing was unfrozen"


def targets(value: Any) -> Any:
    """A value as a Hydra config has it."""
    if isinstance(value, dict):
        return {key: targets(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [targets(inner) for inner in value]
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    fields = {name: targets(getattr(value, name)) for name in inspect.signature(type(value)).parameters}
    return {"_target_": f"lightning_tricks.{type(value).__name__}", **fields}


@needs("hydra")
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("convert", ["none", "all"])
def test_hydra_makes_every_callback_from_a_target(name: str, convert: str) -> None:
    """With ``_convert_="none"``, Hydra's default, lists and dicts arrive as OmegaConf's own."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    values: list[tuple[Any, Any]] = [(None, None), *VARIANTS[name].items()]
    if name == "RepresentationCollapse":
        values.append(("layer", ["net.1", "net.4"]))
    for argument, value in values:
        if inspect.isfunction(value):
            continue
        arguments = {**EXAMPLES[name], **({} if argument is None else {argument: value})}
        if name == "GradientAccumulation" and argument == "target_batch_size":
            del arguments["batches"]
        try:
            wanted = getattr(lightning_tricks, name)(**copy.deepcopy(arguments))
        except (ValueError, TypeError):  # arguments that contradict each other
            continue
        config = OmegaConf.create({"_target_": f"lightning_tricks.{name}", "_convert_": convert, **targets(arguments)})
        made = instantiate(config)
        assert type(made) is type(wanted)
        assert made.configuration() == wanted.configuration()


@needs("hydra")
def test_a_training_from_a_hydra_config_is_that_from_code() -> None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {
            "clip": {"_target_": "lightning_tricks.GradientClip", "rule": {"_target_": "lightning_tricks.ZClip"}},
            "schedule": {"_target_": "lightning_tricks.LRSchedule", "decay": "cosine", "momentum": [0.95, 0.85]},
            "monitor": {"_target_": "lightning_tricks.GradientMonitor", "groups": {"head": "^net.4"}},
        }
    )
    module = Tuned()
    made = [instantiate(entry) for entry in config.values()]
    written = [
        GradientClip(lightning_tricks.ZClip()),
        LRSchedule("cosine", momentum=(0.95, 0.85)),
        lightning_tricks.GradientMonitor(groups={"head": "^net.4"}),
    ]
    assert_same(train(made, module), train(written))


class OwnCLI(LightningCLI):
    """As users subclass it: callbacks with flags of their own, defaults, and lengths that are linked."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_lightning_class_args(GradientClip, "clip")
        parser.add_lightning_class_args(LRSchedule, "schedule")
        parser.set_defaults({"clip.rule": 1.0, "schedule.decay": "linear", "schedule.warmup": 0})
        parser.link_arguments("trainer.max_steps", "schedule.total")


class Digits(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(digits(8 * STEPS), 8)


def test_a_subclass_of_the_cli_trains_as_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = EPOCHS * STEPS
    arguments = [f"--trainer.max_steps={steps}", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    arguments += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    arguments += ["--clip.rule=lightning_tricks.ClipNorm", "--clip.rule.max_norm=0.5", "--schedule.final=0.1"]
    arguments += ["--trainer.accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", *arguments])
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        cli: Any = OwnCLI(Tuned, Digits, save_config_callback=None, seed_everything_default=False)
    callbacks = [c for c in cli.trainer.callbacks if type(c).__name__ in CALLBACKS]
    assert [type(c).__name__ for c in callbacks] == ["GradientClip", "LRSchedule"]
    written, _ = train(
        [GradientClip(lightning_tricks.ClipNorm(0.5)), LRSchedule("linear", warmup=0, final=0.1, total=steps)]
    )
    torch.testing.assert_close(cli.model.state_dict(), written.state_dict(), rtol=0.0, atol=0.0)
    assert cli.model.rates == written.rates


def test_every_row_names_a_test_of_this_file() -> None:
    here = {name for name in globals() if name.startswith("test_")}
    assert {test for _, test in PARTNERS.values()} <= here
    assert set(MAKE) <= {name for row in PARTNERS for name in row.split("`")}
