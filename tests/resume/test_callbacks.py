from __future__ import annotations

import os
import signal
import tempfile
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import AsyncCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_tricks import DurableCheckpointIO, LRSchedule, ResumeGuard, TrickError, TrickWarning
from tests.problems import STRICT, Classifier, digits, loader, sgd, weights
from tests.resume.problems import usable

ENDS_WITH_ZERO = not SIGTERMException().code  # a SIGTERM; after lightning 2.6.6 it is 143 (#21623)
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


@pytest.fixture
def told(monkeypatch: Any) -> list[str]:
    """What is told as information; whether a logger shows it depends on what else the process did."""
    lines: list[str] = []
    monkeypatch.setattr("lightning_tricks.resume.callbacks.rank_zero_info", lines.append)
    return lines


strict = pytest.mark.skipif(not STRICT, reason="a resume of Lightning 2.5 refuses no values")


def fit(module: Any, callbacks: list[Any], data: Any = None, *, n: int = 64, **options: Any) -> Any:
    options = {"max_epochs": 1, "default_root_dir": os.getcwd(), **QUIET, **options}
    ckpt_path, namespace = options.pop("ckpt_path", None), options.pop("namespace", L)
    t = namespace.Trainer(callbacks=callbacks, **options)
    t.fit(module, loader(n) if data is None else data, ckpt_path=ckpt_path)
    return t


def findings(callbacks: list[Any] | None = None, data: Any = None, module: Any = None, **options: Any) -> list[str]:
    guard = ResumeGuard()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module or Classifier(), [guard, *(callbacks or [])], data, **options)
    return [finding.what for finding in guard.findings]


# -- saying it ------------------------------------------------------------------------------------------------------


def test_a_run_that_can_be_resumed_is_silent(told: list[str]) -> None:
    guard = ResumeGuard()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        fit(Classifier(), [guard, LRSchedule("cosine", warmup=2)])
    assert guard.findings == []
    assert "\n".join(told).count("ResumeGuard") == ENDS_WITH_ZERO, "the line about SIGTERM"


class Path_(L.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"folder": Path("data")}


def hyper(**values: Any) -> Classifier:
    module = Classifier()
    module.save_hyperparameters(values)
    return module


@strict
def test_all_findings_are_in_one_warning_each_with_its_fix() -> None:
    guard = ResumeGuard()
    with pytest.warns(TrickWarning) as told:
        fit(hyper(lr=np.float64(0.1), ok=[1, 2]), [guard, Path_(), ModelCheckpoint(save_last=True, save_top_k=0)])
    (text,) = [str(w.message) for w in told if issubclass(w.category, TrickWarning)]
    assert text.startswith("ResumeGuard: this would break a later resume:\n- ")
    assert text.count("\n- ") == len(guard.findings) == 3
    assert "- ['callbacks']['Path_']['folder'] PosixPath will not load" in text
    assert "- ['hyper_parameters']['lr'] float64 will not load" in text
    assert "writes nothing before training ends: a kill leaves no checkpoint. Use save_top_k=1" in text


@strict
def test_in_mode_raise_one_error_has_all_findings_and_no_step_was_made() -> None:
    module = hyper(root=Path("a"))
    before = weights(module).clone()
    with pytest.raises(TrickError) as caught:
        fit(module, [ResumeGuard(mode="raise"), Path_()])
    text = str(caught.value)
    assert text.startswith("ResumeGuard(mode='raise'): this would break a later resume:")
    assert "['hyper_parameters']['root'] PosixPath" in text and "['callbacks']['Path_']['folder'] PosixPath" in text
    assert torch.equal(weights(module), before)
    fit(Classifier(), [ResumeGuard(mode="raise")])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ResumeGuard\(mode='error'\): mode must be one of warn, raise"):
        ResumeGuard(mode="error")  # type: ignore[arg-type]


