"""The training tricks of the literature, each measured: small real data, several seeds, paired, with intervals.

The studies are in ``models/studies.py``: arms that differ in one thing. For each arm the mean of its measures, and the
difference to its baseline with a 95 % interval of the paired t test; where that contains 0, nothing is claimed.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from scipy.stats import t as student

from benchmarks.collapse import quiet
from benchmarks.environment import describe
from benchmarks.models.studies import STUDIES, Setting, Study
from benchmarks.results import FOLDER, out_path, save, table

QUICK = ("one_cycle", "clipping", "imbalance", "early_stopping")
SHARES = ("train", "test", "gap", "macro_f1", "minority_recall", "diverged")
METHOD = (
    "Arms of a study differ in one thing; data, their split, initial weights and the order of batches are the same for the "
    "same seed. Differences are paired by seed, with the 95 % interval of the t test; where it contains 0, nothing is "
    "claimed. Rates were set by hand beforehand (those of the optimizers: the best on other seeds) and are equal in all arms "
    "unless they are the question. Small networks on small data: the direction may carry over, the size may not."
)


def one(name: str, arm: str, seed: int, setting: Setting) -> dict[str, float]:
    """Train one network; called in a process of its own."""
    study = next(s for s in STUDIES if s.name == name)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return study.arms[arm](seed, setting)


def interval(values: Sequence[float]) -> list[float]:
    """Return the mean of ``values`` and its 95 % interval (Student's t).

    >>> [round(x, 2) for x in interval([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    mean = fmean(values)
    if len(values) < 2:
        return [mean, -math.inf, math.inf]
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return [mean, mean - half, mean + half]


def summary(study: Study, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return what a study found.

    Args:
        study: the study.
        runs: arm -> the measures of each seed.
    """
    arms = {}
    for arm, rows in runs.items():
        base = study.baseline(arm)
        means = {key: fmean(row[key] for row in rows) for key in rows[0]}
        arms[arm] = {"means": means, "against": base, "difference": None, "runs": rows}
        if base is not None:
            pairs = zip(rows, runs[base], strict=True)
            arms[arm]["difference"] = interval([row[study.measure] - other[study.measure] for row, other in pairs])
    about = {key: getattr(study, key) for key in ("name", "question", "literature", "setting", "measure", "higher")}
    return {**about, "arms": arms}


def verdict(study: dict[str, Any], arm: str) -> str:
    """Return better, worse or no claim; empty for the baseline."""
    difference = study["arms"][arm]["difference"]
    if difference is None:
        return "baseline"
    _, low, high = difference
    if low <= 0 <= high:
        return "no claim"
    return "better" if (low > 0) is study["higher"] else "worse"


def shown(key: str, value: float, signed: bool = False) -> str:
    """Return a measure as text: shares in per cent, epochs as numbers, losses with three digits."""
    sign = "+" if signed else ""
    if key in SHARES:
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.1f}" if key == "epochs" else f"{value:{sign}.3f}"


def rows_of(study: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a study's table."""
    keys = list(dict.fromkeys(key for arm in study["arms"].values() for key in arm["means"]))
    names = [f"{key.replace('_', ' ')}{', %' if key in SHARES else ''}" for key in keys]
    rows = []
    for arm, found in study["arms"].items():
        difference = "-"
        if found["difference"] is not None:
            mean, low, high = (shown(study["measure"], x, signed=True) for x in found["difference"])
            difference = f"{mean} [{low}, {high}]"
        values = [shown(key, found["means"][key]) if key in found["means"] else "-" for key in keys]
        base = found["against"]
        judged = verdict(study, arm) + (f" than {base}" if base and verdict(study, arm) != "no claim" else "")
        rows.append([arm, *values, difference, judged])
    return ["arm", *names, f"{study['measure'].replace('_', ' ')}: difference [95 %]", "verdict"], rows


def markdown(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    where = result["environment"]
    data = "CIFAR-10 and others" if result["cifar"] else "bundled data"
    parts = [
        "# Training tricks of the literature, measured",
        f"{where['gpu'] or where['cpu']}, torch {where['torch']}, lightning {where['lightning']}, commit {where['commit']}; "
        f"{result['seeds']} seeds, {data}: `{result['command']}`",
        METHOD,
    ]
    for study in result["studies"]:
        header, rows = rows_of(study)
        parts += [
            f"## {study['question']}",
            f"{study['setting']}. Literature: {study['literature']}.",
            table(header, rows),
        ]
    return "\n\n".join(parts) + "\n"


def draw(result: dict[str, Any]) -> Figure:
    """Return the differences of all arms to their baselines, in standard errors' reach of one another."""
    lines: list[tuple[str, dict[str, Any] | None]] = []  # a study's name on a line of its own, and its arms below it
    for study in result["studies"]:
        arms = [arm for arm, found in study["arms"].items() if _is_drawn(found["difference"])]
        lines += [(study["name"].replace("_", " "), None)] * bool(arms) + [(arm, study) for arm in arms]
    # legible on a telephone, 400 pixels wide
    figure = Figure(figsize=(5.4, 1.3 + 0.2 * len(lines)), dpi=180, layout="constrained")
    ax = figure.subplots()
    colors = {"better": "tab:green", "worse": "tab:red", "no claim": "tab:gray"}
    for i, (arm, study) in enumerate(lines):
        if study is None:
            continue
        mean, low, high = study["arms"][arm]["difference"]
        sign = 1 if study["higher"] else -1
        scale = max(abs(low), abs(high)) or 1.0  # each line in its own unit: only sign and width can be compared
        ends = sorted((sign * low / scale, sign * high / scale))
        color = colors[verdict(study, arm)]
        ax.plot(ends, [i, i], color=color, linewidth=2)
        ax.plot(sign * mean / scale, i, "o", color=color, markersize=4)
    ax.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=9)
    for label, (_, study) in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if study is None else "normal")
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel="worse | better than the baseline\n(each line in its own unit)", xticks=[], xlim=(-1.1, 1.1))
    figure.suptitle("tricks of the literature:\ndifference to the baseline, 95 %", fontsize=11)
    return figure


def _is_drawn(difference: Sequence[float] | None) -> bool:
    return difference is not None and math.isfinite(difference[1])


def main(arguments: Sequence[str]) -> int:
    """Run the studies and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run tricks", description=__doc__)
    parser.add_argument("--studies", nargs="+", choices=[s.name for s in STUDIES], help="only these")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of each arm (default: 8)")
    parser.add_argument("--data-root", type=Path, default=None, help="folder of CIFAR-10 for the studies on images")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2; a GPU takes more)")
    parser.add_argument("--quick", action="store_true", help="four studies, two seeds, short: does everything run?")
    parser.add_argument("--output", type=out_path, default=None, help="the JSON file")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.workers < 1:
        parser.error("--seeds and --workers must be at least 1")
    if options.data_root is not None and not options.data_root.is_dir():
        parser.error(f"--data-root {options.data_root}: no such folder")
    names = options.studies or [s.name for s in STUDIES]
    seeds = options.seeds
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    setting = Setting(data_root=options.data_root, accelerator=accelerator)
    if options.quick:
        names, seeds, setting = options.studies or list(QUICK), 2, Setting(0.1, options.data_root, accelerator)
    studies = [s for s in STUDIES if s.name in names]
    jobs = [(s.name, arm, seed) for s in studies for arm in s.arms for seed in range(seeds)]
    found = _work(jobs, setting, options.workers)
    result = {
        "table": "tricks",
        "environment": describe(),
        "command": "python -m benchmarks run tricks " + " ".join(arguments),
        "seeds": seeds,
        "quick": options.quick,
        "cifar": options.data_root is not None,
        "studies": [
            summary(s, {arm: [found[s.name, arm, seed] for seed in range(seeds)] for arm in s.arms}) for s in studies
        ],
    }
    result["command"] = str(result["command"]).strip()
    path = options.output or FOLDER / f"tricks-{accelerator}.json"
    save(result, path, markdown(result))
    draw(result).savefig(path.with_suffix(".png"))
    Console().print(markdown(result), markup=False, highlight=False)
    print(path)
    return 0


def _work(jobs: Sequence[tuple[str, str, int]], setting: Setting, workers: int) -> dict[tuple[str, str, int], Any]:
    found: dict[tuple[str, str, int], Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("tricks", total=len(jobs))
        if workers == 1:
            for job in jobs:
                found[job] = one(*job, setting)
                progress.advance(bar)
            return found
        with ProcessPoolExecutor(workers) as pool:
            futures: dict[tuple[str, str, int], Future[Any]] = {job: pool.submit(one, *job, setting) for job in jobs}
            for job, future in futures.items():
                found[job] = future.result()
                progress.advance(bar)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
