"""Measures of how alike embeddings are, as ``torchmetrics.Metric``: of pairs of samples, or of two views of each."""

from __future__ import annotations

from torch import Tensor

from lightning_tricks.collapse import generation, representation
from lightning_tricks.collapse.metric_sums import Features, Sums
from lightning_tricks.errors import message


class Uniformity(Features):
    """``log mean over pairs of exp(-2 ||a - b||^2)`` of unit features: 0 when all are one, lower when spread.

    Shape:
        ``update(features: [n, ...])``; ``compute()`` 0-d float64, <= 0.

    Example:
        >>> import torch
        >>> metric = Uniformity()
        >>> metric.update(torch.ones(4, 3))
        >>> metric.compute().round(decimals=6)
        tensor(0., dtype=torch.float64)

    Reference: Wang and Isola, 2020, arXiv:2005.10242.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the uniformity."""
        return representation.uniformity(self._kept("features", 2))


class Alignment(Sums):
    """Mean squared distance of the unit features of two views of the same samples: 0 when equal, at most 4.

    Shape:
        ``update(one: [n, d], two: [n, d])``; ``compute()`` 0-d float64.

    Example:
        >>> import torch
        >>> metric = Alignment()
        >>> metric.update(torch.eye(2), torch.eye(2).flip(0))
        >>> metric.compute()
        tensor(2., dtype=torch.float64)

    Reference: Wang and Isola, 2020, arXiv:2005.10242.
    """

    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._add("total")
        self._add("count")

    def update(self, one: Tensor, two: Tensor) -> None:
        """Add two views of the same samples."""
        if one.shape != two.shape:
            rule = f"the first view has the shape {tuple(one.shape)}"
            raise ValueError(message("Alignment", "two", tuple(two.shape), rule, "Pass two views of the same samples"))
        count = len(representation.rows(one))
        self.total += representation.alignment(one, two) * count
        self.count += count

    def compute(self) -> Tensor:
        """Return the mean distance."""
        return self.total / self.count


class VendiScore(Features):
    """Effective number of different samples: ``exp`` of the entropy of the cosine kernel's eigenvalues, in [1, n].

    Shape:
        ``update(features: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> import torch
        >>> metric = VendiScore()
        >>> metric.update(torch.eye(3))
        >>> metric.compute()
        tensor(3., dtype=torch.float64)

    Reference: Friedman and Dieng, 2022, arXiv:2210.02410.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the score."""
        return generation.vendi_score(self._kept("features", 1))
