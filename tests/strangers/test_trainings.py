"""What observers say of trainings that are written around packages of others: healthy ones, and such with one mistake."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import lightning_tricks
from lightning_tricks import DeadUnits, GradientMonitor, LRFinder, SanityCheck, TrainingDoctor
from tests.strangers.cases import with_defects
from tests.strangers.defects import TRAINING_DEFECTS
from tests.strangers.recorder import digest, generators
from tests.strangers.trainings import TRAININGS
from tests.strangers.trainings.training import Ready, Training

strangers = pytest.mark.strangers


@dataclass(frozen=True)
class Said:
    """What was said of a training, and what came of it.

    Args:
        failed: the rows of ``SanityCheck`` that are FAIL.
        alarms: what ``TrainingDoctor`` and the detectors raised, as text.
        score: of the trained module, on held-out data.
        end: digests of weights and buffers, and of the random generators.
    """

    failed: tuple[str, ...]
    alarms: tuple[str, ...]
    score: float
    end: tuple[dict[str, str], str]


def ended(ready: Ready) -> tuple[dict[str, str], str]:
    named = [*ready.module.named_parameters(), *ready.module.named_buffers()]
    return {name: digest([tensor]) for name, tensor in named}, generators()


@functools.cache  # (for three tests)
def watched(training: Training) -> Said:
    check, doctor = SanityCheck(), TrainingDoctor()
    detectors = [getattr(lightning_tricks, name)(**arguments) for name, arguments in training.watch.items()]
    detectors += [DeadUnits()] if training.activations else []
    ready = training.run([check, LRFinder(apply=False), GradientMonitor(), doctor, *detectors])
    end = ended(ready)
    alarms = tuple(str(verdict) for detector in (doctor, *detectors) for verdict in detector.alarms)
    assert check.checks, "it was not run"
    return Said(tuple(str(row) for row in check.checks if row.passed is False), alarms, ready.score(), end)


def cases(test: str, chosen: Callable[[Training], bool] = lambda training: True) -> list[Any]:
    """Return the parameters of a test, each with the defects that are known of it."""
    return with_defects(filter(chosen, TRAININGS), test, TRAINING_DEFECTS)


@strangers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", cases("label"))
def test_held_out_data_say_which_training_is_worth_something(training: Training) -> None:
    assert (watched(training).score >= training.bar) == training.healthy


@strangers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", cases("trace"))
def test_weights_buffers_and_random_numbers_are_those_of_a_training_without_observers(training: Training) -> None:
    end = watched(training).end
    assert ended(training.run([])) == end


@strangers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", cases("quiet", lambda training: training.healthy))
def test_a_healthy_training_ends_without_a_failed_check_and_without_an_alarm(training: Training) -> None:
    said = watched(training)
    assert not said.failed and not said.alarms, [*said.failed, *said.alarms]


@strangers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", cases("noticed", lambda training: not training.healthy))
def test_a_mistake_is_noticed(training: Training) -> None:
    said = watched(training)
    assert said.failed or said.alarms


def test_names_of_trainings_are_unique_and_every_defect_is_of_one_of_them() -> None:
    names = [training.name for training in TRAININGS]
    assert len(set(names)) == len(names)
    assert {name for name, _ in TRAINING_DEFECTS} <= set(names)
    assert torch.tensor([training.healthy for training in TRAININGS]).sum() >= 24
