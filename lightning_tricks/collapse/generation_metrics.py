"""Measures of generated samples as ``torchmetrics.Metric``, on several processes that of all data together.

Generation compares every sample with every other one and keeps them: update it with a few thousand at most.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_tricks.collapse import generation
from lightning_tricks.collapse.metric_sums import Samples
from lightning_tricks.errors import require_count


class _Generated(Samples):
    """Generated samples beside real ones."""

    def __init__(self) -> None:
        super().__init__("generated", "real")

    def update(self, generated: Tensor, real: Tensor) -> None:
        """Add generated samples ``[m, ...]`` and real ones ``[n, ...]`` of the same shape each."""
        self._keep("generated", generated)
        self._keep("real", real)


class _Neighbours(_Generated):
    """With spheres to the k-th nearest neighbour; a subclass says what is measured."""

    measure: Callable[[Tensor, Tensor, int], Tensor]

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        self.k = require_count(type(self).__name__, "k", k, remedy="Use e.g. 5")

    def compute(self) -> Tensor:
        """Return what the class's measure gives."""
        generated, real = (self._kept(kind, self.k + 1) for kind in ("generated", "real"))
        return self.measure(generated, real, self.k)


class Coverage(_Neighbours):
    """Share of real samples that have a generated one within the distance to their k-th real neighbour, in [0, 1].

    Args:
        k: neighbours. For equal distributions ``1 - 2^-k`` is expected.

    Shape:
        ``update(generated: [m, ...], real: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = Coverage(k=1)
        >>> metric.update(torch.zeros(3, 1), torch.tensor([[0.0], [0.1], [9.0], [9.1]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: Naeem et al., 2020, arXiv:2002.09797.
    """

    higher_is_better = True
    measure = staticmethod(generation.coverage)


class Density(_Neighbours):
    """In how many real spheres a generated sample lies, over k: about 1 for equal distributions.

    Args:
        k: neighbours.

    Shape:
        ``update(generated: [m, ...], real: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = Density(k=1)
        >>> metric.update(torch.full((3, 1), 50.0), torch.tensor([[0.0], [0.1]]))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)

    Reference: Naeem et al., 2020, arXiv:2002.09797.
    """

    higher_is_better = True
    measure = staticmethod(generation.density)


class Recall(_Neighbours):
    """Share of real samples that lie within the generated ones' spheres, in [0, 1].

    Args:
        k: neighbours.

    Shape:
        ``update(generated: [m, ...], real: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = Recall(k=1)
        >>> metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [9.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: Kynkaanniemi et al., 2019, arXiv:1904.06991.
    """

    higher_is_better = True
    measure = staticmethod(generation.recall)


class Precision(_Neighbours):
    """Share of generated samples that lie within the real ones' spheres, in [0, 1].

    Args:
        k: neighbours.

    Shape:
        ``update(generated: [m, ...], real: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = Precision(k=1)
        >>> metric.update(torch.tensor([[0.5], [9.0]]), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: Kynkaanniemi et al., 2019, arXiv:1904.06991.
    """

    higher_is_better = True
    measure = staticmethod(generation.precision)


class PairwiseDistanceRatio(_Generated):
    """Mean pairwise distance of generated samples over that of real ones: near 0 for one mode, 1 for equal spread.

    Shape:
        ``update(generated: [m, ...], real: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = PairwiseDistanceRatio()
        >>> metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [4.0]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the ratio."""
        return generation.pairwise_distance_ratio(self._kept("generated", 2), self._kept("real", 2))


class NearestDistanceRatio(_Generated):
    """Distance from real samples to the nearest generated one, over that to the nearest real one: about 1 when equal.

    Shape:
        ``update(generated: [m, ...], real: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = NearestDistanceRatio()
        >>> metric.update(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the ratio."""
        return generation.nearest_distance_ratio(self._kept("generated", 1), self._kept("real", 2))


class RepetitionRate(Metric):
    """``1 - distinct n-grams / n-grams`` of generated tokens, in [0, 1).

    Only a 64-bit fingerprint of each distinct n-gram is kept.

    Args:
        n: length of the n-grams.

    Shape:
        ``update(tokens: [length] or [batch, length])``, whole numbers; ``compute()`` 0-d float64, NaN without n-grams.

    Example:
        >>> metric = RepetitionRate(n=2)
        >>> metric.update(torch.tensor([7, 7, 7, 7, 7]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)

    Reference: Welleck et al., 2019, arXiv:1908.04319.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    pieces: list[Tensor] | Tensor
    count: Tensor

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.n = require_count("RepetitionRate", "n", n, remedy="Use e.g. 4")
        self.add_state("pieces", [], dist_reduce_fx="cat")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, tokens: Tensor) -> None:
        """Add tokens; n-grams do not cross rows, nor calls."""
        found = generation.ngrams(tokens, self.n)
        self.count += len(found)
        self.pieces = [_pieces(torch.cat([self._known(), _hash(found)]).unique())]  # type: ignore[no-untyped-call]

    def compute(self) -> Tensor:
        """Return the rate."""
        return 1 - len(self._known().unique()) / self.count  # type: ignore[no-untyped-call]

    def _known(self) -> Tensor:
        parts = self.pieces if isinstance(self.pieces, list) else [self.pieces]  # one tensor after gathering
        return _fingerprints(torch.cat(parts) if parts else self.count.new_zeros(0))


def _hash(ngrams: Tensor) -> Tensor:
    """Return a 64-bit fingerprint of each row: a polynomial with wrap-around, then mixed (splitmix64's constants)."""
    value = torch.zeros(len(ngrams), dtype=torch.int64, device=ngrams.device)
    for column in ngrams.unbind(1):
        value = value * 6364136223846793005 + column.to(torch.int64) + 1
        value = (value ^ (value >> 30)) * -4658895280553007687
        value = (value ^ (value >> 27)) * -7723592293110705685
    return value


def _pieces(fingerprints: Tensor) -> Tensor:
    """Four 16-bit pieces of each, as float32: an empty process gathers float32, and these are exact in it."""
    return torch.stack([(fingerprints >> shift) & 0xFFFF for shift in (0, 16, 32, 48)], 1).to(torch.float32).reshape(-1)


def _fingerprints(pieces: Tensor) -> Tensor:
    parts = pieces.reshape(-1, 4).to(torch.int64)
    return parts[:, 0] | (parts[:, 1] << 16) | (parts[:, 2] << 32) | (parts[:, 3] << 48)
