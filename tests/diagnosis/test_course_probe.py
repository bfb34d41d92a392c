from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks import TrainingDoctor
from lightning_tricks.detection.causes import Cause, Hint
from lightning_tricks.detection.judge import Judge
from lightning_tricks.diagnosis.course_probe import (
    CourseParts,
    CourseProbe,
    CourseReading,
    decay_of,
    log_key,
    values_of,
)
from lightning_tricks.diagnosis.gradient_health import GradientReading
from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.diagnosis.reference_batch import ReferenceReading

NOTHING = ReferenceReading(math.nan, there=False, failed=False, shown=[])


def reading(losses: list[float], norms: list[float], *, row: bool = False, seconds: float = 0.0) -> CourseReading:
    gradients = GradientReading(norms, 1e-3, [1.0], 0.1)
    return CourseReading(losses, gradients, row, math.nan, 0.9 * seconds, seconds, NOTHING)


class Told:
    """A run that keeps what its loggers are told."""

    def __init__(self) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.texts: list[str] = []
        self.step, self.active, self.publisher = 7, True, self
        module = SimpleNamespace(automatic_optimization=True)
        self.trainer = SimpleNamespace(lightning_module=module)
        self.events: list[Any] = []
        self.views: list[Any] = []

    def put(self, step: int, values: dict[str, float]) -> None:
        self.values.append((step, values))

    def log_text(self, step: int, name: str, text: str) -> None:
        self.texts.append(name)


def made() -> tuple[CourseProbe, Judge, Told]:
    probe, told = CourseProbe(CourseParts.made(), 3), Told()
    judge = Judge("TrainingDoctor", probe.rules(), probe.grace_factor)
    probe.on_start(told, judge, 10)  # type: ignore[arg-type]
    return probe, judge, told


def test_what_is_logged_of_a_check_is_what_was_measured() -> None:
    check = Check(10, 1.5, 1.5, ratio=1e-3, spread=0.5)
    values = values_of(check, reading([2.0, 1.0], [0.0, 3.0, 4.0, 0.5]), 0.25)
    expected = {"loss": 1.5, "loss_std": 0.5, "first_gradient": 4.0, "last_gradient": 4.0, "update_ratio": 1e-3}
    assert {name: values[name] for name in expected} == expected
    assert values["waiting"] == 0.25 and values["_finite"] == 1.0 and values["_silent"] == 0.0
    assert values_of(check, reading([math.nan] * 5, [0.0, 0.0]), 0.0)["_finite"] == 0.0
    assert values_of(check, reading([1.0], [0.0, 0.0]), 0.0)["_silent"] == 1.0


def test_steps_are_counted_in_updates_and_go_on_after_a_resume() -> None:
    probe, judge, told = made()
    for _ in range(3):
        probe.follow(reading([1.0], [1.0]), judge)
    assert [check.step for check in probe.course.checks] == [10, 20, 30]
    second, judge, _ = made()
    second.load(told, probe.state())  # type: ignore[arg-type]
    second.follow(reading([1.0], [1.0]), judge)
    assert [check.step for check in second.course.checks] == [10, 20, 30, 40]


def test_a_row_is_noted_once_with_what_this_process_knows_of_it() -> None:
    probe, judge, told = made()
    probe.follow(reading([1.0], [1.0], row=True), judge)
    assert "another process" in probe.course.noted[Hint.OUTLYING_ROW].evidence
    probe.parts.culprit.text = "batch 3"
    values = probe.follow(reading([1.0], [1.0]), judge)
    assert values["_row"] == 1.0, "it is remembered"
    assert told.values == [(7, {"diagnosis/outlying_row": 1.0})] and told.texts == ["diagnosis/outlying_row"]


def test_advice_is_told_and_taken_back_and_not_given_with_several_losses() -> None:
    probe, judge, told = made()
    manual, other_judge, silent = made()
    manual.manual = True
    for p, j in ((probe, judge), (manual, other_judge)):
        for i in range(12):
            p.follow(reading([3.0 / (i + 1)], [1.0], seconds=100.0), j)
    assert Hint.WAITING in probe.course.noted and not manual.course.noted
    assert (7, {"diagnosis/waiting_for_data": 1.0}) in told.values and not silent.values
    before = dict(probe.course.noted)
    del probe.course.noted[Hint.WAITING]
    probe.tell_changes(before)
    assert told.values[-1] == (7, {"diagnosis/waiting_for_data": 0.0})


