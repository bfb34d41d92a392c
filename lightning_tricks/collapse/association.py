"""Do predictions go with their targets more than chance makes them? A permutation test, from sums. No Lightning.

If the targets had been dealt out at random, ``T = sum_i f_i . g_i`` of centred predictions ``f`` and targets ``g`` would
have the mean 0 and the variance ``sum_ij (f_i . g_j)^2 / (n - 1)``, whatever the two are distributed like. T over its
standard deviation is close to a standard normal number then, and grows with the square root of the samples where there
is a signal, however weak it is. An absolute bound on the skill cannot tell a weak signal from none.

Reference: Hoeffding, "A combinatorial central limit theorem", 1951.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def class_association(
    probability: Tensor, label: Tensor, weight: Tensor, mean_probability: Tensor, label_share: Tensor
) -> tuple[Tensor, Tensor]:
    """Return T and ``sum_ij (f_i . g_j)^2 / n`` for classes; both can be added over batches and processes.

    Args:
        probability: predicted, ``[n, K]``.
        label: class numbers ``[n]``.
        weight: 1 for samples that count, 0 for others, ``[n]``.
        mean_probability: over all samples, ``[K]``.
        label_share: over all samples, ``[K]``.

    >>> p, y, one, half = torch.eye(2), torch.tensor([0, 1]), torch.ones(2), torch.tensor([0.5, 0.5])
    >>> class_association(p, y, one, half, half)
    (tensor(1.), tensor(0.5000))
    """
    centred = (probability - mean_probability) * weight[:, None]
    along = centred @ label_share
    spread = (centred.square() @ label_share).sum() - along.square().sum()
    return centred.gather(1, label[:, None]).sum(), spread


def bounded_scores(values: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Return ``x / (1 + |x|)`` of ``x = (value - centre) / scale``, in [-1, 1]: no single row decides, however far out.

    >>> bounded_scores(torch.tensor([[1.0], [1e9]]), torch.tensor([0.0]), torch.tensor([1.0]))
    tensor([[0.5000],
            [1.0000]])
    """
    x = (values - centre) / torch.where(scale > 0, scale, 1.0)
    return x / (1 + x.abs())


def centre_and_scale(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median of each column, and the median distance from it, or the mean one where that is 0, ``[d]``.

    >>> centre_and_scale(torch.tensor([[1.0], [2.0], [4.0]]))
    (tensor([2.]), tensor([1.]))
    """
    centre = values.median(0).values
    apart = (values - centre).abs()
    scale = apart.median(0).values
    return centre, torch.where(scale > 0, scale, apart.mean(0))


def standard_score(total: Tensor, spread: Tensor, count: Tensor) -> Tensor:
    """Return T over its standard deviation under chance, 0-d; 0 where nothing varies.

    Args:
        total: T.
        spread: ``sum_ij (f_i . g_j)^2 / n``.
        count: n.

    >>> standard_score(torch.tensor(1.0), torch.tensor(0.5), torch.tensor(2.0))
    tensor(1.)
    """
    variance = spread * count / (count - 1).clamp(min=1)
    return torch.where(variance > 0, total / variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt(), 0.0)


def pooled(scores: Sequence[float]) -> float:
    """Return the standard score of several independent ones together, ``sum z / sqrt(m)``; 0 for none.

    Reference: Stouffer et al., "The American Soldier", 1949.

    >>> pooled([1.0, 1.0, 1.0, 1.0])
    2.0
    """
    return sum(scores) / math.sqrt(len(scores)) if scores else 0.0


@dataclass(frozen=True)
class Evidence:
    """Pools the standard scores of a run check by check: over the last ones, and over all of them.

    The larger of the two decides: the last ones notice what has just been learnt, all of them what is weak.

    Args:
        checks: how many are the last ones.

    Example:
        >>> evidence = Evidence(checks=4)
        >>> state = evidence.init()
        >>> for z in (1.0, 1.0, 1.0, 1.0):
        ...     found, state = evidence.update(z, 512.0, state)
        >>> found, state["samples"]
        (2.0, 2048.0)
    """

    checks: int = 8

    def init(self) -> dict[str, Any]:
        """Return the state before the first check."""
        return {"last": [], "sum": 0.0, "checks": 0, "samples": 0.0}

    def update(self, score: float, samples: float, state: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Return the pooled score, and the state after the check; a score that is not finite counts as none.

        Args:
            score: z of this check.
            samples: how many it is from.
            state: as ``init`` or the last ``update`` returned it.
        """
        z = score if math.isfinite(score) else 0.0
        last = [*state["last"], z][-self.checks :]
        new = {"last": last, "sum": state["sum"] + z, "checks": state["checks"] + 1, "samples": state["samples"] + samples}
        return max(pooled(last), new["sum"] / math.sqrt(new["checks"])), new
