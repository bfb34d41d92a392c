"""Measures of embeddings as ``torchmetrics.Metric``: streaming, and on several processes that of all data together."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lightning_tricks.collapse import representation
from lightning_tricks.collapse.metric_sums import FeatureSums, Moments


class _Directions(FeatureSums):
    """Sums of unit rows."""

    unit_sum: Tensor
    unit_squares: Tensor
    nonzero: Tensor
    dimensions: ClassVar[dict[str, int]] = {"unit_sum": 1, "unit_squares": 1, "nonzero": 0}

    def _terms(self, rows: Tensor) -> dict[str, Tensor]:
        unit, there = representation.unit_rows(rows)
        return {"unit_sum": unit.sum(0), "unit_squares": unit.square().sum(0), "nonzero": there.sum()}


class SphereVariance(_Directions):
    """Variance of the directions of features, in [0, 1]: 0 when all are one vector, or zero.

    ``(m / n) * (1 - ||mean of unit rows||^2)`` over n rows of which m are not zero. It sees complete collapse, which
    the effective rank of the centred covariance does not, and is blind to dimensional collapse, which that sees.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, NaN without samples.

    Example:
        >>> import torch
        >>> metric = SphereVariance(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: identity behind the std of Chen and He, "SimSiam", 2020, arXiv:2011.10566.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the variance."""
        return representation.sphere_variance(self.unit_sum, self.nonzero, self.count)


class EmbeddingStd(_Directions):
    """``sqrt(d)`` times the mean std of unit features: about 1 when healthy, 0 for one direction.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64.

    Example:
        >>> import torch
        >>> metric = EmbeddingStd(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> metric.compute().round(decimals=4)
        tensor(1., dtype=torch.float64)

    Reference: Chen and He, "SimSiam", 2020, arXiv:2011.10566, section 4.1.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the std ratio."""
        return representation.embedding_std(self.unit_sum, self.unit_squares, self.nonzero)


class MeanCosine(_Directions):
    """Mean cosine of all pairs of features: 1 when all point the same way, about 0 when spread.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, in [-1, 1], NaN below two samples.

    Example:
        >>> import torch
        >>> metric = MeanCosine(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the mean cosine."""
        return representation.mean_cosine(self.unit_sum, self.nonzero)


class DeadDimensions(Moments):
    """Share of dimensions whose std is below 1 % of the largest, in [0, 1]; 1 when nothing varies.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64.

    Example:
        >>> import torch
        >>> metric = DeadDimensions(2)
        >>> metric.update(torch.tensor([[1.0, 7.0], [-1.0, 7.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: Bardes et al., "VICReg", 2021, arXiv:2105.04906 (the variance that it keeps up).
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the share."""
        return representation.dead_dimensions(self.total, self.squares, self.count)


class _Covariance(FeatureSums):
    """Sums of rows and of their outer products: ``d * d`` numbers, however many samples."""

    total: Tensor
    second: Tensor
    dimensions: ClassVar[dict[str, int]] = {"total": 1, "second": 2}

    def _terms(self, rows: Tensor) -> dict[str, Tensor]:
        return {"total": rows.sum(0), "second": rows.T @ rows}

    def covariance(self) -> Tensor:
        """Return the centred covariance ``[d, d]``."""
        return representation.covariance(self.total, self.second, self.count)


class EffectiveRank(_Covariance):
    """How many dimensions features use: RankMe of the centred covariance, in [0, min(d, n - 1)].

    ``exp(-sum p ln p)`` with ``p = sigma / sum sigma`` over the square roots of the eigenvalues. Centred, in float64
    and with a floor below which eigenvalues are noise: without these three it reads 4.95 for a true 19.9 when the mean
    is ten times the std. Sampling lowers it: use n >= 4 d, or hold n fixed. A classifier's last layer has a low one
    when it is healthy (neural collapse).

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, 0 when nothing varies (above 1e-6 of the size).

    Example:
        >>> import torch
        >>> metric = EffectiveRank(3)
        >>> metric.update(torch.cat([torch.eye(3), -torch.eye(3)]))
        >>> metric.compute().round(decimals=4)
        tensor(3., dtype=torch.float64)

    Reference: Garrido et al., "RankMe", 2022, arXiv:2210.02885.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the rank."""
        least = representation.rounding(self.second.trace() / self.count.clamp(min=1))
        return representation.effective_rank(representation.spectrum(self.covariance(), least))


class ParticipationRatio(_Covariance):
    """``(trace C)^2 / ||C||_F^2``: dimensions that share the variance, in [0, d].

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, 0 when nothing varies (above 1e-6 of the size).

    Example:
        >>> import torch
        >>> metric = ParticipationRatio(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)

    Reference: Gao et al., 2017, bioRxiv 214262.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the ratio."""
        return representation.participation_ratio(self.covariance())
