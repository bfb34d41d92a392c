from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from lightning_tricks import EffectiveRank, PredictionSkill, RepetitionRate, metrics
from lightning_tricks.collapse import generation, representation
from tests.collapse.problems import ALL, FEATURES, LATENT, PAIRS, PREDICTIONS, data, make, parts


def test_every_public_metric_is_an_example_here() -> None:
    assert set(metrics.__all__) == {*ALL, *LATENT}


@pytest.mark.parametrize("name", (*ALL, *LATENT))
def test_batches_of_any_size_give_the_value_of_all_at_once(name: str) -> None:
    whole, streamed = make(name), make(name)
    whole.update(*data(name))
    for part in parts(data(name), [1, 17, 30]):
        streamed.update(*part)
    torch.testing.assert_close(streamed.compute(), whole.compute(), rtol=1e-9, atol=1e-9)
    assert whole.compute().ndim == 0
    torch.testing.assert_close(pickle.loads(pickle.dumps(streamed)).compute(), whole.compute(), rtol=1e-9, atol=1e-9)
    streamed.reset()
    streamed.update(*data(name, seed=1))
    other = make(name)
    other.update(*data(name, seed=1))
    torch.testing.assert_close(streamed.compute(), other.compute(), rtol=1e-9, atol=1e-9)


WANTED = {
    "EffectiveRank": lambda x: representation.effective_rank(
        representation.spectrum(torch.cov(x.double().T, correction=0))
    ),
    "ParticipationRatio": lambda x: representation.participation_ratio(torch.cov(x.double().T, correction=0)),
    "Uniformity": representation.uniformity,
    "VendiScore": generation.vendi_score,
    "Alignment": representation.alignment,
    "Coverage": generation.coverage,
    "Density": generation.density,
    "Recall": generation.recall,
    "Precision": generation.precision,
    "PairwiseDistanceRatio": generation.pairwise_distance_ratio,
    "NearestDistanceRatio": generation.nearest_distance_ratio,
    "RepetitionRate": generation.repetition_rate,
}


@pytest.mark.parametrize("name", WANTED)
def test_a_metric_is_its_function(name: str) -> None:
    metric = make(name)
    metric.update(*data(name))
    torch.testing.assert_close(metric.compute().double(), WANTED[name](*data(name)).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [*FEATURES, *PREDICTIONS, *PAIRS, *LATENT, "Uniformity", "VendiScore", "Alignment"])
def test_an_update_reads_nothing_on_the_host(name: str) -> None:
    from benchmarks.overhead import Reads

    metric = make(name)
    with Reads() as reads:
        metric.update(*data(name))
    assert reads.count == 0


def test_a_step_value_and_the_value_of_the_epoch_both_come_from_forward() -> None:
    for name in ("EffectiveRank", "Uniformity", "ClassShare"):
        metric, whole, last = make(name), make(name), make(name)
        for part in parts(data(name), [30]):
            step = metric(*part)
        whole.update(*data(name))
        last.update(*part)
        torch.testing.assert_close(metric.compute(), whole.compute())
        torch.testing.assert_close(step, last.compute())


@pytest.mark.parametrize("name", ALL)
def test_a_pickled_metric_goes_on(name: str) -> None:
    metric = make(name)
    metric.update(*data(name))
    twin = pickle.loads(pickle.dumps(metric))
    for each in (metric, twin):
        each.update(*data(name, seed=3))
    torch.testing.assert_close(twin.compute(), metric.compute())


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: EffectiveRank(1), "num_features must be a whole number >= 2"),
        (lambda: PredictionSkill(0), "num_classes must be a whole number >= 2"),
        (lambda: metrics.Coverage(0), "k must be a whole number >= 1"),
        (lambda: RepetitionRate(0), "n must be a whole number >= 1"),
        (lambda: EffectiveRank(4).update(torch.zeros(2, 3)), r"the last dimension must be 4.*EffectiveRank\(3\)"),
        (lambda: PredictionSkill(3).update(torch.zeros(2, 3), torch.zeros(5)), "2 predictions, target 5"),
        (lambda: metrics.Alignment().update(torch.zeros(2, 3), torch.zeros(2, 4)), "two views"),
        (lambda: metrics.Coverage().compute(), "0 generated samples were given, at least 6"),
    ],
    ids=range(8),
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_is_named(use: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        use()
