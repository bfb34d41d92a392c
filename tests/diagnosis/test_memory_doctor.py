"""MemoryDoctor: real leaks are named with their fix, their healthy twins are left in peace, and an error has its page."""

from __future__ import annotations

import copy
import json
import math
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_tricks import AlarmError, GradientMonitor, MemoryDoctor, TrickWarning
from lightning_tricks.detection.causes import Cause
from lightning_tricks.diagnosis import memory_level
from lightning_tricks.diagnosis.memory_readings import Reading
from tests.problems import Memory, digits, fit, loader, trainer, weights

MB = 1e6
KEPT: list[Tensor] = []
cross_entropy = nn.functional.cross_entropy


class Net(L.LightningModule):
    """A classifier; ``touch`` is what a kind adds to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.make()

    def make(self) -> None:
        """Make what the kind keeps."""

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        """Do what the kind is about."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self.net(batch[0])
        loss = cross_entropy(out, batch[1])
        self.touch(batch[0], out, loss, batch_idx)
        return {"loss": loss, "out": out}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


# -- leaks --------------------------------------------------------------------------------------------------------------


class Appends(Net):
    def make(self) -> None:
        self.losses: list[Tensor] = []

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.losses.append(loss)


class AddsUp(Net):
    def make(self) -> None:
        self.total_loss: Any = 0.0

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.total_loss += loss


class Averages(Net):
    def make(self) -> None:
        self.register_buffer("running", torch.zeros(10))

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.running = 0.9 * self.running + 0.1 * out.mean(0)


class Everywhere(Net):
    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        KEPT.append(loss)


class InAClosure(Net):
    def make(self) -> None:
        kept: list[Tensor] = []
        self.remember: Callable[[Tensor], None] = lambda out: kept.append(out)

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.remember(out)


class Carries(Net):
    """A hidden state that is carried on; the graph is retained, as the error message of torch advises."""

    def make(self) -> None:
        self.automatic_optimization = False
        self.cell = nn.RNNCell(64, 16)
        self.head = nn.Linear(16, 10)
        self.hidden = torch.zeros(8, 16)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.hidden = self.cell(batch[0], self.hidden)
        loss = cross_entropy(self.head(self.hidden), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss, retain_graph=True)

        # (the weights of the cell stay, so that the graph of earlier steps is still valid)
        for p in self.cell.parameters():
            p.grad = None
        optimizer.step()


class StoresBatches(Net):
    def make(self) -> None:
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch)
        return super().training_step(batch, batch_idx)


class NeverResets(Net):
    def make(self) -> None:
        self.scores = torchmetrics.CatMetric()

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.scores.update(out.detach())


class KeepsErrors(Net):
    def make(self) -> None:
        self.errors: list[Exception] = []

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        try:
            self.fails(out)
        except ValueError as error:
            self.errors.append(error)

    def fails(self, out: Tensor) -> None:
        doubled = 2 * out
        raise ValueError(f"no {doubled.shape}")


class PilesUpHooks(Net):
    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.net[0].register_forward_hook(lambda *_: None)


class Outputs(L.Callback):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.kept.append(outputs)


class Data(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, list[Tensor]] = {"loss": []}

    def train_dataloader(self) -> Any:
        return loader(64)


class LogsInData(Net):
    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.trainer.datamodule.logs["loss"].append(loss)


LEAKS: dict[str, tuple[type[Net], str, str]] = {
    "a list of losses": (Appends, "module.losses keeps", "self.losses.append(loss.item())"),
    "a sum of losses": (AddsUp, "the autograd graph of module.total_loss grows", "self.total_loss += loss.item()"),
    "a running mean": (Averages, "graph of module.running grows", "self.running = self.running.detach()"),
    "a global list": (Everywhere, f"{__name__}.KEPT keeps", "KEPT.append(loss.item())"),
    "a closure": (InAClosure, "module.remember, variable 'kept' keeps", "kept.append(x.detach())"),
    "a hidden state": (Carries, "graph of module.hidden grows", "self.hidden = self.hidden.detach()"),
    "batches": (StoresBatches, "module.seen keeps", "clear self.seen"),
    "a metric": (NeverResets, "module.scores.value is the state of a metric", "self.scores.reset()"),
    "tracebacks": (KeepsErrors, "module.errors keeps exceptions", "str(error)"),
    "hooks": (PilesUpHooks, "module.net.0 has", "handle.remove()"),
}