def test_the_run_is_bit_identical_with_and_without_it() -> None:
    def run(*guard: Any) -> Any:
        torch.manual_seed(1)
        module = Classifier(net=nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10)))
        fit(module, list(guard), DataLoader(digits(64), 8, shuffle=True), max_epochs=2)
        return weights(module), torch.get_rng_state()

    with pytest.warns(TrickWarning, match="shuffled"):
        watched = run(ResumeGuard())
    for mine, theirs in zip(watched, run(), strict=True):
        assert torch.equal(mine, theirs)


@strict
@pytest.mark.parametrize("mode", ["warn", "raise"])
def test_a_check_that_fails_hides_no_other_and_ends_no_run(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Angry(L.Callback):
        asked = 0

        def state_dict(self) -> dict[str, Any]:
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("not yet")
            return {}

    guard = ResumeGuard(mode)
    with pytest.warns(TrickWarning, match=r"state could not be checked \(RuntimeError: not yet\). Training goes on"):
        fit(Classifier(), [guard, Angry()])
    assert guard.findings == []


@strict
def test_it_takes_less_than_50_milliseconds_of_work() -> None:
    guard, tell, took = ResumeGuard(), ResumeGuard._tell, []

    def timed(trainer: Any) -> None:
        started = time.thread_time()
        tell(guard, trainer)
        took.append(time.thread_time() - started)

    guard._tell = timed  # type: ignore[method-assign]
    module = hyper(root=Path("a"), array=np.ones(1_000_000), x=[np.float32(1)] * 100)
    with pytest.warns(TrickWarning):
        fit(module, [guard, LRSchedule("cosine")])
        fit(module, [guard, LRSchedule("cosine")])
    assert min(took) < 0.05


def test_nothing_is_said_where_no_checkpoint_can_come() -> None:
    assert findings([Path_()], fast_dev_run=True) == []
    barebones = {"barebones": True, "enable_progress_bar": None, "enable_model_summary": None, "logger": None}
    assert findings([Path_()], **barebones) == []


# -- values that do not load ----------------------------------------------------------------------------------------


@strict
@pytest.mark.parametrize("namespace", [L, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_what_is_found_is_what_breaks_the_resume_in_either_namespace(namespace: Any, tmp_path: Path) -> None:
    class Bad(namespace.Callback):  # type: ignore[misc,name-defined]
        state_key = "Bad"

        def state_dict(self) -> dict[str, Any]:
            return {"ema": np.float32(1)}

    class Net(namespace.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(64, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=np.float64(0.1))

    class Data(namespace.LightningDataModule):  # type: ignore[misc,name-defined]
        def __init__(self, root: Path) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return loader(32)

    guard = ResumeGuard()
    with pytest.warns(TrickWarning):
        t = fit(Net(), [guard, Bad()], Data(Path("a")), namespace=namespace)
    said = [f.what.split(" will")[0] for f in guard.findings]
    assert said == [
        "['callbacks']['Bad']['ema'] float32",
        "['datamodule_hyper_parameters']['root'] PosixPath",
        "['optimizer_states'][0]['param_groups'][0]['lr'] float64",
    ]
    path = t.checkpoint_callback.best_model_path
    with pytest.raises(Exception, match="Weights only load failed"):
        fit(Net(), [], loader(32), namespace=namespace, ckpt_path=path)
    checkpoint = torch.load(path, weights_only=False)  # each of them is there, where it was said to be
    assert type(checkpoint["callbacks"]["Bad"]["ema"]) is np.float32
    assert isinstance(checkpoint["datamodule_hyper_parameters"]["root"], Path)
    assert type(checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]) is np.float64


@strict
def test_a_state_that_goes_bad_while_training_is_told_at_the_first_checkpoint() -> None:
    class Grows(L.Callback):
        state_key = "Grows"  # type: ignore[assignment]
        best: Any = None

        def on_train_batch_end(self, *args: Any) -> None:
            self.best = np.float32(1)

        def state_dict(self) -> dict[str, Any]:
            return {"best": self.best, "folder": Path("a")}

    guard = ResumeGuard()
    with pytest.warns(TrickWarning) as told:
        fit(Classifier(), [guard, Grows()], max_epochs=3)
    first, second = [str(w.message) for w in told if issubclass(w.category, TrickWarning)]
    assert "['folder'] PosixPath" in first and "float32" not in first
    assert second.startswith("ResumeGuard: the checkpoint that is being written will not load:")
    assert "['callbacks']['Grows']['best'] float32" in second and "PosixPath" not in second
    assert len(guard.findings) == 2


@strict
def test_a_scheduler_with_a_numpy_number_is_found() -> None:
    def optimizer(p: Any) -> Any:
        o = sgd(p)
        return {"optimizer": o, "lr_scheduler": torch.optim.lr_scheduler.StepLR(o, 1, gamma=np.float64(0.5))}

    (found, *_) = findings(module=Classifier(optimizer))
    assert found.startswith("['lr_schedulers'][0]['gamma'] float64")


# -- checkpoints that are not written -------------------------------------------------------------------------------


class Worse(Classifier):
    """Its metric is best in the first epoch."""

    def on_train_epoch_end(self) -> None:
        self.log("score", float(self.current_epoch))


class OnDisk(L.Callback):
    """At the last batch of the fourth epoch: the updates of the newest checkpoint, and of ``last.ckpt``."""

    newest = last = -1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 3 and batch_idx == 7:
            read = {p.name: torch.load(p, weights_only=True) for p in self.folder.glob("*.ckpt")}
            steps = {name: x["global_step"] for name, x in read.items() if "optimizer_states" in x}
            self.newest, self.last = max(steps.values(), default=-1), steps.get("last.ckpt", -1)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"save_last": True},
        {"save_last": True, "save_top_k": 0},
        {"save_last": True, "save_top_k": 0, "every_n_train_steps": 4},
        {"save_last": True, "save_top_k": 0, "train_time_interval": timedelta(seconds=0)},
        {"save_last": True, "monitor": "score"},
        {"save_last": True, "monitor": "score", "save_top_k": 2},
        {"save_last": True, "monitor": "score", "save_top_k": -1},
        {"save_last": True, "monitor": "score", "every_n_train_steps": 4},
        {"save_last": "link", "save_top_k": -1},
        {"monitor": "score"},
        {"monitor": "score", "save_top_k": -1},
        {"save_top_k": 0},
        {"save_top_k": 0, "save_on_exception": True},
        {"save_weights_only": True},
        {"every_n_epochs": 0},
        {"every_n_train_steps": 4},
    ],
    ids=str,
)
def test_a_checkpoint_that_is_missing_or_stale_is_what_lightning_leaves_so(
    told: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    keep, disk = ModelCheckpoint(folder, enable_version_counter=False, **told), OnDisk(folder)
    found = findings([keep, disk], module=Worse(), max_epochs=4)
    found = [what for what in found if "falls inside" not in what]
    fresh = disk.newest >= 24 and (disk.last >= 24 or not told.get("save_last"))
    assert (found == []) == fresh, (found, disk.newest, disk.last)


def test_a_run_without_a_checkpoint_callback_is_told_so() -> None:
    assert findings(enable_checkpointing=False) == ["no checkpoint callback: a killed run leaves no checkpoint"]


def test_a_checkpoint_of_weights_only_is_refused_by_lightning_as_is_said(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "a", save_weights_only=True)
    (found,) = findings([keep])
    assert "leaves out optimizers and counters: a resume from it is refused" in found
    with pytest.raises(KeyError, match="save_weights_only"):
        fit(Classifier(), [], ckpt_path=keep.best_model_path, max_epochs=2)


# -- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    other = next((p for p in map(Path, ("/dev/shm", "/tmp", "/var/tmp")) if usable(p, tmp_path)), None)
    if other is None:
        pytest.skip("no second filesystem")
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    return other


def test_a_temporary_folder_on_another_filesystem_is_told_unless_the_plugin_is_durable(elsewhere: Path) -> None:
    (found,) = findings()
    assert f"checkpoints are written to {elsewhere} and then copied to" in found
    assert findings(plugins=[AsyncCheckpointIO()]) == [found]
    assert findings(plugins=[DurableCheckpointIO()]) == []
    assert findings(plugins=[AsyncCheckpointIO(DurableCheckpointIO())]) == []


def test_a_remote_folder_that_the_durable_plugin_will_refuse_is_told_before() -> None:
    with pytest.raises(TrickError, match=r"the first checkpoint in memory://folder will be refused"):
        fit(Classifier(), [ResumeGuard("raise"), ModelCheckpoint("memory://folder")], plugins=[DurableCheckpointIO()])
    assert findings([ModelCheckpoint("memory://folder")]) == []


def test_a_strategy_that_writes_shards_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L.strategies.SingleDeviceStrategy, "_save_distributed_checkpoint", True, raising=False)
    (found,) = findings(plugins=[DurableCheckpointIO()])
    assert "the strategy writes a folder of shards itself" in found


