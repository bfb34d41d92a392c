"""How good is the learning rate that a finder suggests? Ours against Lightning's, on 25 tasks.

A grid of 15 rates, each trained for 300 updates, gives the best loss that a constant rate reaches. A finder's rate is
then trained in the same way, and its loss put over the best one. Rules and thresholds were chosen on the development
half; the held-out half is for measuring only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.tuner import Tuner
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.environment import describe
from benchmarks.models.small_tasks import OPTIMIZERS, TASKS, Task, text_hash, trained_loss
from benchmarks.models.task_families import FAMILIES, HELD_OUT, optimizers_of
from benchmarks.quiet import quiet
from benchmarks.results import FOLDER, out_path, save, table
from lightning_tricks import LRFinder

ALL = {**TASKS, **FAMILIES}
DEVELOPED, HELD = "development", "held out"
FIRST, APART = -6.0, 0.5  # of the grid, in decades
GRID = [10.0 ** (FIRST + APART * i) for i in range(15)]
GRID_FILE = FOLDER / "lr_finder-grid.json"
UPDATES, STEPS, ORDERS, KEPT = 300, 100, 5, 1e-3
OURS, REFINED, LIGHTNING = "LRFinder", "LRFinder(refine=True)", "Lightning's Tuner.lr_find"
FINDERS = (OURS, REFINED, LIGHTNING)
RULES = ("center", "slide", "valley", "steepest")
GOOD, BAD = 1.5, 3.0
OF_TEXT = {"byte LSTM", "byte transformer", "post-norm transformer", "multi-label", "which file"}
METHOD = (
    f"The grid: {len(GRID)} rates from 1e-6 to 10, {UPDATES} updates at each, constant rate, loss on data that are not "
    f"trained on; its lowest loss is the best. A finder gets {STEPS} rates from 1e-7 to 10; its suggestion is trained in "
    "the same way, from the same weights and on the same order of data. A suggestion that diverges counts as inf, no "
    f"suggestion as the rate that Lightning or we keep ({KEPT:g}). Time: a fit with the finder and one step, over a bare "
    f"fit of {STEPS} steps, median of 3, first seed. refine=True: first seed. loss/best: over tasks, optimizers and seeds. "
    "Other rules of ours are judged on the grid (log loss, linear between rates), whatever the confidence. Spread: decades "
    f"between the smallest and the largest suggestion over {ORDERS} orders of the data, same weights. Development: the "
    "tasks on which rules and thresholds were chosen. Held out: families that the rule in benchmarks/models/task_families.py "
    "set aside before any was trained, evaluated once."
)


def half_of(name: str) -> str:
    """Return whether a task was used to choose rules and thresholds."""
    return HELD if name in HELD_OUT else DEVELOPED


def pairs(names: Sequence[str], quick: bool = False) -> list[tuple[str, str, int]]:
    """Return (task, optimizer, seed): three seeds of the first six tasks, two of the families."""
    return [
        (name, optimizer, seed)
        for name in names
        for optimizer in (optimizers_of(name) if name in FAMILIES else ("SGD momentum", "AdamW"))
        for seed in range(1 if quick else 2 if name in FAMILIES else 3)
    ]


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


def ours(task: Task, optimizer: str, seed: int, refine: bool, order: int = 0) -> dict[str, Any]:
    """Run our finder on one order of the data; return what it suggests and how long it took."""
    finder = LRFinder(num_steps=STEPS, refine=refine, apply=False)
    t, module, data = trainer(callbacks=[finder]), Module(task, optimizer, seed), task.loader(seed + 100 * order)
    torch.manual_seed(seed)  # (of dropout and augmentation)
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
    torch.manual_seed(seed)
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
    place = min(max((math.log10(lr) - FIRST) / APART, 0.0), len(losses) - 1.0)
    low = min(int(place), len(losses) - 2)
    if math.isinf(losses[low]) or math.isinf(losses[low + 1]):
        return math.inf
    a, b = math.log(losses[low]), math.log(losses[low + 1])
    return math.exp(a + (b - a) * (place - low))


@quiet()
def _work(job: tuple[str, str, int, tuple[str, ...]]) -> dict[str, Any]:
    """One task, optimizer and seed, in a process of its own."""
    name, optimizer, seed, finders = job
    task = ALL[name]()
    row: dict[str, Any] = {"task": name, "optimizer": optimizer, "seed": seed}
    if not finders:
        return {**row, "losses": [trained_loss(task, optimizer, lr, seed, UPDATES) for lr in GRID]}
    run = {
        OURS: lambda: ours(task, optimizer, seed, False),
        REFINED: lambda: ours(task, optimizer, seed, True),
        LIGHTNING: lambda: lightnings(task, optimizer, seed),
    }
    if seed == 0:
        ours(task, optimizer, seed, False)  # the first fit of a process imports things
        row["time_ratio"] = time_ratio(task, optimizer, seed)
    for finder in finders:
        if finder == REFINED and seed > 0:
            continue
        found = run[finder]()
        used = found["lr"] if found["confident"] and found["lr"] else KEPT
        found["loss"] = trained_loss(task, optimizer, used, seed, UPDATES)
        wanted = found["lr"] or KEPT  # whatever the confidence
        found["loss_of_suggestion"] = found["loss"] if wanted == used else trained_loss(task, optimizer, wanted, seed)
        row[finder] = found
    if OURS in finders:
        row["orders"] = [row[OURS], *(ours(task, optimizer, seed, False, order) for order in range(1, ORDERS))]
    return row


def _all(jobs: list[Any], title: str, processes: int) -> list[dict[str, Any]]:
    with Progress(console=Console(stderr=True), transient=True) as progress, ProcessPoolExecutor(processes) as pool:
        task, rows = progress.add_task(title, total=len(jobs)), []
        for row in pool.map(_work, jobs):
            rows.append(row)
            progress.advance(task)
    return rows


def compute_grid(processes: int) -> dict[str, Any]:
    """Train at every rate of the grid and write the file: the expensive part, done once."""
    rows = _all([(*pair, ()) for pair in pairs(list(ALL))], "grid", processes)
    return _saved_grid(rows)


def _saved_grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
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
    """Put every finder's loss and rate over the best of the grid, for each half."""
    known = {
        (r["task"], r["optimizer"], r["seed"]): [math.inf if x is None else x for x in r["losses"]]
        for r in grid["rows"]
    }
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        losses, half = known[row["task"], row["optimizer"], row["seed"]], half_of(row["task"])
        best, best_lr = min(losses), GRID[losses.index(min(losses))]
        for finder in FINDERS:
            if finder not in row:
                continue
            found = row[finder]
            entry = {
                "ratio": found["loss"] / best,  # (a suggestion may be better than every rate of the grid)
                "suggested": found.get("loss_of_suggestion", found["loss"]) / best,
                "offset": math.log10((found["lr"] if found["confident"] and found["lr"] else KEPT) / best_lr),
                "time": row.get("time_ratio") if finder == OURS else None,
                "confident": found["confident"],
                "orders": row.get("orders", []) if finder == OURS else [],
            }
            out.setdefault((half, finder), []).append(entry)
            for rule in RULES if finder == OURS else ():
                if rule in found["rules"]:
                    lr = found["rules"][rule]
                    ratio = on_grid(losses, lr) / best
                    orders = [{**o, "lr": o["rules"].get(rule)} for o in row.get("orders", [])]
                    entry = {**entry, "ratio": ratio, "suggested": ratio, "offset": math.log10(lr / best_lr)}
                    entry = {**entry, "time": None, "orders": orders}
                    out.setdefault((half, f"our rule {rule!r}"), []).append(entry)
    return [_summary(half, finder, entries) for (half, finder), entries in sorted(out.items(), key=lambda x: x[0][0])]


