from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tricks import TrainingDoctor
from lightning_tricks.diagnosis.reference_batch import (
    ReferenceBatch,
    ReferenceReading,
    predictions_of,
    runs_again,
    same_loss,
)
from lightning_tricks.dry_run.isolated import step_again
from tests.problems import Classifier, fit


@pytest.mark.parametrize(("coarse", "far"), [(False, 1e-3), (True, 0.1)])
def test_the_loss_of_a_step_is_compared_with_what_its_numbers_resolve(coarse: bool, far: float) -> None:
    one = torch.tensor(1.0)
    assert same_loss(one, one * (1 + far / 20), coarse=coarse)
    assert not same_loss(one, one * (1 + far), coarse=coarse)
    assert same_loss(torch.tensor(math.nan), torch.tensor(math.nan), coarse=coarse)


def test_predictions_are_classes_or_values_of_the_first_samples() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    values = torch.arange(20.0).reshape(20, 1)

    def shown(output: Any, seen: list[Tensor]) -> list[float]:
        found = predictions_of(output, seen)
        assert found is not None
        return found.tolist()

    assert shown({"loss": 0, "logits": logits}, [values]) == [1.0, 0.0]
    assert shown(torch.tensor(0.0), [logits, values, torch.tensor(0.0)]) == list(range(16))
    assert predictions_of(None, [torch.tensor(1.0)]) is None


def test_a_reading_is_followed_and_a_failure_ends_that() -> None:
    reference = ReferenceBatch(asked_for=False)
    sound = ReferenceReading(0.5, there=True, failed=False, shown=[1.0])
    nothing = ReferenceReading(math.nan, there=False, failed=False, shown=[])
    failed = ReferenceReading(math.nan, there=True, failed=True, shown=[])
    assert [reference.follow(r, step) for step, r in ((5, sound), (10, nothing))] == [{"fixed_batch_loss": 0.5}, {}]
    assert reference.predictions == [(5, [1.0])]
    assert reference.follow(failed, 15) == {}
    reference._run = SimpleNamespace()  # type: ignore[assignment]
    reference.on_train_batch_start(None, None, "batch", 0)  # (it would fail if it were tried)
    assert reference._batch is None
    reference._cleanup(None)  # type: ignore[arg-type]
    assert reference._tries == 0, "the next fit may have one"


def test_a_module_that_steps_by_itself_is_not_run_again() -> None:
    module = nn.Linear(1, 1)
    for automatic in (True, False):
        module.automatic_optimization = automatic  # type: ignore[assignment]
        assert runs_again(module) is automatic


@pytest.mark.parametrize("batches_without_a_loss", [0, 2, 3])
def test_the_first_batch_with_a_loss_is_taken_of_the_first_three(batches_without_a_loss: int) -> None:
    class Skips(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx < batches_without_a_loss else loss

    doctor = TrainingDoctor(every_n_steps=4)
    fit(Skips(), [doctor], n=96)
    followed = {"fixed_batch_loss" in values for _, values in doctor.history}
    assert followed == {batches_without_a_loss < 3}


def test_the_loss_on_it_is_that_in_eval_mode_with_the_weights_of_the_check() -> None:
    class Noting(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                self.first = [x.clone() for x in batch]
            if batch_idx == 4:  # right after the first check
                with torch.no_grad():
                    self.then = float(nn.functional.cross_entropy(self.net(self.first[0]), self.first[1]))

    module, doctor = Noting(), TrainingDoctor(every_n_steps=4)
    fit(module, [doctor], n=96)
    assert doctor.history[0][1]["fixed_batch_loss"] == pytest.approx(module.then, rel=1e-6)
    (step, shown), *_ = doctor.probe.parts.reference.predictions
    assert step == 4 and len(shown) == 8


@pytest.mark.filterwarnings("ignore")
def test_the_first_batch_is_run_again_at_each_early_check_and_at_ever_fewer_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []

    def noted(run: Any, *arguments: Any, **named: Any) -> Any:
        looks.extend([run.clock.attempted(0)] * named.get("evaluate", False))
        return step_again(run, *arguments, **named)

    monkeypatch.setattr("lightning_tricks.diagnosis.reference_batch.step_again", noted)
    doctor = TrainingDoctor(every_n_steps=2)
    fit(Classifier(), [doctor], n=8 * 132)
    assert looks == [2 * check for check in (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, 65, 8))]
    known = [round(check.step) for check in doctor.probe.course.checks if math.isfinite(check.fixed)]
    assert known == looks


@pytest.mark.filterwarnings("ignore")
def test_it_is_run_again_at_once_where_an_alarm_is_about_to_begin() -> None:
    class Breaks(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 100:
                with torch.no_grad():
                    for p in self.parameters():
                        p.normal_(std=3.0)

    doctor = TrainingDoctor(every_n_steps=2, action="log")
    fit(Breaks(), [doctor], n=8 * 120)
    looks = {round(check.step) for check in doctor.probe.course.checks if math.isfinite(check.fixed)}
    assert {96, 108, 110} <= looks and not {98, 100, 102, 104} & looks
    assert doctor.alarms[0].step <= 111, "as soon as if it had been run again at each check"


class NeitherTrueNorFalse(nn.Module):
    """Holds parameters, as those of tensordict do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def __bool__(self) -> bool:
        raise RuntimeError("not permitted")


@pytest.mark.filterwarnings("error::lightning_tricks.TrickWarning")
def test_a_module_that_refuses_to_be_true_or_false_is_run_again_as_any_other() -> None:
    class Holding(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"held": NeitherTrueNorFalse()})

    doctor = TrainingDoctor(every_n_steps=2)
    module = Holding()
    fit(module, [doctor], max_epochs=2)
    reference = doctor.probe.parts.reference
    assert len(reference.predictions) > 1 and all(shown for _, shown in reference.predictions)
