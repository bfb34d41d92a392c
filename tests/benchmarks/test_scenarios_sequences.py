"""Scenarios of sequences, mixtures, graphs, agents and fine-tuning: what they are called agrees with their scores."""

from __future__ import annotations

import pytest

from benchmarks import collapse
from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import SCENARIOS, finetuning, graphs, language, mixtures, recurrent, reinforcement
from lightning_tricks.measure.causes import Cause

FAMILIES = (language, recurrent, mixtures, graphs, reinforcement, finetuning)
OWN = [s for family in FAMILIES for s in family.SCENARIOS]
CHEAP = (
    "parity of three bits among twelve",
    "communities, one node of ten has a label",
    "communities, sums over neighbours, rate 1",
    "head that starts at zero",
    "a good network, weight decay 30",
    "head replaced after the optimizer, backbone frozen",
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


def trained_score(scenario: Scenario, seed: int) -> float:
    with collapse.quiet():
        training = scenario.make(seed)
        collapse.fit(training, [*training.callbacks])
        assert training.score is not None
        return training.score(training.module)


def test_every_family_has_failing_and_healthy_scenarios_and_names_are_unique() -> None:
    for family in FAMILIES:
        share = sum(s.failing for s in family.SCENARIOS) / len(family.SCENARIOS)
        assert 0.35 <= share <= 0.65, family.__name__
    names = [s.name for s in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {s.name for s in OWN} <= set(names)
    assert {s.rescuable for s in OWN} - {""} <= {s.name for s in OWN if not s.failing}


def test_causes_are_names_of_causes_or_of_rows_of_the_sanity_check() -> None:
    for scenario in OWN:
        for cause in scenario.causes:
            kind, _, row = cause.partition(":")
            assert row in ROWS if kind == "sanity" else Cause.named(cause) is not Cause.NONE, (scenario.name, cause)


def test_a_failing_scenario_shares_the_score_of_its_healthy_twin() -> None:
    threshold = {s.name: s.passes for s in OWN}
    assert all(s.passes == threshold[s.rescuable] for s in OWN if s.rescuable)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in OWN if s.name == name)
    assert scenario.passes is not None
    assert (trained_score(scenario, 0) >= scenario.passes) != scenario.failing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", OWN, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert scenario.passes is not None
    assert (trained_score(scenario, seed) >= scenario.passes) != scenario.failing
