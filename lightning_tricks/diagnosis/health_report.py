"""The report of a training that has failed, or that an alarm ended: ``health.json`` and ``health.txt``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.judge import Judge
from lightning_tricks.diagnosis import autopsy
from lightning_tricks.diagnosis.course_probe import CourseProbe
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import local


class HealthReport(Stages):
    """Writes the report into the run's folder, also when the logger is broken.

    Args:
        judge: its history is in the report.
        probe: findings, losses, culprit and last batch.
        at_alarms: whether an alarm ends the run, or puts it back, so that it is written then as well.
    """

    def __init__(self, judge: Judge, probe: CourseProbe, *, at_alarms: bool) -> None:
        self._judge, self._probe, self._at_alarms = judge, probe, at_alarms
        self._folder: Path | None = None

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the folder, on all processes."""
        # (``log_dir`` is a broadcast: after a failure, the other processes may not be there to take part)
        self._folder = Path(run.trainer.log_dir or run.trainer.default_root_dir)

    def alarmed(self, run: TrainingRun, verdict: Verdict) -> None:
        """Write it where the alarm ends the run."""
        if self._at_alarms:
            self._write(run, f"alarm: {verdict}", None)

    def failed(self, run: TrainingRun, error: BaseException) -> None:
        """Write it where training has failed; called before everything is cleaned up."""
        if is_failure(error):
            self._write(run, f"{type(error).__name__}: {error}", error)

    def _write(self, run: TrainingRun, why: str, error: BaseException | None) -> None:
        """Write both files; never raises, and waits for no other process."""
        if self._folder is None or not run.trainer.is_global_zero:
            return
        try:
            path = autopsy.write(self._made(run, why, error), self._folder)
            print(f"TrainingDoctor: {path}")
        except Exception as problem:
            warnings.warn(
                f"TrainingDoctor: no report ({type(problem).__name__}: {problem}).", RuntimeWarning, stacklevel=2
            )

    def _made(self, run: TrainingRun, why: str, error: BaseException | None) -> dict[str, Any]:
        trainer, probe = run.trainer, self._probe
        course, culprit = probe.course, probe.parts.culprit
        report = {
            "why": why[:2000],
            "step": run.step,
            "epoch": trainer.current_epoch,
            "precision": str(getattr(trainer.precision_plugin, "precision", "")),
            "verdicts": alarms_of(run.tricks),
            "findings": [str(finding) for finding in course.findings()],
            "culprit": culprit.text,
            "last_losses": [*course.usual, *course.spike][-10:],
            "checks": [{"step": step, **values} for step, values in self._judge.history[-3:]],
        }
        return report | known_of(
            {
                "learning_rates": lambda: [float(g["lr"]) for v in run.views for g in v.optimizer.param_groups],
                "loss_scale": lambda: _loss_scale(run),
                "nonfinite_weights": lambda: autopsy.nonfinite_names(trainer.lightning_module)[:20],
                "gradient_norms": lambda: largest_gradients(run),
                "last_batch": lambda: autopsy.batch_statistics(culprit.batch),
                "exception": lambda: None if error is None else autopsy.of_exception(error),
            }
        )


def is_failure(error: BaseException) -> bool:
    """Whether an exception means that training has failed: not where a user or a search of hyperparameters ends it.

    >>> is_failure(ValueError()), is_failure(KeyboardInterrupt())
    (True, False)
    """
    pruned = type(error).__name__ == "TrialPruned"  # (optuna's; a trial that is ended so did not fail)
    return not pruned and not isinstance(error, KeyboardInterrupt)


def alarms_of(tricks: list[Any]) -> list[str]:
    """Return the verdicts of all detectors that have raised an alarm, as text."""
    verdicts = [getattr(trick, "verdict", None) for trick in tricks]
    return [str(verdict) for verdict in verdicts if isinstance(verdict, Verdict) and verdict.alarmed]


def known_of(ask: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return what functions give; a device that has failed must not take the rest along.

    >>> known_of({"a": lambda: 1, "b": lambda: [][0]})
    {'a': 1, 'b': 'not known (IndexError: list index out of range)'}
    """
    found: dict[str, Any] = {}
    for name, function in ask.items():
        try:
            found[name] = function()
        except Exception as problem:
            found[name] = f"not known ({type(problem).__name__}: {problem})"
    return found


def largest_gradients(run: TrainingRun) -> dict[str, float]:
    """Return the norms of the twelve largest gradients that are there now, by parameter; what is not finite first."""
    view = run.views[0]
    gradients = {n: p.grad for n, p in zip(view.names, view.parameters, strict=True) if p.grad is not None}
    norms = {n: float(torch.linalg.vector_norm(local(g).float())) for n, g in gradients.items()}
    rows = sorted(norms.items(), key=lambda row: -row[1] if math.isfinite(row[1]) else -math.inf)
    return dict(rows[:12])


def _loss_scale(run: TrainingRun) -> float | None:
    scale = run.loss_scale.scale()
    return None if scale is None else float(scale)
