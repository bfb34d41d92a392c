"""Reviewed regression, embeddings and generators: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import review_embeddings, review_generators, review_regression
from tests.benchmarks.problems import (
    assert_causes_known,
    assert_mixed_with_scores,
    assert_modules_exist,
    assert_named_for_development,
    passes,
)

FILES = (review_regression, review_embeddings, review_generators)
REVIEWED = [scenario for file in FILES for scenario in file.SCENARIOS]
CHEAP = (
    "ten answers for each tumour, flattened by column",
    "ten answers for a tumour, flattened by row",
    "Weibull lifetimes, the likelihood is minimised",
    "lifetimes, three in four never seen to end",
    "bits behind a tanh of 300 times the output",
    "bits behind a tanh that gets sharper",
    "a VAE whose decoder sees a layer of the encoder",
    "six codes for a digit, the nearest of 32",
    "digits learnt from own drawings alone",
    "the largest eight of 256 features",
)


def test_half_of_at_least_forty_four_scenarios_fail() -> None:
    assert len(REVIEWED) >= 44
    assert sum(s.failing for s in REVIEWED) * 2 == len(REVIEWED)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert_mixed_with_scores(file)


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(REVIEWED)


def test_their_causes_are_causes_of_verdicts_or_rows_of_the_check_before_training() -> None:
    assert_causes_known(REVIEWED)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", REVIEWED, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario, {"logits"})


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
