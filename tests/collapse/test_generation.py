from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from lightning_tricks.collapse import generation


def modes(count: int, n: int = 400, seed: int = 0, of: int = 8) -> torch.Tensor:
    """Gaussians on a circle, ``count`` of 8 of them."""
    draw = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * (torch.arange(n) % count) * (of // count) / of
    return torch.stack([angle.cos(), angle.sin()], 1) * 4 + 0.1 * torch.randn(n, 2, generator=draw)


def spheres(samples: torch.Tensor, k: int) -> numpy.ndarray:
    """Radii by scikit-learn."""
    data = samples.double().numpy()
    return NearestNeighbors(n_neighbors=k + 1).fit(data).kneighbors(data)[0][:, k]


@pytest.mark.parametrize("k", [1, 5])
def test_neighbour_measures_are_those_of_scikit_learns_neighbours(k: int) -> None:
    real, fake = modes(8, 200, 1), modes(4, 150, 2)
    apart = cdist(real.double().numpy(), fake.double().numpy())
    of_real, of_fake = spheres(real, k), spheres(fake, k)
    wanted = {
        "coverage": (apart <= of_real[:, None]).any(1).mean(),
        "density": (apart <= of_real[:, None]).sum() / (k * len(fake)),
        "recall": (apart <= of_fake[None, :]).any(1).mean(),
        "precision": (apart <= of_real[:, None]).any(0).mean(),
    }
    for name, value in wanted.items():
        assert getattr(generation, name)(fake, real, k).item() == pytest.approx(value), name


def test_lost_modes_show_in_coverage_and_not_in_the_pairwise_distance() -> None:
    real = modes(8, 512, 1)
    found = {c: generation.coverage(modes(c, 512, 2), real).item() for c in (8, 4, 2, 1)}
    assert found[8] > 0.9
    assert found[4] < 0.6
    assert found[2] < 0.35
    assert found[1] < 0.2
    assert generation.pairwise_distance_ratio(modes(4, 512, 2), real).item() == pytest.approx(1.0, abs=0.05)
    assert generation.pairwise_distance_ratio(modes(1, 512, 2), real).item() < 0.1


def test_identical_samples_are_inside_of_their_own_spheres() -> None:
    same = torch.ones(10, 3)
    for name in ("coverage", "recall", "precision"):
        assert getattr(generation, name)(same, same, 5) == 1, name


def test_distances_are_scipys() -> None:
    one, two = torch.randn(30, 3), torch.randn(20, 3) + 1
    ratio = pdist(one.double().numpy()).mean() / pdist(two.double().numpy()).mean()
    assert generation.pairwise_distance_ratio(one, two).item() == pytest.approx(ratio)
    nearest = cdist(two.double().numpy(), one.double().numpy()).min(1).mean() / spheres(two, 1).mean()
    assert generation.nearest_distance_ratio(one, two).item() == pytest.approx(nearest)
    assert generation.mean_pairwise_distance(one[:1]).isnan()


@pytest.mark.parametrize(("n", "d"), [(20, 6), (6, 20)])
def test_the_vendi_score_is_that_of_the_kernel_matrix(n: int, d: int) -> None:
    features = torch.randn(n, d)
    unit = torch.nn.functional.normalize(features.double(), dim=1).numpy()
    values = numpy.linalg.eigvalsh(unit @ unit.T / n)
    values = values[values > 1e-12]
    assert generation.vendi_score(features).item() == pytest.approx(math.exp(-(values * numpy.log(values)).sum()))
    assert generation.vendi_score(torch.zeros(3, 2)) == 0


def test_the_neighbour_test_is_leave_one_out_classification() -> None:
    one, two = torch.randn(40, 2), torch.randn(40, 2) + 0.7
    data, kind = torch.cat([one, two]).double().numpy(), numpy.repeat([0, 1], 40)
    right = [
        KNeighborsClassifier(1).fit(numpy.delete(data, i, 0), numpy.delete(kind, i)).predict(data[i : i + 1])[0] == kind[i]
        for i in range(80)
    ]  # fmt: skip
    assert generation.neighbour_test(one, two).item() == pytest.approx(numpy.mean(right))
    far = generation.neighbour_test(one, two + 100)
    assert far == 1


def test_repetition_is_counted_by_tuples() -> None:
    tokens = torch.randint(0, 3, (4, 50), generator=torch.Generator().manual_seed(0))
    grams = [tuple(row[i : i + 3]) for row in tokens.tolist() for i in range(48)]
    assert generation.repetition_rate(tokens, 3).item() == pytest.approx(1 - len(set(grams)) / len(grams))
    assert generation.repetition_rate(torch.tensor([1, 2]), 4).isnan()


def test_modes_and_histograms_of_a_labeller() -> None:
    assert generation.modes_captured(torch.tensor([500, 499, 1, 0])) == 2
    assert generation.modes_captured(torch.zeros(3)) == 0
    a, b = numpy.array([5.0, 3.0, 9.0]), numpy.array([1.0, 7.0, 2.0])
    got = generation.histogram_correlation(torch.tensor(a), torch.tensor(b)).item()
    assert got == pytest.approx(numpy.corrcoef(a, b)[0, 1])
