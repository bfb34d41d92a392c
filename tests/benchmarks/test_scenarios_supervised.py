from __future__ import annotations

import pytest

from benchmarks.collapse import fit, quiet
from benchmarks.models import scenarios
from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import classification, classification_regimes
from lightning_tricks.measure.causes import Cause

FAMILIES = (classification, classification_regimes)
OURS = [s for family in FAMILIES for s in family.SCENARIOS]
CHEAP = (
    "99:1, learned",
    "99:1, pixels divided by 255 twice",
    "linear model on 600 patients",
    "large network on 600 patients",
)


def score(scenario: Scenario, seed: int) -> float:
    """Train once, without any detector."""
    with quiet():
        training = scenario.make(seed)
        fit(training, [*training.callbacks])
        assert training.score is not None
        return training.score(training.module)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__.rpartition(".")[2])
def test_a_family_has_failing_and_healthy_scenarios_with_a_score(family: object) -> None:
    own: list[Scenario] = family.SCENARIOS  # type: ignore[attr-defined]
    assert 0.3 <= sum(s.failing for s in own) / len(own) <= 0.7 or len(own) < 15
    assert all(s.passes is not None and s.family for s in own)


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
        running = {c for c in scenario.causes if not c.startswith("sanity:")}
        assert running <= known, scenario.name


@pytest.mark.parametrize("name", CHEAP)
def test_the_score_tells_a_failing_training_from_a_healthy_one(name: str) -> None:
    scenario = next(s for s in OURS if s.name == name)
    assert (score(scenario, 0) < scenario.passes) == scenario.failing


@pytest.mark.slow
@pytest.mark.parametrize("scenario", OURS, ids=lambda s: s.name)
def test_the_score_agrees_with_the_label_for_five_seeds(scenario: Scenario) -> None:
    for seed in range(5):
        assert (score(scenario, seed) < scenario.passes) == scenario.failing
