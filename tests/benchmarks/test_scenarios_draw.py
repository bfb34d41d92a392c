"""Scenarios drawn like trainings that are held back: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import draw_bugs, draw_classification, draw_embeddings, draw_generative, draw_sequences
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (draw_classification, draw_sequences, draw_generative, draw_embeddings, draw_bugs)
DRAWN = [scenario for file in FILES for scenario in file.SCENARIOS]
CHEAP = (
    "wines one by one, dropout of 0.8",
    "ten flags, a sigmoid before the loss with logits",
    "two digits at a time, the old ones kept",
    "two digits at a time, the old ones gone",
    "sensors with answers in thousands",
    "a recurrence of 1.5 times the identity",
    "two loaders shuffled apart, restored digits",
    "digits restored from half of their pixels",
    "six bits through a sign, no gradient",
    "six bits through a straight gradient",
    "an adapter, both factors zero",
    "an adapter of a network that knew five digits",
)


def test_half_of_at_least_seventy_scenarios_fail() -> None:
    assert len(DRAWN) >= 70
    assert 0.45 <= sum(s.failing for s in DRAWN) / len(DRAWN) <= 0.55


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(DRAWN)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(DRAWN)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", DRAWN, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, {"logits", "prediction"})


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in DRAWN if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", DRAWN, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
