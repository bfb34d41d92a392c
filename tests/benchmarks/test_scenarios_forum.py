"""Scenarios from forum threads: what they are called agrees with scores that no detector has a part in."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    forum_generative,
    forum_sequences,
    forum_tables,
    forum_updates,
    forum_vision,
)
from tests.benchmarks.problems import assert_commented, assert_named_for_development, passes

FILES = (forum_vision, forum_sequences, forum_tables, forum_generative, forum_updates)
FORUM = [scenario for file in FILES for scenario in file.SCENARIOS]
CHEAP = (
    "bright spots, weights of classes",
    "bright spots, weights of classes swapped",
    "roots of masked errors",
    "XOR by linear layers alone",
    "links with negative samples",
    "Adam in half precision",
    "Adam in half precision, epsilon 1e-4",
)


def test_there_are_about_as_many_failing_as_healthy_scenarios() -> None:
    share = sum(s.failing for s in FORUM) / len(FORUM)
    assert len(FORUM) >= 70
    assert 0.4 <= share <= 0.6


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios(file: ModuleType) -> None:
    assert {s.failing for s in file.SCENARIOS} == {True, False}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_a_comment_before_each_scenario_says_what_kind_of_report_it_is_from(file: ModuleType) -> None:
    assert_commented(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(FORUM)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in FORUM if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", FORUM, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
