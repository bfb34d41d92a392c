"""The faults that happen inside of one process. Each is played with the callback under test and without any.

A scene is a function of callbacks and an empty folder that trains, lets the fault happen, survives it as a user would,
and returns the module. ``play`` is what all have in common: what must hold whatever happened.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import resource
import shutil
import signal
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import optuna
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import lightning_tricks
from lightning_tricks import DurableCheckpointIO, ExactResume, TrickError
from lightning_tricks.lifecycle.trick import Trick
from tests.matrix import EXAMPLES, OBSERVERS, UNDER
from tests.problems import Classifier, digits, loader, trainer, weights

Tricks = Sequence[Any]
Scene = Callable[[Tricks, Path, dict[str, Any]], nn.Module]
BATCHES = 6


def example(name: str) -> Trick:
    made: Trick = getattr(lightning_tricks, name)(**EXAMPLES[name])
    return made


def pick(name: str, choices: int) -> int:
    """A number below ``choices`` that differs between callbacks and is the same in every run."""
    return zlib.crc32(name.encode()) % choices


def play(scene: Scene, name: str, folder: Path) -> str:
    """Play a scene with a callback. Return "passed" or "refused"; raise AssertionError when something is lost."""
    arguments = {"precision": UNDER.get(name, "32-true")}
    (folder / "with").mkdir()
    try:
        with nothing_left(folder):
            module = scene([example(name)], folder / "with", arguments)
    except TrickError as error:
        assert name in str(error) and "\n" not in str(error), error
        return "refused"
    found = weights(module)
    if name in OBSERVERS or not found.isfinite().all():
        alone = _weights_without(scene, arguments["precision"])
        assert found.isfinite().all() or not alone.isfinite().all(), "trained on rubbish"
        same = torch.allclose(found, alone, rtol=0, atol=0, equal_nan=True)
        assert same or name not in OBSERVERS, f"{name} only observes, and has changed the weights"
    return "passed"


@functools.cache
def _weights_without(scene: Scene, precision: str) -> torch.Tensor:
    """The weights after a scene without any callback: the same for all that are compared with them."""
    with tempfile.TemporaryDirectory() as folder:
        return weights(scene([], Path(folder), {"precision": precision}))


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Whatever happens inside, no thread stays behind, and no file in the folder is left open."""
    threads = set(threading.enumerate())
    try:
        yield
    finally:
        if _open_files(folder):
            gc.collect()  # what an exception's traceback held
        left = [t.name for t in set(threading.enumerate()) - threads if t.is_alive()]
        assert not left, f"threads were left: {left}"
        assert not _open_files(folder), f"files were left open: {_open_files(folder)}"


def _open_files(folder: Path) -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(descriptor))
    return {path for path in found if path.startswith(str(folder))}


def no_hooks(t: Any, module: nn.Module) -> None:
    """Nothing of a callback is left on what outlives a fit."""
    for optimizer in t.optimizers:
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
        assert not {"grad_scale", "found_inf"} & set(optimizer.__dict__)
    assert not any(p._backward_hooks for p in module.parameters())
    for part in module.modules():
        assert not part._forward_hooks and not part._forward_pre_hooks, type(part).__name__
    ours = [k for k, v in {**vars(t), **vars(t.fit_loop)}.items() if "lightning_tricks" in getattr(v, "__module__", "")]
    assert not ours, f"methods that were not given back: {ours}"


class Broken(Exception):
    """What a fault raises."""