@pytest.fixture(autouse=True)
def empty() -> Any:
    KEPT.clear()
    yield
    KEPT.clear()


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_named_with_its_fix(name: str) -> None:
    make, holder, fix = LEAKS[name]
    doctor = MemoryDoctor(every_n_steps=3)
    with pytest.warns(TrickWarning, match="MemoryDoctor: growing memory"):
        fit(make(), [doctor], n=64, max_epochs=5)
    verdict = doctor.verdict
    assert verdict.alarmed and verdict.cause is Cause.MEMORY_GROWTH
    assert holder in verdict.reasons[0]
    assert fix in verdict.advice[0]
    assert verdict.step <= 23, "it takes to the third epoch at most"
    assert holder in Path("memory.txt").read_text()
    assert doctor.report is not None and holder.split()[0] in str(doctor.report)


def test_a_callback_that_keeps_outputs_is_named() -> None:
    doctor = MemoryDoctor(every_n_steps=3, action="log")
    fit(Net(), [Outputs(), doctor], n=64, max_epochs=5)
    assert "callback Outputs.kept keeps" in doctor.verdict.reasons[0]
    assert "self.kept.append(x.detach())" in doctor.verdict.advice[0]


def test_a_dict_on_the_datamodule_is_named() -> None:
    doctor = MemoryDoctor(every_n_steps=3, action="log")
    trainer([doctor], max_epochs=5).fit(LogsInData(), datamodule=Data())
    assert "datamodule.logs keeps" in doctor.verdict.reasons[0]


@pytest.mark.parametrize("every", [1, 3, 9, 20])
def test_a_leak_is_found_at_any_distance_of_checks(every: int) -> None:
    doctor = MemoryDoctor(every_n_steps=every, action="log")
    fit(Appends(), [doctor], n=64, max_epochs=max(4, every))
    assert "module.losses" in doctor.verdict.reasons[0]


def test_in_a_run_of_one_epoch_a_leak_is_told_at_its_end() -> None:
    doctor = MemoryDoctor(every_n_steps=2)
    with pytest.warns(TrickWarning, match=r"module\.losses"):
        fit(Appends(), [doctor], n=96)
    with pytest.raises(AlarmError, match=r"module\.losses"):
        fit(Appends(), [MemoryDoctor(every_n_steps=2, action="raise")], n=96)


def test_a_run_can_be_stopped_at_a_leak() -> None:
    with pytest.warns(TrickWarning, match="Training stops"):
        t = fit(Appends(), [MemoryDoctor(every_n_steps=2, action="stop")], n=64, max_epochs=50)
    assert t.global_step < 30


# -- healthy twins ------------------------------------------------------------------------------------------------------


class Clears(Appends):
    def on_train_epoch_end(self) -> None:
        torch.stack(self.losses).mean()
        self.losses.clear()


class ClearsAtTheStart(Appends):
    def on_train_epoch_start(self) -> None:
        self.losses.clear()


class Detaches(Appends):
    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.losses.append(loss.detach())


class Numbers(Net):
    def make(self) -> None:
        self.history: list[Any] = []

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.history.append({"loss": loss.item(), "step": i})


class Last(Net):
    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.last = out


class Replay(Net):
    def make(self) -> None:
        self.replay: list[Any] = []
        self.bounded: Any = deque(maxlen=12)

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.replay += [(row.copy(), random.random()) for row in x.numpy()]
        self.bounded.append(x)
        if len(self.replay) > 200:
            del self.replay[:8]


class Queue(Net):
    def make(self) -> None:
        self.register_buffer("queue", torch.zeros(64, 10))
        self.place = 0

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.queue[self.place : self.place + len(x)] = out.detach()
        self.place = (self.place + len(x)) % 64


class Ema(Net):
    def make(self) -> None:
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                mine.lerp_(theirs, 0.1)


class Bank(Net):
    """Features of all samples; full after the first epoch."""

    def make(self) -> None:
        self.bank: dict[int, Tensor] = {}

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        self.bank.update({8 * i + k: row for k, row in enumerate(out.detach())})


class Resets(NeverResets):
    def on_train_epoch_end(self) -> None:
        self.scores.reset()


