"""Float32 against mixed precision: each workload in every precision, compiled and not; accuracy on real data."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import accuracy, ceilings
from benchmarks.cells import Plan, measure, settings_for
from benchmarks.gpu.environment import ceilings as known_ceilings
from benchmarks.gpu.nvml import meter_of
from benchmarks.gpu.rows import Clock, Context, Task, UnavailableError, load, measured
from benchmarks.measure import TooLittleTimeError
from benchmarks.quiet import loggers_silent
from benchmarks.settings import BASES, DEFAULT, PRECISIONS, Setting
from benchmarks.workloads import workloads

ROUNDS, SESSIONS = 6, 3
# workload -> speed and memory of bf16-mixed over TF32 that an H100 or H200 has to reach
GOALS = {"gpt": (1.9, 0.76), "vit_b": (1.9, 0.76), "resnet50": (2.4, 0.60), "convnext": (2.4, 0.60)}
# in the order of their worth; what a CPU plays small has other names
ORDER = ("gpt", "resnet50", "vit_b", "convnext", "lstm_lm", "dcgan", "simsiam", "mlp_tab", "data_bound", "bert", "vit")
SMALL = ("mlp_tab", "lstm", "gpt", "dcgan", "resnet18", "simsiam", "vit", "data_bound")
COMPILED = ("gpt", "resnet50")
WORTH = ("bf16-mixed", "tf32", "ieee-fp32", "16-mixed", "bf16-mixed+pack", "bf16-mixed+pack logged", "bf16-true", "ieee-fp32 again", "torch-default")  # fmt: skip
_PER_COLUMN = {False: 7.0, True: 0.7}  # seconds: one look alone, three sessions of warm-up and two blocks each


def tasks(context: Context) -> list[Task]:
    """Return the tasks of this part: speed of the best known, accuracy, then the rest."""
    names = SMALL if context.small else ORDER
    speed = [Task(f"speed: {name}", _quietly(partial(_speed, context, name, False)), 4.0) for name in names]
    compiled = [Task(f"compiled: {name}", _quietly(partial(_speed, context, name, True)), 20.0) for name in COMPILED]
    trained = [
        Task("accuracy: digits", _quietly(partial(_digits, context)), 2.0 if context.small else 20.0),
        Task("accuracy: bits per byte", _quietly(partial(_bytes, context)), 2.0 if context.small else 20.0),
    ]
    if context.data_root is not None:
        trained.append(Task("accuracy: CIFAR-10", _quietly(partial(_cifar, context)), 30.0, limit=300.0))
    return [*speed[:2], *trained[:1], *speed[2:4], *compiled, *trained[1:], *speed[4:]]


def _quietly(run: Callable[[Clock], Any]) -> Callable[[Clock], Any]:
    def quiet(clock: Clock) -> Any:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), loggers_silent():
            warnings.simplefilter("ignore")
            return run(clock)

    return quiet


def columns(context: Context, name: str, compiled: bool) -> list[Setting]:
    """Return the columns of a workload; on a CPU few of them."""
    if compiled:
        return [Setting(p, compiled=c) for p in ("ieee-fp32", "tf32", "bf16-mixed") for c in (False, True)]
    workload = workloads("cpu" if context.small else "gpu")[name]
    known = [p for p in PRECISIONS if not Setting(p).missing(context.device)]
    found = settings_for(workload, known, gpu=not context.small)
    return [s for s in found if s.role in ("main", "again", "pack")] if context.small else found


def worthiest(settings: Sequence[Setting], count: int) -> list[Setting]:
    """Return so many columns, at least two, in their order: what is compared most comes first.

    >>> [s.name for s in worthiest([Setting(p) for p in PRECISIONS], 1)]
    ['tf32', 'bf16-mixed']
    """
    worth = {name: i for i, name in enumerate(WORTH)}
    best = sorted(settings, key=lambda s: worth.get(s.name, len(worth)))[: max(2, count)]
    return [s for s in settings if s in best]


def _speed(context: Context, name: str, compiled: bool, clock: Clock) -> dict[str, Any]:
    if compiled and context.small:
        raise UnavailableError("compiling takes longer than a small run has")
    device = context.device
    workload = workloads("cpu" if context.small else "gpu")[name]
    # a third of the time at most goes to one workload, so that there are several
    mine = clock.part_of(max(6.0 if context.small else 20.0, clock.left() / 3))
    settings = columns(context, name, compiled)
    if not compiled:
        settings = worthiest(settings, int(mine.left() / _PER_COLUMN[context.small]))
    limits = known_ceilings(load(context.out / "environment.json")) or ceilings.measure(device, context.small)
    blocks = ROUNDS * len(settings)
    plan = Plan(ROUNDS, min(0.5, max(0.01, 0.4 * mine.left() / blocks)), 2, SESSIONS)
    meter = meter_of(device)
    states: list[dict[str, Any]] = []

    def tick(text: str) -> None:
        if text.endswith(": time") and meter.megahertz() is not None:
            states.append({"megahertz": meter.megahertz(), "throttled": meter.throttled(), "watts": meter.watts()})

    cells = measure(
        workload, settings, device, plan, limits, fused=not context.small, tick=tick,
        enough=lambda: mine.left() < 0, meter=meter.joules,
    )  # fmt: skip
    return {"measured": values(cells, name), "cells": cells, "states": states, "workload": workload.text}


def values(cells: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return what the cells of a workload say, in the suite's form.

    Raises:
        RuntimeError: no cell was measured.
    """
    done = [c for c in cells if c["status"] == "ok"]
    if not done:
        raise RuntimeError(f"no cell was measured: {cells[0].get('reason')}")
    found = []
    for c in done:
        found.append(measured(c["setting"], None, "ms", interval=c["milliseconds"]))
        found.append(measured(f"{c['setting']}, per second", c["per_second"], c["unit"]))
        found.append(measured(f"{c['setting']}, peak memory", c["peak_bytes"] / 2**20, "MiB"))
        for base in BASES:
            key = f"faster_than_{base}"
            if key in c and c["setting"] != base:
                goal = GOALS.get(name) if c["setting"] == "bf16-mixed" and base == "tf32" else None
                found.append(measured(f"{c['setting']} over {base}, speed", None, "x", interval=c[key], at_least=goal and goal[0]))  # fmt: skip
                found.append(measured(f"{c['setting']} of {base}, memory", c[f"memory_of_{base}"], at_most=goal and goal[1]))  # fmt: skip
        for key, unit in (("mfu_datasheet", ""), ("mfu_ceiling", ""), ("bandwidth_share", ""), ("busy", ""), ("joules_per_item", f"J/{c['unit'][:-1]}")):  # fmt: skip
            if c.get(key) is not None:
                found.append(measured(f"{c['setting']}, {key.replace('_', ' ')}", c[key], unit))
        if c.get("launch_bound"):
            found.append(measured(f"{c['setting']}, waits for the host", "yes"))  # type: ignore[arg-type]
        for when in ("_off", "_logged", ""):
            if f"pack_cost{when}" in c:
                what = {"_off": "steps not logged", "_logged": "logged steps", "": "1 of 50 logged"}[when]
                found.append(measured(f"{c['setting']}, the pack over none, {what}", None, "x", interval=c[f"pack_cost{when}"]))  # fmt: skip
    return found


