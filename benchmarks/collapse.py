"""Do the detectors find failing trainings, name the cause, leave healthy ones alone, and rescue what can be rescued?

Scenarios on which thresholds were chosen (``models/failures.py``) and others that played no part in that
(``models/failures_held_out.py``); in the same runs, the rules of other tools (``peers.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from rich.console import Console
from rich.progress import Progress
from scipy.stats import beta

import lightning_tricks
from benchmarks.environment import describe
from benchmarks.models import failures, failures_held_out
from benchmarks.models.trainings import Training, loader
from benchmarks.peers import PEERS, PUBLISHED, Recorder
from benchmarks.results import FOLDER, save, table
from lightning_tricks import Rollback, Verdict

SETS = {"chosen on": failures.SCENARIOS, "held out": failures_held_out.SCENARIOS}
OURS = "lightning_tricks"
CHECKS = 40
QUICK = (
    "SGD, rate 3",
    "dead ReLU from the start",
    "inputs times 0",
    "one batch of NaN",
    "60 samples, a third mislabelled",
    "SimSiam, no stop-gradient, no BatchNorm",
    "own text only, ten generations",
    "digits",
    "batch 2",
    "ten times more of class 0",
    "one in ten",
    "ten generations, real text kept",
    "LSTM, SGD 50",
    "optimizer of another network",
    "zeros from the loader",
    "breast cancer",
    "wine, batch 8",
    "regression",
    "slow learner, SGD 1e-3",
)
METHOD = (
    "A run is found when the first alarm comes at or after the onset of the failure; an alarm before it counts as a miss. "
    "Any alarm in a healthy run is a false one. Delay: steps from the onset to the alarm, over those from the onset to the "
    "end. Cause: what the first alarm (or one of the same step) calls it is right. All detectors that fit the kind of training "
    "are in it with their defaults, but for 40 checks in the run, however short. Intervals: Clopper-Pearson, 95 %; seeds of one scenario are not independent, so they are too narrow. "
    "Rescue: the same failing training with action=Rollback(), its final score against that of its healthy twin."
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, and nothing said; put back after it."""
    names = ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")
    loggers = [logging.getLogger(n + more) for n in names for more in ("", ".utilities.rank_zero")]
    levels, threads = [logger.level for logger in loggers], torch.get_num_threads()
    torch.set_num_threads(1)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def fit(training: Training, callbacks: list[Any]) -> None:
    """Train, with nothing printed."""
    module = training.module
    length = training.arguments or {"max_steps": training.steps}
    if not module.automatic_optimization:
        length = {"max_epochs": 1}
    if training.validation:
        length = {**length, "val_check_interval": training.every}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=callbacks,
            **length,
        )
        data = {"train_dataloaders": loader(training.data)} if len(training.data) else {}  # type: ignore[arg-type]
        if training.validation:
            data["val_dataloaders"] = torch.utils.data.DataLoader(training.validation, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(module, **data)


def detectors(training: Training, action: Any) -> list[Any]:
    """Make the detectors of a training, with 40 checks in the run."""
    every = {"every_n_steps": max(1, training.steps // CHECKS)}
    return [
        getattr(lightning_tricks, name)(**({} if name == "GenerationDrift" else every), **given, action=action)
        for name, given in training.detectors.items()
    ]


@quiet()
def run(job: tuple[str, str, int]) -> dict[str, Any]:
    """Run one scenario with one seed; return the first alarm of every tool."""
    group, name, seed = job
    scenario = next(s for s in SETS[group] if s.name == name)
    begun = time.perf_counter()
    training = scenario.make(seed)
    verdicts: list[Verdict] = []
    made = detectors(training, verdicts.append)
    recorder = Recorder()
    fit(training, [*made, *training.callbacks, recorder])
    steps = max(len(recorder.losses), 1)
    # a run with several micro-batches per update is counted in updates
    peers = {n: rule(recorder) for n, rule in PEERS.items()}
    return {
        "set": group,
        "scenario": name,
        "seed": seed,
        "failing": scenario.failing,
        "supervised": "PredictionCollapse" in training.detectors,
        "onset": scenario.onset * training.steps,
        "steps": training.steps,
        "alarms": [[v.detector, v.step, v.cause, v.cause in scenario.causes] for v in verdicts],
        "peers": {n: None if s is None else s * training.steps / steps for n, s in peers.items()},
        "score": None if training.score is None else training.score(training.module),
        "seconds": time.perf_counter() - begun,
    }


@quiet()
def rescue(job: tuple[str, str, int]) -> dict[str, Any]:
    """Run a failing training with rollback; return its score."""
    group, name, seed = job
    scenario = next(s for s in SETS[group] if s.name == name)
    training = scenario.make(seed)
    texts: list[str] = []
    made = detectors(training, Rollback())
    failed = ""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            fit(training, [*made, *training.callbacks])
        except lightning_tricks.AlarmError as error:
            failed = str(error)[:200]
        texts = [str(w.message)[-160:] for w in told if "Went back" in str(w.message)]
    assert training.score is not None
    return {
        "scenario": name,
        "seed": seed,
        "rescued": training.score(training.module),
        "twin": scenario.rescuable,
        "rollbacks": texts,
        "gave_up": failed,
    }


def interval(hits: int, total: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share, 95 %.

    >>> [round(x, 3) for x in interval(54, 54)]
    [0.934, 1.0]
    """
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf(0.975, hits + 1, total - hits))
    return low, high


def shown(hits: int, total: int) -> str:
    """Return ``hits/total`` with the interval."""
    if not total:
        return "-"
    low, high = interval(hits, total)
    return f"{hits}/{total} [{low:.3f}, {high:.3f}]"


def first_alarm(row: dict[str, Any], tool: str) -> float | None:
    """Return the step of a tool's first alarm."""
    if tool == OURS:
        return min((a[1] for a in row["alarms"]), default=None)
    found: float | None = row["peers"][tool]
    return found


def judged(rows: Sequence[dict[str, Any]], tool: str) -> dict[str, Any]:
    """Return found, false and delay of a tool on some runs."""
    bad = [r for r in rows if r["failing"]]
    good = [r for r in rows if not r["failing"]]
    steps = [(r, first_alarm(r, tool)) for r in bad]
    hits = [(r, s) for r, s in steps if s is not None and s >= r["onset"]]
    delays = [(s - r["onset"]) / (r["steps"] - r["onset"]) for r, s in hits]
    return {
        "found": len(hits),
        "failing": len(bad),
        "false": sum(first_alarm(r, tool) is not None for r in good),
        "healthy": len(good),
        "delay": statistics.median(delays) if delays else None,
    }


def causes(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return in how many failing runs with an alarm the first one named a right cause."""
    alarmed = [r for r in rows if r["failing"] and r["alarms"]]
    at_first = [[a[3] for a in r["alarms"] if a[1] == min(b[1] for b in r["alarms"])] for r in alarmed]
    return sum(map(any, at_first)), len(alarmed)


def report(result: dict[str, Any]) -> str:
    """Return the Markdown."""
    rows, parts = result["runs"], [f"# Collapse and failing trainings\n\n{METHOD}\n"]
    for group in [g for g in SETS if any(r["set"] == g for r in rows)]:
        own = [r for r in rows if r["set"] == group]
        for kind, some in (("all runs", own), ("classifiers", [r for r in own if r["supervised"]])):
            lines = []
            for tool in (OURS, *PEERS):
                j = judged(some, tool)
                right = shown(*causes(some)) if tool == OURS else "-"
                delay = "-" if j["delay"] is None else f"{j['delay']:.0%}"
                found, false = shown(j["found"], j["failing"]), shown(j["false"], j["healthy"])
                lines.append([tool, found, false, delay, right])
            count = len({r["scenario"] for r in some})
            parts.append(f"## Scenarios {group}: {kind} ({count} scenarios)\n")
            parts.append(table(["tool", "found", "false alarms", "median delay", "right cause"], lines) + "\n")
        detectors = sorted({a[0] for r in own for a in r["alarms"]})
        lines = []
        for name in detectors:
            bad = [r for r in own if r["failing"] and any(a[0] == name for a in r["alarms"])]
            right = sum(next(a[3] for a in r["alarms"] if a[0] == name) for r in bad)
            false = sum(any(a[0] == name for a in r["alarms"]) for r in own if not r["failing"])
            lines.append([name, str(len(bad)), str(right), str(false)])
        parts.append(f"## Scenarios {group}: each detector\n")
        header = ["detector", "failing runs with its alarm", "with a right cause", "healthy runs with its alarm"]
        parts.append(table(header, lines) + "\n")
    if result["rescues"]:
        lines = []
        for name in dict.fromkeys(r["scenario"] for r in result["rescues"]):
            some = [r for r in result["rescues"] if r["scenario"] == name]
            alone = [r["score"] for r in rows if r["scenario"] == name]
            cells = [[x for x in xs] for xs in (alone, [r["rescued"] for r in some], [r["healthy"] for r in some])]
            near = sum(r["rescued"] >= r["healthy"] - 0.02 for r in some)
            lines.append([name, *(" ".join(f"{x:.2f}" for x in c) for c in cells), f"{near} of {len(some)}"])
        parts.append("## Rescue by rollback (accuracy, or macro-F1 of the tagger, by seed)\n")
        header = ["failing training", "left alone", "with Rollback()", "healthy twin", "within 2 points"]
        parts.append(table(header, lines) + "\n")
        near = sum(r["rescued"] >= r["healthy"] - 0.02 for r in result["rescues"])
        parts.append(f"Within 2 points of the healthy twin: {shown(near, len(result['rescues']))}.\n")
    wrong = [r for r in rows if r["failing"] != bool(r["alarms"])]
    told = [f"- {r['scenario']}, seed {r['seed']}: {r['alarms'] or 'no alarm'}" for r in wrong]
    parts.append("## Wrong\n\n" + ("\n".join(told) or "None.") + "\n")
    parts.append(f"{PUBLISHED}\n\nThe rules of others are emulations of their documented defaults.\n")
    machine = ", ".join(f"{k} {v}" for k, v in result["environment"].items() if v and k != "uncommitted_changes")
    parts.append(f"`{result['command']}`: {result['seconds']:.0f} s with {result['workers']} process(es), {machine}.\n")
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run collapse", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes; a run takes one core")
    parser.add_argument("--quick", action="store_true", help="some scenarios, one seed, half a minute")
    parser.add_argument(
        "--long",
        action="store_true",
        help="at least 370 healthy runs of the held-out scenarios, to state a bound of 1 %%",
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file; by default in benchmarks/results")
    options = parser.parse_args(arguments)
    seeds = range(1 if options.quick else options.seeds)
    jobs = [(g, s.name, seed) for g, some in SETS.items() for s in some for seed in seeds]
    rescues = [(g, s.name, seed) for g, some in SETS.items() for s in some if s.rescuable for seed in seeds]
    if options.quick:
        jobs, rescues = [j for j in jobs if j[1] in QUICK], rescues[:1]
    if options.long:
        healthy = [("held out", s) for s in SETS["held out"] if not s.failing]
        jobs = [(g, s.name, seed) for g, s in healthy for seed in range(-(-370 // len(healthy)))]
        rescues = []
    begun = time.perf_counter()
    rows, rescued = _all(run, jobs, options.workers), _all(rescue, rescues, options.workers)
    scores = {(r["scenario"], r["seed"]): r["score"] for r in rows}
    for row in rescued:
        row["healthy"] = scores[row["twin"], row["seed"]]
    result = {
        "command": "python -m benchmarks run collapse " + " ".join(arguments),
        "workers": options.workers,
        "seconds": time.perf_counter() - begun,
        "environment": describe(),
        "method": METHOD,
        "runs": rows,
        "rescues": rescued,
    }
    name = "collapse-quick" if options.quick else "collapse-long" if options.long else "collapse-cpu"
    path = options.out or (Path("runs") / f"{name}.json" if options.quick else FOLDER / f"{name}.json")
    text = report(result)
    save(result, path, text)
    print(text)
    print(path)
    if not options.quick:
        return 0
    wrong = sum(r["failing"] != bool(r["alarms"]) for r in rows)
    print(f"{wrong} of {len(rows)} runs judged wrongly")
    return int(wrong > 0)


def _all(work: Any, jobs: Sequence[tuple[str, str, int]], workers: int) -> list[dict[str, Any]]:
    """Do all jobs, in processes that begin anew, with a bar."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(work.__name__, total=len(jobs))
        out = []
        if workers == 1:
            for job in jobs:
                out.append(work(job))
                bar.advance(task)
            return out
        with ProcessPoolExecutor(workers) as pool:
            for row in pool.map(work, jobs):
                out.append(row)
                bar.advance(task)
        return out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
