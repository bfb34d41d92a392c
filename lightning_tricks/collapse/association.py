"""Do predictions go with their targets more than chance makes them? A permutation test within batches. No Lightning.

If the targets of a batch had been dealt out at random, ``T = sum_i a_ii`` of similarities ``a_ij = f_i . g_j`` between
predictions and targets, centred in rows and columns, would have the mean 0 and the variance
``sum_ij a_ij^2 / (n - 1)``, whatever the two are distributed like. T over its standard deviation is close to a standard
normal number then, and grows with the square root of the samples where there is a signal, however weak it is: an
absolute bound on the skill cannot tell a weak signal from none. Within batches, since the weights are others in the
next one: outputs that are constant in each, but move with the labels of the last ones, do not depend on the input.

Reference: Hoeffding, "A combinatorial central limit theorem", 1951.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.collapse.blocks import Blocks
from lightning_tricks.numerics.subset import spread

_PLACES = 64


def permutation_test(similarity: Tensor, part: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return T and its variance under chance, 0-d each; both can be added over batches and processes.

    Args:
        similarity: of prediction i and target j, ``[n, n]``; overwritten nowhere.
        part: which of the parts a row belongs to: targets are dealt out within each, ``[n]``.
        keep: rows that count, bool ``[n]``.

    >>> permutation_test(torch.eye(2), torch.zeros(2), torch.ones(2, dtype=torch.bool))
    (tensor(1.), tensor(1.))
    """
    blocks = Blocks.of(part)
    together = blocks.together(keep)
    inside = together.to(similarity.dtype)
    count = inside.sum(2, keepdim=True).clamp(min=1)
    a = torch.where(together, blocks.pairs(similarity), 0.0)
    rows, columns = a.sum(2, keepdim=True) / count, a.sum(1, keepdim=True) / count.mT
    # (in place: each tensor of this size that is made costs as much as its arithmetic)
    centred = (a - rows).sub_(columns).add_(inside @ rows / count).mul_(inside)
    # (what centring leaves of equal values is rounding; divided by its own size, it would be a large score)
    rounding = 16 * torch.finfo(a.dtype).eps * a.abs().amax()
    centred = torch.where(centred.abs() > rounding, centred, 0.0)
    total = centred.diagonal(dim1=1, dim2=2).sum()
    return total, (centred.square() / (count - 1).clamp(min=1)).sum()


def centred_within(values: Tensor, part: Tensor, keep: Tensor) -> Tensor:
    """Return rows minus the mean of their part, ``[n, d]``; zeros for rows that do not count."""
    # (not by blocks: sums in another order leave rounding where all rows are equal)
    inside = Blocks.whole(part).together(keep)[0].to(values.dtype)
    centred = values - inside @ torch.where(keep[:, None], values, 0.0) / inside.sum(1, keepdim=True).clamp(min=1)
    return torch.where(keep[:, None], centred, 0.0)


def bounded_scores(values: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Return ``x / (1 + |x|)`` of ``x = (value - centre) / scale``, in [-1, 1]: no single row decides."""
    x = (values - centre) / torch.where(scale > 0, scale, 1.0)
    return x / (1 + x.abs())


def centre_and_scale(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median of each column, and the median distance from it, or the mean one where that is 0, ``[d]``.

    Args:
        values: ``[n, d]``.
        keep: rows that count, bool ``[n]``.

    >>> centre_and_scale(torch.tensor([[1.0], [2.0], [4.0]]), torch.ones(3, dtype=torch.bool))
    (tensor([2.]), tensor([1.]))
    """
    counted = torch.where(keep[:, None], values, torch.nan)
    centre = counted.nanmedian(0).values
    apart = (counted - centre).abs()
    scale = apart.nanmedian(0).values
    return centre.nan_to_num(), torch.where(scale > 0, scale, apart.nanmean(0).nan_to_num())


def fingerprints(samples: Tensor) -> Tensor:
    """Return one number for each sample ``[n, ...]``, equal for equal samples, from 64 places of each, float32 ``[n]``.

    >>> prints = fingerprints(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]]))
    >>> bool(prints[0] == prints[2]), bool(prints[0] == prints[1])
    (True, False)
    """
    flat = samples.detach().reshape(len(samples), -1)
    shown = flat.index_select(1, spread(flat.shape[1], _PLACES, flat.device)).float()
    # (each place has a weight of its own: samples with the same numbers at other places differ)
    weights = torch.linspace(1.0, 2.0, shown.shape[1], device=shown.device).sin()
    return (shown * weights).sum(1)


def standard_score(total: Tensor, variance: Tensor) -> Tensor:
    """Return T over its standard deviation, 0-d; 0 where nothing varies.

    >>> standard_score(torch.tensor(2.0), torch.tensor(4.0))
    tensor(1.)
    """
    tiny = torch.finfo(variance.dtype).tiny
    return torch.where(variance > 0, total / variance.clamp(min=tiny).sqrt(), 0.0)


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

    The larger of the two decides: the last ones notice what has just been learnt, all of them what is weak. Samples
    that training has seen before say nothing: a network memorises them without learning a rule.

    Args:
        checks: how many are the last ones.
        most_seen: share of samples seen before, above which a check is not counted.
        both_signs: whether a reversed association is one as well.

    Example:
        >>> evidence = Evidence(checks=4)
        >>> state = evidence.init()
        >>> for z in (1.0, 1.0, 1.0, 1.0):
        ...     found, state = evidence.update(z, 512.0, state)
        >>> found, state["samples"]
        (2.0, 2048.0)
    """

    checks: int = 8
    most_seen: float = 0.1
    both_signs: bool = False

    def init(self) -> dict[str, Any]:
        """Return the state before the first check."""
        return {"last": [], "sum": 0.0, "checks": 0, "samples": 0.0}

    def counts(self, seen: float) -> bool:
        """Whether a check says something, given the share of its samples that were seen before."""
        return not seen > self.most_seen

    def update(
        self, score: float, samples: float, state: dict[str, Any], seen: float = 0.0
    ) -> tuple[float, dict[str, Any]]:
        """Return the pooled score, and the state after the check; a score that is not finite counts as 0.

        Args:
            score: z of this check.
            seen: share of the samples that were seen before.
        """
        if not self.counts(seen):
            return self._found(state), state
        z = score if math.isfinite(score) else 0.0
        last = [*state["last"], z][-self.checks :]
        new = {
            "last": last,
            "sum": state["sum"] + z,
            "checks": state["checks"] + 1,
            "samples": state["samples"] + samples,
        }
        return self._found(new), new

    def _found(self, state: dict[str, Any]) -> float:
        found = (pooled(state["last"]), float(state["sum"]) / math.sqrt(max(1, state["checks"])))
        return max(map(abs, found)) if self.both_signs else max(found)
