"""Scenarios from a list of families and mistakes: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    listed_classes,
    listed_generative,
    listed_sequences,
    listed_tables,
    listed_updates,
)
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (listed_classes, listed_sequences, listed_generative, listed_updates, listed_tables)
LISTED = [scenario for file in FILES for scenario in file.SCENARIOS]
RETURNED = {"logits"}
CHEAP = (
    "a log-likelihood handed to SGD",
    "a head put in when training starts",
    "digits by hand, SGD 0.3",
    "names with titles, time first in the logits",
    "communities, two layers, a full batch",
    "digits and noise, a last layer of nothing",
)


def test_half_of_at_least_eighty_scenarios_fail() -> None:
    assert len(LISTED) >= 80
    assert 0.45 <= sum(s.failing for s in LISTED) / len(LISTED) <= 0.55


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(LISTED)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(LISTED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", LISTED, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, RETURNED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in LISTED if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", LISTED, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
