"""Scenarios of the same list with new data and architectures: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    fifth_classes,
    fifth_generative,
    fifth_sequences,
    fifth_tables,
    fifth_unlabelled,
    fifth_updates,
)
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (fifth_classes, fifth_tables, fifth_sequences, fifth_unlabelled, fifth_generative, fifth_updates)
FIFTH = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits"}
CHEAP = (
    "gestures, log_softmax over the batch",
    "gestures, log_softmax over classes",
    "pumps, risk sets reversed",
    "pumps, a quarter still run",
    "curves in noise, AdamW at 2e-5",
    "curves in noise, the last layer starts at 0",
)


def test_half_of_sixty_four_scenarios_fail() -> None:
    assert len(FIFTH) == 64
    assert sum(s.failing for s in FIFTH) == 32


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(FIFTH)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(FIFTH)


@pytest.mark.parametrize("scenario", FIFTH, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in FIFTH if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", FIFTH, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
