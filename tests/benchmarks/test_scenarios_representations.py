"""Scenarios of self-supervision, autoencoders, generative models and GANs: their labels are those of their scores."""

from __future__ import annotations

import pytest

from benchmarks.collapse import fit, quiet
from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    autoencoders,
    gans,
    generative,
    self_supervised,
    self_supervised_labels,
    variational,
)
from lightning_tricks.measure.causes import Cause

FAMILIES = (self_supervised, self_supervised_labels, autoencoders, variational, generative, gans)
ALL = [scenario for family in FAMILIES for scenario in family.SCENARIOS]
CHEAP = (
    "SimCLR, labels in the batch unused",
    "BYOL, no predictor, no target network",
    "autoencoder, eight numbers",
    "autoencoder, non-negative codes that start far below 0",
    "VQ-VAE, codes far from the encoder's outputs",
)


def passes(scenario: Scenario, seed: int) -> bool:
    with quiet():
        training = scenario.make(seed)
        fit(training, [*training.callbacks])
    assert training.score is not None
    assert scenario.passes is not None
    assert training.module.global_step >= training.steps
    return training.score(training.module) >= scenario.passes


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.filterwarnings("ignore")
def test_a_healthy_training_passes_and_a_failing_one_does_not(name: str) -> None:
    scenario = next(s for s in ALL if s.name == name)
    assert passes(scenario, 0) != scenario.failing


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
@pytest.mark.filterwarnings("ignore")
def test_every_training_has_the_score_of_its_label(scenario: Scenario, seed: int) -> None:
    assert passes(scenario, seed) != scenario.failing


def test_names_are_unique_causes_are_known_and_twins_are_healthy_with_the_same_threshold() -> None:
    by_name = {s.name: s for s in ALL}
    assert len(by_name) == len(ALL)
    known = {c.value for c in Cause}
    for scenario in ALL:
        assert {c for c in scenario.causes if not c.startswith("sanity:")} <= known
        if scenario.rescuable:
            twin = by_name[scenario.rescuable]
            assert not twin.failing
            assert twin.passes == scenario.passes


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__.rsplit(".", 1)[-1])
def test_about_half_of_each_family_fails(family: object) -> None:
    found = [s.failing for s in family.SCENARIOS]  # type: ignore[attr-defined]
    assert 0.35 <= sum(found) / len(found) <= 0.65
