"""Generated samples against real ones: do they cover the same ground? No Lightning.

Shapes: generated ``[m, d]``, real ``[n, d]``; distances are Euclidean, in float64. A sphere around a sample reaches to
its k-th nearest neighbour in its own set, and holds what lies on its surface (``<=``): with ``<``, a set of identical
samples would hold nothing, itself included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.collapse.prediction import entropy
from lightning_tricks.collapse.representation import rows, unit_rows


def distances(one: Tensor, two: Tensor) -> Tensor:
    """Return all distances ``[m, n]`` in float64.

    >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]], dtype=torch.float64)
    """
    # (as a matrix product, the distance of near samples would be the difference of large numbers)
    return torch.cdist(rows(one), rows(two), compute_mode="donot_use_mm_for_euclid_dist")


def radii(samples: Tensor, k: int) -> Tensor:
    """Return the distance of each sample to its k-th nearest neighbour in the same set, ``[n]``; n > k.

    >>> radii(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    tensor([1., 1., 2.], dtype=torch.float64)
    """
    return distances(samples, samples).kthvalue(k + 1, dim=1).values  # (the first one is the sample itself)


def coverage(generated: Tensor, real: Tensor, k: int = 5) -> Tensor:
    """Return the share of real samples whose sphere holds a generated one, in [0, 1], 0-d.

    Reference: Naeem et al., 2020, arXiv:2002.09797. For equal distributions ``1 - 2^-k`` is expected.

    >>> coverage(torch.zeros(3, 1), torch.tensor([[0.0], [0.1], [9.0], [9.1]]), k=1)
    tensor(0.5000, dtype=torch.float64)
    """
    inside = distances(real, generated) <= radii(real, k)[:, None]
    return inside.any(dim=1).double().mean()


def density(generated: Tensor, real: Tensor, k: int = 5) -> Tensor:
    """Return how many real spheres a generated sample lies in, over k; about 1 for equal distributions, 0-d.

    Reference: Naeem et al., 2020, arXiv:2002.09797.

    >>> density(torch.zeros(3, 1), torch.tensor([[0.0], [0.1], [9.0]]), k=1)
    tensor(2., dtype=torch.float64)
    """
    inside = distances(real, generated) <= radii(real, k)[:, None]
    return inside.double().sum() / (k * len(rows(generated)))


def recall(generated: Tensor, real: Tensor, k: int = 5) -> Tensor:
    """Return the share of real samples that lie in the sphere of some generated one, in [0, 1], 0-d.

    Reference: Kynkaanniemi et al., 2019, arXiv:1904.06991.

    >>> recall(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [9.0]]), k=1)
    tensor(0.5000, dtype=torch.float64)
    """
    inside = distances(real, generated) <= radii(generated, k)
    return inside.any(dim=1).double().mean()


def precision(generated: Tensor, real: Tensor, k: int = 5) -> Tensor:
    """Return the share of generated samples that lie in the sphere of some real one, in [0, 1], 0-d.

    Reference: Kynkaanniemi et al., 2019, arXiv:1904.06991.

    >>> precision(torch.tensor([[0.5], [9.0]]), torch.tensor([[0.0], [1.0]]), k=1)
    tensor(0.5000, dtype=torch.float64)
    """
    return recall(real, generated, k)


def mean_pairwise_distance(samples: Tensor) -> Tensor:
    """Return the mean distance of all pairs; NaN for fewer than two samples, 0-d.

    >>> mean_pairwise_distance(torch.tensor([[0.0], [2.0]]))
    tensor(2., dtype=torch.float64)
    """
    n = len(rows(samples))
    total = distances(samples, samples).sum()
    return total / (n * (n - 1)) if n > 1 else torch.full_like(total, torch.nan)


def pairwise_distance_ratio(generated: Tensor, real: Tensor) -> Tensor:
    """Return the mean pairwise distance of generated samples over that of real ones, 0-d.

    Near 0 for one mode; blind to the loss of every second one (4 of 8 modes on a circle give 1.0).

    >>> pairwise_distance_ratio(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [4.0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    return mean_pairwise_distance(generated) / mean_pairwise_distance(real)


def nearest_distance_ratio(generated: Tensor, real: Tensor) -> Tensor:
    """Return how far the nearest generated sample is from a real one, over how far the nearest other real one is, 0-d.

    About 1 for equal distributions; one missing mode shows at once.

    >>> nearest_distance_ratio(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
    tensor(0.5000, dtype=torch.float64)
    """
    return distances(real, generated).min(dim=1).values.mean() / radii(real, 1).mean()


MODES = ("recall", "coverage", "precision", "pairwise_distance_ratio", "nearest_distance_ratio")


def mode_measures(generated: Tensor, real: Tensor, k: int = 5) -> Tensor:
    """Return the measures of ``MODES`` from three distance matrices, ``[5]``: each equals the function of its name.

    >>> mode_measures(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [4.0]]), k=1)[3]
    tensor(0.2500, dtype=torch.float64)
    """
    within, among, across = (
        distances(generated, generated),
        distances(real, real),
        distances(real, generated),
    )
    own, theirs = (d.kthvalue(k + 1, dim=1).values for d in (within, among))
    m, n = len(within), len(among)
    return torch.stack(
        [
            (across <= own).any(dim=1).double().mean(),
            (across <= theirs[:, None]).any(dim=1).double().mean(),
            (across <= theirs[:, None]).any(dim=0).double().mean(),
            within.sum() / (m * (m - 1)) / (among.sum() / (n * (n - 1))),
            across.min(dim=1).values.mean() / among.kthvalue(2, dim=1).values.mean(),
        ]
    )


def vendi_score(features: Tensor) -> Tensor:
    """Return ``exp(entropy of the eigenvalues of K / n)`` with the cosine kernel K: effective number of samples, 0-d.

    Reference: Friedman and Dieng, 2022, arXiv:2210.02410.

    >>> vendi_score(torch.eye(3)), vendi_score(torch.ones(3, 2))
    (tensor(3., dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    unit, there = unit_rows(features)
    unit = unit[there]
    n, d = unit.shape
    if n == 0:
        return torch.zeros((), dtype=torch.float64, device=features.device)
    # the Gram matrix and the second-moment matrix have the same eigenvalues: take the smaller one
    matrix = unit @ unit.T if n <= d else unit.T @ unit
    # (rounded: equal samples have a score of 1, and not of 1 and the errors of the eigenvalues)
    return entropy(torch.linalg.eigvalsh(matrix / n).clamp(min=0.0)).exp().round(decimals=9)


def neighbour_test(generated: Tensor, real: Tensor) -> Tensor:
    """Return how often the nearest other sample is of the same kind: 0.5 when nobody can tell, 1 when anybody can, 0-d.

    An auxiliary discriminator without training: leave-one-out classification by the nearest neighbour. Below 0.5 the
    generated samples lie closer to real ones than those to each other: copies. Use equal numbers of both.

    Reference: Lopez-Paz and Oquab, 2016, arXiv:1610.06545.

    >>> neighbour_test(torch.tensor([[0.0], [0.1]]), torch.tensor([[5.0], [5.1]]))
    tensor(1., dtype=torch.float64)
    """
    both = torch.cat([rows(generated), rows(real)])
    kind = torch.arange(len(both), device=both.device) < len(rows(generated))
    apart = distances(both, both).fill_diagonal_(torch.inf)
    return (kind[apart.argmin(dim=1)] == kind).double().mean()


def modes_captured(counts: Tensor, least: float = 0.01) -> Tensor:
    """Return how many classes a labeller finds among the samples: those with at least ``least`` of an even share, 0-d.

    Args:
        counts: generated samples by class ``[K]``.
        least: of ``n / K``.

    Reference: Che et al., "Mode Regularized GAN", 2016, arXiv:1612.02136.

    >>> modes_captured(torch.tensor([50, 50, 0, 0]))
    tensor(2)
    """
    return (counts > 0).logical_and(counts >= least * counts.sum() / len(counts)).sum()


def histogram_correlation(generated: Tensor, real: Tensor) -> Tensor:
    """Return the correlation of two class histograms ``[K]``, in [-1, 1]; NaN when one of them is flat, 0-d.

    >>> histogram_correlation(torch.tensor([3.0, 1.0]), torch.tensor([6.0, 2.0]))
    tensor(1.)
    """
    return torch.corrcoef(torch.stack([generated, real]))[0, 1]


def ngrams(tokens: Tensor, n: int) -> Tensor:
    """Return the n-grams of each row as rows ``[count, n]``; they do not cross rows.

    Args:
        tokens: ``[length]`` or ``[batch, length]``, whole numbers.
        n: >= 1.

    >>> ngrams(torch.tensor([[1, 2, 3], [4, 5, 6]]), 2)
    tensor([[1, 2],
            [2, 3],
            [4, 5],
            [5, 6]])
    """
    flat = tokens.detach().reshape(-1, tokens.shape[-1])
    if flat.shape[1] < n:
        return flat.new_zeros(0, n)
    return flat.unfold(1, n, 1).reshape(-1, n)


def repetition_rate(tokens: Tensor, n: int = 4) -> Tensor:
    """Return ``1 - distinct n-grams / n-grams``, in [0, 1); NaN when there are none, 0-d.

    Reference: Welleck et al., 2019, arXiv:1908.04319 (rep-n); ``1 - `` it is distinct-n of Li et al., 2015,
    arXiv:1510.03055.

    >>> repetition_rate(torch.tensor([7, 7, 7, 7, 7]), n=2)
    tensor(0.7500, dtype=torch.float64)
    """
    found = ngrams(tokens, n)
    count = torch.tensor(len(found), dtype=torch.float64, device=tokens.device)
    return 1 - len(torch.unique(found, dim=0)) / count if len(found) else count * torch.nan
