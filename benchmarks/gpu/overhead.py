"""What the callbacks add to a step: each alone, README's list, the recipes; against Lightning's own means."""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks import overhead
from benchmarks.gpu.rows import Clock, Context, Task, measured
from benchmarks.measure import LEAST_ROUNDS, TooLittleTimeError, paired
from benchmarks.overhead import (
    BARE,
    BOTH,
    CHECK,
    CLIP_VAL,
    LISTED,
    LISTED_LOGGED,
    LISTED_OFF,
    LOOK,
    MODULES,
    RECIPE,
    ROWS,
)
from benchmarks.quiet import loggers_silent

ROUNDS, SESSIONS = 6, 3
MAIN = (BARE, "bare Trainer again", CLIP_VAL, overhead.GRAD_NORM, overhead.PER_TENSOR, BOTH, LISTED_OFF, LISTED_LOGGED, LISTED, RECIPE)  # fmt: skip
# (what is seldom in a run and takes long at each step would take the time of the others)
SELDOM = (CHECK, LOOK, MODULES)
REST = (BARE, *(name for name in ROWS if name not in (*MAIN, *SELDOM) and "(4)" not in name and "=4" not in name))
FEW = (BARE, CLIP_VAL, BOTH, LISTED_OFF)
LARGE_STEP = 5.0  # milliseconds from which on README's list may cost 1 %


def tasks(context: Context) -> list[Task]:
    """Return the tasks of this part: the main rows on each model, then every callback alone."""
    if context.small:
        plan = [
            ("c", "32-true", FEW),
            ("a", "32-true", FEW),
            ("c", "bf16-mixed", FEW),
            ("a", "32-true", MAIN),
            ("c", "32-true", REST),
        ]
    else:
        plan = [
            *((model, "32-true", MAIN) for model in ("a", "transformer", "resnet18")),
            *((model, "bf16-mixed", MAIN) for model in ("resnet18", "transformer")),
            ("d", "bf16-mixed", FEW),
            ("a", "32-true", REST),
            ("resnet18", "16-mixed", MAIN),
            ("transformer", "bf16-mixed", REST),
            ("b", "32-true", MAIN),
            ("resnet18", "bf16-mixed", REST),
        ]
    kinds = {MAIN: "main rows", REST: "each alone", FEW: "few rows"}
    return [
        Task(
            f"{_NAMES[model]}, {precision}, {kinds[rows]}",
            _quietly(partial(_table, context, model, precision, rows)),
            4.0,
        )
        for model, precision, rows in plan
    ]


_NAMES = {
    "a": "launch-bound", "b": "12 x 512", "c": "one layer", "d": "compute-bound", "resnet18": "ResNet-18",
    "transformer": "transformer of 12 layers",
}  # fmt: skip


def _quietly(run: Callable[[Clock], Any]) -> Callable[[Clock], Any]:
    def quiet(clock: Clock) -> Any:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), loggers_silent():
            warnings.simplefilter("ignore")
            return run(clock)

    return quiet


def _table(context: Context, model: str, precision: str, rows: Sequence[str], clock: Clock) -> dict[str, Any]:
    mine = clock.part_of(max(6.0, clock.left() / 3))
    options = argparse.Namespace(
        only=list(rows),
        rounds=ROUNDS,
        sessions=SESSIONS,
        steps=3 if context.small else 20,
        threads=torch.get_num_threads(),
    )
    seconds, refused, clocks, sessions = overhead.measure_times(
        model, True, context.accelerator, precision, options, lambda: None, lambda: mine.left() < 0
    )
    if len(sessions) < LEAST_ROUNDS:
        raise TooLittleTimeError(f"{len(sessions)} rounds were measured; an interval needs {LEAST_ROUNDS}")
    return {
        "measured": values(seconds, clocks, sessions, model),
        "refused": refused,
        "seconds_per_step": seconds,
        "session": sessions,
    }


def values(
    seconds: dict[str, list[float]], clocks: dict[str, dict[str, list[float]]], sessions: list[int], model: str
) -> list[dict[str, Any]]:
    """Return ratios and added times by row, the CPU time of the Python thread and the GPU's time beside them."""
    found = []
    bare = statistics.median(seconds[BARE]) * 1e3
    for name in seconds:
        ratio, added = (
            vars(paired(seconds, name, BARE, how, sessions)) for how in (lambda a, b: a / b, lambda a, b: 1e3 * (a - b))
        )
        limit = {LISTED_OFF: 1.01 if bare >= LARGE_STEP else None, RECIPE: 1.02 if model == "b" else None}.get(name)
        found.append(measured(f"{name}, ms per step", 1e3 * statistics.median(seconds[name]), "ms"))
        if name != BARE:
            found.append(measured(f"{name}, over the bare Trainer", None, "x", interval=ratio, at_most=limit))
            found.append(measured(f"{name}, added", None, "ms", interval=added))
        for clock, text in (("thread_seconds", "CPU time of the Python thread"), ("device_seconds", "time of the GPU")):
            if own := clocks[name].get(clock):
                found.append(measured(f"{name}, {text}", 1e3 * statistics.median(own), "ms"))
    if {BOTH, CLIP_VAL} <= set(seconds):
        share = vars(overhead.share_of_added(seconds[BOTH], seconds[CLIP_VAL], seconds[BARE], sessions))
        found.append(
            measured(
                "monitor + clip: added time over that of gradient_clip_val",
                None,
                interval=share,
                at_most=0.5 if model != "c" else None,
            )
        )
    return found
