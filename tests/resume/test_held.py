"""What objects hold beside what Lightning saves: it is saved where it has changed, and a resumed run is the same run."""

from __future__ import annotations

import io
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import numpy
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_tricks import ExactResume, ResumeGuard, TrickWarning
from lightning_tricks.resume.held import changed, check, held, put
from lightning_tricks.resume.trainer_facts import setting
from tests.problems import digits, sgd, trainer

ROWS, BATCH = 40, 8


# -- values -----------------------------------------------------------------------------------------------------------


class Thing:
    """Plain values of all kinds."""

    def __init__(self) -> None:
        self.number, self.text, self.nothing = 0, "a", None
        self.rows, self.recent, self.known = [1], deque([1], maxlen=3), {1}
        self.table: dict[Any, Any] = {"a": [1], (1, 2): 3.0}
        self.array, self.tensor = numpy.arange(4), torch.zeros(2)


def change(thing: Any) -> None:
    thing.number, thing.text, thing.nothing = 7, "b", (1, (2, 3))
    thing.rows.append(2)
    thing.recent.extend([2, 3, 4])
    thing.known.add(2)
    thing.table["b"] = deque([numpy.ones(1)])
    thing.array[:] = thing.array[::-1].copy()
    thing.tensor.add_(1)
    thing.made = [numpy.float32(0.5).item()]


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.thing = Thing()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("centre", torch.zeros(2), persistent=False)


def as_text(thing: Any) -> str:
    return repr({k: v.tolist() if hasattr(v, "tolist") else v for k, v in vars(thing).items()})


def test_what_has_changed_comes_back_through_a_file_into_the_same_objects() -> None:
    module, other = Module(), Module()
    before = held(module)
    assert changed(before, held(module)) == ({}, [])
    change(module.thing)
    module.centre += 3
    values, lost = changed(before, held(module))
    assert not lost
    file = io.BytesIO()
    torch.save(values, file)
    file.seek(0)
    values = torch.load(file, weights_only=True)
    check(values)
    rows, array = other.thing.rows, other.thing.array
    assert put(held(other), values, other) == []
    assert as_text(other.thing) == as_text(module.thing)
    assert torch.equal(other.centre, module.centre)
    assert other.thing.rows is rows
    assert other.thing.array is array


def test_what_has_not_changed_is_not_saved_and_parameters_never_are() -> None:
    module = Module()
    before = held(module)
    nn.init.ones_(module.layer.weight)
    module.eval()
    assert changed(before, held(module)) == ({}, [])
    module.layer.bias.requires_grad_(False)
    assert changed(before, held(module)) == ({"": {"layer.bias": False}}, [])


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda m: setattr(m, "it", iter([1, 2])), "module.it"),
        (lambda m: m.things.append(Thing()), "module.things"),
        (lambda m: setattr(m, "pair", (Thing(),)), "module.pair"),
    ],
    ids=["iterator", "list of objects", "tuple of objects"],
)
def test_what_cannot_be_saved_is_named(make: Callable[[Any], None], place: str) -> None:
    module = Module()
    module.things, module.pair = [Thing()], (Thing(),)
    before = held(module)
    make(module)
    assert changed(before, held(module))[1] == [place]


# -- trainings: the resumed one is the whole one ----------------------------------------------------------------------


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        self.make()

    def make(self) -> None: ...

    def touch(self, x: Tensor) -> Any:
        return 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y) * self.touch(x)

    def configure_optimizers(self) -> Any:
        return sgd([p for p in self.parameters() if p.requires_grad])


class Counts(Net):
    def make(self) -> None:
        self.steps, self.history = 0, []  # type: ignore[var-annotated]

    def touch(self, x: Tensor) -> Any:
        self.steps += 1
        self.history.append(float(x.mean()))
        return 1 + 0.1 * self.steps + sum(self.history[-3:])


class Remembers(Net):
    """Tensors and arrays that are no persistent buffers; one is made in the first step."""

    def make(self) -> None:
        self.register_buffer("centre", torch.zeros(64), persistent=False)
        self.recent: deque[float] = deque(maxlen=5)
        self.table = numpy.zeros(3)

    def touch(self, x: Tensor) -> Any:
        self.centre.lerp_(x.mean(0), 0.1)
        self.recent.append(float(x.sum()))
        self.table[len(self.recent) % 3] += 0.1
        self.mean = 0.9 * getattr(self, "mean", torch.zeros(())) + 0.1 * x.mean()
        return 1 + self.centre.sum() + 0.01 * len(self.recent) + float(self.table.sum()) + self.mean


