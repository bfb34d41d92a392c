"""Scenarios of families that are seldom combined with their bugs: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import fresh_classes, fresh_sequences, fresh_tables, fresh_unlabelled
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (fresh_classes, fresh_sequences, fresh_unlabelled, fresh_tables)
FRESH = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits", "prediction"}
CHEAP = (
    "averaged weights that hardly move",
    "an average of weights that follows",
    "weights made by a network, then copied",
    "weights made by a network for four ways to turn",
    "raw sensors, the encoder tried in eval()",
    "raw sensors around 5,000, a state for each moment",
)


def test_half_of_at_least_sixty_scenarios_fail() -> None:
    assert len(FRESH) >= 60
    assert sum(s.failing for s in FRESH) == len(FRESH) / 2


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(FRESH)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(FRESH)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", FRESH, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in FRESH if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", FRESH, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