# -- data -----------------------------------------------------------------------------------------------------------


class Seen(Classifier):
    """Remembers which samples were trained, of a loader in order."""

    def __init__(self) -> None:
        super().__init__()
        self.firsts: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        known = digits(64)[:][0]
        self.firsts.append(int((known == batch[0][0]).all(1).nonzero()[0, 0]))
        return super().training_step(batch, batch_idx)


class Stateful(DataLoader):  # type: ignore[type-arg]
    """A loader that says where it is, as torchdata's does."""

    at = start = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["at"]

    def __iter__(self) -> Any:
        start, self.start = self.start, 0
        for i, batch in enumerate(super().__iter__()):
            if i >= start:
                self.at = i + 1
                yield batch
        self.at = 0


class Estimating(Seen):
    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches in (5, 8)
        return super().configure_optimizers()


def resumed(module: Any, make: Any, keep: Any) -> list[int]:
    """The samples that a run takes after a resume from the checkpoint of its fifth batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(type(module)(), [keep], make(), max_steps=5, max_epochs=1)
        fit(module, [], make(), ckpt_path=keep.best_model_path, max_epochs=1)
    taken: list[int] = module.firsts
    return taken


@pytest.mark.parametrize(
    ("module", "make", "said"),
    [
        (Seen, lambda: loader(64), "a checkpoint every 5 steps falls inside an epoch, and DataLoader cannot resume"),
        (Seen, lambda: Stateful(digits(64), 8), ""),
        (Estimating, lambda: Stateful(digits(64), 8), "the training loader was made before a checkpoint's state is"),
    ],
    ids=["plain", "stateful", "stateful, made early"],
)
def test_data_that_are_trained_twice_after_a_resume_are_foretold(
    module: Any, make: Any, said: str, tmp_path: Path
) -> None:
    def keep() -> Any:
        return ModelCheckpoint(tmp_path / "a", every_n_train_steps=5, save_top_k=-1)

    found = findings([keep()], make(), module())
    assert [what[: len(said)] for what in found] == ([said] if said else [])
    taken = resumed(module(), make, keep())
    assert taken == ([0, 8, 16] if said else [40, 48, 56])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_second_fit_of_the_same_trainer_does_not_take_its_loader_for_one_made_early(epochs: int) -> None:
    guard = ResumeGuard()
    t = L.Trainer(callbacks=[guard, ModelCheckpoint(every_n_train_steps=3)], max_epochs=1, **QUIET)  # type: ignore[arg-type]
    for epochs in (1, 2):
        t.fit_loop.max_epochs = epochs
        t.fit(Classifier(), Stateful(digits(64), 8))
        assert guard.findings == []


def test_shuffled_data_are_told() -> None:
    (found,) = findings(data=DataLoader(digits(64), 8, shuffle=True))
    assert "the data are shuffled, and no checkpoint holds the random state" in found


def test_a_validation_within_the_epoch_makes_checkpoints_there() -> None:
    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def val_dataloader(self) -> Any:
            return loader(16)

    assert findings(module=Validated()) == []
    (found,) = findings(module=Validated(), val_check_interval=0.5)
    assert found.startswith("a checkpoint after each validation falls inside an epoch")
    assert findings([ModelCheckpoint(save_on_train_epoch_end=True)], module=Validated(), val_check_interval=0.5) == []


def test_steps_are_counted_with_accumulation() -> None:
    keep = {"every_n_train_steps": 2}
    assert findings([ModelCheckpoint(**keep)], accumulate_grad_batches=4) == []  # type: ignore[arg-type]
    (found,) = findings([ModelCheckpoint(**keep)], accumulate_grad_batches=2, n=48)  # type: ignore[arg-type]
    assert "every 2 steps falls inside an epoch" in found


def test_an_iterable_data_set_is_told_whatever_else_is_there() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from digits(32)

    (found,) = findings([ModelCheckpoint(every_n_train_steps=3)], DataLoader(Stream(), 8))
    assert "every 3 steps falls inside an epoch, and DataLoader cannot resume there" in found


# -- the end --------------------------------------------------------------------------------------------------------


class Terminates(L.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_where_sigterm_ends_with_exit_code_0_the_remedy_that_is_told_mends_it(tmp_path: Path, told: list[str]) -> None:
    keep = ModelCheckpoint(tmp_path / "a", save_on_exception=True)
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrickWarning)
        fit(Classifier(), [ResumeGuard(), Terminates(), keep])
    assert end.value.code == (None if ENDS_WITH_ZERO else 143), "the interpreter makes 0 of None"
    assert (end.value.code or 143) == 143
    assert "\n".join(told).count("a SIGTERM ends this process with exit code 0") == ENDS_WITH_ZERO
    assert torch.load(next((tmp_path / "a").iterdir()), weights_only=True)["global_step"] == 3


def test_sigterm_is_told_once_for_each_run_and_not_where_lightning_has_no_handler(
    told: list[str], monkeypatch: Any
) -> None:
    t = L.Trainer(callbacks=[ResumeGuard()], max_epochs=1, default_root_dir=os.getcwd(), **QUIET)  # type: ignore[arg-type]
    t.fit(Classifier(), loader(16))
    t.fit_loop.max_epochs = 2
    t.fit(Classifier(), loader(16))
    assert "\n".join(told).count("SIGTERM") == ENDS_WITH_ZERO
    monkeypatch.setattr(
        "lightning.pytorch.trainer.connectors.signal_connector._SignalConnector.register_signal_handlers",
        lambda self: None,
    )
    fit(Classifier(), [ResumeGuard()])
    assert "\n".join(told).count("SIGTERM") == ENDS_WITH_ZERO


@strict
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_on_two_processes_both_go_by_what_the_first_found() -> None:
    class Differs(L.Callback):
        state_key = "Differs"  # type: ignore[assignment]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.found = Path("a") if trainer.is_global_zero else 1

        def state_dict(self) -> dict[str, Any]:
            return {"found": getattr(self, "found", None)}

    try:
        with pytest.raises(Exception, match=r"\['callbacks'\]\['Differs'\]\['found'\] PosixPath"):
            fit(Classifier(), [ResumeGuard("raise"), Differs()], strategy="ddp_fork", devices=2)
    finally:
        os.environ.pop("MASTER_PORT", None)


CLOCK = {"version": 1, "attempted": [5], "applied": [3]}


def test_an_old_state_of_the_guard_which_held_no_arguments_loads_without_a_warning() -> None:
    guard = ResumeGuard("raise")
    guard.load_state_dict({"version": 1, "configuration": {}, "clock": CLOCK, "state": {}})
    assert guard.configuration() == {"mode": "raise"}
    with pytest.warns(TrickWarning, match=r"mode: 'warn' -> 'raise'"):
        guard.load_state_dict({"version": 1, "configuration": {"mode": "warn"}, "clock": CLOCK, "state": {}})
