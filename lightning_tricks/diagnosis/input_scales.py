"""Are inputs prepared for validation as for training? Tensors in, a check that failed out, or None. No Lightning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_tricks.diagnosis.sanity import Check

NAME = "validation is prepared as training"
_OTHER_UNIT = 20.0  # ratio of spreads that no difference between two samples of one population reaches
_BELOW = 0.05  # share of numbers below 0 that standardised pixels have at least
_FEWEST = 1024  # numbers
_MOST = 200_000  # that quantiles are computed of


def prepared_differently(training: Sequence[Tensor], validation: Sequence[Tensor]) -> Check | None:
    """Return what differs between the scales of inputs of training and validation; None where nothing is proven.

    Inputs of another unit have a spread that differs by far. Pixels between 0 and 1 (or 255) have no number below 0,
    and standardised ones have many. The spread is that between the quantiles of 5 and 95 %, so that a few outliers
    do not count.

    Args:
        training: inputs, ``[n, ...]`` each, of one role after the other.
        validation: the same of the validation data.

    >>> pixels = torch.rand(64, 1, 8, 8)
    >>> prepared_differently([pixels], [(pixels - 0.5) / 0.3]).passed
    False
    >>> prepared_differently([pixels], [pixels.flip(0)]) is None
    True
    """
    for one, two in zip(training, validation, strict=False):
        if one.dtype != two.dtype or not one.is_floating_point() or min(one.numel(), two.numel()) < _FEWEST:
            continue
        seen = [f"{spread_of(t)[0]:.3g} to {spread_of(t)[1]:.3g}" for t in (one, two)]
        if _other_unit(one, two) or _standardised(one, two) or _standardised(two, one):
            text = f"inputs reach from {seen[0]} in training and from {seen[1]} in validation"
            return Check(NAME, False, text, "one transform for both, with the statistics of the training data")
    return None


def spread_of(values: Tensor) -> tuple[float, float]:
    """Return the quantiles of 5 and 95 % of all numbers that are finite.

    >>> spread_of(torch.arange(101.0))
    (5.0, 95.0)
    """
    flat = values.detach().flatten().float()
    flat = flat[:: max(1, len(flat) // _MOST)]
    flat = flat[flat.isfinite()]
    if not len(flat):
        return 0.0, 0.0
    low, high = torch.quantile(flat, torch.tensor([0.05, 0.95], device=flat.device)).tolist()
    return low, high


def _other_unit(one: Tensor, two: Tensor) -> bool:
    (a, b), (c, d) = spread_of(one), spread_of(two)
    least, most = sorted((b - a, d - c))
    return least > 0 and most > _OTHER_UNIT * least


def _standardised(pixels: Tensor, other: Tensor) -> bool:
    """Whether the first are pixels as they are, and the second pixels from which a mean was taken away."""
    least, most = float(pixels.min()), float(pixels.max())
    as_they_are = pixels.ndim > 2 and 0.0 <= least < 0.02 * most and (0.9 < most <= 1.0 or 229 < most <= 255)
    return as_they_are and float((other < 0).float().mean()) > _BELOW
