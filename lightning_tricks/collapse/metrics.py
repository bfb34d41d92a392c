"""The measures of collapse as ``torchmetrics.Metric``: streaming, and on several processes that of all data together.

Representation and prediction keep sums in float64, never samples. Generation compares every sample with every other one
and keeps them: update it with a few thousand at most. A process without data needs no special treatment.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_tricks.collapse import generation, prediction, representation
from lightning_tricks.errors import message, require_count
from lightning_tricks.modules.labels import counts


class _Sums(Metric):
    """Adds up what the function of a subclass needs. Values are of all samples since ``reset``."""

    # (for torchmetrics: what is summed has no gradients, and the value of a batch needs no second pass over all)
    is_differentiable = False
    full_state_update = False

    def _add(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _check(self, what: str, tensor: Tensor, width: int) -> None:
        if tensor.shape[-1] != width:
            rule = f"the last dimension must be {width}, as at construction"
            remedy = f"Make it {type(self).__name__}({tensor.shape[-1]}), or pass other {what}"
            raise ValueError(message(type(self).__name__, what, tuple(tensor.shape), rule, remedy))

    def _same(self, what: str, one: Tensor, target: Tensor) -> None:
        if one.shape != target.shape:
            rule = f"{what} have the shape {tuple(one.shape)}, and are not broadcast"
            raise ValueError(message(type(self).__name__, "target", tuple(target.shape), rule, "Give both one shape"))

    def _count_of(self, argument: str, value: int) -> int:
        return require_count(type(self).__name__, argument, value, low=2, remedy="Use the size of the last dimension")


# -- representation ---------------------------------------------------------------------------------------------------


class _Directions(_Sums):
    """Sums of unit rows."""

    unit_sum: Tensor
    unit_squares: Tensor
    nonzero: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = self._count_of("num_features", num_features)
        self._add("unit_sum", num_features)
        self._add("unit_squares", num_features)
        self._add("nonzero")
        self._add("count")

    def update(self, features: Tensor) -> None:
        """Add features ``[..., num_features]``."""
        self._check("features", features, self.num_features)
        unit, there = representation.unit_rows(features)
        self.unit_sum += unit.sum(0)
        self.unit_squares += unit.square().sum(0)
        self.nonzero += there.sum()
        self.count += len(unit)


class SphereVariance(_Directions):
    """Variance of the directions of features, in [0, 1]: 0 when all are one vector, or zero.

    ``(m / n) * (1 - ||mean of unit rows||^2)`` over n rows of which m are not zero. It sees complete collapse, which
    the effective rank of the centred covariance does not, and is blind to dimensional collapse, which that sees.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, NaN without samples.

    Example:
        >>> metric = SphereVariance(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: identity behind the std of Chen and He, "SimSiam", 2020, arXiv:2011.10566.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the variance."""
        return representation.sphere_variance(self.unit_sum, self.nonzero, self.count)


class EmbeddingStd(_Directions):
    """``sqrt(d)`` times the mean std of unit features: about 1 when healthy, 0 for one direction.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = EmbeddingStd(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> metric.compute().round(decimals=4)
        tensor(1., dtype=torch.float64)

    Reference: Chen and He, "SimSiam", 2020, arXiv:2011.10566, section 4.1.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the std ratio."""
        return representation.embedding_std(self.unit_sum, self.unit_squares, self.nonzero)


class MeanCosine(_Directions):
    """Mean cosine of all pairs of features: 1 when all point the same way, about 0 when spread.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, in [-1, 1], NaN below two samples.

    Example:
        >>> metric = MeanCosine(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the mean cosine."""
        return representation.mean_cosine(self.unit_sum, self.nonzero)


class _Moments(_Sums):
    """Sums of rows and of their squares, counted by dimension."""

    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = self._count_of("num_features", num_features)
        for name in ("total", "squares"):
            self._add(name, num_features)
        self._add("count")

    def _add_rows(self, what: str, tensor: Tensor) -> None:
        self._check(what, tensor, self.num_features)
        flat = representation.rows(tensor)
        self.total += flat.sum(0)
        self.squares += flat.square().sum(0)
        self.count += len(flat)


class DeadDimensions(_Moments):
    """Share of dimensions whose std is below 1 % of the largest, in [0, 1]; 1 when nothing varies.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = DeadDimensions(2)
        >>> metric.update(torch.tensor([[1.0, 7.0], [-1.0, 7.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Reference: Bardes et al., "VICReg", 2021, arXiv:2105.04906 (the variance that it keeps up).
    """

    higher_is_better = False

    def update(self, features: Tensor) -> None:
        """Add features ``[..., num_features]``."""
        self._add_rows("features", features)

    def compute(self) -> Tensor:
        """Return the share."""
        return representation.dead_dimensions(self.total, self.squares, self.count)


class _Covariance(_Sums):
    """Sums of rows and of their outer products: ``d * d`` numbers, however many samples."""

    total: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = self._count_of("num_features", num_features)
        self._add("total", num_features)
        self._add("second", num_features, num_features)
        self._add("count")

    def update(self, features: Tensor) -> None:
        """Add features ``[..., num_features]``."""
        self._check("features", features, self.num_features)
        flat = representation.rows(features)
        self.total += flat.sum(0)
        self.second += flat.T @ flat
        self.count += len(flat)

    def covariance(self) -> Tensor:
        """Return the centred covariance ``[d, d]``."""
        return representation.covariance(self.total, self.second, self.count)


class EffectiveRank(_Covariance):
    """How many dimensions features use: RankMe of the centred covariance, in [0, min(d, n - 1)].

    ``exp(-sum p ln p)`` with ``p = sigma / sum sigma`` over the square roots of the eigenvalues. Centred, in float64
    and with a floor below which eigenvalues are noise: without these three it reads 4.95 for a true 19.9 when the mean
    is ten times the std. Sampling lowers it: use n >= 4 d, or hold n fixed. A classifier's last layer has a low one
    when it is healthy (neural collapse).

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, 0 when nothing varies (above 1e-6 of the size).

    Example:
        >>> metric = EffectiveRank(3)
        >>> metric.update(torch.cat([torch.eye(3), -torch.eye(3)]))
        >>> metric.compute().round(decimals=4)
        tensor(3., dtype=torch.float64)

    Reference: Garrido et al., "RankMe", 2022, arXiv:2210.02885.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the rank."""
        least = representation.rounding(self.second.trace() / self.count.clamp(min=1))
        return representation.effective_rank(representation.spectrum(self.covariance(), least))


class ParticipationRatio(_Covariance):
    """``(trace C)^2 / ||C||_F^2``: dimensions that share the variance, in [0, d].

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(features: [..., d])``; ``compute()`` 0-d float64, 0 when nothing varies (above 1e-6 of the size).

    Example:
        >>> metric = ParticipationRatio(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)

    Reference: Gao et al., 2017, bioRxiv 214262.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the ratio."""
        return representation.participation_ratio(self.covariance())


# -- prediction -------------------------------------------------------------------------------------------------------


class _Predictions(_Sums):
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


class MultilabelSkill(_Sums):
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


class _Values(_Sums):
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


# -- generation -------------------------------------------------------------------------------------------------------


class _Samples(Metric):
    """Keeps samples. They are stored flat, so that a process without any can take part in gathering."""

    is_differentiable = False
    full_state_update = False
    width: Tensor

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self._numbers = 0  # of a sample, on the host: the state is for processes that have none
        for kind in kinds:
            self.add_state(kind, [], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def _keep(self, kind: str, samples: Tensor) -> None:
        flat = samples.detach().reshape(len(samples), -1).to(torch.float32)
        if self._numbers not in (0, flat.shape[1]):
            rule = f"samples have {flat.shape[1]} numbers each, those before had {self._numbers}"
            raise ValueError(
                message(type(self).__name__, kind, tuple(samples.shape), rule, "Pass samples of one shape")
            )
        self._numbers = flat.shape[1]
        self.width = torch.full_like(self.width, self._numbers)
        getattr(self, kind).append(flat.reshape(-1))

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._numbers = 0

    def _kept(self, kind: str, least: int) -> Tensor:
        found = getattr(self, kind)
        # (torchmetrics makes one tensor of a list when it gathers the processes)
        parts = found if isinstance(found, list) else [found]
        width = max(1, int(self.width))
        samples = torch.cat(parts).reshape(-1, width) if parts else torch.zeros(0, width)
        if len(samples) < least:
            rule = f"{len(samples)} {kind} samples were given, at least {least} are needed"
            raise ValueError(message(type(self).__name__, kind, len(samples), rule, "Call update with more samples"))
        return samples


class _Features(_Samples):
    """Of one kind only."""

    def __init__(self) -> None:
        super().__init__("features")

    def update(self, features: Tensor) -> None:
        """Add features ``[n, ...]``."""
        self._keep("features", features)


class Uniformity(_Features):
    """``log mean over pairs of exp(-2 ||a - b||^2)`` of unit features: 0 when all are one, lower when spread.

    Shape:
        ``update(features: [n, ...])``; ``compute()`` 0-d float64, <= 0.

    Example:
        >>> metric = Uniformity()
        >>> metric.update(torch.ones(4, 3))
        >>> metric.compute().round(decimals=6)
        tensor(0., dtype=torch.float64)

    Reference: Wang and Isola, 2020, arXiv:2005.10242.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the uniformity."""
        return representation.uniformity(self._kept("features", 2))


class Alignment(_Sums):
    """Mean squared distance of the unit features of two views of the same samples: 0 when equal, at most 4.

    Shape:
        ``update(one: [n, d], two: [n, d])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = Alignment()
        >>> metric.update(torch.eye(2), torch.eye(2).flip(0))
        >>> metric.compute()
        tensor(2., dtype=torch.float64)

    Reference: Wang and Isola, 2020, arXiv:2005.10242.
    """

    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._add("total")
        self._add("count")

    def update(self, one: Tensor, two: Tensor) -> None:
        """Add two views of the same samples."""
        if one.shape != two.shape:
            rule = f"the first view has the shape {tuple(one.shape)}"
            raise ValueError(message("Alignment", "two", tuple(two.shape), rule, "Pass two views of the same samples"))
        count = len(representation.rows(one))
        self.total += representation.alignment(one, two) * count
        self.count += count

    def compute(self) -> Tensor:
        """Return the mean distance."""
        return self.total / self.count


class VendiScore(_Features):
    """Effective number of different samples: ``exp`` of the entropy of the cosine kernel's eigenvalues, in [1, n].

    Shape:
        ``update(features: [n, ...])``; ``compute()`` 0-d float64.

    Example:
        >>> metric = VendiScore()
        >>> metric.update(torch.eye(3))
        >>> metric.compute()
        tensor(3., dtype=torch.float64)

    Reference: Friedman and Dieng, 2022, arXiv:2210.02410.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the score."""
        return generation.vendi_score(self._kept("features", 1))


class _Generated(_Samples):
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
