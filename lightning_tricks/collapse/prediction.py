"""Whether predictions depend on the input, and beat the best answer that ignores it. From sums; no Lightning.

Shapes: logits ``[n, K]``, targets ``[n]``, counts ``[K]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(share: Tensor) -> Tensor:
    """Return ``-sum p ln p`` along the last dimension, in nats.

    >>> entropy(torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    total: Tensor = torch.special.entr(share).sum(-1)
    return total


def shares(counts: Tensor) -> Tensor:
    """Return counts as shares that add up to 1; zeros for no counts.

    >>> shares(torch.tensor([1.0, 3.0]))
    tensor([0.2500, 0.7500])
    """
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
