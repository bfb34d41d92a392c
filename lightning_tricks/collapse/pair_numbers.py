"""What is measured of outputs beside targets that are numbers: sums over rows, and all that they say about the model.

Whether targets are labels, shares of classes or values is not known on the device, and not asked there: all of it is
measured, and the host chooses. torch only, no host read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.collapse import association, prediction
from lightning_tricks.collapse.pairs import SURE
from lightning_tricks.numerics.subset import spread

Sums = dict[str, Tensor]

COLUMNS = 64  # of wide outputs that the test of association looks at
NUMBERS = (
    "count",
    "other",  # rows with a target that is neither 0 nor 1
    "uneven",  # rows whose targets are not shares of 1
    "beyond",  # outputs outside of [0, 1]: no probabilities
    "score",  # z of the association in this check
    "correlation",
    "r_squared",
    "variance_ratio",
    "spread",  # the same within batches, or that of median distances, which few rows far out do not change
    "squared_error",
    "label_skill",
    "label_moved",  # the skill with predictions moved to the frequencies
    "label_loss",
    "label_entropy",
    "label_spread",
    "class_skill",
    "class_loss",
    "class_entropy",
    "class_spread",
)


def measured_pairs(
    output: Tensor, target: Tensor, part: Tensor, add: Callable[[Sums], Sums], logits: bool = False
) -> Tensor:
    """Return the values of ``NUMBERS`` in one vector, over all processes.

    Args:
        output: ``[n, D]``, float32.
        target: ``[n, D]`` or ``[n, 1]``, float32; rows with a NaN are left out.
        part: numbers of batches, ``[n]``.
        add: returns sums over all processes.
        logits: outputs are known to be no probabilities; else they are, as long as all lie in [0, 1].
    """
    pairs = _Pairs.of(output, target, part)
    first = add(_sums_of_values(pairs))
    probability, log_share = _probabilities(pairs.output, (first["beyond"] == 0) & (not logits))
    second = add(_sums_about_means(pairs, first) | _sums_of_losses(pairs, first, probability, log_share))
    return torch.stack(_numbers_of(first, second, columns=pairs.output.shape[1]))


class _Pairs(NamedTuple):
    """Rows of outputs beside their targets.

    Args:
        output: ``[n, D]``; 0 in rows that are left out.
        target: ``[n, D]``; the same.
        keep: which rows count, ``[n]``.
        weight: the same as 0 and 1.
        part: numbers of batches, ``[n]``.
    """

    output: Tensor
    target: Tensor
    keep: Tensor
    weight: Tensor
    part: Tensor

    @classmethod
    def of(cls, output: Tensor, target: Tensor, part: Tensor) -> _Pairs:
        """Leave out the rows whose target is not a number."""
        keep = torch.isfinite(target).all(1)
        target = torch.where(keep[:, None], target, 0.0).expand_as(output)
        return cls(torch.where(keep[:, None], output, 0.0), target, keep, keep.to(output.dtype), part)

    @property
    def shares(self) -> Tensor:
        """The targets as probabilities, ``[n, D]``."""
        return self.target.clamp(0, 1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of each column over the rows that count, ``[D]``."""
        return (self.weight[:, None] * values).sum(0)


def _sums_of_values(pairs: _Pairs) -> Sums:
    """Return what tells the kind of the targets, and the sums that means are made of."""
    output, target, weight = pairs.output, pairs.target, pairs.weight
    whole = (target == 0) | (target == 1)
    return {
        "count": weight.sum(),
        "other": (~whole).any(1).to(weight).sum(),
        "uneven": (weight * (((target.sum(1) - 1).abs() > 1e-4) | (target < 0).any(1))).sum(),
        "beyond": ((output < 0) | (output > 1)).to(weight).sum(),
        "total": pairs.sum(target),
        "output": pairs.sum(output),
        "positives": pairs.sum(pairs.shares),
    }


