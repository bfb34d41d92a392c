"""Interrupted and resumed against not interrupted: the weights must be equal, bit for bit."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from lightning_tricks import (
    DeadUnits,
    ExactResume,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRFinder,
    LRSchedule,
    PrecisionDoctor,
    PredictionCollapse,
    RepresentationCollapse,
    SanityCheck,
    TrainingDoctor,
    TrickWarning,
    UnsupportedError,
    ZClip,
)
from tests.problems import STRICT, digits, weights
from tests.resume.problems import BATCHES, Augmented, Net, PowerCut, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def outcome(
    at: int,
    tmp_path: Path,
    *,
    net: Any = Net,
    loader: Any = lambda: DataLoader(Augmented(), 4, shuffle=True),
    tricks: Any = list,
    validation: bool = False,
    gradients: bool = False,
    precision: str = "32-true",
    exact: bool = True,
    **arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of the run that was not interrupted, and of the one that was."""
    path = tmp_path / "cut.ckpt"
    val = DataLoader(Augmented(8), 4) if validation else None
    more = (lambda: [ExactResume(gradients)]) if exact else list

    def fit(seed: int, extra: list[Any], **given: Any) -> L.LightningModule:
        L.seed_everything(seed, verbose=False)
        module = net()
        trainer([*more(), *tricks(), *extra], precision, **arguments).fit(module, loader(), val, **given)
        return module

    whole = fit(3, [])
    with pytest.raises(InterruptedError):
        fit(3, [PowerCut(at, path)])
    torch.load(path, weights_only=True)
    return weights(whole), weights(fit(77, [], ckpt_path=path, **STRICT))


def the_same(pair: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(*pair)


@pytest.mark.parametrize("at", [1, 7, BATCHES, BATCHES + 1, 2 * BATCHES, 30])
@pytest.mark.parametrize("validation", [False, True])
def test_a_resumed_run_is_the_same_run_at_every_update(at: int, validation: bool, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, validation=validation))


def test_lightnings_own_resume_is_another_run(tmp_path: Path) -> None:
    assert not the_same(outcome(7, tmp_path, exact=False))
    assert not the_same(outcome(BATCHES, tmp_path, exact=False))


@pytest.mark.parametrize("at", [3, BATCHES, 15])
def test_with_worker_processes(at: int, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, loader=lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2)))


def test_workers_that_stay_keep_the_order_and_their_numbers_are_told_to_be_lost(tmp_path: Path) -> None:
    settings = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    with pytest.warns(TrickWarning, match="persistent_workers=True: random numbers that are drawn in workers"):
        for at in (3, 15):
            assert the_same(outcome(at, tmp_path, loader=lambda: DataLoader(digits(44), 4, **settings)))


@pytest.mark.parametrize("at", [4, 2 * BATCHES - 1])
def test_validation_in_the_middle_of_an_epoch_is_made_up_for(at: int, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, validation=True, val_check_interval=4))
    assert the_same(outcome(8, tmp_path, validation=True, val_check_interval=4))


def test_loaders_and_samplers_with_generators_of_their_own(tmp_path: Path) -> None:
    def loader() -> Any:
        data = Augmented()
        own = RandomSampler(data, generator=torch.Generator().manual_seed(5))
        return DataLoader(data, 4, sampler=own, generator=torch.Generator().manual_seed(6))

    for at in (5, BATCHES, 16):
        assert the_same(outcome(at, tmp_path, loader=loader))


def test_a_sampler_that_draws_as_it_goes_and_several_loaders(tmp_path: Path) -> None:
    class Lazy(RandomSampler):
        def __iter__(self) -> Any:
            return (int(torch.randint(len(self.data_source), ())) for _ in range(len(self)))  # type: ignore[arg-type]

    data = Augmented()
    assert the_same(outcome(5, tmp_path, loader=lambda: DataLoader(data, 4, sampler=Lazy(data))))


