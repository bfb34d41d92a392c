"""Outputs and targets that are numbers of the same size: several labels at once, values of a regression, quantiles.

What kind it is, is told from the values: targets that are all 0 or 1 are labels, others that are shares of 1 in each
row are soft classes, the rest is a regression. torch only, no host read: all kinds are measured, and the host chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.collapse import association, prediction
from lightning_tricks.numerics.subset import spread

Sums = dict[str, Tensor]

COLUMNS = 64  # of wide outputs that the test of association looks at
_SURE = 1e-6  # a probability of 1 as a logit


def paired(output: Tensor, target: Tensor, *, quantiles: bool = False) -> tuple[Tensor, Tensor] | None:
    """Return output ``[n, D]`` and target ``[n, D]`` from two tensors of the same size; None when they are not.

    ``[n]``, ``[n, D]``, ``[n, tokens, D]`` and ``[n, D, ...]`` (pixels are rows), and one dimension of size 1 more in
    either: ``[n, 1]`` and ``[n]`` belong together row by row. The last dimension, or that of the channels, holds the
    columns.

    Args:
        output: any floating type.
        target: any type.
        quantiles: take output ``[n, Q]`` and target ``[n]`` or ``[n, 1]``, which is returned as ``[n, 1]``.

    >>> one, two = paired(torch.zeros(4, 1), torch.zeros(4)); one.shape, two.shape
    (torch.Size([4, 1]), torch.Size([4, 1]))
    >>> paired(torch.zeros(4, 3), torch.zeros(4)) is None
    True
    """
    output, target = output.detach(), target.detach()
    if not output.ndim or not target.ndim:
        return None
    if quantiles:
        fits = output.ndim == 2 and output.shape[1] > 1 and tuple(target.shape) in {(len(output),), (len(output), 1)}
        return (output, target.reshape(-1, 1).to(output.dtype)) if fits else None
    if output.shape == target.shape:
        one, two = _rows(output), _rows(target)
    elif any(_without(a, i) == tuple(b) for a, b in _either_way(output, target) for i in (1, -1)):
        one, two = output.reshape(-1, 1), target.reshape(-1, 1)
    else:
        return None
    return one, two.to(one.dtype)


def _either_way(output: Tensor, target: Tensor) -> tuple[tuple[torch.Size, torch.Size], ...]:
    return (output.shape, target.shape), (target.shape, output.shape)


def _without(shape: torch.Size, place: int) -> tuple[int, ...] | None:
    """Return the shape without a dimension of size 1 at that place; None where there is none."""
    if len(shape) < 2 or shape[place] != 1:
        return None
    kept = list(shape)
    del kept[place]
    return tuple(kept)


def _rows(values: Tensor) -> Tensor:
    if values.ndim == 1:
        return values[:, None]
    return (
        values.movedim(1, -1).reshape(-1, values.shape[1]) if values.ndim > 3 else values.reshape(-1, values.shape[-1])
    )


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
    keep = torch.isfinite(target).all(1)
    weight = keep.to(output.dtype)
    target = torch.where(keep[:, None], target, 0.0).expand_as(output)
    output = torch.where(keep[:, None], output, 0.0)
    whole = (target == 0) | (target == 1)
    q = target.clamp(0, 1)
    first = {
        "count": weight.sum(),
        "other": (~whole).any(1).to(weight).sum(),
        "uneven": (weight * (((target.sum(1) - 1).abs() > 1e-4) | (target < 0).any(1))).sum(),
        "beyond": ((output < 0) | (output > 1)).to(weight).sum(),
        "total": (weight[:, None] * target).sum(0),
        "output": (weight[:, None] * output).sum(0),
        "positives": (weight[:, None] * q).sum(0),
    }
    s = add(first)
    n = s["count"].clamp(min=1)
    likely = (s["beyond"] == 0) & (not logits)
    p = torch.where(likely, output, output.sigmoid()).clamp(_SURE, 1 - _SURE)
    log_p = torch.where(likely, output.clamp(min=_SURE).log(), output.log_softmax(1))
    shown = spread(output.shape[1], COLUMNS, output.device)
    f, g = (_scores(x[:, shown], part, keep) for x in (output, target))
    total, variance = association.permutation_test(f @ g.T, part, keep)
    within = [association.centred_within(x, part, keep).square().sum(0) for x in (output, target)]
    apart = [association.centre_and_scale(x, keep)[1].square() for x in (output, target)]
    middle = (weight[:, None] * p).sum(0) / weight.sum().clamp(min=1)
    frequent = (s["positives"] / n).clamp(_SURE, 1 - _SURE)
    moved = p.logit() + frequent.logit() - middle.clamp(_SURE, 1 - _SURE).logit()
    binary = -(q * p.log() + (1 - q) * (-p).log1p())  # (torch's own refuses NaN)
    second = {
        "cross": (f * g).sum(),
        "sizes": torch.stack([f.square().sum(), g.square().sum()]),
        "score": torch.stack([total, variance]),
        "within": torch.stack(within),
        "apart": torch.stack(apart),
        "variances": torch.stack(
            [_squares(output - s["output"] / n, weight), _squares(target - s["total"] / n, weight)]
        ),
        "error": _squares(output - target, weight).sum(),
        "binary": (weight[:, None] * binary).sum(0),
        "moved": (weight[:, None] * (F.softplus(moved) - q * moved)).sum(0),
        "class": -(weight[:, None] * q * log_p).sum(),
        "label": association.centred_within(p, part, keep).square().sum(),
        "share": association.centred_within(log_p.exp(), part, keep).square().sum(),
    }
    t = add(second)
    size = t["sizes"].prod().sqrt()
    frequency = s["positives"] / n
    even = n * (frequency * (1 - frequency)).sum()
    wide = output.shape[1]
    ratios = [prediction.spread_ratio(*t[name]).nan_to_num(-1.0).max() for name in ("variances", "within", "apart")]
    return torch.stack(
        [
            *(s[name] for name in ("count", "other", "uneven", "beyond")),
            association.standard_score(*t["score"]),
            torch.where(size > 0, t["cross"] / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0),
            prediction.r_squared(t["error"], t["variances"][1].sum()),
            ratios[0],
            torch.maximum(ratios[1], ratios[2]),
            t["error"] / n / wide,
            prediction.multilabel_skill(t["binary"] / n, frequency)[-1],
            prediction.multilabel_skill(t["moved"] / n, frequency)[-1],
            t["binary"].sum() / n / wide,
            prediction.entropy(torch.stack([frequency, 1 - frequency], -1)).sum() / wide,
            prediction.spread_ratio(t["label"], even),
            prediction.skill(t["class"] / n, s["positives"]),
            t["class"] / n,
            prediction.entropy(prediction.shares(s["positives"])),
            prediction.spread_ratio(t["share"], even),
        ]
    )


def _scores(values: Tensor, part: Tensor, keep: Tensor) -> Tensor:
    """Return bounded scores within batches: what is far out counts as far out, and not by how much."""
    centre, scale = association.centre_and_scale(values, keep)
    return association.centred_within(association.bounded_scores(values, centre, scale), part, keep)


def _squares(values: Tensor, weight: Tensor) -> Tensor:
    return (weight[:, None] * values.square()).sum(0)


def two_classes(output: Tensor, target: Tensor, certain: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits ``[n, 2]`` and class numbers ``[n]`` of one output and one label in each row; -100 for a NaN.

    Args:
        output: ``[n, 1]``.
        target: ``[n, 1]``, 0 or 1.
        certain: whether outputs are probabilities, bool 0-d.

    >>> two_classes(torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor(True))
    (tensor([[0., 0.]]), tensor([1]))
    """
    logit = torch.where(certain, output.clamp(_SURE, 1 - _SURE).logit(), output)
    label = torch.where(torch.isfinite(target), target.clamp(0, 1), -100.0).round().long()
    return torch.cat([torch.zeros_like(logit), logit], 1), label.squeeze(1)


