"""How good is the learning rate that a finder suggests? Ours against Lightning's, on six tasks.

A grid of 12 rates, each trained for 300 updates, gives the best loss that a constant rate reaches. A finder's rate is
then trained in the same way, and its loss put over the best one.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.tuner import Tuner
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.environment import describe
from benchmarks.models.small_tasks import OPTIMIZERS, TASKS, Task, text_hash, trained_loss
from benchmarks.results import FOLDER, save, table
from lightning_tricks import LRFinder

GRID = [10.0 ** (-5.0 + 0.5 * i) for i in range(12)]
GRID_FILE = FOLDER / "lr_finder-grid.json"
UPDATES, SEEDS, STEPS = 300, 3, 100
OURS, REFINED, LIGHTNING = "LRFinder", "LRFinder(refine=True)", "Lightning's Tuner.lr_find"
FINDERS = (OURS, REFINED, LIGHTNING)
RULES = ("slide", "valley", "steepest")
METHOD = (
    f"The grid: {len(GRID)} rates from 1e-5 to 3.2, {UPDATES} updates at each, constant rate, loss on data that are not "
    f"trained on; its lowest loss is the best. A finder gets {STEPS} rates from 1e-7 to 10; its suggestion is trained in "
    "the same way, from the same weights and on the same order of data. A suggestion that diverges counts as inf, no "
    "suggestion as the rate that Lightning or we keep (1e-3). Time: a fit with the finder and one step, over a bare fit of "
    f"{STEPS} steps, interleaved, median of 3. loss/best: over tasks, optimizers and seeds. Other rules of "
    "ours are judged on the grid (log loss, linear between rates)."
)


class Module(L.LightningModule):
    """A task under an optimizer."""

    def __init__(self, task: Task, optimizer: str, seed: int) -> None:
        super().__init__()
        self.net, self.task, self.optimizer, self.lr = task.module(seed), task, optimizer, 1e-3

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.task.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.parameters(), lr=self.lr)


def trainer(**arguments: Any) -> L.Trainer:
    """A Trainer with nothing in it."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return L.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **{"max_steps": 1, **quiet, **arguments})


def ours(task: Task, optimizer: str, seed: int, refine: bool) -> dict[str, Any]:
    """Run our finder; return what it suggests and how long it took."""
    finder = LRFinder(num_steps=STEPS, refine=refine, apply=False)
    t, module, data = trainer(callbacks=[finder]), Module(task, optimizer, seed), task.loader(seed)
    begun = time.perf_counter()
    t.fit(module, data)
    seconds, result = time.perf_counter() - begun, finder.result
    assert result is not None
    return {
        "lr": result.suggestion,
        "confident": result.confident,
        "reasons": result.reasons,
        "rules": result.suggestions,
        "seconds": seconds,
        "points": len(result.lrs),
    }


def lightnings(task: Task, optimizer: str, seed: int) -> dict[str, Any]:
    """Run Lightning's finder with the same rates."""
    t, module, data = trainer(), Module(task, optimizer, seed), task.loader(seed)
    module.trainer = t
    begun = time.perf_counter()
    found = Tuner(t).lr_find(module, data, min_lr=1e-7, max_lr=10.0, num_training=STEPS, update_attr=False)
    seconds = time.perf_counter() - begun
    suggestion = None if found is None else found.suggestion()
    return {"lr": suggestion, "confident": suggestion is not None, "reasons": [], "rules": {}, "seconds": seconds}


def time_ratio(task: Task, optimizer: str, seed: int, rounds: int = 3) -> float:
    """Return the time of a fit with our finder and one step, over that of a bare fit of as many steps as rates."""
    ratios = []
    for _ in range(rounds):
        module, data = Module(task, optimizer, seed), task.loader(seed)
        module.lr, t = 1e-4, trainer(max_steps=STEPS)
        begun = time.perf_counter()
        t.fit(module, data)
        bare = time.perf_counter() - begun
        ratios.append(ours(task, optimizer, seed, False)["seconds"] / bare)
    return statistics.median(ratios)


def on_grid(losses: Sequence[float], lr: float) -> float:
    """Return the loss between two rates of the grid; log loss is linear in log rate."""
    place = min(max((math.log10(lr) + 5.0) / 0.5, 0.0), len(losses) - 1.0)
    low = min(int(place), len(losses) - 2)
    if math.isinf(losses[low]) or math.isinf(losses[low + 1]):
        return math.inf
    a, b = math.log(losses[low]), math.log(losses[low + 1])
    return math.exp(a + (b - a) * (place - low))