def _probabilities(output: Tensor, likely: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each label, and the logarithm of each class's share, ``[n, D]``.

    Args:
        output: ``[n, D]``.
        likely: whether outputs are probabilities and no logits, bool 0-d.
    """
    probability = torch.where(likely, output, output.sigmoid()).clamp(SURE, 1 - SURE)
    return probability, torch.where(likely, output.clamp(min=SURE).log(), output.log_softmax(1))


def _sums_about_means(pairs: _Pairs, first: Sums) -> Sums:
    """Return the sums of a regression: association, variances by mean and by median, errors."""
    output, target, keep, weight, part = pairs
    n = first["count"].clamp(min=1)
    shown = spread(output.shape[1], COLUMNS, output.device)
    f, g = (bounded_within(x[:, shown], part, keep) for x in (output, target))
    within = [association.centred_within(x, part, keep).square().sum(0) for x in (output, target)]
    apart = [association.centre_and_scale(x, keep)[1].square() for x in (output, target)]
    means = ((output, first["output"] / n), (target, first["total"] / n))
    return {
        "cross": (f * g).sum(),
        "sizes": torch.stack([f.square().sum(), g.square().sum()]),
        "score": torch.stack(association.permutation_test(f @ g.T, part, keep)),
        "within": torch.stack(within),
        "apart": torch.stack(apart),
        "variances": torch.stack([_squares(x - mean, weight) for x, mean in means]),
        "error": _squares(output - target, weight).sum(),
    }


def _sums_of_losses(pairs: _Pairs, first: Sums, probability: Tensor, log_share: Tensor) -> Sums:
    """Return the sums of a classification: the losses of labels and of classes, and how much predictions differ.

    Args:
        first: what ``_sums_of_values`` gives, over all processes.
        probability: of each label, ``[n, D]``.
        log_share: logarithm of the share of each class, ``[n, D]``.
    """
    p, q, weight = probability, pairs.shares, pairs.weight
    middle = pairs.sum(p) / weight.sum().clamp(min=1)
    frequent = (first["positives"] / first["count"].clamp(min=1)).clamp(SURE, 1 - SURE)
    moved = p.logit() + frequent.logit() - middle.clamp(SURE, 1 - SURE).logit()
    binary = -(q * p.log() + (1 - q) * (-p).log1p())  # (torch's own refuses NaN)
    return {
        "binary": pairs.sum(binary),
        "moved": pairs.sum(F.softplus(moved) - q * moved),
        "class": -(weight[:, None] * q * log_share).sum(),
        "label": association.centred_within(p, pairs.part, pairs.keep).square().sum(),
        "share": association.centred_within(log_share.exp(), pairs.part, pairs.keep).square().sum(),
    }


def _numbers_of(s: Sums, t: Sums, columns: int) -> list[Tensor]:
    """Return the values of ``NUMBERS``.

    Args:
        s: what ``_sums_of_values`` gives, over all processes.
        t: what the two functions after it give, over all processes.
        columns: of an output.
    """
    n = s["count"].clamp(min=1)
    size = t["sizes"].prod().sqrt()
    frequency = s["positives"] / n
    even = n * (frequency * (1 - frequency)).sum()
    ratios = [prediction.spread_ratio(*t[name]).nan_to_num(-1.0).max() for name in ("variances", "within", "apart")]
    return [
        *(s[name] for name in ("count", "other", "uneven", "beyond")),
        association.standard_score(*t["score"]),
        torch.where(size > 0, t["cross"] / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0),
        prediction.r_squared(t["error"], t["variances"][1].sum()),
        ratios[0],
        torch.maximum(ratios[1], ratios[2]),
        t["error"] / n / columns,
        prediction.multilabel_skill(t["binary"] / n, frequency)[-1],
        prediction.multilabel_skill(t["moved"] / n, frequency)[-1],
        t["binary"].sum() / n / columns,
        prediction.entropy(torch.stack([frequency, 1 - frequency], -1)).sum() / columns,
        prediction.spread_ratio(t["label"], even),
        prediction.skill(t["class"] / n, s["positives"]),
        t["class"] / n,
        prediction.entropy(prediction.shares(s["positives"])),
        prediction.spread_ratio(t["share"], even),
    ]


def bounded_within(values: Tensor, part: Tensor, keep: Tensor) -> Tensor:
    """Return bounded scores within batches: what is far out counts as far out, and not by how much."""
    centre, scale = association.centre_and_scale(values, keep)
    return association.centred_within(association.bounded_scores(values, centre, scale), part, keep)


def _squares(values: Tensor, weight: Tensor) -> Tensor:
    return (weight[:, None] * values.square()).sum(0)
