"""Scenarios from public examples told again: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import third_classes, third_sequences, third_tables, third_unlabelled
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (third_classes, third_sequences, third_unlabelled, third_tables)
THIRD = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits", "prediction"}
CHEAP = (
    "prototypes, the farthest wins",
    "contrastive loss with 1 for alike",
    "streams of text, clipped to 1e-4",
    "sparse codes, a weight of 20",
    "DeepSurv, half are censored",
    "A2C, the sign of its policy loss",
)


def test_half_of_sixty_four_scenarios_fail() -> None:
    assert len(THIRD) == 64
    assert sum(s.failing for s in THIRD) == 32


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(THIRD)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(THIRD)


@pytest.mark.parametrize("scenario", THIRD, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in THIRD if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", THIRD, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
