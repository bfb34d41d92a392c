"""Scenarios from a list of families, with mistakes that were not in it: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    fourth_classes,
    fourth_generative,
    fourth_sequences,
    fourth_tables,
    fourth_unlabelled,
    fourth_updates,
)
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (fourth_classes, fourth_tables, fourth_sequences, fourth_unlabelled, fourth_generative, fourth_updates)
FOURTH = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits", "prediction"}
CHEAP = (
    "machines, Cox's loss has lost its minus",
    "machines, seven of ten outlast the study",
    "sensors, -99999 for what is missing",
    "sensors, 0 where nothing was read",
    "a dictionary of 200, few at a time",
    "patient after patient, a rate of 3",
)


def test_nearly_half_of_a_hundred_scenarios_fail() -> None:
    assert len(FOURTH) == 100
    assert sum(s.failing for s in FOURTH) == 47


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(FOURTH)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(FOURTH)


@pytest.mark.parametrize("scenario", FOURTH, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in FOURTH if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", FOURTH, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
