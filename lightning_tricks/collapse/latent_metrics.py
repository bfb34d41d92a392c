"""Measures of discrete and Gaussian latent variables as ``torchmetrics.Metric``: streaming, exact on several processes.

Assignments are whole numbers ``[...]``, or probabilities or logits ``[..., num_entries]``. Only sums are kept.
"""

from __future__ import annotations

from torch import Tensor

from lightning_tricks.collapse import posterior, usage
from lightning_tricks.collapse.assignments import as_probabilities, counted_entries, votes
from lightning_tricks.collapse.metric_sums import Moments, Sums
from lightning_tricks.collapse.prediction import entropy, shares
from lightning_tricks.collapse.representation import rows


class _Assignments(Sums):
    """Counts of chosen entries, and sums of probabilities."""

    votes: Tensor
    probability: Tensor
    entropy: Tensor
    count: Tensor

    def __init__(self, num_entries: int) -> None:
        super().__init__()
        self.num_entries = self._count_of("num_entries", num_entries)
        self._add("votes", num_entries)
        self._add("probability", num_entries)
        self._add("entropy")
        self._add("count")

    def update(self, assignments: Tensor) -> None:
        """Add whole numbers ``[...]``, of which those outside of the entries are left out, or rows ``[..., K]``."""
        if not assignments.is_floating_point():
            counted = counted_entries(assignments.detach(), self.num_entries).double()
            self.votes += counted
            # (a choice is a probability of 1)
            self.probability += counted
            self.count += counted.sum()
            return
        self._check("assignments", assignments, self.num_entries)
        flat = rows(assignments)
        p, _ = as_probabilities(flat)
        self.votes += votes(flat).sum(0)
        self.probability += p.sum(0)
        self.entropy += entropy(p).sum()
        self.count += len(flat)


class UsagePerplexity(_Assignments):
    """Effective number of entries that are chosen, ``exp`` of the entropy of their shares, in [1, K].

    Of rows the largest entry is counted, which no temperature changes; entries that are equal share the count.

    Args:
        num_entries: K: codes, experts, prototypes or actions.

    Shape:
        ``update(assignments: [...] or [..., K])``; ``compute()`` 0-d float64, 1 without samples.

    Example:
        >>> import torch
        >>> metric = UsagePerplexity(4)
        >>> metric.update(torch.tensor([0, 0, 3, 3]))
        >>> metric.compute().round(decimals=4)
        tensor(2., dtype=torch.float64)

    Reference: van den Oord et al., "VQ-VAE", 2017, arXiv:1711.00937.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the perplexity."""
        return usage.perplexity(self.votes)


class UnusedEntries(_Assignments):
    """Share of entries that were never chosen, in [0, 1]. Fewer samples than entries leave some out by chance.

    Args:
        num_entries: K: codes, experts, prototypes or actions.

    Shape:
        ``update(assignments: [...] or [..., K])``; ``compute()`` 0-d float64, 1 without samples.

    Example:
        >>> import torch
        >>> metric = UnusedEntries(4)
        >>> metric.update(torch.tensor([[9.0, 0.0, 0.0, 0.0]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the share."""
        return usage.unused_share(self.votes)


class MarginalEntropy(_Assignments):
    """Entropy of the mean of the probabilities, in nats: 0 where all inputs get one entry, ln K where all are used.

    Args:
        num_entries: K: codes, experts, prototypes or actions.

    Shape:
        ``update(assignments: [...] or [..., K])``; ``compute()`` 0-d float64, 0 without samples.

    Example:
        >>> import torch
        >>> metric = MarginalEntropy(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> metric.compute().round(decimals=4)
        tensor(0.6931, dtype=torch.float64)

    Reference: Caron et al., "DINO", 2021, arXiv:2104.14294, section 5.3.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the entropy."""
        return entropy(shares(self.probability))


class ConditionalEntropy(_Assignments):
    """Mean entropy of the probabilities of each input, in nats: 0 where assignments are certain, as whole numbers are.

    Of logits it is that at temperature 1. Less than the marginal entropy by what input and entry have in common; equal
    to it where the probabilities do not depend on the input.

    Args:
        num_entries: K: codes, experts, prototypes or actions.

    Shape:
        ``update(assignments: [...] or [..., K])``; ``compute()`` 0-d float64, NaN without samples.

    Example:
        >>> import torch
        >>> metric = ConditionalEntropy(2)
        >>> metric.update(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
        >>> metric.compute().round(decimals=4)
        tensor(0.3466, dtype=torch.float64)

    Reference: Caron et al., "DINO", 2021, arXiv:2104.14294, section 5.3.
    """

    higher_is_better = None

    def compute(self) -> Tensor:
        """Return the entropy."""
        return self.entropy / self.count


class ActiveUnits(Moments):
    """Number of latent dimensions whose posterior mean varies over the data by more than 0.01, in [0, d].

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(mean: [..., d])``; ``compute()`` 0-d int64, 0 without samples.

    Example:
        >>> import torch
        >>> metric = ActiveUnits(2)
        >>> metric.update(torch.tensor([[1.0, 0.02], [-1.0, 0.0]]))
        >>> metric.compute()
        tensor(1)

    Reference: Burda et al., "Importance Weighted Autoencoders", 2016, arXiv:1509.00519.
    """

    higher_is_better = True

    def update(self, mean: Tensor) -> None:
        """Add posterior means ``[..., num_features]``."""
        self._add_rows("mean", mean)

    def compute(self) -> Tensor:
        """Return the number."""
        return posterior.active_units(posterior.mean_variance(self.total, self.squares, self.count))


class PosteriorKL(Sums):
    """Mean KL divergence of the posterior ``N(mean, exp(log_variance))`` from ``N(0, I)``, in nats.

    Args:
        num_features: d, size of the last dimension.

    Shape:
        ``update(mean: [..., d], log_variance: [..., d])``; ``compute()`` 0-d float64, of all dimensions together, NaN
        without samples; ``per_dimension`` ``[d]``.

    Example:
        >>> import torch
        >>> metric = PosteriorKL(2)
        >>> metric.update(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        >>> metric.compute(), metric.per_dimension
        (tensor(0.5000, dtype=torch.float64), tensor([0.5000, 0.0000], dtype=torch.float64))

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114, appendix B.
    """

    higher_is_better = None
    kl: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = self._count_of("num_features", num_features)
        self._add("kl", num_features)
        self._add("count")

    def update(self, mean: Tensor, log_variance: Tensor) -> None:
        """Add posteriors: means and natural logarithms of variances, both ``[..., num_features]``."""
        self._check("mean", mean, self.num_features)
        self._check("log_variance", log_variance, self.num_features)
        self.kl += posterior.kl_terms(rows(mean), rows(log_variance)).sum(0)
        self.count += mean.shape[:-1].numel()

    @property
    def per_dimension(self) -> Tensor:
        """Mean divergence of each dimension."""
        return self.kl / self.count

    def compute(self) -> Tensor:
        """Return the divergence of all dimensions together."""
        return self.per_dimension.sum()
