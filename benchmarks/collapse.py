"""Do the detectors find failing trainings, name the cause, leave healthy ones alone, and rescue what can be rescued?

Scenarios in two halves (``models/scenarios``): thresholds are tuned on the first one, the second one verifies them. In the
same runs, the rules of other tools (``peers.py``). What the runs say is in ``collapse_report.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from rich.console import Console
from rich.progress import Progress

import lightning_tricks
from benchmarks.collapse_report import METHOD, judged_wrongly, report
from benchmarks.environment import describe
from benchmarks.models.rescuable import differs_in_rate_or_batch
from benchmarks.models.scenario import HALVES, Scenario
from benchmarks.models.scenarios import SCENARIOS
from benchmarks.models.trainings import Training, loader
from benchmarks.peers import PEERS, Recorder
from benchmarks.quiet import quiet
from benchmarks.results import FOLDER, out_path, save
from lightning_tricks import Rollback, SanityCheck, TrainingDoctor, TrickError, Verdict

CHECKS = 40
QUICK = (
    "SGD, rate 3",
    "inputs times 0",
    "60 samples, a third mislabelled",
    "SimSiam, no stop-gradient, no BatchNorm",
    "own text only, ten generations",
    "batch 2",
    "ten generations, real text kept",
    "LSTM, SGD 50",
    "breast cancer",
    "slow learner, SGD 1e-3",
)


def fit(training: Training, callbacks: list[Any], updates: int | None = None) -> None:
    """Train, with nothing printed; for so many updates only."""
    module = training.module
    length = training.arguments or {"max_steps": training.steps}
    if not module.automatic_optimization:
        length = {"max_epochs": 1}
    if updates is not None:
        length = {**length, "max_steps": updates}
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


def detectors(training: Training, action: Any, every: int | None = None) -> list[Any]:
    """Make the detectors of a training; with a check each ``every`` updates, or as their defaults are.

    ``DeadUnits()`` is left out where the model has no activation modules: it says so at the start of a fit.
    """
    paced = {} if every is None else {"every_n_steps": every}
    kinds = {type(m).__module__ for m in training.module.modules() if not isinstance(m, torch.nn.MultiheadAttention)}
    return [
        getattr(lightning_tricks, name)(**({} if name == "GenerationDrift" else paced), **given, action=action)
        for name, given in training.detectors.items()
        if name != "DeadUnits" or given or "torch.nn.modules.activation" in kinds
    ]


def named(name: str) -> Scenario:
    """Return the scenario of that name."""
    return next(s for s in SCENARIOS if s.name == name)


@quiet()
def _curable(scenario: Scenario) -> bool:
    return differs_in_rate_or_batch(scenario, named(scenario.rescuable))


def pace(training: Training, defaults: bool) -> int | None:
    """Return the updates between two checks; None for the detectors' own."""
    return None if defaults else max(1, training.steps // CHECKS)


def sanity_failed(scenario: Scenario, seed: int) -> list[str]:
    """Return the rows of SanityCheck that fail before the first update; empty where it cannot examine the training."""
    training = scenario.make(seed)
    check = SanityCheck()
    # (what it cannot examine it says at the start of a fit)
    with contextlib.suppress(TrickError):
        fit(training, [check, *training.callbacks], updates=1)
    return [c.name for c in check.checks if c.passed is False]


@quiet()
def run(job: tuple[str, int, bool]) -> dict[str, Any]:
    """Run one scenario with one seed; return the alarms of every tool, what SanityCheck fails, and the advice."""
    name, seed, defaults = job
    scenario = named(name)
    begun = time.perf_counter()
    refused: dict[str, str] = {}
    while True:
        training = scenario.make(seed)
        verdicts: list[Verdict] = []
        made = detectors(training, verdicts.append, pace(training, defaults))
        made = [d for d in made if type(d).__name__ not in refused]
        recorder = Recorder()
        try:
            fit(training, [*made, *training.callbacks, recorder])
            break
        except TrickError as error:  # a user would take that detector out, or mend its arguments
            name_of_it = str(error).partition("(")[0].partition(":")[0]
            if name_of_it not in {type(d).__name__ for d in made}:
                raise
            refused[name_of_it] = str(error)
    steps = max(len(recorder.losses), 1)
    # a run with several micro-batches per update is counted in updates
    peers = {n: rule(recorder) for n, rule in PEERS.items()}
    score = None if training.score is None else training.score(training.module)
    return {
        "half": scenario.half,
        "family": scenario.family,
        "scenario": name,
        "seed": seed,
        "failing": scenario.failing,
        "causes": sorted(scenario.causes),
        "onset": scenario.onset * training.steps,
        "steps": training.steps,
        "alarms": [[v.detector, v.step, str(v.cause), v.cause in scenario.causes] for v in verdicts],
        "sanity_failed": sanity_failed(scenario, seed),
        "findings": [f.kind for d in made if isinstance(d, TrainingDoctor) for f in d.findings],
        "refused": refused,
        "peers": {n: None if s is None else s * training.steps / steps for n, s in peers.items()},
        "score": score,
        "passes": scenario.passes,
        "seconds": time.perf_counter() - begun,
    }


@quiet()
def rescue(job: tuple[str, int, bool]) -> dict[str, Any]:
    """Run a failing training with rollback; return its score."""
    name, seed, defaults = job
    scenario = named(name)
    training = scenario.make(seed)
    texts: list[str] = []
    made = detectors(training, Rollback(), pace(training, defaults))
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
        "half": scenario.half,
        "scenario": name,
        "seed": seed,
        "rescued": training.score(training.module),
        "passes": scenario.passes,
        "twin": scenario.rescuable,
        "rollbacks": texts,
        "gave_up": failed,
    }


