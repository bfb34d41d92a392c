"""Whether predictions depend on the input, and beat the best answer that ignores it. From sums; no Lightning.

Of classes, of several labels at once, and of numbers. Shapes: logits ``[n, K]``, targets ``[n]``, counts ``[K]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(share: Tensor) -> Tensor:
    """Return ``-sum p ln p`` along the last dimension, in nats."""
    total: Tensor = torch.special.entr(share).sum(-1)
    return total


def shares(counts: Tensor) -> Tensor:
    """Return counts as shares that add up to 1; zeros for no counts."""
    return counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)


def skill(cross_entropy: Tensor, label_counts: Tensor) -> Tensor:
    """Return ``1 - CE / H(labels)``: 0 for the best constant answer, 1 for certainty, negative for worse, 0-d.

    The entropy of the labels' histogram is the loss of the best model that ignores its input, for free. NaN when all
    labels are one class: there is nothing to predict, and nothing to divide by.

    Args:
        cross_entropy: mean over the same samples, in nats, 0-d.
        label_counts: ``[K]``.

    >>> skill(torch.tensor(0.34657), torch.tensor([5.0, 5.0]))
    tensor(0.5000)
    """
    baseline = entropy(shares(label_counts))
    return torch.where(
        baseline > 0, 1 - cross_entropy / baseline.clamp(min=torch.finfo(baseline.dtype).tiny), torch.nan
    )


def input_dependence(mean_probability: Tensor, mean_entropy: Tensor, label_counts: Tensor) -> Tensor:
    """Return ``(H(mean p) - mean H(p)) / H(labels)``: 0 when the output is the same whatever the input, 0-d.

    The numerator is the mutual information of input and prediction. It is not sufficient for health: garbage depends on
    the input too. NaN when all labels are one class.

    Args:
        mean_probability: predicted probabilities, averaged ``[K]``.
        mean_entropy: entropy of each prediction, averaged, 0-d.
        label_counts: ``[K]``.

    >>> input_dependence(torch.tensor([0.5, 0.5]), torch.tensor(0.0), torch.tensor([3.0, 3.0]))
    tensor(1.)
    """
    baseline = entropy(shares(label_counts))
    information = (entropy(mean_probability) - mean_entropy).clamp(min=0.0)
    return torch.where(baseline > 0, information / baseline.clamp(min=torch.finfo(baseline.dtype).tiny), torch.nan)


def balanced_skill(hits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean recall of the classes that occur, from 0 (any constant answer) to 1; NaN for one class, 0-d.

    ``(mean recall - 1/K) / (1 - 1/K)``: every class counts alike, so that "all background" has the skill 0 where 96 %
    are background. With sums of the probability of the right class instead of hits it is the same of a soft answer.

    Args:
        hits: right predictions by class ``[K]``.
        labels: labels by class ``[K]``.

    >>> balanced_skill(torch.tensor([96.0, 0.0]), torch.tensor([96.0, 4.0]))
    tensor(0.)
    """
    there = labels > 0
    classes = there.sum().to(labels.dtype)
    recalls = torch.where(there, hits / labels.clamp(min=1), 0.0).sum() / classes.clamp(min=1)
    chance = 1 / classes.clamp(min=1)
    # (with two classes or more this is at least 0.5; the bound keeps a single one from dividing by 0)
    return torch.where(classes > 1, (recalls - chance) / (1 - chance).clamp(min=0.5), torch.nan)


def multilabel_skill(cross_entropy: Tensor, positives: Tensor) -> Tensor:
    """Return ``1 - BCE / H(label)`` of each label: 0 for its frequency as the answer, NaN for one that is constant.

    The last element is that of all labels together, ``1 - sum BCE / sum H``: rare labels, whose own value is noise,
    count for as little as there is to know about them.

    Args:
        cross_entropy: mean binary cross entropy of each label, in nats, ``[K]``.
        positives: frequency of each label, in [0, 1], ``[K]``.

    Returns:
        ``[K + 1]``.

    >>> multilabel_skill(torch.tensor([0.6931, 0.0]), torch.tensor([0.5, 0.5])).round(decimals=3)
    tensor([0.0000, 1.0000, 0.5000])
    """
    baseline = entropy(torch.stack([positives, 1 - positives], -1))
    loss, best = (torch.cat([x, x.sum(0, keepdim=True)]) for x in (cross_entropy, baseline))
    return torch.where(best > 0, 1 - loss / best.clamp(min=torch.finfo(best.dtype).tiny), torch.nan)


def r_squared(error: Tensor, variance: Tensor) -> Tensor:
    """Return ``1 - error / variance``: 0 for the mean as the answer, negative for worse; NaN for constant targets, 0-d.

    Args:
        error: squared errors, summed over samples and outputs, 0-d.
        variance: squared distances of the targets from their mean, summed alike, 0-d.

    >>> r_squared(torch.tensor(1.0), torch.tensor(4.0))
    tensor(0.7500)
    """
    return torch.where(variance > 0, 1 - error / variance.clamp(min=torch.finfo(variance.dtype).tiny), torch.nan)


def spread_ratio(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the variance of predictions over that of targets: 0 for constant predictions; NaN for constant targets.

    The best prediction of a weak signal has the ratio R squared, so a small ratio is not a fault by itself.

    Args:
        predicted: variance of the predictions, any shape.
        target: variance of the targets, the same shape.

    >>> spread_ratio(torch.tensor(1.0), torch.tensor(4.0))
    tensor(0.2500)
    """
    return torch.where(target > 0, predicted / target.clamp(min=torch.finfo(target.dtype).tiny), torch.nan)


def kullback_leibler(one: Tensor, two: Tensor) -> Tensor:
    """Return ``sum p ln(p / q)`` of two shares, in nats; inf where q lacks what p has, 0-d.

    >>> kullback_leibler(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    return torch.where(one > 0, one * (one.log() - two.log()), 0.0).sum(-1)


def jensen_shannon(one: Tensor, two: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence over ln 2, in [0, 1]: 0 for equal shares, 1 for disjoint ones, 0-d.

    >>> jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(1.)
    """
    middle = (one + two) / 2
    return (kullback_leibler(one, middle) + kullback_leibler(two, middle)) / (2 * math.log(2))


def macro_f1(hits: Tensor, predicted: Tensor, labels: Tensor) -> Tensor:
    """Return the mean F1 score of the classes that occur in labels or predictions, 0-d.

    Args:
        hits: right predictions by class ``[K]``.
        predicted: predictions by class ``[K]``.
        labels: labels by class ``[K]``.

    >>> macro_f1(torch.tensor([2.0, 0.0]), torch.tensor([4.0, 0.0]), torch.tensor([2.0, 2.0]))
    tensor(0.3333)
    """
    both = predicted + labels
    scores = torch.where(both > 0, 2 * hits / both.clamp(min=1), 0.0)
    return scores.sum() / (both > 0).sum().clamp(min=1)


def trivial_macro_f1(labels: Tensor) -> Tensor:
    """Return the macro F1 of always answering the most frequent class, ``2 q / (1 + q) / K``, 0-d.

    >>> trivial_macro_f1(torch.tensor([2.0, 2.0]))
    tensor(0.3333)
    """
    top = shares(labels).max()
    return 2 * top / (1 + top) / (labels > 0).sum().clamp(min=1)