def _work(job: tuple[str, str, int, tuple[str, ...]]) -> dict[str, Any]:
    """One task, optimizer and seed, in a process of its own."""
    name, optimizer, seed, finders = job
    _quiet()
    task = TASKS[name]()
    row: dict[str, Any] = {"task": name, "optimizer": optimizer, "seed": seed}
    if not finders:
        return {**row, "losses": [trained_loss(task, optimizer, lr, seed, UPDATES) for lr in GRID]}
    run = {
        OURS: lambda: ours(task, optimizer, seed, False),
        REFINED: lambda: ours(task, optimizer, seed, True),
        LIGHTNING: lambda: lightnings(task, optimizer, seed),
    }
    ours(task, optimizer, seed, False)  # the first fit of a process imports things
    row["time_ratio"] = time_ratio(task, optimizer, seed)
    for finder in finders:
        found = run[finder]()
        used = found["lr"] if found["confident"] and found["lr"] else 1e-3
        row[finder] = {**found, "loss": trained_loss(task, optimizer, used, seed, UPDATES)}
    return row


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.ERROR)
        logging.getLogger(name).setLevel(logging.ERROR)


def _all(jobs: list[Any], title: str, processes: int) -> list[dict[str, Any]]:
    with Progress(console=Console(stderr=True), transient=True) as progress, ProcessPoolExecutor(processes) as pool:
        task, rows = progress.add_task(title, total=len(jobs)), []
        for row in pool.map(_work, jobs):
            rows.append(row)
            progress.advance(task)
    return rows


def compute_grid(processes: int) -> dict[str, Any]:
    """Train at every rate of the grid and write the file: the expensive part, done once."""
    jobs = [(name, optimizer, seed, ()) for name in TASKS for optimizer in OPTIMIZERS for seed in range(SEEDS)]
    rows = _all(jobs, "grid", processes)
    grid = {
        "table": "lr_finder grid",
        "command": "python -m benchmarks run lr_finder --grid",
        "environment": describe(),
        "text": text_hash(),
        "rates": GRID,
        "updates": UPDATES,
        "rows": [{**row, "losses": [x if math.isfinite(x) else None for x in row["losses"]]} for row in rows],
    }
    save(grid, GRID_FILE, _grid_markdown(grid))
    return grid


def _grid_markdown(grid: dict[str, Any]) -> str:
    header = ["task", "optimizer", "seed", *(f"{lr:.1e}" for lr in grid["rates"])]
    rows = [
        [r["task"], r["optimizer"], str(r["seed"]), *("inf" if x is None else f"{x:.3g}" for x in r["losses"])]
        for r in grid["rows"]
    ]
    return (
        f"# Loss after {grid['updates']} updates at a constant rate\n\n`{grid['command']}`\n\n{table(header, rows)}\n"
    )


def judged(rows: list[dict[str, Any]], grid: dict[str, Any]) -> list[dict[str, Any]]:
    """Put every finder's loss and rate over the best of the grid."""
    known = {
        (r["task"], r["optimizer"], r["seed"]): [math.inf if x is None else x for x in r["losses"]]
        for r in grid["rows"]
    }
    out: dict[str, list[tuple[float, float, float, bool]]] = {}
    for row in rows:
        losses = known[row["task"], row["optimizer"], row["seed"]]
        best, best_lr = min(losses), GRID[losses.index(min(losses))]
        for finder in FINDERS:
            if finder not in row:
                continue
            found = row[finder]
            lr = found["lr"] if found["confident"] and found["lr"] else 1e-3
            # (a suggestion may be better than every rate of the grid)
            ratio = row["time_ratio"] if finder == OURS else math.nan
            entry = (found["loss"] / best, math.log10(lr / best_lr), ratio, found["confident"])
            out.setdefault(finder, []).append(entry)
            for rule in RULES if finder == OURS else ():
                if rule in found["rules"]:
                    lr = found["rules"][rule]
                    entry = (on_grid(losses, lr) / best, math.log10(lr / best_lr), math.nan, True)
                    out.setdefault(f"our rule {rule!r}", []).append(entry)
    return [_summary(finder, entries) for finder, entries in out.items()]


