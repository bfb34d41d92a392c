"""Sums over predictions, gathered between two checks, and what they say. torch only, no host read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_tricks.collapse import association, prediction
from lightning_tricks.collapse.sums import Sums, add_to
from lightning_tricks.modules.labels import counts

CLASSES_SHOWN = 32


_ROUNDING = 1e-6  # of float32


def add_predictions(sums: Sums, logits: Tensor, target: Tensor) -> None:
    """Add logits ``[n, K]`` and targets ``[n]``.

    Args:
        sums: written in place.
        logits: float32, not normalised; log-probabilities do as well.
        target: class numbers; negative ones are left out, with whatever their logits are.
    """
    classes = logits.shape[1]
    valid = counts(target)
    # (what is left out gets any class, and the weight 0)
    weight, label = valid.float(), target.clamp(min=0, max=classes - 1)
    log_p = torch.where(valid[:, None], logits, 0.0).log_softmax(1)  # (0 x NaN is NaN)
    p = log_p.exp()
    guess = logits.argmax(1)
    zeros = torch.zeros(classes, device=logits.device)
    cross_entropy = -log_p.gather(1, label[:, None]).squeeze(1)
    new = {
        "count": weight.sum(),
        "cross_entropy": (cross_entropy * weight).sum(),
        "entropy": (prediction.entropy(p) * weight).sum(),
        "probability": (p * weight[:, None]).sum(0),
        "predicted": zeros.scatter_add(0, guess, weight),
        "labels": zeros.scatter_add(0, label, weight),
        "hits": zeros.scatter_add(0, label, weight * (guess == label)),
        "soft_hits": zeros.scatter_add(0, label, weight * p.gather(1, label[:, None]).squeeze(1)),
    }
    add_to(sums, new)


def association_of(sums: Sums, logits: Tensor, target: Tensor, part: Tensor) -> Sums:
    """Return sums for the association of predictions and labels, given those of all samples.

    Also how much predictions differ within a batch, and the cross entropy with the labels' frequencies in place of the
    predictions' own mean: weights of classes in the loss move all predictions away from the frequencies, which is not a
    lack of skill.

    Args:
        sums: of ``add_predictions``, over all samples and processes.
        part: numbers of batches, ``[n]``.
    """
    n = sums["count"].clamp(min=1)
    mean, share = sums["probability"] / n, prediction.shares(sums["labels"])
    valid = counts(target)
    label = target.clamp(min=0, max=logits.shape[1] - 1)
    log_p = torch.where(valid[:, None], logits, 0.0).log_softmax(1)
    p, tiny = log_p.exp(), torch.finfo(mean.dtype).tiny
    total, variance = association.permutation_test(p.index_select(1, label), part, valid)
    moved = (log_p + share.clamp(min=tiny).log() - mean.clamp(min=tiny).log()).log_softmax(1)
    return {
        "total": total,
        "variance": variance,
        "apart": association.centred_within(p, part, valid).square().sum(),
        "moved_loss": -(moved.gather(1, label[:, None]).squeeze(1) * valid).sum(),
    }


def measured_predictions(sums: Sums) -> Tensor:
    """Return the values of ``PREDICTION``, and the shares of predicted and labelled classes, in one vector."""
    s = {name: value.double() for name, value in sums.items()}
    n = s["count"].clamp(min=1)
    guessed, labelled = prediction.shares(s["predicted"]), prediction.shares(s["labels"])
    f1 = prediction.macro_f1(s["hits"], s["predicted"], s["labels"])
    scalars = [
        prediction.skill(s["cross_entropy"] / n, s["labels"]),
        prediction.input_dependence(s["probability"] / n, s["entropy"] / n, s["labels"]),
        prediction.jensen_shannon(guessed, labelled),
        f1 - prediction.trivial_macro_f1(s["labels"]),
        f1,
        prediction.entropy(guessed).exp(),
        prediction.entropy(labelled).exp(),
        guessed.max(),
        guessed.argmax().double(),
        s["cross_entropy"] / n,
        prediction.entropy(labelled),
        prediction.balanced_skill(s["hits"], s["labels"]),
        prediction.balanced_skill(s["soft_hits"], s["labels"]),
        s["count"],
    ]
    shown = min(CLASSES_SHOWN, len(guessed))
    return torch.cat([torch.stack(scalars), guessed[:shown], labelled[:shown]])


def measured_association(sums: Sums, parts: Sums) -> Tensor:
    """Return the first three values of ``CLASSES``."""
    n = sums["count"].clamp(min=1)
    even = 1 - prediction.shares(sums["labels"]).square().sum()
    score = association.standard_score(parts["total"], parts["variance"])
    spread = prediction.spread_ratio(parts["apart"] / n, torch.where(even > _ROUNDING, even, 0.0))
    return torch.stack([score, spread, prediction.skill(parts["moved_loss"] / n, sums["labels"])])


def measured_classes(logits: Tensor, target: Tensor, part: Tensor, add: Callable[[Sums], Sums]) -> Tensor:
    """Return the values of ``CLASSES``, and the shares of predicted and labelled classes, over all processes.

    Args:
        logits: ``[n, K]``, float32.
        target: ``[n]``.
        part: numbers of batches, ``[n]``.
        add: returns sums over all processes.
    """
    own: Sums = {}
    add_predictions(own, logits, target)
    whole = add(own)
    parts = add(association_of(whole, logits, target, part))
    return torch.cat([measured_association(whole, parts).double(), measured_predictions(whole)])
