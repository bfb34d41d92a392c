from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lightning_tricks.collapse import posterior


def posteriors(seed: int, n: int = 200, d: int = 5, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 0.5, 0.05, 1e-3, 0.0])[:d]
    return torch.randn(n, d, generator=draw) * scale + shift, torch.randn(n, d, generator=draw) - 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_the_divergence_is_that_of_torch(seed: int) -> None:
    mean, log_variance = posteriors(seed)
    wanted = kl_divergence(Normal(mean.double(), (log_variance.double() / 2).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(posterior.posterior_kl(mean, log_variance), wanted, rtol=1e-6, atol=1e-9)


def test_the_divergence_is_exact_near_the_prior_in_float32() -> None:
    log_variance = torch.full((1,), 1e-4)
    wanted = (math.expm1(1e-4) - 1e-4) / 2
    assert float(posterior.kl_terms(torch.zeros(1), log_variance)) == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_measures_are_those_of_numpy_also_far_from_zero(shift: float) -> None:
    mean, log_variance = posteriors(1, shift=shift)
    sums = posterior.moments(mean, log_variance, mean.mean(0))
    values, kl = posterior.read_posterior(posterior.measured_posterior(sums).tolist())
    variance = mean.double().numpy().var(0)
    assert values["largest_mean_variance"] == pytest.approx(variance.max(), rel=1e-4)
    assert values["mean_variance"] == pytest.approx(variance.mean(), rel=1e-4)
    assert values["active_units"] == (variance > 0.01).sum() == 2
    assert values["active_share"] == 2 / 5
    assert values["posterior_variance"] == pytest.approx(float(log_variance.exp().mean()), rel=1e-5)
    wanted = posterior.posterior_kl(mean, log_variance)
    assert values["kl"] == pytest.approx(float(wanted.sum()), rel=1e-4)
    numpy.testing.assert_allclose(kl, sorted(wanted.tolist(), reverse=True), rtol=1e-4)


def test_sums_of_parts_are_those_of_the_whole() -> None:
    mean, log_variance = posteriors(2)
    shift = mean.mean(0)
    parts = [posterior.moments(mean[i:j], log_variance[i:j], shift) for i, j in ((0, 30), (30, 31), (31, 200))]
    added = {name: sum((p[name] for p in parts[1:]), parts[0][name]) for name in parts[0]}
    whole = posterior.moments(mean, log_variance, shift)
    torch.testing.assert_close(posterior.measured_posterior(added), posterior.measured_posterior(whole))


def test_a_posterior_that_is_not_finite_is_told() -> None:
    for bad in (math.nan, math.inf):
        mean, log_variance = posteriors(3)
        log_variance[4, 1] = bad
        sums = posterior.moments(mean, log_variance, torch.zeros(5))
        values, kl = posterior.read_posterior(posterior.measured_posterior(sums).tolist())
        assert values["finite"] == 0.0 and all(map(math.isfinite, kl))


def test_halves_and_rows_of_every_shape() -> None:
    image = torch.arange(2 * 6 * 2 * 2.0).reshape(2, 6, 2, 2)
    mean, log_variance = posterior.halves(image, 1)
    assert torch.equal(torch.cat([mean, log_variance], 1), image)
    assert torch.equal(posterior.latent_rows(mean)[1], image[0, :3, 0, 1])
    tokens = torch.randn(2, 7, 4)
    assert torch.equal(posterior.latent_rows(tokens), tokens.reshape(14, 4))


def test_wide_posteriors_send_a_bounded_vector() -> None:
    sums = posterior.moments(torch.randn(8, 4000), torch.zeros(8, 4000), torch.zeros(4000))
    assert len(posterior.measured_posterior(sums)) == len(posterior.POSTERIOR) + posterior.SHOWN
