from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from scipy.spatial.distance import pdist

from lightning_tricks.collapse import representation
from lightning_tricks.functional import effective_rank, spectrum


def low_rank(n: int, d: int, rank: int, mean: float = 0.0, seed: int = 0) -> torch.Tensor:
    draw = numpy.random.default_rng(seed)
    features = draw.normal(size=(n, rank)) @ draw.normal(size=(rank, d)) / math.sqrt(rank) + mean
    return torch.tensor(features, dtype=torch.float32)


def sums(features: torch.Tensor) -> Any:
    flat = representation.rows(features)
    return flat.sum(0), flat.T @ flat, torch.tensor(float(len(flat)), dtype=torch.float64)


def rankme(features: torch.Tensor) -> float:
    """From the singular values of the centred matrix, by numpy in float64."""
    data = features.double().numpy()
    sigma = numpy.linalg.svd(data - data.mean(0), compute_uv=False)
    sigma = sigma[sigma > 1e-3 * sigma[0]]
    share = sigma / sigma.sum()
    return float(numpy.exp(-(share * numpy.log(share)).sum()))


@pytest.mark.parametrize("mean", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_the_rank_is_that_of_singular_values_whatever_the_mean(rank: int, mean: float) -> None:
    features = low_rank(512, 64, rank, mean)
    got = effective_rank(spectrum(representation.covariance(*sums(features))))
    assert got.item() == pytest.approx(rankme(features), rel=1e-3)


def test_an_uncentred_float32_rank_would_read_a_quarter() -> None:
    features = low_rank(4096, 64, 20, mean=10.0)
    sigma = torch.linalg.svdvals(features)
    share = sigma / sigma.sum()
    naive = torch.special.entr(share).sum().exp().item()
    true = effective_rank(spectrum(representation.covariance(*sums(features)))).item()
    assert naive < 0.5 * true
    assert true == pytest.approx(rankme(features), rel=1e-3)


def test_nothing_that_varies_has_rank_0() -> None:
    constant = torch.full((10, 4), 3.0)
    cov = representation.covariance(*sums(constant))
    assert effective_rank(spectrum(cov)) == 0
    assert representation.participation_ratio(torch.zeros(3, 3)) == 0


def test_participation_ratio_is_that_of_the_eigenvalues() -> None:
    cov = numpy.cov(low_rank(300, 8, 5).double().numpy(), rowvar=False, bias=True)
    values = numpy.linalg.eigvalsh(cov)
    got = representation.participation_ratio(torch.tensor(cov)).item()
    assert got == pytest.approx(values.sum() ** 2 / (values**2).sum())


def test_variance_on_the_sphere_is_the_sum_of_variances_of_unit_rows() -> None:
    features = torch.randn(200, 16) + 0.5
    unit, there = representation.unit_rows(features)
    got = representation.sphere_variance(unit.sum(0), there.sum(), torch.tensor(200))
    data = features.double().numpy()
    data /= numpy.linalg.norm(data, axis=1, keepdims=True)
    assert got.item() == pytest.approx(data.var(axis=0).sum())


def test_rows_of_zeros_count_as_collapsed() -> None:
    for zeros, wanted in ((0, 1.0), (2, 0.5), (4, 0.0)):
        features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        features[:zeros] = 0
        if zeros == 2:
            features[2:] = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
        unit, there = representation.unit_rows(features)
        assert representation.sphere_variance(unit.sum(0), there.sum(), torch.tensor(4)).item() == pytest.approx(wanted)


def test_the_std_of_embeddings_is_1_for_a_gaussian_and_0_for_one_direction() -> None:
    for features, wanted in ((torch.randn(5000, 32), 1.0), (torch.ones(50, 32), 0.0)):
        unit, there = representation.unit_rows(features)
        got = representation.embedding_std(unit.sum(0), unit.square().sum(0), there.sum())
        assert got.item() == pytest.approx(wanted, abs=0.02)


def test_dead_dimensions_are_those_that_hardly_vary() -> None:
    features = torch.randn(100, 4) * torch.tensor([1.0, 0.5, 0.001, 0.0])
    flat = representation.rows(features)
    assert representation.dead_dimensions(flat.sum(0), flat.square().sum(0), torch.tensor(100.0)) == 0.5
    constant = torch.ones(5, 3, dtype=torch.float64)
    assert representation.dead_dimensions(constant.sum(0), constant.square().sum(0), torch.tensor(5.0)) == 1


@pytest.mark.parametrize("block", [7, 1024])
def test_uniformity_is_that_of_scipys_distances(block: int) -> None:
    features = torch.randn(100, 5)
    data = torch.nn.functional.normalize(features.double(), dim=1).numpy()
    wanted = math.log(numpy.exp(-2 * pdist(data) ** 2).mean())
    assert representation.uniformity(features, block).item() == pytest.approx(wanted)
    assert representation.uniformity(features[:1]).isnan()


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    features = torch.randn(50, 5) + 0.3
    unit, there = representation.unit_rows(features)
    got = representation.mean_cosine(unit.sum(0), there.sum()).item()
    assert got == pytest.approx(1 - pdist(features.double().numpy(), "cosine").mean())
    assert representation.mean_cosine(unit[0], torch.tensor(1)).isnan()


def test_alignment_is_the_mean_squared_distance() -> None:
    one, two = torch.randn(20, 4), torch.randn(20, 4)
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (one, two))
    assert representation.alignment(one, two).item() == pytest.approx((a - b).square().sum(1).mean().item())
