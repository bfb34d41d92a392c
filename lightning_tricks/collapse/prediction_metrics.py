"""Measures of predictions as ``torchmetrics.Metric``: streaming, and on several processes that of all data together."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.collapse import prediction, representation
from lightning_tricks.collapse.metric_sums import Sums
from lightning_tricks.errors import message
from lightning_tricks.modules.labels import counts


class _Predictions(Sums):
    """Sums over predictions. Samples whose target is negative or ``ignore_index`` do not count."""

    labels: Tensor
    predicted: Tensor
    hits: Tensor
    probability: Tensor
    cross_entropy: Tensor
    entropy: Tensor
    count: Tensor

    def __init__(self, num_classes: int, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = self._count_of("num_classes", num_classes), ignore_index
        for name in ("labels", "predicted", "hits", "probability"):
            self._add(name, num_classes)
        for name in ("cross_entropy", "entropy", "count"):
            self._add(name)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add logits ``[..., num_classes]`` and whole-number targets ``[...]``."""
        self._check("logits", logits, self.num_classes)
        flat, label = representation.rows(logits), target.detach().reshape(-1)
        if len(flat) != len(label):
            rule = f"logits hold {len(flat)} predictions, target {len(label)}"
            raise ValueError(
                message(type(self).__name__, "target", tuple(target.shape), rule, "Pass one target for each")
            )
        keep = counts(label, self.ignore_index)  # by weights and not by index, which would wait for a GPU
        weight = keep.to(torch.float64)
        label = torch.where(keep, label, 0)
        # (zeroed, since NaN times a weight of 0 is NaN)
        log_probability = torch.where(keep[:, None], flat, 0.0).log_softmax(1)
        share, guess = log_probability.exp(), flat.argmax(1)
        self.labels.index_add_(0, label, weight)
        self.predicted.index_add_(0, guess, weight)
        self.hits.index_add_(0, guess, weight * (guess == label))
        self.probability += weight @ share
        self.cross_entropy -= weight @ log_probability.gather(1, label[:, None]).squeeze(1)
        self.entropy += weight @ prediction.entropy(share)
        self.count += weight.sum()

    def _mean(self, total: Tensor) -> Tensor:
        return total / self.count


class PredictionSkill(_Predictions):
    """``1 - CE / H(labels)``: 0 for the best constant answer, 1 for certainty, negative for worse than constant.

    Args:
        num_classes: K.
        ignore_index: targets that do not count, besides negative ones.

    Shape:
        ``update(logits: [..., K], target: [...])``; ``compute()`` 0-d float64, NaN when all labels are one class.

    Example:
        >>> metric = PredictionSkill(2)
        >>> metric.update(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))
        >>> metric.compute().round(decimals=3)
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the skill."""
        return prediction.skill(self._mean(self.cross_entropy), self.labels)


class PredictionEntropy(_Predictions):
    """Mean entropy of the predicted distributions over ln K, in [0, 1]: 1 for "anything", 0 for certainty.

    Args:
        num_classes: K.
        ignore_index: targets that do not count, besides negative ones.

    Shape:
        ``update(logits: [..., K], target: [...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = PredictionEntropy(4)
        >>> metric.update(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
        >>> metric.compute().round(decimals=4)
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = None

    def compute(self) -> Tensor:
        """Return the entropy."""
        return self._mean(self.entropy) / torch.tensor(float(self.num_classes)).log()


class ClassShare(_Predictions):
    """How far the predicted classes' shares are from the labels': Jensen-Shannon divergence over ln 2, in [0, 1].

    It names a collapse to one class, and misses it where that class is most of the labels: look at the skill first.

    Args:
        num_classes: K.
        ignore_index: targets that do not count, besides negative ones.

    Shape:
        ``update(logits: [..., K], target: [...])``; ``compute()`` 0-d float64; ``predicted_share``, ``label_share``
        ``[K]``; ``num_predicted`` 0-d, ``exp`` of the entropy of the predicted shares.

    Example:
        >>> metric = ClassShare(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.compute().round(decimals=4), metric.predicted_share
        (tensor(0.3113, dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the divergence."""
        return prediction.jensen_shannon(self.predicted_share, self.label_share)

    @property
    def predicted_share(self) -> Tensor:
        """Share of each class among the predictions."""
        return prediction.shares(self.predicted)

    @property
    def label_share(self) -> Tensor:
        """Share of each class among the labels."""
        return prediction.shares(self.labels)

    @property
    def num_predicted(self) -> Tensor:
        """Number of classes that are predicted, as ``exp`` of the entropy of their shares."""
        return prediction.entropy(self.predicted_share).exp()


class InputDependence(_Predictions):
    """``(H(mean p) - mean H(p)) / H(labels)``: 0 when the output is the same whatever the input.

    Args:
        num_classes: K.
        ignore_index: targets that do not count, besides negative ones.

    Shape:
        ``update(logits: [..., K], target: [...])``; ``compute()`` 0-d float64, NaN when all labels are one class.

    Example:
        >>> metric = InputDependence(2)
        >>> metric.update(torch.tensor([[5.0, 1.0], [5.0, 1.0]]), torch.tensor([0, 1]))
        >>> metric.compute().round(decimals=6)
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the dependence."""
        return prediction.input_dependence(self._mean(self.probability), self._mean(self.entropy), self.labels)


class MacroF1Gain(_Predictions):
    """Macro F1 minus that of always answering the most frequent class: 0 or below for a model that has learnt nothing.

    Args:
        num_classes: K.
        ignore_index: targets that do not count, besides negative ones.

    Shape:
        ``update(logits: [..., K], target: [...])``; ``compute()`` 0-d float64, in (-1, 1).

    Example:
        >>> metric = MacroF1Gain(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.compute().round(decimals=4)
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the gain."""
        return prediction.macro_f1(self.hits, self.predicted, self.labels) - prediction.trivial_macro_f1(self.labels)


class BalancedSkill(_Predictions):
    """``(mean recall - 1/K) / (1 - 1/K)`` over the classes that occur: 0 for any constant answer, 1 for no error.

    Every class counts alike: "all background" has the skill 0 where 96 % of the pixels are background.

    Args:
        num_classes: K.
        ignore_index: targets that do not count, besides negative ones.

    Shape:
        ``update(logits: [..., K], target: [...])``; ``compute()`` 0-d float64, NaN when all labels are one class.

    Example:
        >>> metric = BalancedSkill(2)
        >>> metric.update(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the skill."""
        return prediction.balanced_skill(self.hits, self.labels)
