"""Why features may use few dimensions in good health: they follow classes, or are two things side by side.

Features of a good classifier lie at one point per class (neural collapse): of d dimensions they use classes - 1. The
output of an encoder of a variational autoencoder is ``[mean, log variance]``: either half may be nearly constant by
itself. From sums, in float32 or float64; torch only, no host read.

Reference: Papyan et al., "Prevalence of neural collapse", 2020, arXiv:2008.08186.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_tricks.collapse import representation

Sums = dict[str, Tensor]

CLASSES = 64  # labels beyond are not looked at: so many classes leave the rank alone
STRUCTURE = ("left_variance", "right_variance", "class_share", "classes")
_FLOOR = 1e-9  # below it, dimensions count as unused
_SEPARATED = 0.5  # of the variance, between classes
_APART = 0.1  # of the variance of one half, that the other has at most where they are two things


def labels_of_rows(label: Tensor, first: int, count: int) -> Tensor | None:
    """Return labels for ``count`` rows from those of samples or tokens; None where they do not fit.

    Args:
        label: whole numbers, any shape.
        first: size of the first dimension of the output.
        count: its rows: several for each sample where it has tokens, or for all samples again where views are stacked.

    >>> labels_of_rows(torch.tensor([3, 5]), 2, 4), labels_of_rows(torch.tensor([3, 5]), 4, 4)
    (tensor([3, 3, 5, 5]), tensor([3, 5, 3, 5]))
    """
    flat = label.detach().reshape(-1)
    if not len(flat) or count % len(flat):
        return None
    if len(flat) == first:
        return flat.repeat_interleave(count // first)
    return flat.repeat(count // len(flat)) if first in (count, label.shape[0]) else None


def add_structure(sums: Sums, rows: Tensor, small: Tensor, label: Tensor) -> None:
    """Add features, and what is known of their classes.

    Args:
        sums: written in place.
        rows: ``[n, d]``.
        small: the same, centred and of few dimensions, ``[n, k]``.
        label: class numbers, negative where there is none, ``[n]``.
    """
    new: Sums = {"strange": (label >= CLASSES).sum().float()}
    halves = rows.chunk(2, 1) if rows.shape[1] % 2 == 0 and rows.shape[1] >= 4 else (rows, rows)
    for name, half in zip(("left", "right"), halves, strict=True):
        unit, there = (x.float() for x in representation.unit_rows(half))
        new |= {f"{name}_sum": unit.sum(0), f"{name}_count": there.sum()}
    member = (label[:, None] == torch.arange(CLASSES, device=label.device)).to(small.dtype)  # (one_hot would wait)
    new |= {"class_count": member.sum(0), "class_total": member.T @ small}
    for name, value in new.items():
        sums[name] = sums[name] + value if name in sums else value


def measured_structure(sums: Sums, count: Tensor, covariance: Tensor) -> Tensor:
    """Return the values of ``STRUCTURE``.

    The variances of directions of both halves, the share of the variance that lies between classes, and how many
    classes there are; 0 and 0 without labels.

    Args:
        sums: of ``add_structure``, over all processes.
        count: rows, 0-d.
        covariance: of the small features, ``[k, k]``.
    """
    s = {name: value.double() for name, value in sums.items()}
    halves = [representation.sphere_variance(s[f"{n}_sum"], s[f"{n}_count"], count) for n in ("left", "right")]
    size, there = s["class_count"], s["class_count"] > 0
    classes = there.sum().double()
    known = (size.sum() >= 0.99 * count) & (s["strange"] == 0) & (classes > 1)
    means = s["class_total"] / size.clamp(min=1)[:, None]
    off = torch.where(there[:, None], means - s["class_total"].sum(0) / count.clamp(min=1), 0.0)
    between = (off.T * size) @ off / count.clamp(min=1)
    whole = covariance.trace()
    share = torch.where(whole > 0, between.trace() / whole.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return torch.stack([*halves, *torch.where(known, torch.stack([share, classes]), 0.0)])


def possible_rank(size: int, count: float, class_share: float, classes: float) -> float:
    """Return the rank that features can have: classes - 1 where most of their variance lies between classes.

    The rank of a network that separates K classes need not be higher, in whatever directions their means lie.

    >>> possible_rank(64, 512.0, 0.9, 10.0), possible_rank(64, 512.0, 0.2, 10.0)
    (9.0, 64.0)
    """
    whole = max(1.0, min(float(size), count - 1))
    return min(whole, classes - 1) if class_share > _SEPARATED else whole


def half_rank_share(covariance: Tensor, least: float) -> float:
    """Return the larger rank share of two halves that vary on different scales; 0 where they do not, on the host.

    >>> half_rank_share(torch.diag(torch.tensor([1.0, 1.0, 1e-4, 1e-4])).double(), 0.0)
    1.0
    """
    width = len(covariance) // 2
    halves = (covariance[:width, :width], covariance[width:, width:])
    variances = covariance.diagonal().tolist()
    sizes = sorted((sum(variances[:width]), sum(variances[width:])))
    if len(covariance) % 2 or width < 2 or not _FLOOR * sizes[1] < sizes[0] <= _APART * sizes[1]:
        return 0.0
    ranks = [float(representation.effective_rank(representation.spectrum(half, least))) for half in halves]
    return max(ranks) / width


def falls_with_depth(values: Sequence[float]) -> bool:
    """Whether values fall from layer to layer: to less than half, and in seven of ten pairs.

    >>> falls_with_depth([0.8, 0.5, 0.3, 0.1]), falls_with_depth([0.1, 0.1, 0.1])
    (True, False)
    """
    pairs = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
    return bool(pairs) and min(values) < 0.5 * values[0] and sum(a > b for a, b in pairs) >= 0.7 * len(pairs)
