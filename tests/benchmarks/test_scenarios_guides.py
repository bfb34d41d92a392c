"""Scenarios from tutorials: what they are called agrees with scores that no detector has a part in."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    guides_decisions,
    guides_sequences,
    guides_tables,
    guides_unlabelled,
    guides_vision,
)
from tests.benchmarks.problems import assert_commented, assert_named_for_development, passes

FILES = (guides_vision, guides_sequences, guides_tables, guides_unlabelled, guides_decisions)
GUIDES = [scenario for file in FILES for scenario in file.SCENARIOS]
CHEAP = (
    "coordinates through Fourier features",
    "coordinates without Fourier features",
    "TransE, corrupted triples that are the true ones",
    "words and their topics by skip-grams",
    "skip-grams, negatives forgotten",
    "MADE on binary digits",
    "DPO",
    "DPO, the reference is the policy",
)


def test_at_least_thirty_are_healthy_and_thirty_fail() -> None:
    failing = sum(s.failing for s in GUIDES)
    assert failing >= 30
    assert len(GUIDES) - failing >= 30


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_about_half_of_each_file_fails(file: ModuleType) -> None:
    share = sum(s.failing for s in file.SCENARIOS) / len(file.SCENARIOS)
    assert 0.4 <= share <= 0.6


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_a_comment_before_each_scenario_says_what_kind_of_example_it_is_from(file: ModuleType) -> None:
    assert_commented(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(GUIDES)


@pytest.mark.parametrize("scenario", GUIDES, ids=lambda s: s.name)
def test_a_scenario_starts_from_other_weights_with_another_seed_and_from_the_same_ones_with_the_same(
    scenario: Scenario,
) -> None:
    def start(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in scenario.make(seed).module.parameters()])

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in GUIDES if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", GUIDES, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
