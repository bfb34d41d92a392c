"""How spread out features are, from sums that can be added up over batches and processes. No Lightning.

No single number is enough: the variance on the sphere sees that everything has become one vector, and is blind to
features that live in few dimensions; the effective rank of the centred covariance sees that, and is blind to one vector
plus noise. Shapes: features ``[n, d]``, sums ``[d]``, second moments ``[d, d]``; all arithmetic in float64, since a
mean ten times the standard deviation costs a float32 covariance 20 to 40 % of the rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLOOR = 1e-6
_ALIVE = 0.01
# Of the mean square: what a variance below it is made of is rounding, of sums in float64 over 10^5 batches (measured:
# 5e-13 after 20,000 of equal rows) as of features in float32 (1e-14). A std of 1e-6 of the features' size still counts.
_ROUNDING = 1e-12


def rows(features: Tensor) -> Tensor:
    """Return features as float64 rows ``[n, d]``: leading dimensions are samples."""
    return features.detach().reshape(-1, features.shape[-1]).to(torch.float64)


def unit_rows(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of length 1 and which rows were not all zero; rows of zeros stay zeros."""
    flat = rows(features)
    lengths = flat.norm(dim=1, keepdim=True)
    there = lengths.squeeze(1) > 0
    return torch.where(lengths > 0, flat / lengths.clamp(min=torch.finfo(torch.float64).tiny), 0.0), there


def sphere_variance(unit_sum: Tensor, nonzero: Tensor, count: Tensor) -> Tensor:
    """Return the variance of directions, ``(m / n) * (1 - ||sum of unit rows / m||^2)``, in [0, 1], 0-d.

    1 is spread evenly, 0 is one direction for all. Rows of zeros have no direction and count as collapsed: without that
    a network that outputs zeros would look perfectly spread.

    Args:
        unit_sum: sum of the unit rows ``[d]``.
        nonzero: number m of rows that are not all zero, 0-d.
        count: number n of rows, 0-d.

    Reference: the identity behind the std of SimSiam (Chen and He, 2020, arXiv:2011.10566): ``sum_j var_j``.

    >>> sphere_variance(torch.tensor([2.0, 0.0]), torch.tensor(2.0), torch.tensor(2.0))
    tensor(0.)
    """
    mean = unit_sum / nonzero.clamp(min=1)
    spread = (1 - mean.square().sum()).clamp(min=0.0)
    return torch.where(count > 0, spread * nonzero / count.clamp(min=1), torch.nan)


def covariance(total: Tensor, second: Tensor, count: Tensor) -> Tensor:
    """Return the centred covariance ``second / n - mean mean^T``, ``[d, d]``; zeros where all of it is rounding.

    Args:
        total: sum of the rows ``[d]``, float64.
        second: sum of their outer products ``[d, d]``, float64.
        count: number n of rows, 0-d.

    >>> covariance(torch.tensor([2.0]), torch.tensor([[4.0]]), torch.tensor(2.0))
    tensor([[1.]])
    """
    n = count.clamp(min=1)
    mean = total / n
    centred = second / n - torch.outer(mean, mean)
    return torch.where(centred.trace() <= rounding(second.trace() / n), 0.0, centred)  # (NaN stays NaN)


def rounding(mean_square: Tensor) -> Tensor:
    """Return the variance up to which features count as one vector, 0-d: 1e-12 of their mean squared length.

    Equal rows have a covariance of rounding errors, which has a rank like any noise.

    >>> rounding(torch.tensor(4.0))
    tensor(4.0000e-12)
    """
    return _ROUNDING * mean_square


def spectrum(matrix: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """Return the eigenvalues of a covariance in falling order, ``[d]``; below 1e-6 of the first, or ``least``, as 0.

    Args:
        matrix: the covariance ``[d, d]``.
        least: ``rounding`` of the features' mean squared length, 0-d.

    >>> spectrum(torch.diag(torch.tensor([1.0, 4.0, 1e-9])))
    tensor([4., 1., 0.])
    """
    values = torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0.0)
    return torch.where((values < _FLOOR * values[:1]) | (values < least), 0.0, values)


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """Return ``exp(-sum p ln p)`` with ``p = sigma / sum sigma``, ``sigma = sqrt(eigenvalue)``; 0 for no variance, 0-d.

    Args:
        eigenvalues: of the centred covariance ``[d]``, without noise (``spectrum``).

    Reference: Garrido et al., "RankMe", 2022, arXiv:2210.02885, of centred features; Roy and Vetterli, 2007.

    >>> effective_rank(torch.tensor([4.0, 1.0, 0.0])).round(decimals=4)
    tensor(1.8899)
    """
    sigma = eigenvalues.clamp(min=0.0).sqrt()
    share = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny)
    return torch.where(sigma.sum() > 0, torch.special.entr(share).sum().exp(), 0.0)