class ShufflesItself(Sampler[int]):
    """An order of its own, shuffled in place, as in chemprop's samplers."""

    def __init__(self) -> None:
        self.order, self.rng, self.epochs = list(range(ROWS)), random.Random(1), 0

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        self.rng.shuffle(self.order)
        return iter(self.order)

    def __len__(self) -> int:
        return ROWS


class ShufflesAnArray(ShufflesItself):
    def __init__(self) -> None:
        super().__init__()
        self.array, self.numbers = numpy.arange(ROWS), numpy.random.default_rng(1)

    def __iter__(self) -> Iterator[int]:
        self.numbers.shuffle(self.array)
        return iter(self.array.tolist())


class Drifts(Dataset[Any]):
    """Counts how often each row was given, and changes it with that."""

    def __init__(self) -> None:
        self.rows, self.given = digits(ROWS), numpy.zeros(ROWS, dtype=int)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> Any:
        self.given[i] += 1
        x, y = self.rows[i]
        return x * (1 + 0.1 * float(self.given[i])), y


class Backbone(Net):
    def make(self) -> None:
        self.backbone = self.net[0]


def plain() -> Any:
    return DataLoader(digits(ROWS), BATCH, shuffle=True)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], list[Any]]]] = {
    "counters and lists on the module": (Counts, plain, list),
    "tensors and arrays on the module": (Remembers, plain, list),
    "a sampler with a list": (Net, lambda: DataLoader(digits(ROWS), BATCH, sampler=ShufflesItself()), list),
    "a sampler with an array": (Net, lambda: DataLoader(digits(ROWS), BATCH, sampler=ShufflesAnArray()), list),
    "a data set that counts": (Net, lambda: DataLoader(Drifts(), BATCH, shuffle=True), list),
    "a data set that counts, and its sampler": (
        Counts, lambda: DataLoader(Drifts(), BATCH, sampler=ShufflesAnArray()), list,
    ),
    "Lightning's fine-tuning": (
        Backbone, plain, lambda: [BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.05)],
    ),
}  # fmt: skip