@pytest.mark.parametrize("length", [44, 20])
def test_several_loaders_of_one_length_are_taken_and_others_refused(length: int, tmp_path: Path) -> None:
    class Two(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    def fit(seed: int, extra: list[Any], **given: Any) -> L.LightningModule:
        L.seed_everything(seed, verbose=False)
        module = Two()
        loaders = {"a": DataLoader(Augmented(), 4, shuffle=True), "b": DataLoader(Augmented(length), 4, shuffle=True)}
        trainer([ExactResume(), *extra]).fit(module, loaders, **given)
        return module

    whole = fit(3, [])
    with pytest.raises(InterruptedError):
        fit(3, [PowerCut(9, tmp_path / "cut.ckpt")])
    if length == 44:
        assert torch.equal(weights(whole), weights(fit(77, [], ckpt_path=tmp_path / "cut.ckpt", **STRICT)))
    else:
        with pytest.raises(UnsupportedError, match="a shorter loader begins again in mid-epoch"):
            fit(77, [], ckpt_path=tmp_path / "cut.ckpt", **STRICT)


@pytest.mark.parametrize("at", [2, 6, BATCHES, 13])
def test_in_accumulation_windows_at_updates(at: int, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, accumulate_grad_batches=2))
    assert the_same(outcome(at, tmp_path, tricks=lambda: [GradientAccumulation(2)]))


@pytest.mark.parametrize("at", [1, 5, 13])
def test_with_gradients_in_the_middle_of_a_window_too(at: int, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, accumulate_grad_batches=3, gradients=True))
    assert not the_same(outcome(at, tmp_path, accumulate_grad_batches=3))


@pytest.mark.parametrize("at", [1, 3, 5, 9, 13])
@pytest.mark.parametrize(
    "window",
    [{"batches": 4}, {"batches": {0: 2, 3: 5}}, {"target_batch_size": 14}, {"batches": 4, "on_oom": "split"}],
    ids=str,
)
def test_with_gradients_a_window_of_ours_goes_on_too(at: int, window: dict[str, Any], tmp_path: Path) -> None:
    tricks = lambda: [GradientAccumulation(**window), GradientMonitor()]  # noqa: E731
    assert the_same(outcome(at, tmp_path, tricks=tricks, gradients=True))


@pytest.mark.parametrize("exact", [True, False])
def test_a_modelcheckpoint_does_not_save_the_middle_of_the_window_after_a_resume(exact: bool, tmp_path: Path) -> None:
    """Lightning's does, over the good one: what is resumed from that has lost the gradients."""
    path = tmp_path / "last.ckpt"

    def fit(cut: list[Any], **given: Any) -> L.LightningModule:
        L.seed_everything(3, verbose=False)
        saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2, enable_version_counter=False)
        module, tricks = Net(), [ExactResume()] if exact else []
        t = trainer([*tricks, saver, *cut], accumulate_grad_batches=3, enable_checkpointing=True)
        t.fit(module, DataLoader(Augmented(), 4), **given)
        return module

    with pytest.raises(InterruptedError):
        fit([PowerCut(7, tmp_path / "other.ckpt")])  # of the middle of the third window; last.ckpt is of batch 6
    with pytest.raises(InterruptedError):
        fit([PowerCut(2, tmp_path / "other.ckpt")], ckpt_path=path)
    batches = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    assert batches == (6 if exact else 7)
    if exact:
        resumed = fit([], ckpt_path=path)
        assert torch.equal(weights(resumed), weights(fit([])))


def test_a_resume_from_the_middle_of_a_window_without_its_gradients_is_told(tmp_path: Path) -> None:
    with pytest.warns(TrickWarning, match="middle of an accumulation window, and holds no gradients"):
        warnings.simplefilter("always")
        outcome(5, tmp_path, accumulate_grad_batches=3)


