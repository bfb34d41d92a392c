from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.causes import Cause
from lightning_tricks.detection.judge import Judge
from lightning_tricks.diagnosis.course_probe import CourseParts, CourseProbe
from lightning_tricks.diagnosis.health_report import HealthReport, alarms_of, is_failure, known_of, largest_gradients

ALARM = Verdict("TrainingDoctor", True, 5, 4, Cause.DIVERGENCE, ("the loss rises",), {}, ("lower the rate",))


def test_an_end_that_was_wanted_is_not_a_failure() -> None:
    class TrialPruned(Exception):
        pass

    assert [is_failure(e) for e in (ValueError(), SystemExit(), KeyboardInterrupt(), TrialPruned())] == [
        True,
        True,
        False,
        False,
    ]


def test_the_alarms_of_all_detectors_are_in_it() -> None:
    tricks = [SimpleNamespace(verdict=ALARM), SimpleNamespace(verdict=Verdict("DeadUnits")), SimpleNamespace()]
    assert alarms_of(tricks) == [str(ALARM)]


def test_what_cannot_be_known_does_not_take_the_rest_along() -> None:
    def fails() -> float:
        raise RuntimeError("device lost")

    assert known_of({"a": fails, "b": lambda: 2}) == {"a": "not known (RuntimeError: device lost)", "b": 2}


def test_the_largest_gradients_come_first_and_those_that_are_not_finite_before_them() -> None:
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([1.0]), torch.tensor([math.nan]), None]
    parameters = [SimpleNamespace(grad=g) for g in gradients]
    view = SimpleNamespace(names=list("abcd"), parameters=parameters)
    found = largest_gradients(SimpleNamespace(views=[view]))  # type: ignore[arg-type]
    assert list(found) == ["c", "a", "b"]
    assert (found["a"], found["b"]) == (5.0, 1.0)


def run_in(folder: Path, *, rank: int = 0) -> Any:
    trainer = SimpleNamespace(
        log_dir=None, default_root_dir=folder, is_global_zero=rank == 0, current_epoch=2, precision_plugin=None,
        lightning_module=nn.Linear(1, 1),
    )  # fmt: skip
    return SimpleNamespace(trainer=trainer, step=7, tricks=[SimpleNamespace(verdict=ALARM)], views=[])


def report(folder: Path, *, at_alarms: bool, rank: int = 0) -> tuple[HealthReport, Any]:
    run, probe = run_in(folder, rank=rank), CourseProbe(CourseParts.made(), 3)
    written = HealthReport(Judge("TrainingDoctor", {}, lambda name: 1.0), probe, at_alarms=at_alarms)
    written._on_start(run, None)
    return written, run


@pytest.mark.parametrize("at_alarms", [True, False])
def test_an_alarm_is_reported_where_it_ends_the_run(at_alarms: bool, tmp_path: Path) -> None:
    written, run = report(tmp_path, at_alarms=at_alarms)
    written.alarmed(run, ALARM)
    assert (tmp_path / "health.json").exists() is at_alarms
    if at_alarms:
        found = json.loads((tmp_path / "health.json").read_text())
        assert found["why"] == f"alarm: {ALARM}" and found["step"] == 7 and found["verdicts"] == [str(ALARM)]
        assert found["loss_scale"].startswith("not known"), "this run has none"


def test_an_error_is_reported_by_the_first_process(tmp_path: Path) -> None:
    for rank in (1, 0):
        written, run = report(tmp_path, at_alarms=False, rank=rank)
        written.failed(run, ValueError("boom"))
        assert (tmp_path / "health.txt").exists() is (rank == 0)
    assert "ValueError: boom" in (tmp_path / "health.txt").read_text()


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    written, run = report(tmp_path / "file", at_alarms=True)
    with pytest.warns(RuntimeWarning, match="TrainingDoctor: no report"):
        written.alarmed(run, ALARM)