class Snapshots(Net):
    def make(self) -> None:
        self.snapshots: list[Any] = []

    def on_train_epoch_start(self) -> None:
        self.snapshots.append(copy.deepcopy(self.net))


class Cycles(Net):
    """Rings of references, which wait for the garbage collector."""

    def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
        ring: list[Any] = [out]
        ring.append(ring)


class HooksForAStep(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        handle = self.net[0].register_forward_hook(lambda *_: None)
        try:
            return super().training_step(batch, batch_idx)
        finally:
            handle.remove()


class Truncated(Carries):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.hidden = self.hidden.detach()
        super().training_step(batch, batch_idx)


HEALTHY = [
    Net, Clears, ClearsAtTheStart, Detaches, Numbers, Last, Replay, Queue, Ema, Bank, Resets, Snapshots, Cycles,
    HooksForAStep, Truncated,
]  # fmt: skip


@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("make", HEALTHY)
@pytest.mark.filterwarnings("error::lightning_tricks.TrickWarning")
def test_a_healthy_twin_is_left_in_peace(make: type[Net], every: int) -> None:
    doctor = MemoryDoctor(every_n_steps=every)
    fit(make(), [doctor], n=64, max_epochs=8)
    assert not doctor.verdict.alarmed and doctor.findings == [] and doctor.report is None
    assert not Path("memory.txt").exists()
    assert len(doctor.history) == 64 // every


@pytest.mark.filterwarnings("error::lightning_tricks.TrickWarning")
@pytest.mark.filterwarnings("ignore:.*`IterableDataset` has `__len__`.*")
def test_batches_that_grow_and_data_without_a_length_are_no_alarm() -> None:
    class Growing(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            rows = list(digits(96))
            for i in range(1, 25):
                yield [torch.stack([torch.as_tensor(r[k]) for r in rows[: 4 * i]]) for k in (0, 1)]

    doctor = MemoryDoctor(every_n_steps=1)
    trainer([doctor], max_epochs=3).fit(Net(), DataLoader(Growing(), batch_size=None))
    assert not doctor.verdict.alarmed and doctor.findings == []


# -- memory of a device, by readings that are made up ---------------------------------------------------------------------


def readings(monkeypatch: pytest.MonkeyPatch, allocated: Callable[[int], float], free: float) -> None:
    """Let the reader see an accelerator whose memory is a function of the number of the reading."""

    class Reader:
        def __init__(self, device: torch.device) -> None:
            self.count = -1  # (the first reading is at the start)

        def read(self) -> Reading:
            self.count += 1
            used = allocated(self.count)
            return Reading(used, 1.5 * used, used, 1e9, free - used, 1e10)

    monkeypatch.setattr(memory_level, "MemoryReader", Reader)


def test_memory_that_will_be_full_before_the_end_is_an_alarm_without_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, lambda i: 1000 * MB + 20 * MB * i, 3000 * MB)
    doctor = MemoryDoctor(every_n_steps=2, action="stop")
    with pytest.warns(TrickWarning, match="memory in use rises steadily"):
        fit(Net(), [doctor], n=96, max_epochs=100, max_steps=400)
    reasons = " ".join(doctor.verdict.reasons)
    assert "full after about" in reasons and "the commonest live tensors are" in reasons
    assert doctor.verdict.step < 40


@pytest.mark.parametrize(
    "allocated",
    [
        lambda i: 1000 * MB + 20 * MB * min(i, 6),
        lambda i: 1000 * MB + 50 * MB * (i % 5),
        lambda i: 1000 * MB + 0.1 * MB * i,
    ],
    ids=["warm-up", "sawtooth", "noise"],
)
def test_memory_that_settles_is_no_alarm(monkeypatch: pytest.MonkeyPatch, allocated: Any) -> None:
    readings(monkeypatch, allocated, 3000 * MB)
    doctor = MemoryDoctor(every_n_steps=2)
    fit(Net(), [doctor], n=96, max_epochs=4)
    assert not doctor.verdict.alarmed


def test_growth_that_leaves_enough_memory_is_only_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, lambda i: 1000 * MB + 20 * MB * i, 1e12)
    doctor, logger = MemoryDoctor(every_n_steps=2), Memory()
    fit(Net(), [doctor], n=96, max_epochs=4, logger=logger)
    assert not doctor.verdict.alarmed and "memory in use rises" in doctor.findings[0]
    assert list(logger.series("diagnosis/growing_memory").values()) == [1.0]