def _summary(half: str, finder: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    ratios, suggested = [e["ratio"] for e in entries], [e["suggested"] for e in entries]
    offsets, times = [e["offset"] for e in entries], [e["time"] for e in entries if e["time"]]
    believed = [e["suggested"] for e in entries if e["confident"]]
    refused = [e["suggested"] for e in entries if not e["confident"]]
    spreads = [spread for e in entries if (spread := spread_of(e["orders"])) is not None]
    summary = {
        "half": half,
        "finder": finder,
        "runs": len(entries),
        "median_loss_ratio": statistics.median(ratios),
        "p90_loss_ratio": _percentile(ratios, 0.9),
        "largest_loss_ratio": max(ratios),
        "median_log10_lr_ratio": statistics.median(offsets),
        "p90_abs_log10_lr_ratio": _percentile([abs(x) for x in offsets], 0.9),
        "median_time_ratio": statistics.median(times) if times else None,
        "confident": len(believed) / len(entries),
        "median_of_suggestion": statistics.median(suggested),
        "p90_of_suggestion": _percentile(suggested, 0.9),
        "believed": len(believed),
        "believed_good": sum(x <= GOOD for x in believed),
        "believed_bad": sum(x > BAD for x in believed),
        "refused_good": sum(x <= GOOD for x in refused),
        "refused_bad": sum(x > BAD for x in refused),
        "refused": len(refused),
        "median_spread": statistics.median(spreads) if spreads else None,
        "p90_spread": _percentile(spreads, 0.9) if spreads else None,
    }
    # JSON has neither inf (a suggestion that diverges) nor NaN
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()}