def kind_of(numbers: dict[str, float], *, two_classes: bool) -> str:
    """Return what the targets are: ``"classes"`` (two), ``"shares"``, ``"labels"`` or ``"numbers"``.

    >>> kind_of({"other": 0.0, "uneven": 3.0}, two_classes=False)
    'labels'
    """
    if two_classes:
        return "numbers" if numbers["other"] > 0 else "classes"
    if numbers["uneven"] == 0:
        return "shares"
    return "numbers" if numbers["other"] > 0 else "labels"


def read_pairs(numbers: dict[str, float], kind: str, *, quantiles: bool = False) -> dict[str, float]:
    """Return the values by the names that are logged.

    >>> values = read_pairs(dict.fromkeys(NUMBERS, 0.25), "numbers")
    >>> values["skill"], values["correlation"], values["r_squared"]
    (0.0625, 0.25, 0.25)
    """
    hidden = {"_score": numbers["score"], "_count": numbers["count"]}
    if kind == "numbers":
        apart = math.nan if numbers["spread"] < 0 else numbers["spread"]
        own = {"input_dependence": apart, "_spread": apart, "squared_error": numbers["squared_error"]}
        if quantiles:
            return {**own, "correlation": numbers["correlation"], **hidden}
        known = {name: numbers[name] for name in ("correlation", "r_squared", "variance_ratio")}
        return {"skill": numbers["correlation"] ** 2, **known, **own, **hidden}
    stem = "class" if kind == "shares" else "label"
    return {
        "skill": numbers[f"{stem}_skill"],
        "moved_skill": numbers["class_skill" if kind == "shares" else "label_moved"],
        "input_dependence": numbers[f"{stem}_spread"],
        "_spread": numbers[f"{stem}_spread"],
        "cross_entropy": numbers[f"{stem}_loss"],
        "label_entropy": numbers[f"{stem}_entropy"],
        **hidden,
    }