def everything() -> list[Any]:
    return [
        SanityCheck(overfit_batch=False),
        LRFinder(num_steps=10, apply=False),
        GradientMonitor(update_ratio=True),
        GradientClip(ZClip(warmup=3)),
        LRSchedule("cosine", total=33),
        GradientAccumulation(2),
        LossScaleGuard(),
        PrecisionDoctor(),
        TrainingDoctor(every_n_steps=2, action="log"),
        DeadUnits(every_n_steps=3, action="log"),
        RepresentationCollapse("net.0", every_n_steps=3, action="log"),
        PredictionCollapse("net", every_n_steps=3, action="rollback"),
    ]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("at", [6, BATCHES, 19])
def test_with_every_callback_of_the_pack_and_every_precision(at: int, precision: str, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, tricks=everything, precision=precision, validation=True))


def test_a_run_that_is_not_resumed_is_left_alone() -> None:
    found = []
    for tricks in ([], [ExactResume()], [ExactResume(gradients=True)]):
        L.seed_everything(3, verbose=False)
        module = Net()
        trainer(tricks).fit(module, DataLoader(Augmented(), 4, shuffle=True), DataLoader(Augmented(8), 4))
        found.append(weights(module))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("how", [{}, {"every_n_train_steps": 5}, {"save_on_train_epoch_end": True}])
def test_checkpoints_of_modelcheckpoint(how: dict[str, Any], tmp_path: Path) -> None:
    class Boom(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 17:
                raise InterruptedError

    def fit(seed: int, folder: str, extra: list[Any], **given: Any) -> L.LightningModule:
        L.seed_everything(seed, verbose=False)
        module = Net()
        saver = ModelCheckpoint(tmp_path / folder, save_last=True, **how)
        t = trainer([ExactResume(), saver, *extra], enable_checkpointing=True)
        t.fit(module, DataLoader(Augmented(), 4, shuffle=True), DataLoader(Augmented(8), 4), **given)
        return module

    whole = fit(3, "a", [])
    with pytest.raises(InterruptedError):
        fit(3, "b", [Boom()])
    resumed = fit(77, "c", [], ckpt_path=tmp_path / "b" / "last.ckpt", **STRICT)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.skipif(importlib.util.find_spec("torchdata") is None, reason="torchdata is not installed")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [5, 15])
def test_torchdatas_stateful_loader(at: int, workers: int, tmp_path: Path) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    plain = lambda: StatefulDataLoader(digits(44), 4, shuffle=True, num_workers=workers)  # noqa: E731
    assert the_same(outcome(at, tmp_path, loader=plain))


def test_lightning_has_its_methods_back_after_a_fit_and_after_an_exception() -> None:
    t = trainer([ExactResume()])
    loader = DataLoader(Augmented(), 4, shuffle=True)
    t.fit(Net(), loader)
    for owner in (t.fit_loop, t.fit_loop.epoch_loop):
        assert not {"_load_combined_loader_states", "on_advance_start", "on_run_start"} & set(vars(owner))
    from lightning.pytorch.utilities.combined_loader import CombinedLoader

    assert type(t.fit_loop._combined_loader) is CombinedLoader


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(x, y) for x, y in zip(*digits(44).tensors, strict=True)])


