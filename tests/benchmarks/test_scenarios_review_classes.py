"""Scenarios from code reviews, drawn like trainings that are held back: what they are called agrees with their scores."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import review_classes, review_graphs_and_policies, review_sequences
from tests.benchmarks.problems import assert_modules_exist, assert_named_for_development, passes

FILES = (review_classes, review_sequences, review_graphs_and_policies)
REVIEWED = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits", "prediction", "probabilities"}
CHEAP = (
    "five questions, a softmax over the answers",
    "five questions about a digit, five sigmoids",
    "ten classes after five, the optimizer keeps the old head",
    "half of the labels by lot, corrected where it is sure",
    "tumours, a hinge for 0 and 1",
    "tumours, a hinge for labels of -1 and 1",
    "tumours as a graph, decay of 5 for 5e-4",
)


def test_half_of_at_least_forty_scenarios_fail() -> None:
    assert len(REVIEWED) >= 40
    assert 0.45 <= sum(s.failing for s in REVIEWED) / len(REVIEWED) <= 0.55


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert 0.4 <= sum(s.failing for s in file.SCENARIOS) / len(file.SCENARIOS) <= 0.6
    assert all(s.passes is not None for s in file.SCENARIOS)
    assert {s.family for s in file.SCENARIOS} == {file.FAMILY}


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(REVIEWED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", REVIEWED, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in REVIEWED if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", REVIEWED, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
