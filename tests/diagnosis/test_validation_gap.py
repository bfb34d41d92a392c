from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.detection.judge import Judge
from lightning_tricks.diagnosis.course_probe import CourseParts, CourseProbe
from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.diagnosis.validation_gap import ValidationGap, loss_and_score


def names_of(metrics: dict[str, float]) -> list[float]:
    return [float(v) for v in loss_and_score({name: torch.tensor(value) for name, value in metrics.items()})]


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ({"val_loss": 1.0}, [1.0]),
        ({"Val/Loss": 1.0, "Val/ACC": 0.5, "val/f1": 0.4}, [1.0, 0.5]),
        ({"val/auc": 0.75, "val/loss_a": 1.0, "val/loss_b": 2.0}, [1.0, 0.75]),
        ({"train/loss": 1.0, "val/acc": 0.5}, []),
        ({}, []),
    ],
)
def test_the_loss_of_validation_is_found_by_its_name_and_its_score_beside_it(
    metrics: dict[str, float], found: list[float]
) -> None:
    assert names_of(metrics) == found


def validated(losses: list[float], *, checks: int = 1) -> tuple[list[Any], list[Any]]:
    """Return what the loggers are told, and what the watch notices."""
    told: list[Any] = []
    noticed: list[Any] = []
    probe = CourseProbe(CourseParts.made(), 3)
    for i in range(checks):
        probe.course.add(Check(10 * i, math.nan, math.nan), [0.5], [1.0], [1.0])
    watch: Any = SimpleNamespace(notice=lambda run, name, value, values: noticed.append((name, value, values)))
    gap = ValidationGap(watch, probe)
    for loss in losses:
        trainer = SimpleNamespace(callback_metrics={"val_loss": torch.tensor(loss)}, world_size=1)
        publisher = SimpleNamespace(put=lambda step, values: told.append((step, values)))
        run: Any = SimpleNamespace(trainer=trainer, step=9, publisher=publisher)
        gap.validated(run)
    return told, noticed


def test_the_gap_is_logged_and_the_alarm_follows_it() -> None:
    told, noticed = validated([0.75])
    assert told == [(9, {"diagnosis/training_doctor/validation_gap": 0.25})]
    assert noticed == [("generalisation", 1.0, {"validation_gap": 0.25, "loss": 0.5})]


def test_before_the_first_check_there_is_nothing_to_compare_with() -> None:
    assert validated([0.75], checks=0) == ([], [])


def test_one_alarm_is_followed_between_checks_as_at_a_check() -> None:
    probe = CourseProbe(CourseParts.made(), 2)
    at_checks, between = (Judge("TrainingDoctor", probe.rules(), probe.grace_factor) for _ in range(2))
    for step, value in enumerate([1.0, 0.0, 1.0, 0.0, 0.0, 0.0]):
        at_checks.step = step
        begun = at_checks.follow({"generalisation": value})
        assert between.follow_one("generalisation", value, step) is bool(begun) is (step == 4)
        assert between.states == at_checks.states
    assert between.step == -1 and between.healthy is False, "what is of a check stays as it was"


def test_an_alarm_that_begins_between_checks_is_told_once() -> None:
    probe = CourseProbe(CourseParts.made(), 1)
    judge = Judge("TrainingDoctor", probe.rules(), probe.grace_factor)
    assert judge.follow_one("generalisation", 0.0, 12)
    values = {"validation_gap": 1.0}
    verdicts = [judge.begin(["generalisation"], values, 12, lambda a: probe.explain(a, values, judge)) for _ in "ab"]
    assert verdicts[0] is not None and verdicts[0].step == 12 and verdicts[0].values == values
    assert verdicts[1] is None
    assert len(judge.raised) == 1
