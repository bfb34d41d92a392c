"""Scenarios as users of forums train: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import SANITY, SANITY_ROWS, Scenario
from benchmarks.models.scenarios import second_classes, second_sequences, second_tables, second_unlabelled
from lightning_tricks.detection.causes import Cause
from tests.benchmarks.problems import assert_modules_exist, assert_named_for_development, passes

FILES = (second_classes, second_sequences, second_unlabelled, second_tables)
SECOND = [scenario for file in FILES for scenario in file.SCENARIOS]
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
    assert len(SECOND) >= 60
    assert sum(s.failing for s in SECOND) == len(SECOND) / 2


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert 0.4 <= sum(s.failing for s in file.SCENARIOS) / len(file.SCENARIOS) <= 0.6
    assert all(s.passes is not None for s in file.SCENARIOS)
    assert {s.family for s in file.SCENARIOS} == {file.FAMILY}


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(SECOND)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    known = {str(c.value) for c in Cause if c.value} | {SANITY + row for row in SANITY_ROWS}
    assert {cause for s in SECOND for cause in s.causes} <= known


@pytest.mark.parametrize("scenario", SECOND, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in SECOND if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", SECOND, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