def spread_of(orders: Sequence[dict[str, Any]]) -> float | None:
    """Return the decades between the smallest and the largest rate of orders with confidence; None for fewer than two.

    >>> spread_of([{"lr": 0.1, "confident": True}, {"lr": 1.0, "confident": True}, {"lr": 9.0, "confident": False}])
    1.0
    """
    found = [o["lr"] for o in orders if o["confident"] and o["lr"]]
    return math.log10(max(found) / min(found)) if len(found) > 1 else None


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
    found = next((s for half in (HELD, DEVELOPED) for s in summaries if (s["half"], s["finder"]) == (half, OURS)), None)
    if found is None:
        return []
    wanted = (
        ("median loss/best", "median_loss_ratio", 1.05),
        ("90th percentile of loss/best", "p90_loss_ratio", 1.5),
        (f"suggestions over {BAD:g} times the best loss, while confident", "believed_bad", 0),
        ("median spread over orders of the data, decades", "median_spread", 0.5),
        ("90th percentile of it", "p90_spread", 1.0),
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
    for half in (HELD, DEVELOPED):
        summaries = [s for s in result["summary"] if s["half"] == half]
        if summaries:
            lines += [f"## {half.capitalize()}\n", _losses(summaries) + "\n", _gate(summaries) + "\n"]
    goals = [
        [g["gate"], f"{g['limit']}", _shown(g["value"], "inf"), "yes" if g["passed"] else "NO"] for g in result["gates"]
    ]
    half = HELD if any(s["half"] == HELD for s in result["summary"]) else DEVELOPED
    lines.append(table([f"to reach (LRFinder, {half})", "limit", "measured", "reached"], goals) + "\n")
    return "\n".join(lines)


def _losses(summaries: list[dict[str, Any]]) -> str:
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
        for s in summaries
    ]
    return table(header, rows)


def _gate(summaries: list[dict[str, Any]]) -> str:
    """The suggestion regardless of the gate, how often the gate was right, and the spread over orders."""
    header = ["suggestion of", "median, whatever the confidence", "90th percentile", f"confident: within {GOOD:g}x", f"confident: over {BAD:g}x", f"refused: within {GOOD:g}x", f"refused: over {BAD:g}x", "spread over orders, decades", "90th percentile"]  # fmt: skip
    rows = [
        [
            s["finder"],
            _shown(s["median_of_suggestion"], "inf"),
            _shown(s["p90_of_suggestion"], "inf"),
            *(f"{s['believed_' + what]}/{s['believed']}" for what in ("good", "bad")),
            *(f"{s['refused_' + what]}/{s['refused']}" for what in ("good", "bad")),
            _shown(s["median_spread"], "-"),
            _shown(s["p90_spread"], "-"),
        ]
        for s in summaries
    ]
    return table(header, rows)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and save; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run lr_finder", description=__doc__)
    parser.add_argument("--grid", action="store_true", help="compute the grid anew first (some minutes)")
    parser.add_argument("--tasks", default=None, help=f"comma-separated, of {', '.join(ALL)}".replace("%", "%%"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=out_path, default=FOLDER / "lr_finder-cpu.json")
    parser.add_argument("--quick", action="store_true", help="three small tasks, one seed: to see that it runs")
    options = parser.parse_args(arguments)
    names = options.tasks.split(",") if options.tasks else list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"--tasks {','.join(unknown)}: not one of {', '.join(ALL)}")
    if options.quick:
        names = ["breast cancer MLP", "noisy regression", "BatchNorm spiral"]
    grid = compute_grid(options.processes) if options.grid else json.loads(GRID_FILE.read_text())
    if grid["text"] != text_hash() and set(names) & OF_TEXT:
        print(
            "the text corpus (Python's own source) differs from the grid's: run with --grid for the tasks on text",
            file=sys.stderr,
        )
    finders = (OURS, LIGHTNING) if options.quick else FINDERS
    rows = _all([(*pair, finders) for pair in pairs(names, options.quick)], "finders", options.processes)
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