def _summary(finder: str, entries: list[tuple[float, float, float, bool]]) -> dict[str, Any]:
    ratios, offsets, times, confident = zip(*entries, strict=True)
    summary = {
        "finder": finder,
        "runs": len(entries),
        "median_loss_ratio": statistics.median(ratios),
        "p90_loss_ratio": _percentile(ratios, 0.9),
        "largest_loss_ratio": max(ratios),
        "median_log10_lr_ratio": statistics.median(offsets),
        "p90_abs_log10_lr_ratio": _percentile([abs(x) for x in offsets], 0.9),
        "median_time_ratio": statistics.median(times),
        "confident": sum(confident) / len(confident),
    }
    # JSON has neither inf (a suggestion that diverges) nor NaN (not measured)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()}


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile, linear between ranks."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low]) if ordered[high] < math.inf else math.inf


def _shown(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.2f}"


def gates(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is to be reached by our finder, and what was measured."""
    found = next((s for s in summaries if s["finder"] == OURS), None)
    if found is None:
        return []
    wanted = (
        ("median loss/best", "median_loss_ratio", 1.15),
        ("90th percentile of loss/best", "p90_loss_ratio", 3.0),
        (f"time over a bare fit of {STEPS} steps", "median_time_ratio", 1.5),
    )
    return [
        {"gate": t, "limit": limit, "value": found[k], "passed": found[k] is not None and found[k] <= limit}
        for t, k, limit in wanted
    ]


def markdown(result: dict[str, Any]) -> str:
    """Return the tables of a result."""
    e = result["environment"]
    lines = [f"# Learning-rate finders\n\n`{result['command']}`\n"]
    lines.append(f"{e['cpu']}, torch {e['torch']}, lightning {e['lightning']}. {result['method']}\n")
    header = ["finder", "runs", "median loss/best", "90th percentile", "largest", "median log10(lr/best)", "90th percentile of its size", "time / bare fit", "confident"]  # fmt: skip
    rows = [
        [
            s["finder"],
            str(s["runs"]),
            *(_shown(s[k], "inf") for k in ("median_loss_ratio", "p90_loss_ratio", "largest_loss_ratio")),
            f"{s['median_log10_lr_ratio']:+.2f}",
            f"{s['p90_abs_log10_lr_ratio']:.2f}",
            _shown(s["median_time_ratio"], "-"),
            f"{s['confident']:.0%}",
        ]
        for s in result["summary"]
    ]
    lines.append(table(header, rows) + "\n")
    goals = [
        [g["gate"], f"{g['limit']}", _shown(g["value"], "inf"), "yes" if g["passed"] else "NO"] for g in result["gates"]
    ]
    lines.append(table(["to reach (LRFinder)", "limit", "measured", "reached"], goals) + "\n")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and save; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run lr_finder", description=__doc__)
    parser.add_argument("--grid", action="store_true", help="compute the grid anew first (some minutes)")
    parser.add_argument("--tasks", default=None, help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER / "lr_finder-cpu.json")
    parser.add_argument("--quick", action="store_true", help="three small tasks, one seed: to see that it runs")
    options = parser.parse_args(arguments)
    names = options.tasks.split(",") if options.tasks else list(TASKS)
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"--tasks {','.join(unknown)}: not one of {', '.join(TASKS)}")
    seeds = range(SEEDS)
    if options.quick:
        names, seeds = ["breast cancer MLP", "noisy regression", "BatchNorm spiral"], range(1)
    grid = compute_grid(options.processes) if options.grid else json.loads(GRID_FILE.read_text())
    if grid["text"] != text_hash() and any(name.startswith("byte") for name in names):
        print(
            "the text corpus (Python's own source) differs from the grid's: run with --grid for the byte tasks",
            file=sys.stderr,
        )
    finders = (OURS, LIGHTNING) if options.quick else FINDERS
    jobs = [(name, optimizer, seed, finders) for name in names for optimizer in OPTIMIZERS for seed in seeds]
    rows = _all(jobs, "finders", options.processes)
    summaries = judged(rows, grid)
    result = {
        "table": "lr_finder",
        "command": "python -m benchmarks run lr_finder" + "".join(f" {a}" for a in arguments),
        "date": time.strftime("%Y-%m-%d"),
        "environment": describe(),
        "method": METHOD,
        "rows": rows,
        "summary": summaries,
        "gates": gates(summaries),
    }
    text = markdown(result)
    save(result, options.out, text)
    console = Console(width=180)
    console.print(text, markup=False, highlight=False)
    console.print(f"written: {options.out} and {options.out.with_suffix('.md').name}", highlight=False)
    return 0
