from __future__ import annotations

import pytest

from benchmarks.collapse import fit, quiet
from benchmarks.models import scenarios
from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    bugs,
    bugs_in_data,
    bugs_in_updates,
    classification,
    classification_regimes,
    regression,
    regression_distributions,
)
from lightning_tricks.measure.causes import Cause

FAMILIES = (
    classification,
    classification_regimes,
    regression,
    regression_distributions,
    bugs,
    bugs_in_updates,
    bugs_in_data,
)
ROWS = {
    "initial loss",
    "inputs matter",
    "all parameters learn",
    "units are alive",
    "samples do not leak",
    "labels follow from inputs",
    "overfits one batch",
    "shapes of outputs and labels",
    "data are shuffled",
    "no look into the future",
    "modules are in training mode",
    "validation data are new",
}
OURS = [s for family in FAMILIES for s in family.SCENARIOS]
CHEAP = (
    "linear model on 600 patients",
    "large network on 600 patients",
    "[n, 1] squeezed to [n]",
    "[n, 1] against [n]",
    "seven claims in ten are 0, absolute error",
    "optimizer.step forgotten",
    "validation data that are new",
    "rows of 1e8",
)


def score(scenario: Scenario, seed: int) -> float:
    """Train once, without any detector."""
    with quiet():
        training = scenario.make(seed)
        fit(training, [*training.callbacks])
        assert training.score is not None
        return training.score(training.module)


def test_about_half_of_the_scenarios_fail_and_all_have_a_score_and_a_family() -> None:
    assert 0.4 <= sum(s.failing for s in OURS) / len(OURS) <= 0.6
    for family in FAMILIES:
        assert {s.failing for s in family.SCENARIOS} == {True, False}, family.__name__
    assert all(s.passes is not None and s.family for s in OURS)


def test_names_are_unique_and_twins_exist_with_the_same_score() -> None:
    names = [s.name for s in scenarios.SCENARIOS]
    assert len(set(names)) == len(names)
    by_name = {s.name: s for s in scenarios.SCENARIOS}
    for scenario in OURS:
        if scenario.rescuable:
            twin = by_name[scenario.rescuable]
            assert not twin.failing and twin.passes == scenario.passes


def test_causes_are_names_of_causes_or_of_rows_of_the_sanity_check() -> None:
    known = {c.value for c in Cause}
    for scenario in OURS:
        sanity = {c.removeprefix("sanity:") for c in scenario.causes if c.startswith("sanity:")}
        running = {c for c in scenario.causes if not c.startswith("sanity:")}
        assert sanity <= ROWS and running <= known, scenario.name


@pytest.mark.parametrize("name", CHEAP)
def test_the_score_tells_a_failing_training_from_a_healthy_one(name: str) -> None:
    scenario = next(s for s in OURS if s.name == name)
    assert (score(scenario, 0) < scenario.passes) == scenario.failing


@pytest.mark.slow
@pytest.mark.parametrize("scenario", OURS, ids=lambda s: s.name)
def test_the_score_agrees_with_the_label_for_five_seeds(scenario: Scenario) -> None:
    for seed in range(5):
        assert (score(scenario, seed) < scenario.passes) == scenario.failing