def participation_ratio(matrix: Tensor) -> Tensor:
    """Return ``(trace C)^2 / ||C||_F^2``, the number of dimensions that share the variance; 0 for none, 0-d.

    It needs no eigenvalues. Reference: Gao et al., 2017, bioRxiv 214262.

    >>> participation_ratio(torch.eye(4))
    tensor(4.)
    """
    size = matrix.square().sum()
    return torch.where(size > 0, matrix.trace().square() / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def embedding_std(unit_sum: Tensor, unit_squares: Tensor, nonzero: Tensor) -> Tensor:
    """Return ``sqrt(d) * mean_j std_j`` of unit rows: about 1 for healthy embeddings, 0 for one direction, 0-d.

    Blind to collapse in dimensions where BatchNorm ends the projector; kept to compare with the literature.

    Reference: Chen and He, "SimSiam", 2020, arXiv:2011.10566, section 4.1.

    >>> embedding_std(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor(2.0)).round(decimals=4)
    tensor(1.)
    """
    n = nonzero.clamp(min=1)
    variance = (unit_squares / n - (unit_sum / n).square()).clamp(min=0.0)
    return math.sqrt(len(unit_sum)) * variance.sqrt().mean()


def dead_dimensions(total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """Return the share of dimensions whose std is below 1 % of the largest; 1 when nothing varies, 0-d.

    >>> dead_dimensions(torch.zeros(2), torch.tensor([4.0, 0.0]), torch.tensor(4.0))
    tensor(0.5000)
    """
    n = count.clamp(min=1)
    variance = (squares / n - (total / n).square()).clamp(min=0.0)
    std, top = variance.sqrt(), variance.max().sqrt()
    return torch.where(variance.max() > rounding(squares.sum() / n), (std < _ALIVE * top).to(total.dtype).mean(), 1.0)


def mean_cosine(unit_sum: Tensor, nonzero: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of rows, ``(||sum||^2 - m) / (m (m - 1))``; NaN for fewer than two, 0-d.

    >>> mean_cosine(torch.tensor([2.0, 0.0]), torch.tensor(2.0))
    tensor(1.)
    """
    pairs = nonzero * (nonzero - 1)
    return torch.where(pairs > 0, (unit_sum.square().sum() - nonzero) / pairs.clamp(min=1), torch.nan)


def uniformity(features: Tensor, block: int = 1024) -> Tensor:
    """Return ``log mean over pairs of exp(-2 ||a - b||^2)`` of unit rows: 0 when all are one, lower when spread, 0-d.

    Args:
        features: ``[n, d]``, n >= 2 (NaN below).
        block: rows compared at a time.

    Reference: Wang and Isola, 2020, arXiv:2005.10242.

    >>> uniformity(torch.ones(4, 3))
    tensor(0., dtype=torch.float64)
    """
    unit, _ = unit_rows(features)
    n = len(unit)
    if n < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=features.device)
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for part in torch.split(unit, block):
        distances = (part.square().sum(1, keepdim=True) + unit.square().sum(1) - 2 * part @ unit.T).clamp(min=0.0)
        total += (-2 * distances).exp().sum()
    # (without the n pairs of a row with itself, which add exp(0) each)
    return ((total - n) / (n * (n - 1))).log()


def alignment(one: Tensor, two: Tensor) -> Tensor:
    """Return the mean squared distance of unit rows of two views of the same samples: 0 when equal, 0-d.

    Reference: Wang and Isola, 2020, arXiv:2005.10242.

    >>> alignment(torch.eye(2), torch.eye(2))
    tensor(0., dtype=torch.float64)
    """
    return (unit_rows(one)[0] - unit_rows(two)[0]).square().sum(1).mean()