def weights(module: nn.Module) -> list[Any]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize(
    ("name", "stop"),
    # (Lightning itself cannot resume at the begin of the epoch of the unfreeze)
    [(name, stop) for name in CASES for stop in (5, 8, 10, 13) if "fine-tuning" not in name or stop > 5],
)
def test_a_resumed_run_is_the_same_run(name: str, stop: int, tmp_path: Path) -> None:
    """Stopped at the end of epochs of 5 batches, and within them; resumed in fresh objects under another seed."""
    make, data, more = CASES[name]

    def fit(seed: int, path: Path | None = None) -> Any:
        L.seed_everything(seed, verbose=False)
        module = make()
        saver = ModelCheckpoint(tmp_path, f"{seed}-{{step}}", every_n_train_steps=stop, save_top_k=-1)
        t = trainer([ExactResume(), *more(), saver], max_epochs=4, enable_checkpointing=True)
        t.fit(module, data(), ckpt_path=path)
        assert t.global_step == 20
        return module

    whole = weights(fit(1))
    resumed = weights(fit(2, tmp_path / f"1-step={stop}.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_lightning_by_itself_cannot_resume_at_the_epoch_of_the_unfreeze(tmp_path: Path) -> None:
    """``previous_backbone_lr`` is not in the state of BackboneFinetuning."""

    def fit(path: Path | None = None) -> None:
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
        tuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.05)
        trainer([tuning, saver], max_epochs=3, enable_checkpointing=True).fit(Backbone(), plain(), ckpt_path=path)

    fit()
    with pytest.raises(TypeError, match="NoneType"):
        fit(tmp_path / "step=5.ckpt")


class Replays(Net):
    """A memory of transitions that are objects."""

    def make(self) -> None:
        self.memory: deque[Any] = deque(maxlen=100)

    def touch(self, x: Tensor) -> Any:
        self.memory.append(Thing())
        return 1.0


def test_what_makes_a_resume_inexact_is_told_at_the_first_checkpoint(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
        trainer([ExactResume(), saver], max_epochs=2, enable_checkpointing=True).fit(Replays(), plain())
    told = [str(w.message) for w in said if issubclass(w.category, TrickWarning) and "ExactResume" in str(w.message)]
    assert len(told) == 1
    assert "module.memory changed while training, and cannot be saved" in told[0]


def test_another_argument_of_the_resumed_run_holds(tmp_path: Path) -> None:
    """What has not changed while training is what the constructors make."""

    class Chosen(Counts):
        def make(self) -> None:
            super().make()
            self.factor = 1.0

    t = trainer([ExactResume()], max_epochs=1)
    t.fit(Chosen(), plain())
    t.save_checkpoint(tmp_path / "a.ckpt")
    module = Chosen()
    module.factor = 0.5
    trainer([ExactResume()], max_epochs=2).fit(module, plain(), ckpt_path=tmp_path / "a.ckpt")
    assert module.factor == 0.5
    assert module.steps == 10


# -- the guard --------------------------------------------------------------------------------------------------------


def found_by_the_guard(module: Any, data: Any, *tricks: Any, **arguments: Any) -> list[str]:
    guard = ResumeGuard()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer([*tricks, guard], max_steps=1, enable_checkpointing=True, **arguments).fit(module, data)
    return [finding.what for finding in guard.findings]


@pytest.mark.parametrize(
    ("make", "data", "more", "said"),
    [
        (Net, CASES["a sampler with a list"][1], list, "loader 0.sampler"),
        (Net, CASES["a sampler with an array"][1], list, "loader 0.sampler"),
        (Net, CASES["a data set that counts"][1], list, "loader 0.dataset"),
        (type("Draws", (Net,), {"make": lambda self: setattr(self, "rng", random.Random(1))}), plain, list, "rng"),
        (Backbone, plain, CASES["Lightning's fine-tuning"][2], "BackboneFinetuning leaves frozen"),
        (type("Holds", (Net,), {"make": lambda self: setattr(self, "it", iter([1]))}), plain, list, "module.it"),
    ],
    ids=["list", "array", "data set", "generator", "fine-tuning", "iterator"],
)
def test_the_guard_names_what_no_checkpoint_holds_before_the_first_step(
    make: Any, data: Any, more: Any, said: str, tmp_path: Path
) -> None:
    found = found_by_the_guard(make(), data(), *more(), default_root_dir=tmp_path)
    assert any(said in what for what in found), found
    kept = found_by_the_guard(make(), data(), *more(), ExactResume(), default_root_dir=tmp_path)
    assert any(said in what for what in kept) is (said == "module.it"), kept


def test_the_guard_says_nothing_of_data_that_only_shuffle(tmp_path: Path) -> None:
    found = found_by_the_guard(Net(), plain(), ExactResume(), default_root_dir=tmp_path)
    assert not [what for what in found if "while training, and" in what]


def test_the_guard_names_what_the_steps_have_changed_at_the_first_checkpoint(tmp_path: Path) -> None:
    guard = ResumeGuard()
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer([guard, saver], enable_checkpointing=True).fit(Remembers(), plain())
    told = [f.what for f in guard.findings if "while training, and" in f.what]
    assert len(told) == 1
    assert "module._buffers.centre" in told[0] and "module.table" in told[0]
    assert "recent" not in told[0], "what a list or a counter means only the module knows"


@pytest.mark.parametrize("underscore", [True, False])
def test_settings_of_a_checkpoint_callback_are_read_under_either_name(underscore: bool) -> None:
    saver = ModelCheckpoint(every_n_train_steps=7)
    before = setting(saver, "every_n_train_steps")
    other = SimpleNamespace(**{("_" if underscore else "") + "every_n_train_steps": 7})
    assert before == setting(other, "every_n_train_steps") == 7
    assert setting(other, "save_on_exception", False) is False


def test_an_object_that_has_no_attribute_yet_gets_those_that_the_checkpoint_has() -> None:
    """As one that makes all of them in its first step."""

    class Empty:
        pass

    module, other = nn.Linear(1, 1), nn.Linear(1, 1)
    module.state, other.state = Empty(), Empty()  # type: ignore[assignment]
    before = held(module)
    module.state.count = 3  # type: ignore[assignment]
    assert put(held(other), changed(before, held(module))[0]) == []
    assert vars(other.state) == {"count": 3}