def test_data_without_a_position_are_refused_in_mid_epoch_and_taken_between_epochs(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Stream is an iterable data set.*StatefulDataLoader"):
        outcome(5, tmp_path, loader=lambda: DataLoader(Stream(), 4))


def test_other_data_a_missing_state_and_other_processes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    with pytest.raises(InterruptedError):
        trainer([ExactResume(), PowerCut(9, path)]).fit(Net(), DataLoader(Augmented(), 4, shuffle=True))
    with pytest.warns(TrickWarning, match="an epoch had 11 batches and has 10 now"):
        trainer([ExactResume()]).fit(Net(), DataLoader(Augmented(40), 4, shuffle=True), ckpt_path=path)
    content = torch.load(path, weights_only=True)
    key = next(k for k in content["callbacks"] if k.startswith("ExactResume"))
    content["callbacks"][key]["state"]["ranks"] *= 2
    torch.save(content, path)
    with pytest.warns(TrickWarning, match="is of 2 processes, this run has 1"):
        trainer([ExactResume()]).fit(Net(), DataLoader(Augmented(), 4, shuffle=True), ckpt_path=path)
    with pytest.raises(InterruptedError):
        trainer([PowerCut(9, path)]).fit(Net(), DataLoader(Augmented(), 4, shuffle=True))
    with pytest.warns(TrickWarning, match="holds no random state"):
        trainer([ExactResume()]).fit(Net(), DataLoader(Augmented(), 4, shuffle=True), ckpt_path=path)


def test_the_argument_is_a_flag() -> None:
    with pytest.raises(TypeError, match="gradients must be True or False"):
        ExactResume(gradients="yes")  # type: ignore[arg-type]


class Noisy(Net):
    """Draws from generators of its own, one of each kind; so does its data set."""

    def __init__(self) -> None:
        super().__init__()
        import random

        import numpy

        self.noise = {"torch": torch.Generator().manual_seed(1), "python": random.Random(2)}
        self.rngs = [numpy.random.default_rng(3), numpy.random.RandomState(4)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise = self.noise["python"].gauss(0, 1) + self.rngs[0].normal() + self.rngs[1].randn()
        x = batch[0] + 0.1 * torch.randn(64, generator=self.noise["torch"]) + 0.01 * noise
        return super().training_step((x, batch[1]), batch_idx)


class NoisyData(Augmented):
    def __init__(self) -> None:
        super().__init__()
        import random

        self.rng = random.Random(5)

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return x + 0.1 * self.rng.random(), y


@pytest.mark.parametrize("at", [1, 7, BATCHES, 30])
def test_generators_that_the_module_and_the_data_set_hold_go_on_too(at: int, tmp_path: Path) -> None:
    assert the_same(outcome(at, tmp_path, net=Noisy, loader=lambda: DataLoader(NoisyData(), 4, shuffle=True)))


def test_a_state_without_the_generators_of_the_module_still_loads(tmp_path: Path) -> None:
    """As earlier versions saved it."""
    path = tmp_path / "cut.ckpt"
    L.seed_everything(3, verbose=False)
    with pytest.raises(InterruptedError):
        trainer([ExactResume(), PowerCut(7, path)]).fit(Noisy(), DataLoader(Augmented(), 4, shuffle=True))
    checkpoint = torch.load(path, weights_only=True)
    (key,) = [k for k in checkpoint["callbacks"] if "ExactResume" in k]
    rank = checkpoint["callbacks"][key]["state"]["ranks"][0]
    for saved in (rank["generators"], rank["began"]["generators"]):
        mine = [place for place in saved if place.startswith("module.")]
        assert len(mine) == 4
        for place in mine:
            del saved[place]
    torch.save(checkpoint, path)
    module = Noisy()
    trainer([ExactResume()]).fit(module, DataLoader(Augmented(), 4, shuffle=True), ckpt_path=path)
    assert weights(module).isfinite().all()


def test_an_old_state_without_what_objects_held_loads() -> None:
    """As the first checkpoints of 0.1.0 are."""
    numbers = {"now": {"torch": torch.get_rng_state()}, "generators": {}}
    rank = {
        **numbers,
        "began": {"random": {}, "generators": {}, "workers": [True]},
        "batches": 4.0,
        "seeds": [None],
        "validation": False,
        "in_window": False,
        "gradients": {},
    }
    clock = {"version": 1, "attempted": [4], "applied": [4]}
    exact = ExactResume()
    old = {"version": 1, "configuration": {"gradients": False}, "clock": clock, "state": {"ranks": [rank]}}
    exact.load_state_dict(old)
    with pytest.raises(ValueError, match=r"state\['ranks'\]\[0\]\['now'\] is missing"):
        exact.load_state_dict({**old, "state": {"ranks": [{"began": None}]}})