def test_what_is_logged_is_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, lambda i: 1000 * MB + 4 * MB * i, 1e12)
    logger = Memory()
    fit(Net(), [MemoryDoctor(every_n_steps=2)], n=64, logger=logger)
    batch = 8 * 64 * 4 + 8 * 8
    allocated = logger.series("diagnosis/memory_doctor/allocated")
    assert list(allocated) == [1, 3, 5, 7]
    assert allocated[3] == pytest.approx((1008 * MB - batch) / MB, rel=1e-6)
    assert logger.series("diagnosis/memory_doctor/resident")[3] == pytest.approx(1000.0)
    assert logger.series("diagnosis/memory_doctor/growth_per_step")[7] == pytest.approx(2000.0, rel=1e-3)
    tensors = 4 + 3 * 4  # weights with their gradients; (the optimizer's state is not looked at)
    assert logger.series("diagnosis/memory_doctor/live_tensors")[1] in (8.0, 10.0, float(tensors))
    assert set(logger.series("diagnosis/memory_doctor/alarm").values()) == {0.0}


def test_on_a_cpu_the_process_is_read_and_no_device() -> None:
    logger = Memory()
    fit(Net(), [MemoryDoctor(every_n_steps=2)], n=64, logger=logger)
    assert logger.series("diagnosis/memory_doctor/allocated") == {}
    assert all(v > 50 for v in logger.series("diagnosis/memory_doctor/resident").values())


# -- out of memory ------------------------------------------------------------------------------------------------------


class Fails(Appends):
    def __init__(self, error: BaseException, at: int = 20) -> None:
        super().__init__()
        self.error, self.at, self.count = error, at, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.count += 1
        if self.count > self.at:
            raise self.error
        return output


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("no more"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_at_an_error_of_memory_a_page_says_where_it_is(error: BaseException) -> None:
    doctor = MemoryDoctor(every_n_steps=5)
    with pytest.raises(type(error)):
        fit(Fails(error), [doctor], n=64, max_epochs=5)
    text, plain = Path("memory.txt").read_text(), json.loads(Path("memory.json").read_text())
    assert type(error).__name__ in text
    size = 4 * (64 * 32 + 32 + 32 * 10 + 10)
    table = plain["table"]
    assert (table["weights"], table["gradients"]) == (size, size)
    assert table["optimizer_state"] == pytest.approx(2 * size, abs=64)
    assert table["activations"]["net.1"] == 4 * 8 * 32 and table["samples"] == 8
    assert "module.losses" in table["kept"] and "[0]: float32 [8, 64]" in plain["batch"]
    saves = {r["what"].split(" ")[0]: r["saves"] for r in plain["remedies"]}
    assert saves["halve"] == pytest.approx(0.5 * (sum(table["activations"].values()) + table["batch"]))
    assert "free what module.losses keeps" in text
    assert doctor.report is not None and doctor.report.table.optimizer == "Adam"


def test_in_the_first_step_the_modules_that_were_reached_are_in_the_table() -> None:
    doctor = MemoryDoctor()
    with pytest.warns(TrickWarning, match="out of memory. Memory is in"), pytest.raises(MemoryError):
        fit(Fails(MemoryError("no"), at=0), [doctor], n=16)
    assert doctor.report is not None
    table = doctor.report.table
    assert dict(table.activations) == {"net.0": 1024, "net.1": 1024, "net.2": 320}
    assert table.optimizer_state == 2 * table.weights


def test_checkpointed_activations_are_not_counted_nor_offered_again() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.inner, x, use_reentrant=False)

    module = Fails(MemoryError("no"), at=9)
    module.net = Wrapped(module.net)  # type: ignore[assignment]
    doctor = MemoryDoctor()
    with pytest.warns(TrickWarning), pytest.raises(MemoryError):
        fit(module, [doctor], n=96)
    assert doctor.report is not None
    assert doctor.report.table.checkpointed
    assert not any("checkpoint" in r.what for r in doctor.report.remedies)
    assert sum(doctor.report.table.activations.values()) < 1024


