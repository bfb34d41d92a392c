"""Iterable data sets: what a dry run takes from them is given back, or it is refused by the name of what keeps it."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_tricks import LRFinder, SanityCheck

ROWS = [(torch.randn(4, generator=torch.Generator().manual_seed(i)), i % 3) for i in range(96)]
Row = tuple[Tensor, int]


class Fresh(IterableDataset[Row]):
    """Starts anew each time, and counts how often."""

    passes = 0

    def __iter__(self) -> Iterator[Row]:
        self.passes += 1
        yield from ROWS


class ItsOwnIterator(IterableDataset[Row]):
    """Goes on where it stopped."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> ItsOwnIterator:
        return self

    def __next__(self) -> Row:
        self.at += 1
        return ROWS[self.at % len(ROWS)]


class Shuffled(IterableDataset[Row]):
    """A buffer in the order of its own generators."""

    def __init__(self) -> None:
        self.python, self.numpy = random.Random(3), numpy.random.default_rng(3)
        self.buffer: list[Row] = []

    def __iter__(self) -> Iterator[Row]:
        for row in ROWS:
            self.buffer.append(row)
            if len(self.buffer) > 8:
                where = self.python.randrange(8) if self.numpy.random() < 0.5 else 0
                yield self.buffer.pop(where)


class Lines(IterableDataset[Row]):
    """Reads on in a file that stays open."""

    def __init__(self, path: Path) -> None:
        path.write_text("".join(f"{i}\n" for i in range(96)))
        self.file = path.open()

    def __del__(self) -> None:
        self.file.close()

    def __iter__(self) -> Iterator[Row]:
        if not (line := self.file.readline()):
            self.file.seek(0)
            line = self.file.readline()
        while line:
            yield ROWS[int(line)]
            line = self.file.readline()


class Replayed(IterableDataset[Row]):
    """Draws from what the module has collected, with NumPy's global generator."""

    def __init__(self) -> None:
        self.memory = list(ROWS[:16])

    def __iter__(self) -> Iterator[Row]:
        for _ in range(12):
            yield self.memory[int(numpy.random.randint(len(self.memory)))]


class Endless(IterableDataset[Row]):
    def __iter__(self) -> Iterator[Row]:
        while True:
            yield ROWS[int(torch.randint(len(ROWS), ()))]


class ByWorker(IterableDataset[Row]):
    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        yield from ROWS if worker is None else ROWS[worker.id :: worker.num_workers]


class Learner(L.LightningModule):
    """Remembers what it was given; puts rows into a memory, where there is one."""

    def __init__(self, memory: list[Row] | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net, self.memory = nn.Linear(4, 3), memory
        self.given: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        self.given.append(inputs.clone())
        if self.memory is not None:
            self.memory.append(ROWS[len(self.memory) % len(ROWS)])
        return nn.functional.cross_entropy(self.net(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trained(data: Any, callbacks: list[L.Callback], **arguments: Any) -> Learner:
    L.seed_everything(7, verbose=False)
    module = Learner(getattr(data, "memory", None))
    loader = DataLoader(data, batch_size=4, **arguments)
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(accelerator="cpu", max_steps=20, callbacks=callbacks, **quiet).fit(module, loader)
    return module


STREAMS: dict[str, Callable[[Path], Any]] = {
    "fresh": lambda folder: Fresh(),
    "its own iterator": lambda folder: ItsOwnIterator(),
    "a buffer and generators": lambda folder: Shuffled(),
    "an open file": lambda folder: Lines(folder / "lines"),
    "a memory that training fills": lambda folder: Replayed(),
    "endless": lambda folder: Endless(),
    "a generator function in a chain": lambda folder: Fresh() + Fresh(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "observer", [SanityCheck, lambda: LRFinder(apply=False, num_steps=20)], ids=["sanity", "finder"]
)
@pytest.mark.parametrize("stream", STREAMS)
def test_training_sees_what_it_would_have_seen(stream: str, observer: Callable[[], Any], tmp_path: Path) -> None:
    alone = _trained(STREAMS[stream](tmp_path), [])
    callback = observer()
    data = STREAMS[stream](tmp_path)
    watched = _trained(data, [callback])
    ran = callback.result if isinstance(callback, LRFinder) else callback.checks
    assert ran, "it was not run"
    assert len(watched.given) == len(alone.given)
    assert all(torch.equal(a, b) for a, b in zip(watched.given, alone.given, strict=True))
    assert torch.equal(watched.net.weight, alone.net.weight)
    assert getattr(data, "passes", 1) <= 2  # (those of training alone)


@pytest.mark.filterwarnings("ignore")
def test_workers_of_the_loader_are_not_started_for_it() -> None:
    alone = _trained(ByWorker(), [], num_workers=2)
    check = SanityCheck()
    watched = _trained(ByWorker(), [check], num_workers=2)
    assert check.checks
    assert all(torch.equal(a, b) for a, b in zip(watched.given, alone.given, strict=True))


class Held(IterableDataset[Row]):
    def __init__(self, held: Any) -> None:
        self.held, self.rows = held, ROWS

    def __iter__(self) -> Iterator[Row]:
        yield from self.rows


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (lambda: (row for row in ROWS), r"train_dataloader 0.held is a (running )?generator"),
        (lambda: iter(ROWS), "train_dataloader 0.held is an iterator in progress"),
        (socket.socket, "train_dataloader 0.held is a socket"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*workers.*")
def test_what_keeps_a_stream_from_being_given_back_is_named(held: Callable[[], Any], what: str) -> None:
    thing = held()
    with pytest.warns(UserWarning, match=what):
        _trained(Held(thing), [LRFinder()])
    if isinstance(thing, socket.socket):
        thing.close()


class Validated(Learner):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def _row(name: str, data: Any, validation: Any = None) -> Any:
    check = SanityCheck()
    L.seed_everything(7, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[check], num_sanity_val_steps=0, **quiet)
    module = Learner() if validation is None else Validated()
    trainer.fit(module, DataLoader(data, batch_size=8), validation)
    return next(found for found in check.checks if found.name == name)


class Ordered(IterableDataset[Row]):
    def __init__(self, ordered: bool) -> None:
        self.rows = sorted(ROWS, key=lambda row: row[1]) if ordered else list(ROWS)

    def __iter__(self) -> Iterator[Row]:
        yield from self.rows


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_in_the_order_of_its_labels_is_found(ordered: bool) -> None:
    assert _row("data are shuffled", Ordered(ordered)).passed is not ordered


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
def test_validation_data_that_a_stream_holds_are_found(streamed: bool, shared: bool) -> None:
    rows = ROWS if shared else [(inputs + 1, label) for inputs, label in ROWS]
    held = Held(None)
    held.rows = rows
    data = DataLoader(held if streamed else list(rows), batch_size=8)  # type: ignore[arg-type]
    assert _row("validation data are new", Fresh(), data).passed is not shared


@pytest.mark.filterwarnings("ignore")
def test_a_stream_that_goes_on_does_not_tell_what_it_holds() -> None:
    held = DataLoader([(inputs + 1, label) for inputs, label in ROWS], batch_size=8)  # type: ignore[arg-type]
    long = Held(None)
    long.rows = [(torch.full((4,), float(i)), i % 3) for i in range(2500)]
    found = _row("validation data are new", long, held)
    assert found.passed is None and found.evidence.endswith("and the stream goes on")
