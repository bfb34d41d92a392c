from __future__ import annotations

import inspect
import math

import numpy
import pytest
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence
from torchmetrics import Metric

import lightning_tricks
from lightning_tricks.collapse import latent_metrics
from tests.collapse.problems import LATENT, make

ENTRIES = LATENT[:4]


def test_every_metric_is_public() -> None:
    made = [c for c in vars(latent_metrics).values() if getattr(c, "__module__", "") == latent_metrics.__name__]
    own = {c.__name__ for c in made if inspect.isclass(c) and issubclass(c, Metric) and c.__name__[0] != "_"}
    assert own == set(LATENT) <= set(lightning_tricks.__all__)


def test_values_are_those_of_scipy_and_torch() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(4, 25, 6)
    p = logits.double().softmax(-1).reshape(-1, 6)
    counts = numpy.bincount(p.argmax(1).numpy(), minlength=6)
    wanted = {
        "UsagePerplexity": math.exp(scipy.stats.entropy(counts)),
        "UnusedEntries": (counts == 0).mean(),
        "MarginalEntropy": scipy.stats.entropy(p.mean(0).numpy()),
        "ConditionalEntropy": scipy.stats.entropy(p.numpy(), axis=1).mean(),
    }
    for name, value in wanted.items():
        for rows in (logits, logits.softmax(-1)):
            metric = make(name)
            metric.update(rows)
            assert float(metric.compute()) == pytest.approx(value, rel=1e-5), name
    mean, log_variance = torch.randn(50, 6), torch.randn(50, 6)
    kl = lightning_tricks.PosteriorKL(6)
    kl.update(mean, log_variance)
    terms = kl_divergence(Normal(mean.double(), (log_variance.double() / 2).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(kl.per_dimension, terms, rtol=1e-6, atol=0)
    assert float(kl.compute()) == pytest.approx(float(terms.sum()))


def test_whole_numbers_are_certain_and_others_are_left_out() -> None:
    numbers = torch.tensor([[0, 1], [1, 5], [-1, 6]])
    values = {}
    for name in ENTRIES:
        metric = make(name)
        metric.update(numbers)
        values[name] = float(metric.compute())
    entropy = scipy.stats.entropy([1, 2, 1])
    assert values == pytest.approx(
        {
            "UsagePerplexity": math.exp(entropy),
            "UnusedEntries": 0.5,
            "MarginalEntropy": entropy,
            "ConditionalEntropy": 0.0,
        }
    )


@pytest.mark.parametrize("name", LATENT)
def test_a_wrong_width_is_refused_with_the_right_one(name: str) -> None:
    metric, wrong = make(name), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=rf"{name}\(\w+=\(3, 4\)\): the last dimension must be 6.* {name}\(4\)"):
        metric.update(*([wrong] * (2 if name == "PosteriorKL" else 1)))