def test_another_error_has_no_page() -> None:
    doctor = MemoryDoctor()
    with pytest.raises(RuntimeError, match="shape"):
        fit(Fails(RuntimeError("shape"), at=9), [doctor], n=96)
    assert doctor.report is None and not Path("memory.txt").exists()


@pytest.mark.filterwarnings("error::lightning_tricks.TrickWarning")
def test_where_warnings_are_errors_the_user_sees_the_error_of_the_memory() -> None:
    with pytest.raises(MemoryError, match="no more"):
        fit(Fails(MemoryError("no more"), at=9), [MemoryDoctor()], n=96)


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="MemoryDoctor: no report"), pytest.raises(MemoryError):
        fit(Fails(MemoryError("no"), at=9), [MemoryDoctor()], n=96, default_root_dir=tmp_path / "file" / "run")


# -- no trace -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Net, Clears, Last, Ema, Resets, Truncated])
def test_the_training_is_the_one_without_it(make: type[Net]) -> None:
    alone, watched, drawn = make(), make(), []
    for module, trick in ((alone, GradientMonitor()), (watched, MemoryDoctor(every_n_steps=1))):
        torch.manual_seed(1)
        fit(module, [trick], n=64, max_epochs=3)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(weights(alone), weights(watched))
    assert vars(alone).keys() == vars(watched).keys()
    assert not any(m._forward_hooks for m in watched.modules())


def test_hooks_are_gone_after_the_first_batch_and_no_batch_is_kept() -> None:
    seen: list[int] = []

    class Looks(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(sum(len(m._forward_hooks) for m in pl_module.modules()))

    doctor = MemoryDoctor(every_n_steps=100)
    fit(Net(), [doctor, Looks()], n=64)
    assert seen == [3] + [0] * 7
    assert doctor.probe.parts.hand.batch is None and doctor.probe.parts.hand.outputs is None


def test_between_checks_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    readings(monkeypatch, lambda i: counts.append(i) or 1e9, 1e12)  # type: ignore[func-returns-value]
    fit(Net(), [MemoryDoctor(every_n_steps=10)], n=8 * 40)
    assert counts == [0, 1, 2, 3, 4, 5], "one at the start, one at each check, one at the end"


def test_a_resumed_run_begins_to_measure_from_the_start_and_keeps_its_alarm(tmp_path: Path) -> None:
    first = MemoryDoctor(every_n_steps=2, action="log")
    t = fit(Appends(), [first], n=64, max_epochs=3)
    assert first.verdict.alarmed
    t.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    second = MemoryDoctor(every_n_steps=2, action="log")
    trainer([second], max_epochs=4).fit(Net(), loader(64), ckpt_path=tmp_path / "a.ckpt")
    assert second.history[0][0] == 25


def test_a_module_that_fails_when_it_is_looked_at_costs_nothing() -> None:
    class Odd:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("not to be looked at")

    class Holds(Net):
        def make(self) -> None:
            self.odd = [Odd()]

    doctor = MemoryDoctor(every_n_steps=1)
    fit(Holds(), [doctor], n=64)
    assert len(doctor.history) == 8


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_a_distance_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"MemoryDoctor\(every_n_steps="):
        MemoryDoctor(every_n_steps=value)


def test_an_action_that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'stop'"):
        MemoryDoctor(action="stopp")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_leak_is_named_and_the_allocator_is_read() -> None:
    doctor, logger = MemoryDoctor(every_n_steps=3, action="log"), Memory()
    t = L.Trainer(
        accelerator="gpu", devices=1, max_epochs=5, callbacks=[doctor], logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    t.fit(StoresBatches(), loader(64))
    assert "module.seen keeps" in doctor.verdict.reasons[0]
    assert all(v > 0 for v in logger.series("diagnosis/memory_doctor/allocated").values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_on_a_gpu_a_true_error_has_its_page() -> None:
    class Greedy(Net):
        def touch(self, x: Tensor, out: Tensor, loss: Tensor, i: int) -> None:
            if i == 5:
                torch.empty(2**50, device=x.device)

    doctor = MemoryDoctor(every_n_steps=2)
    t = L.Trainer(
        accelerator="gpu", devices=1, max_epochs=1, callbacks=[doctor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        t.fit(Greedy(), loader(64))
    assert doctor.report is not None and math.isfinite(doctor.report.used["device_free"])