def main(arguments: Sequence[str]) -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run collapse", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes; a run takes one core")
    parser.add_argument("--half", choices=HALVES, help="one half only: tune on develop, never on verify")
    parser.add_argument("--match", default="", help="scenarios whose name or family holds this regular expression")
    parser.add_argument("--defaults", action="store_true", help="the detectors' own pace, however short a run is")
    parser.add_argument("--no-rescues", action="store_true", help="leave out the trainings with a rollback")
    parser.add_argument("--quick", action="store_true", help="some scenarios, one seed, half a minute")
    parser.add_argument("--out", type=out_path, default=None, help="JSON file; by default in benchmarks/results")
    options = parser.parse_args(arguments)
    seeds = range(1 if options.quick else options.seeds)
    chosen = [s for s in SCENARIOS if options.half in (None, s.half)]
    chosen = [s for s in chosen if re.search(options.match, s.name) or re.search(options.match, s.family)]
    if options.quick:
        chosen = [s for s in chosen if s.name in QUICK]
    jobs = [(s.name, seed, options.defaults) for s in chosen for seed in seeds]
    curable = [] if options.no_rescues else [s for s in chosen if s.rescuable and _curable(s)]
    rescues = [(s.name, seed, options.defaults) for s in curable for seed in seeds]
    rescues = rescues[:1] if options.quick else rescues
    begun = time.perf_counter()
    rows, rescued = _all(run, jobs, options.workers), _all(rescue, rescues, options.workers)
    scores = {(r["scenario"], r["seed"]): r["score"] for r in rows}
    for row in rescued:
        twin = (row["twin"], row["seed"])
        row["healthy"] = scores[twin] if twin in scores else run((*twin, options.defaults))["score"]
    result = {
        "command": "python -m benchmarks run collapse " + " ".join(arguments),
        "workers": options.workers,
        "seconds": time.perf_counter() - begun,
        "environment": describe(),
        "method": METHOD,
        "runs": rows,
        "rescues": rescued,
    }
    part = options.quick or options.match
    name = "collapse-quick" if part else "collapse-cpu" if options.half is None else f"collapse-{options.half}"
    path = options.out or (Path("runs") if part else FOLDER) / f"{name}.json"
    text = report(result)
    save(result, path, text)
    print(text)
    print(path)
    for row in rows:
        for detector, text in row["refused"].items():
            print(f"{row['scenario']}: {detector} refused: {text}")
    if not options.quick:
        return 0
    wrong = sum(map(judged_wrongly, rows))
    print(f"{wrong} of {len(rows)} runs judged wrongly")
    return int(wrong > 0)


def _all(work: Any, jobs: Sequence[tuple[str, int, bool]], workers: int) -> list[dict[str, Any]]:
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
