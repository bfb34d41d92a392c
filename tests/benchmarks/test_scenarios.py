"""Scenarios of the collapse benchmark: what they are called agrees with scores that no detector has a part in."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.models.scenario import SANITY, SANITY_ROWS, Scenario
from benchmarks.models.scenarios import (
    SCENARIOS,
    autoencoders,
    bugs,
    bugs_in_data,
    bugs_in_updates,
    classification,
    classification_regimes,
    finetuning,
    gans,
    generative,
    graphs,
    language,
    mixtures,
    recurrent,
    regression,
    regression_distributions,
    reinforcement,
    self_supervised,
    self_supervised_labels,
    variational,
)
from lightning_tricks.detection.causes import Cause
from tests.benchmarks.problems import passes

SUPERVISED = (
    classification,
    classification_regimes,
    regression,
    regression_distributions,
    bugs,
    bugs_in_updates,
    bugs_in_data,
)
SEQUENCES = (language, recurrent, mixtures, graphs, reinforcement, finetuning)
REPRESENTATIONS = (self_supervised, self_supervised_labels, autoencoders, variational, generative, gans)
FILES = (*SUPERVISED, *SEQUENCES, *REPRESENTATIONS)
SCORED = [scenario for file in FILES for scenario in file.SCENARIOS]
CHEAP = (
    "linear model on 600 patients",
    "large network on 600 patients",
    "[n, 1] squeezed to [n]",
    "[n, 1] against [n]",
    "seven claims in ten are 0, absolute error",
    "optimizer.step forgotten",
    "validation data that are new",
    "rows of 1e8",
    "parity of three bits among twelve",
    "communities, one node of ten has a label",
    "communities, sums over neighbours, rate 1",
    "head that starts at zero",
    "a good network, weight decay 30",
    "head replaced after the optimizer, backbone frozen",
    "SimCLR, labels in the batch unused",
    "BYOL, no predictor, no target network",
    "autoencoder, eight numbers",
    "autoencoder, non-negative codes that start far below 0",
    "VQ-VAE, codes far from the encoder's outputs",
)


def agrees(scenario: Scenario, seed: int) -> bool:
    """Whether its score agrees with what it is called; representations have to be trained to the end."""
    whole = any(scenario in file.SCENARIOS for file in REPRESENTATIONS)
    return passes(scenario, seed, to_the_end=whole) is not scenario.failing


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_each_file_has_failing_and_healthy_scenarios_with_a_score(file: ModuleType) -> None:
    failing = [s.failing for s in file.SCENARIOS]
    assert set(failing) == {True, False}
    if file not in SUPERVISED:
        assert 0.35 <= sum(failing) / len(failing) <= 0.65
    assert all(s.passes is not None and s.family for s in file.SCENARIOS)


def test_about_half_of_the_supervised_scenarios_fail() -> None:
    failing = [s.failing for file in SUPERVISED for s in file.SCENARIOS]
    assert 0.4 <= sum(failing) / len(failing) <= 0.6


def test_names_are_unique_and_a_twin_is_healthy_with_the_same_threshold() -> None:
    named = {s.name: s for s in SCENARIOS}
    assert len(named) == len(SCENARIOS)
    assert {s.name for s in SCORED} <= set(named)
    for scenario in SCORED:
        if scenario.rescuable:
            twin = named[scenario.rescuable]
            assert not twin.failing
            assert twin.passes == scenario.passes


def test_every_cause_is_one_that_a_verdict_or_a_row_of_the_sanity_check_can_name() -> None:
    known = {c.value for c in Cause} - {""}
    for scenario in SCENARIOS:
        for cause in scenario.causes:
            row = cause.removeprefix(SANITY)
            assert row in SANITY_ROWS if cause.startswith(SANITY) else cause in known, f"{scenario.name}: {cause}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_scenarios_are_what_they_are_called(name: str) -> None:
    scenario = next(s for s in SCORED if s.name == name)
    assert agrees(scenario, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", SCORED, ids=lambda s: s.name)
def test_all_scenarios_are_what_they_are_called(scenario: Scenario, seed: int) -> None:
    assert agrees(scenario, seed)