def test_after_the_run_nothing_is_told() -> None:
    probe, _, told = made()
    told.active = False
    probe.tell_changes({Hint.WAITING: None})  # type: ignore[dict-item]
    assert told.values == []


def test_an_alarm_is_explained_by_the_most_serious_one_and_becomes_a_finding() -> None:
    probe, judge, _ = made()
    probe.parts.culprit.text = "batch 3 is the first"
    values = probe.follow(reading([math.nan] * 4, [1.0]), judge)
    cause, reasons, _ = probe.explain(["spike", "finite"], values, judge)
    assert cause is Cause.NON_FINITE and "batch 3 is the first" in "; ".join(reasons)
    assert [finding.kind for finding in probe.course.findings()] == [Cause.NON_FINITE]


def test_nan_has_no_grace_and_vanishing_gradients_have_twice_as_much() -> None:
    probe, _, _ = made()
    assert {name: probe.grace_factor(name) for name in probe.rules()} == {
        **dict.fromkeys(probe.rules(), 1.0),
        **dict.fromkeys(("finite", "idle", "updates", "standstill"), 0.0),
        "flow": 2.0,
    }


def test_with_several_losses_nothing_is_said_of_the_parts_of_the_error() -> None:
    probe, judge, _ = made()
    for _ in range(4):
        probe.follow(reading([1.0], [1.0]), judge)
    assert str(probe.error_parts) == str(probe.course.parts)  # (NaN in them: not equal, since Python 3.13)
    probe.manual = True
    assert probe.error_parts is None


def test_a_rollback_restarts_the_curves() -> None:
    probe, judge, _ = made()
    probe.follow(reading([1.0], [1.0]), judge)
    probe.rolled_back()
    assert probe.course.checks == [] and probe.course.early == [1.0]


def test_keys_have_no_spaces() -> None:
    assert log_key(Cause.NON_FINITE) == "diagnosis/non-finite_values"


def test_the_parts_of_the_callback_stand_around_its_watch_in_the_order_of_a_step() -> None:
    names = [type(part).__name__ for part in TrainingDoctor().parts]
    assert names.index("DataWait") < names.index("Watch"), "a check counts for nothing"
    assert names.index("Watch") < min(names.index(n) for n in ("LossRecord", "GradientHealth", "Culprit"))


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("losses", [True, False])
def test_a_check_waits_for_a_loss_and_an_update(norms: bool, losses: bool) -> None:
    import torch

    probe, _, told = made()
    if norms:
        probe.parts.gradients.norms = torch.ones(1)
    if losses:
        probe.parts.losses.losses.append(torch.ones(()))
    assert probe.ready(told, 0, 1) is (norms and losses)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("optimizer", "share"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=30), 0.3),
        (lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=5e-4), 5e-5),
        (lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=1.0, decoupled_weight_decay=True), 0.1),
        # (there decay is a part of the gradient, and divided by its size)
        (lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=1.0), 0.0),
        (lambda p: torch.optim.RMSprop(p, lr=0.1, weight_decay=1.0), 0.0),
        (lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), weight_decay=30, capturable=False, foreach=False), 0.0),
        (lambda p: torch.optim.Rprop(p), 0.0),
    ],
)
def test_what_decay_takes_at_an_update_is_that_of_one_update(optimizer: Any, share: float) -> None:
    weight = torch.nn.Parameter(torch.full((3,), 2.0))
    made = optimizer([weight])
    run: Any = SimpleNamespace(views=[SimpleNamespace(optimizer=made)])
    assert decay_of(run) == pytest.approx(share)
    if share:
        weight.grad = torch.zeros(3)
        made.step()
        torch.testing.assert_close(weight.detach(), torch.full((3,), 2.0 * (1 - share)))


def test_of_several_groups_the_largest_decides() -> None:
    weight, bias = torch.nn.Parameter(torch.ones(9)), torch.nn.Parameter(torch.ones(2))
    for first, second, share in ((0.1, 100.0, 1e-4), (100.0, 0.0, 0.1)):
        groups = [{"params": [weight], "weight_decay": first}, {"params": [bias], "weight_decay": second}]
        run: Any = SimpleNamespace(views=[SimpleNamespace(optimizer=torch.optim.AdamW(groups, lr=1e-3))])
        assert decay_of(run) == pytest.approx(share)
    assert math.isnan(decay_of(None))
