"""Does memory stay as it is over many steps? And how long do the finder, a snapshot and the advice take?"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from benchmarks.ceilings import synchronize
from benchmarks.gpu import problems
from benchmarks.gpu.correctness import listed
from benchmarks.gpu.rows import Clock, Context, Task, measured
from benchmarks.models.resnet import Block, resnet
from benchmarks.models.towers import loop_bound
from benchmarks.models.transformer import ByteTransformer
from benchmarks.overhead import Null
from benchmarks.quiet import loggers_silent
from lightning_tricks import LRFinder, SanityCheck, advise_precision
from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot

STEPS = 5000


def tasks(context: Context) -> list[Task]:
    """Return the tasks of this part."""
    return [
        Task("memory over many steps", _quietly(partial(_flat, context)), 3.0),
        Task("snapshot", _quietly(partial(_snapshot, context))),
        Task("LRFinder", _quietly(partial(_before, context, "LRFinder", lambda: LRFinder(num_steps=100))), 2.0),
        Task("SanityCheck", _quietly(partial(_before, context, "SanityCheck", SanityCheck)), 2.0),
        Task("advise_precision", _quietly(partial(_advice, context)), 2.0),
    ]


def _quietly(run: Callable[[Clock], Any]) -> Callable[[Clock], Any]:
    def quiet(clock: Clock) -> Any:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), loggers_silent():
            warnings.simplefilter("ignore")
            return run(clock)

    return quiet


class Meter(L.Callback):
    """Notes what is allocated at some steps, and ends the training when its time is over."""

    def __init__(self, every: int, clock: Clock) -> None:
        self.every, self.clock = every, clock
        self.steps, self.tensors, self.device_bytes, self.host_bytes = (
            list[int](),
            list[int](),
            list[int](),
            list[int](),
        )

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.every:
            return
        gc.collect()
        self.steps.append(batch_idx + 1)
        self.tensors.append(sum(isinstance(thing, Tensor) for thing in gc.get_objects()))
        self.host_bytes.append(_resident())
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
            self.device_bytes.append(torch.cuda.memory_allocated(module.device))
        if self.clock.left() < 1 and len(self.steps) >= 4:
            trainer.should_stop = True


def _resident() -> int:
    """Memory of this process that is in use, where the system says so; else 0."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


class Endless:
    """Batches on the device, in turn."""

    def __init__(self, batches: list[Any], count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(itertools.cycle(self.batches), self.count)


def _flat(context: Context, clock: Clock) -> dict[str, Any]:
    net, batches = loop_bound()
    moved = [tuple(t.to(context.device) for t in batch) for batch in batches]
    steps = 240 if context.small else STEPS
    meter = Meter(steps // 8, clock.part_of(max(3.0, clock.left() / 2)))
    t = problems.trainer(context, [*listed(manual=True), meter], logger=Null(), log_every_n_steps=10)
    t.fit(problems.Module(net), Endless(moved, steps))
    # the first half fills windows and caches
    half, last = len(meter.steps) // 2 - 1, -1
    apart = (meter.steps[last] - meter.steps[half]) / 1000
    found = [measured("steps", meter.steps[last])]
    found.append(
        measured(
            "tensors more per 1,000 steps, in the second half",
            (meter.tensors[last] - meter.tensors[half]) / apart,
            at_most=0,
        )
    )
    if meter.device_bytes:
        grown = (meter.device_bytes[last] - meter.device_bytes[half]) / apart
        found.append(measured("bytes of the device more per 1,000 steps", grown, "B", at_most=0))
    if any(meter.host_bytes):
        grown = (meter.host_bytes[last] - meter.host_bytes[half]) / apart / 2**20
        found.append(measured("memory of the process more per 1,000 steps", grown, "MiB"))
    return {
        "measured": found,
        "steps": meter.steps,
        "tensors": meter.tensors,
        "device_bytes": meter.device_bytes,
        "host_bytes": meter.host_bytes,
    }


def _models(context: Context) -> dict[str, tuple[nn.Module, Tensor]]:
    if context.small:
        return {"ResNet-18 of 8 channels": (resnet(Block, (2, 2, 2, 2), 8, 10, large=False), torch.randn(8, 3, 32, 32))}
    return {
        "ResNet-18": (resnet(Block, (2, 2, 2, 2), 64, 1000, large=True), torch.randn(32, 3, 224, 224)),
        "transformer, 12 layers of 768": (ByteTransformer(12, 768), torch.randint(256, (8, 256))),
    }


def _snapshot(context: Context, clock: Clock) -> list[dict[str, Any]]:
    found = []
    for name, (net, _) in _models(context).items():
        net.to(context.device)
        optimizer = torch.optim.AdamW(net.parameters())
        for text, steps in (("to look", False), ("to step", True)):
            roots = Roots({"module": net}, {"optimizer": optimizer} if steps else {})
            for _ in range(2):  # the first one warms up
                synchronize(context.device)
                began = time.perf_counter()
                taken = Snapshot(roots, steps=True) if steps else Snapshot(roots)
                synchronize(context.device)
                took = time.perf_counter()
                taken.restore()
                synchronize(context.device)
                put_back = time.perf_counter()
            found.append(measured(f"{name}, {text}: take", 1e3 * (took - began), "ms"))
            found.append(measured(f"{name}, {text}: restore", 1e3 * (put_back - took), "ms"))
    return found


class _First(L.Callback):
    """Notes when the first batch begins; the last callback, so that ours have been there."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        synchronize(module.device)
        self.at = time.perf_counter()


class _Started(L.Callback):
    """Notes when the training starts; the first callback."""

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.at = time.perf_counter()


def _before(context: Context, name: str, make: Callable[[], Any], clock: Clock) -> list[dict[str, Any]]:
    """Time from the start of a fit to its first batch, with a callback that works in between, less that without it."""

    def seconds(*callbacks: Any) -> float:
        start, first = _Started(), _First()
        module = problems.Module(problems.network("conv"))
        problems.trainer(context, [start, *callbacks, first], max_steps=1).fit(module, problems.batches())
        return first.at - start.at

    seconds()
    return [measured(f"{name} on a small net, before the first step", seconds(make()) - seconds(), "s")]


def _advice(context: Context, clock: Clock) -> list[dict[str, Any]]:
    module = problems.Module(problems.network("conv"))
    batch = next(iter(problems.batches()))
    began = time.perf_counter()
    asked = 0.5 if context.small else 5.0
    advice = advise_precision(module, batch, device=context.device, seconds=asked)
    took = time.perf_counter() - began
    return [
        measured("seconds, of those asked for", took / asked),
        measured("recommended", advice.recommended),  # type: ignore[arg-type]
    ]
