"""Scenarios like trainings that nobody here has made: what they are called agrees with scores of their own."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from sklearn import metrics

from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    wide_adaptation,
    wide_bugs,
    wide_classification,
    wide_embeddings,
    wide_generative,
    wide_regression,
    wide_sequences,
)
from benchmarks.models.scripts import auc
from benchmarks.models.wide import Loaded
from tests.benchmarks.problems import assert_modules_exist, assert_named_for_development, passes

FILES = (
    wide_classification,
    wide_regression,
    wide_sequences,
    wide_generative,
    wide_embeddings,
    wide_adaptation,
    wide_bugs,
)
WIDE = [scenario for file in FILES for scenario in file.SCENARIOS]
CHEAP = (
    "customers, one in a hundred leaves",
    "customers who leave, joined by the wrong row",
    "patients, a column against a column",
    "parity of 3 bits of 16, SGD",
    "24 bits for each digit",
    "24 bits for a digit, nothing pushes apart",
    "citations, two layers",
    "a good network goes on, batches of 4",
    "a head that the optimizer does not know",
    "raw columns, BatchNorm left in eval()",
)


def test_half_of_at_least_seventy_scenarios_fail() -> None:
    share = sum(s.failing for s in WIDE) / len(WIDE)
    assert len(WIDE) >= 70
    assert 0.45 <= share <= 0.55


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    assert 0.3 <= sum(s.failing for s in file.SCENARIOS) / len(file.SCENARIOS) <= 0.7
    assert all(s.passes is not None for s in file.SCENARIOS)
    assert {s.family for s in file.SCENARIOS} == {file.FAMILY}


def test_their_names_are_unique_and_put_all_of_them_into_the_develop_half() -> None:
    assert_named_for_development(WIDE)


def test_batches_and_numbers_of_updates_are_of_many_sizes() -> None:
    trainings = [s.make(0) for s in WIDE]
    sizes = {t.module.batch for t in trainings if isinstance(t.module, Loaded) and hasattr(t.module, "batch")}
    updates = [t.steps for t in trainings]
    assert min(sizes) == 1
    assert max(sizes) == 512
    assert len(sizes) >= 12
    assert min(updates) <= 100
    assert max(updates) == 900


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.parametrize("scenario", WIDE, ids=lambda s: s.name)
def test_modules_that_detectors_are_pointed_to_exist(scenario: Scenario) -> None:
    assert_modules_exist(scenario)


def test_the_area_under_the_curve_is_that_of_scikit_learn_with_and_without_equal_scores() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(2, (200,), generator=generator)
    for scores in (torch.randn(200, generator=generator), torch.randint(4, (200,), generator=generator).float()):
        assert float(auc(scores, labels)) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-9)


@pytest.mark.slow  # (those of the latest rounds are the small siblings)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in WIDE if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", WIDE, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing
