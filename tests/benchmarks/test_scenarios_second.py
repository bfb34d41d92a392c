"""Scenarios as users of forums train: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import second_classes, second_sequences, second_tables, second_unlabelled
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (second_classes, second_sequences, second_tables, second_unlabelled)
SECOND = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits"}
CHEAP = (
    "prices as they are, squared errors of them",
    "circles of people, four in five unknown",
    "pairs of edges viewed as two rows",
    "narrow layers beside frozen ones",
    "two narrow layers that both start at zero",
    "cross entropy of grey pixels",
)


def test_about_half_of_at_least_sixty_scenarios_fail() -> None:
    assert len(SECOND) >= 60
    assert 0.45 <= sum(s.failing for s in SECOND) / len(SECOND) <= 0.55


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(SECOND)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(SECOND)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", SECOND, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in SECOND if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", SECOND, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
