"""Whether the latent variables of a variational autoencoder carry anything. From sums; no Lightning.

The posterior of one row is ``N(mean, diag(exp(log_variance)))``, the prior ``N(0, I)``. Shapes: ``[n, d]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ACTIVE = 0.01  # variance of the posterior mean over the data, Burda et al., 2016, section 5.2
SHOWN = 256  # dimensions that are drawn

POSTERIOR: tuple[str, ...] = (
    "kl",
    "active_units",
    "units",
    "largest_mean_variance",
    "mean_variance",
    "posterior_variance",
    "finite",
)


def kl_terms(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return ``KL(N(mean, exp(log_variance)) || N(0, 1))`` of each row and dimension, in nats, ``[..., d]``.

    ``(mean^2 + expm1(log_variance) - log_variance) / 2``: exact also where the posterior is nearly the prior.
    """
    # (expm1: near the prior, exp(v) - 1 is the difference of nearly equal numbers)
    return (mean.square() + torch.expm1(log_variance) - log_variance) / 2


def posterior_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean KL divergence to ``N(0, I)`` of each dimension, in nats, ``[d]``, float64.

    Args:
        mean: ``[..., d]``.
        log_variance: the same shape; the natural logarithm of the variance, not of the standard deviation.

    >>> posterior_kl(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, 2))
    tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    terms = kl_terms(mean.detach().double(), log_variance.detach().double())
    return terms.reshape(-1, terms.shape[-1]).mean(0)


def mean_variance(total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """Return the variance over the data of each dimension of the posterior mean, ``[d]``.

    Args:
        total: sum of the means ``[d]``.
        squares: sum of their squares ``[d]``.
        count: of rows, 0-d.

    >>> mean_variance(torch.tensor([4.0]), torch.tensor([10.0]), torch.tensor(2.0))
    tensor([1.])
    """
    n = count.clamp(min=1)
    return (squares / n - (total / n).square()).clamp(min=0.0)


def active_units(variance: Tensor, threshold: float = ACTIVE) -> Tensor:
    """Return how many dimensions of the posterior mean vary with the data by more than ``threshold``, 0-d.

    Args:
        variance: of the posterior mean over the data, ``[d]``.
        threshold: 0.01 in the reference, where the two groups are far apart.

    >>> active_units(torch.tensor([0.9, 1e-4, 0.3]))
    tensor(2)

    Reference: Burda et al., "Importance Weighted Autoencoders", 2016, arXiv:1509.00519.
    """
    return (variance > threshold).sum()


def halves(output: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance from one tensor that holds both, one after the other.

    Args:
        output: any shape.
        features: the dimension of the features.
    """
    one, two = output.chunk(2, features)
    return one, two


def latent_rows(output: Tensor) -> Tensor:
    """Return latent variables as rows: ``[n, d]``, ``[n, tokens, d]``, or ``[n, d, ...]`` with a row for each place.

    >>> latent_rows(torch.zeros(4, 3, 8, 8)).shape, latent_rows(torch.zeros(4, 10, 6)).shape
    (torch.Size([256, 3]), torch.Size([40, 6]))
    """
    moved = output.movedim(1, -1) if output.ndim > 3 else output
    return moved.reshape(-1, moved.shape[-1])


def moments(mean: Tensor, log_variance: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """Return the sums over rows that ``measured_posterior`` needs; those of several processes are added.

    Args:
        mean: ``[n, d]``, float32.
        log_variance: the same shape.
        shift: ``[d]``, near the mean over all rows: the variance would be lost where it is large.
    """
    moved = mean - shift
    return {
        "count": torch.full((), float(len(mean)), device=mean.device),
        "total": moved.sum(0),
        "squares": moved.square().sum(0),
        "kl": kl_terms(mean, log_variance).sum(0),
        "variance": log_variance.exp().mean(1).sum(),
    }


def measured_posterior(sums: dict[str, Tensor]) -> Tensor:
    """Return the values of ``POSTERIOR``, and the KL of at most ``SHOWN`` dimensions, largest first, in one vector."""
    s = {name: value.double() for name, value in sums.items()}
    n = s["count"].clamp(min=1)
    kl, variance = s["kl"] / n, mean_variance(s["total"], s["squares"], s["count"])
    scalars = [
        kl.sum(),
        active_units(variance).double(),
        torch.zeros_like(n) + len(kl),
        variance.max(),
        variance.mean(),
        s["variance"] / n,
        (kl.isfinite().all() & variance.isfinite().all()).double(),
    ]
    return torch.cat([torch.stack(scalars), kl.sort(descending=True).values[:SHOWN]])


def read_posterior(vector: Sequence[float]) -> tuple[dict[str, float], list[float]]:
    """Return the values by name, and the KL of each dimension, from what ``measured_posterior`` sent."""
    values = dict(zip(POSTERIOR, vector, strict=False))
    units = values.pop("units")
    values["active_share"] = values["active_units"] / max(1.0, units)
    values["_units"] = units
    return values, [x if math.isfinite(x) else 0.0 for x in vector[len(POSTERIOR) :]]