def _usable(context: Context) -> list[str]:
    known = [p for p in PRECISIONS if not Setting(p).missing(context.device) and p != DEFAULT]
    return known[:2] if context.small else known


def _digits(context: Context, clock: Clock) -> dict[str, Any]:
    seeds, epochs = (2, 1) if context.small else (6, 6)
    return _trained("digits", accuracy.digits(), context, seeds, epochs, clock)


def _cifar(context: Context, clock: Clock) -> dict[str, Any]:
    assert context.data_root is not None
    return _trained("CIFAR-10", accuracy.cifar(context.data_root), context, 3, 8, clock)


def _trained(name: str, data: Any, context: Context, seeds: int, epochs: int, clock: Clock) -> dict[str, Any]:
    table = accuracy.measure(name, data, _usable(context), context.device, seeds, epochs, _until(clock))
    found = []
    for r in table["rows"]:
        found.append(measured(f"{r['precision']}, accuracy after {epochs} epochs", r["mean_accuracy"], "%"))
        if "difference" in r:
            what = f"{r['precision']}, points more than {r['base']} [90 %], {r['verdict']} within {accuracy.MARGIN}"
            found.append(measured(what, None, "points", interval=r["difference"]))
    return {"measured": found, "table": table}


def _bytes(context: Context, clock: Clock) -> dict[str, Any]:
    seeds, steps, size = (2, 4, (1, 64, 16, 4)) if context.small else (3, 100, (6, 384, 256, 32))
    table = accuracy.bits_per_byte(_usable(context), context.device, seeds, steps, size, _until(clock))
    found = []
    for r in table["rows"]:
        bits = math.fsum(r["bits"]) / len(r["bits"])
        found.append(measured(f"{r['precision']}, bits per byte after {steps} updates", bits))
        if "more_bits_percent" in r:
            what = f"{r['precision']}, bits more [90 %], {r['verdict']} within {accuracy.BITS_MARGIN:g} %"
            found.append(measured(what, None, "%", interval=r["more_bits_percent"]))
    return {"measured": found, "table": table}


def _until(clock: Clock) -> Callable[[str], None]:
    def tick(text: str) -> None:
        if clock.left() < 0:
            raise TooLittleTimeError(f"the time was over at {text}")

    return tick
