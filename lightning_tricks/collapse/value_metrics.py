"""Measures of predicted numbers and of several labels at once as ``torchmetrics.Metric``: sums only."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.collapse import prediction, representation
from lightning_tricks.collapse.metric_sums import Sums
from lightning_tricks.errors import require_count


class MultilabelSkill(Sums):
    """``1 - BCE / H`` of several labels at once: 0 for their frequencies as the answer, 1 for certainty.

    Args:
        num_labels: K.

    Shape:
        ``update(logits: [..., K], target: [..., K])`` with targets in [0, 1]; ``compute()`` 0-d float64, NaN when each
        label is constant; ``per_label`` ``[K]``, NaN for those that are.

    Example:
        >>> metric = MultilabelSkill(2)
        >>> metric.update(torch.tensor([[9.0, 0.0], [-9.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        >>> metric.per_label.round(decimals=2), metric.compute().round(decimals=2)
        (tensor([1., 0.], dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """

    higher_is_better = True
    loss: Tensor
    positives: Tensor
    count: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = require_count("MultilabelSkill", "num_labels", num_labels, remedy="Use the number of labels")
        for name in ("loss", "positives"):
            self._add(name, num_labels)
        self._add("count")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add logits ``[..., num_labels]`` and targets in [0, 1] of the same shape."""
        self._check("logits", logits, self.num_labels)
        self._same("logits", logits, target)
        flat, labels = representation.rows(logits), representation.rows(target)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(flat, labels, reduction="none")
        self.loss += loss.sum(0)
        self.positives += labels.sum(0)
        self.count += len(flat)

    def _skills(self) -> Tensor:
        return prediction.multilabel_skill(self.loss / self.count, self.positives / self.count)

    @property
    def per_label(self) -> Tensor:
        """The skill of each label."""
        return self._skills()[:-1]

    def compute(self) -> Tensor:
        """Return the skill of all labels together."""
        return self._skills()[-1]


class _Values(Sums):
    """Sums over predicted numbers and their targets, counted by output."""

    error: Tensor
    predicted: Tensor
    predicted_squares: Tensor
    wanted: Tensor
    wanted_squares: Tensor
    count: Tensor

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.num_outputs = require_count(
            type(self).__name__, "num_outputs", num_outputs, remedy="Use the size of the last dimension"
        )
        for name in ("error", "predicted", "predicted_squares", "wanted", "wanted_squares"):
            self._add(name, num_outputs)
        self._add("count")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add predictions ``[..., num_outputs]``, or ``[n]`` of one output, and targets of the same shape."""
        self._same("predicted", predicted, target)
        if self.num_outputs == 1:
            predicted, target = predicted.reshape(-1, 1), target.reshape(-1, 1)
        self._check("predicted", predicted, self.num_outputs)
        one, two = representation.rows(predicted), representation.rows(target)
        self.error += (one - two).square().sum(0)
        self.predicted += one.sum(0)
        self.predicted_squares += one.square().sum(0)
        self.wanted += two.sum(0)
        self.wanted_squares += two.square().sum(0)
        self.count += len(one)

    def _squares(self, total: Tensor, squares: Tensor) -> Tensor:
        """Return squared distances from the mean, summed; 0 where they are rounding."""
        apart = squares - total.square() / self.count.clamp(min=1)
        return torch.where(apart > representation.rounding(squares), apart, 0.0)


class RegressionSkill(_Values):
    """R squared: ``1 - squared error / squared distance of the targets from their mean``; 0 for the mean as the answer.

    Args:
        num_outputs: D; the errors and the distances of all outputs are added up.

    Shape:
        ``update(predicted: [..., D], target: [..., D])``, or ``[n]`` where D is 1; ``compute()`` 0-d float64, NaN for
        constant targets. A prediction ``[n, 1]`` with a target ``[n]`` is an error, and is not broadcast.

    Example:
        >>> metric = RegressionSkill()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0]))
        >>> metric.compute().round(decimals=4)
        tensor(0.7857, dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return R squared."""
        return prediction.r_squared(self.error.sum(), self._squares(self.wanted, self.wanted_squares).sum())


class SpreadRatio(_Values):
    """Variance of the predictions over that of the targets: 0 for constant predictions, R squared for the best ones.

    Args:
        num_outputs: D; the variances of all outputs are added up.

    Shape:
        ``update(predicted: [..., D], target: [..., D])``, or ``[n]`` where D is 1; ``compute()`` 0-d float64, NaN for
        constant targets.

    Example:
        >>> metric = SpreadRatio()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def compute(self) -> Tensor:
        """Return the ratio."""
        parts = ((self.predicted, self.predicted_squares), (self.wanted, self.wanted_squares))
        own, wanted = (self._squares(*part).sum() for part in parts)
        return prediction.spread_ratio(own, wanted)
