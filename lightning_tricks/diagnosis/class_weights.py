"""Weights of classes: do those of a sampler or of a loss make up for rarity, or make rare classes rarer?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from lightning_tricks.diagnosis.loss_calls import LossCall
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.labels import counts

SPREAD = 256  # samples from everywhere


def drawn_rarer(loader: Any, labels: Tensor) -> Check | None:
    """Look at the weights of a sampler; None where nothing is wrong.

    Args:
        loader: a DataLoader.
        labels: of the samples at ``positions`` from everywhere in its data.
    """
    weights = loader.sampler.weights if isinstance(loader.sampler, WeightedRandomSampler) else None
    if weights is None or loader.batch_size is None or len(labels) != min(len(weights), SPREAD):
        return None
    chosen = torch.as_tensor(weights)[positions(0, len(weights), SPREAD)]
    valid = counts(labels)
    return rarer_by_weight(chosen[valid], labels[valid].round().long())


def counted_less(calls: Sequence[LossCall], labels: Tensor) -> Check | None:
    """Look at the weights of classes that a loss is given; None where nothing is wrong.

    Args:
        calls: of one training step.
        labels: of samples from everywhere in the data.

    >>> labels, shares = torch.tensor([0] * 90 + [1] * 10), torch.tensor([0.9, 0.1])
    >>> call = LossCall("cross_entropy", torch.zeros(8, 2), labels[:8], {"weight": shares})
    >>> counted_less([call], labels).evidence
    'the weights of cross_entropy make class 1 rarer, 1.2% of what is counted in place of 10.0%'
    """
    for call in calls:
        weights = call.options.get("weight")
        if isinstance(weights, Tensor) and weights.ndim == 1 and call.name in ("cross_entropy", "nll_loss"):
            own = labels[counts(labels)].round().long().cpu()
            if len(own) and int(own.max()) < len(weights):
                return rarer_by_weight(weights.detach().cpu()[own], own, call.name, "counted")
    return None


def positions(start: int, size: int, most: int) -> list[int]:
    """Return at most so many positions between two, spread evenly.

    >>> positions(0, 100, 5)
    [0, 24, 49, 74, 99]
    """
    return sorted({int(i) for i in torch.linspace(start, size - 1, min(size, most)).tolist()})


def rarer_by_weight(weights: Tensor, labels: Tensor, whose: str = "", what: str = "drawn") -> Check | None:
    """Report weights that make rare classes rarer: they are counts, and not one over them.

    Args:
        weights: of some samples, ``[n]``.
        labels: their classes, ``[n]``.
        whose: the loss function whose weights they are; empty for a sampler.
        what: is done with samples as often as their weights say.

    >>> rarer_by_weight(torch.tensor([90.0] * 90 + [10.0] * 10), torch.tensor([0] * 90 + [1] * 10)).evidence
    'the weights of the sampler make class 1 rarer, 1.2% of what is drawn in place of 10.0%'
    >>> rarer_by_weight(torch.tensor([1.0] * 90 + [9.0] * 10), torch.tensor([0] * 90 + [1] * 10)) is None
    True
    """
    share = torch.bincount(labels).double() / max(1, len(labels))
    drawn = torch.zeros_like(share).scatter_add(0, labels, weights.double()) / weights.sum().clamp(min=1e-12)
    there = share > 0
    # (each class as rare as its weight says: the rarer it is, the less of it is drawn)
    factors, sizes = (drawn / share)[there], share[there]
    order = sizes.argsort()
    told = bool((factors[order].diff() > 0).all()) and len(sizes) > 1 and float(sizes.max()) > 1.5 * float(sizes.min())
    rarest = int(torch.where(there, share, 2.0).argmin())
    if not told or float(drawn[rarest]) > 0.5 * float(share[rarest]):
        return None
    seen = f"the weights of {whose or 'the sampler'} make class {rarest} rarer, {float(drawn[rarest]):.1%} of what is "
    seen += f"{what} in place of {float(share[rarest]):.1%}"
    fix = "weights of one over the number of samples of the class: (1 / counts)[labels]"
    return Check("class weights" if whose else "data are shuffled", False, seen, fix)