class At(L.Callback):
    """Does something at the n-th call of a hook."""

    def __init__(self, hook: str, n: int, do: Callable[..., None]) -> None:
        self.n, self.calls, self.do = n, 0, do
        setattr(self, hook, self._called)

    def _called(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        if self.calls == self.n:
            self.do(*args)


def boom(*args: Any) -> None:
    raise Broken("boom")


def again(tricks: Tricks) -> list[Any]:
    """New objects of the same arguments."""
    return [example(type(trick).__name__) for trick in tricks]


def exactly(tricks: Tricks, folder: Path) -> list[Any]:
    """The callbacks with what makes a resume exact, and writes ``last.ckpt`` after every update."""
    resume = [] if any(isinstance(trick, ExactResume) for trick in tricks) else [ExactResume()]
    return [*tricks, *resume, ModelCheckpoint(folder, "at", save_last=True, every_n_train_steps=1, save_top_k=1)]


def durable(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a Trainer that saves durably; a precision that is a plugin itself is put beside."""
    return {**arguments, "plugins": [DurableCheckpointIO()], "enable_checkpointing": True}


def fitted(
    module: L.LightningModule, callbacks: Tricks, arguments: dict[str, Any], data: Any = None, **fit: Any
) -> Any:
    t = trainer(list(callbacks), **arguments)
    fitted_by(t, module, data, **fit)
    return t


def fitted_by(t: Any, module: L.LightningModule, data: Any = None, **fit: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t.fit(module, loader(8 * BATCHES) if data is None else data, **fit)


def dies(error: type[BaseException], module: L.LightningModule, callbacks: Tricks, arguments: dict[str, Any]) -> None:
    """Train; that error must come out, unchanged, and nothing be left behind."""
    t = trainer(list(callbacks), **arguments)
    try:
        fitted_by(t, module)
    except error:
        no_hooks(t, module)
        return
    raise AssertionError(f"{error.__name__} was swallowed")


def goes_on(tricks: Tricks, folder: Path, arguments: dict[str, Any], path: Path | None = None) -> nn.Module:
    """What is in the folder after a death is good: a new process resumes, and trains to the end."""
    path = path or folder / "last.ckpt"
    torch.load(path, weights_only=True)
    resumed = Classifier()
    t = fitted(resumed, exactly(again(tricks), folder), durable(arguments), ckpt_path=path)
    assert t.fit_loop.epoch_loop.total_batch_idx + 1 == BATCHES
    no_hooks(t, resumed)
    undisturbed = _undisturbed(tuple(type(trick).__name__ for trick in tricks), arguments["precision"])
    assert torch.equal(weights(resumed), undisturbed), "the resumed run is another one"
    report = ("health.json", "health.txt")  # of TrainingDoctor, on a death
    left = [p.name for p in folder.iterdir() if p.suffix != ".ckpt" and p.name not in report]
    assert not left, f"files were left: {left}"
    return resumed


@functools.cache
def _undisturbed(names: tuple[str, ...], precision: str) -> torch.Tensor:
    """The weights after a run that nothing happened to: one for all faults that are resumed from."""
    module = Classifier()
    fitted(module, [example(name) for name in names], {"precision": precision})
    return weights(module)


# -- process --------------------------------------------------------------------------------------------------------


def exception_in_training_step(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    class Failing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step == 3 or (self.trainer.global_step == 0 and batch_idx == 5):
                boom()
            return super().training_step(batch, batch_idx)

    dies(Broken, Failing(), exactly(tricks, folder), durable(arguments))
    return goes_on(tricks, folder, arguments)


HOOKS = (
    "setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward",
    "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end",
    "on_train_end",
)  # fmt: skip


def exception_in_a_hook(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """The same objects train on after each; whether ours comes first or last must not matter."""
    for i, hook in enumerate(HOOKS if tricks else ()):
        bad = At(hook, 1, boom)
        dies(Broken, Classifier(), [bad, *tricks] if i % 2 else [*tricks, bad], arguments)
    module = Classifier()
    no_hooks(fitted(module, tricks, arguments), module)
    return module


def exception_in_on_exception(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """Lightning tells nobody after that, neither by on_exception nor by teardown: what is left, the next fit removes."""

    def worse(*args: Any) -> None:
        raise LookupError

    for order in (1, -1) if tricks else ():
        others = [At("on_exception", 1, worse), At("on_train_batch_end", 2, boom)]
        first, second = Classifier(), Classifier()
        t = trainer([*others, *tricks][::order], **arguments)
        handler = signal.getsignal(signal.SIGTERM)
        with contextlib.suppress(LookupError):
            fitted_by(t, first)
        signal.signal(signal.SIGTERM, handler)  # Lightning's own, which it leaves behind then
        old = t.optimizers
        fitted_by(t, second)
        no_hooks(t, second)
        t.strategy.optimizers = old
        no_hooks(t, first)
    module = Classifier()
    no_hooks(fitted(module, again(tricks), arguments), module)
    return module


def pruned_trial(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    def prune(*args: Any) -> None:
        raise optuna.TrialPruned

    dies(optuna.TrialPruned, Classifier(), [*tricks, At("on_train_batch_end", 3, prune)], arguments)
    module = Classifier()
    no_hooks(fitted(module, tricks, arguments), module)
    return module


# -- input and output -----------------------------------------------------------------------------------------------


class Logging(Classifier):
    """Logs something of its own too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


@contextlib.contextmanager
def full_disk() -> Iterator[Callable[..., None]]:
    """Gives a function after whose call no file can grow; an error of the system, not one that we made up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda *args: resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    hook, threading.excepthook = threading.excepthook, lambda arguments: None
    try:
        yield
    finally:
        threading.excepthook = hook


def _one_warning_for_each_logger(module: L.LightningModule, tricks: Tricks, arguments: dict[str, Any]) -> None:
    """TensorBoard's writing thread dies of it, and Python says so on its own."""
    t = trainer(list(tricks), **arguments)
    with quiet_threads(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        t.fit(module, loader(8 * BATCHES))
    told = [str(w.message).split()[0] for w in caught if " failed" in str(w.message)]
    assert sorted(told) == sorted(type(logger).__name__ for logger in t.loggers), told
    assert t.global_step == BATCHES
    no_hooks(t, module)


def disk_full_in_logger(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    module = Logging()
    loggers = [CSVLogger(folder, flush_logs_every_n_steps=1), TensorBoardLogger(folder / "tensorboard")]
    with full_disk() as fill:
        if tricks:
            full = At("on_train_batch_start", 3, fill)
            _one_warning_for_each_logger(module, [full, *tricks], {**arguments, "logger": loggers})
        else:  # Lightning itself ends here; weights are compared with those of a run whose disk is not full
            fitted(module, [], arguments)
    return module


def log_folder_gone(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """Somebody removes the folder of logs while training; and there is none where it is asked for."""
    module, logs = Logging(), CSVLogger(folder, flush_logs_every_n_steps=1)
    if tricks:
        gone = At("on_train_batch_start", 3, lambda *args: shutil.rmtree(logs.log_dir))
        _one_warning_for_each_logger(module, [gone, *tricks], {**arguments, "logger": [logs]})
    else:
        fitted(module, [], arguments)
    (folder / "file").write_text("no folder")
    unusable = {**arguments, "logger": CSVLogger(folder / "file" / "logs")}
    dies(OSError, Classifier(), again(tricks), unusable)
    return module


def disk_full_in_checkpoint(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    with full_disk() as fill:
        full = At("on_train_batch_start", 3, fill)
        dies(OSError, Classifier(), [full, *exactly(tricks, folder)], durable(arguments))
    return goes_on(tricks, folder, arguments)


# -- numbers --------------------------------------------------------------------------------------------------------


def nan_loss(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """One bad loss; the update is not made where a callback or a loss scale guards it, else Lightning ruins the run."""
    module = Classifier(spoil=lambda i, loss: loss * float("nan") if i == 3 else loss)
    no_hooks(fitted(module, tricks, arguments), module)
    assert weights(module).isfinite().all() or not guarded(tricks, arguments)
    return module


def guarded(tricks: Tricks, arguments: dict[str, Any]) -> bool:
    return arguments["precision"] == "16-mixed" or any(type(trick).__name__ == "GradientClip" for trick in tricks)


def one_infinite_gradient(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    module = Classifier()

    def spoil(trainer: Any, pl_module: Any) -> None:
        pl_module.net[0].weight.grad[3, 5] = float("inf")

    no_hooks(fitted(module, [At("on_after_backward", 4, spoil), *tricks], arguments), module)
    assert weights(module).isfinite().all() or not guarded(tricks, arguments)
    return module


def overflow_at_the_start(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    module = Classifier()
    t = fitted(module, tricks, {**arguments, "precision": "16-mixed", "init_scale": 2.0**24, "max_epochs": 4})
    no_hooks(t, module)
    if not any(type(trick).__name__ == "FP32Islands" for trick in tricks):  # of its example all layers are one
        assert t.precision_plugin.scaler.get_scale() < 2.0**24, "nothing overflowed"
    return module


def no_gradients(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """All gradients are zero, and a layer is frozen."""
    module = Classifier(spoil=lambda i, loss: loss * 0.0)
    module.net[0].requires_grad_(False)  # type: ignore[index]
    no_hooks(fitted(module, tricks, arguments), module)
    return module


def no_loss(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """``training_step`` returns None: once, and always."""
    module = Classifier(spoil=lambda i, loss: None if i == 2 else loss)
    no_hooks(fitted(module, tricks, arguments), module)
    never = Classifier(spoil=lambda i, loss: None)
    no_hooks(fitted(never, again(tricks), arguments), never)
    return module


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(digits(8 * BATCHES))


def nothing_to_train(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """No batches, no optimizer."""
    empty = Classifier()
    no_hooks(fitted(empty, tricks, {**arguments, "limit_train_batches": 0}), empty)
    without = Classifier(lambda parameters: None)
    no_hooks(fitted(without, again(tricks), {**arguments, "precision": "32-true"}), without)  # a scaler needs one
    return empty


def data_without_a_length(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """An iterable data set: Lightning's estimate of all updates is -1."""
    module = Classifier()
    no_hooks(fitted(module, tricks, arguments, DataLoader(Stream(), 8)), module)
    return module


# -- state ----------------------------------------------------------------------------------------------------------


def _saved(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "saved.ckpt"
    path.write_bytes(_checkpoint(tuple(type(trick).__name__ for trick in tricks), arguments["precision"]))
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return path, found


@functools.cache
def _checkpoint(names: tuple[str, ...], precision: str) -> bytes:
    """The checkpoint after a run: one for all that is done to it."""
    t = fitted(Classifier(), [example(name) for name in names], {"precision": precision})
    with tempfile.TemporaryDirectory() as folder:
        t.save_checkpoint(Path(folder) / "saved.ckpt")
        return (Path(folder) / "saved.ckpt").read_bytes()


def _resumed(tricks: Tricks, arguments: dict[str, Any], path: Path, **changed: Any) -> nn.Module:
    module = Classifier()
    fresh = again(tricks)
    t = fitted(module, fresh, {**arguments, "max_epochs": 2, **changed}, ckpt_path=path)
    no_hooks(t, module)
    assert weights(module).isfinite().all()
    return module


def _refused(tricks: Tricks, arguments: dict[str, Any], path: Path) -> None:
    try:
        _resumed(tricks, arguments, path)
    except (TrickError, ValueError, pickle.UnpicklingError):
        return
    raise AssertionError("it was taken")


def corrupt_checkpoint(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    path, _ = _saved(tricks, folder, arguments)
    data = path.read_bytes()
    io = DurableCheckpointIO(checksum=True)
    io.save_checkpoint(torch.load(path, weights_only=True), folder / "checked.ckpt")
    checked = (folder / "checked.ckpt").read_bytes()
    for i in range(10):
        cut, place = len(data) * i // 10, (len(checked) - 1) * i // 9
        path.write_bytes(data[:cut])
        with contextlib.suppress(Exception):
            torch.load(path, weights_only=True)
            raise AssertionError("half a file was read") from None
        flipped = bytearray(checked)
        flipped[place] ^= 1 << (i % 8)
        (folder / "checked.ckpt").write_bytes(flipped)
        with contextlib.suppress(TrickError):
            io.load_checkpoint(folder / "checked.ckpt", weights_only=True)
            raise AssertionError(f"a file with another byte at {place} was read")
    path.write_bytes(data)
    return _resumed(tricks, arguments, path)


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def hostile_pickle(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    path, found = _saved(tricks, folder, arguments)
    good = path.read_bytes()
    for key in found["callbacks"]:
        bad = {**found, "callbacks": {**found["callbacks"], key: {"version": 1, "state": Bomb(folder / "ran")}}}
        torch.save(bad, path)
        _refused(tricks, arguments, path)
        assert not (folder / "ran").exists(), "a checkpoint has run code"
    path.write_bytes(good)
    return _resumed(tricks, arguments, path)


def state_of_another_version(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """Older and newer versions, keys missing and too many, other arguments: refused by name, or harmless."""
    path, found = _saved(tricks, folder, arguments)
    good = path.read_bytes()
    for key, state in found["callbacks"].items():
        inner = dict(state.get("state", {}))
        damaged = [
            {**state, "version": 0},
            {**state, "version": 2},
            {k: v for k, v in state.items() if k != "state"},
            {**state, "more": 1},
            {**state, "state": {**inner, "more": 1}},
            {**state, "configuration": {**state.get("configuration", {}), "every_n_steps": 77}},
            *({**state, "state": {k: v for k, v in inner.items() if k != gone}} for gone in list(inner)[:3]),
        ]
        for other in damaged:
            torch.save({**found, "callbacks": {**found["callbacks"], key: other}}, path)
            try:
                _resumed(tricks, arguments, path)
            except (TrickError, ValueError) as error:
                assert any(type(trick).__name__ in str(error) for trick in tricks), error
    path.write_bytes(good)
    return _resumed(tricks, arguments, path)


def other_accumulation(tricks: Tricks, folder: Path, arguments: dict[str, Any]) -> nn.Module:
    """Saved with one window of accumulation, resumed with another."""
    path, _ = _saved(tricks, folder, arguments)
    if any(type(trick).__name__ == "GradientAccumulation" for trick in tricks):
        module = Classifier()
        wider = lightning_tricks.GradientAccumulation(3)
        no_hooks(fitted(module, [wider], {**arguments, "max_epochs": 2}, ckpt_path=path), module)
        return module
    return _resumed(tricks, arguments, path, accumulate_grad_batches=3)
