"""Outputs and targets that are numbers of the same size: several labels at once, values of a regression, quantiles.

What kind it is, is told from the values: targets that are all 0 or 1 are labels, others that are shares of 1 in each row
are soft classes, the rest is a regression. torch only, no host read: all kinds are measured, and the host chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.collapse import association, prediction
from lightning_tricks.measure.subset import spread

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
    return values.movedim(1, -1).reshape(-1, values.shape[1]) if values.ndim > 3 else values.reshape(-1, values.shape[-1])


NUMBERS = (
    "count",
    "other",  # rows with a target that is neither 0 nor 1
    "uneven",  # rows whose targets are not shares of 1
    "beyond",  # outputs outside of [0, 1]: no probabilities
    "score",  # z of the association in this check
    "correlation",
    "r_squared",
    "variance_ratio",
    "spread",  # the same of median distances, which few rows far out do not change
    "squared_error",
    "label_skill",
    "label_loss",
    "label_entropy",
    "label_spread",
    "class_skill",
    "class_loss",
    "class_entropy",
    "class_spread",
)


def measured_pairs(
    output: Tensor, target: Tensor, add: Callable[[Sums], Sums], mean: Callable[[Tensor], Tensor], logits: bool = False
) -> Tensor:
    """Return the values of ``NUMBERS`` in one vector, over all processes.

    Args:
        output: ``[n, D]``, float32.
        target: ``[n, D]`` or ``[n, 1]``, float32; rows with a NaN are left out.
        add: returns sums over all processes.
        mean: returns the mean over all processes.
        logits: outputs are known to be no probabilities; else they are, as long as all lie in [0, 1].
    """
    keep = torch.isfinite(target).all(1)
    weight = keep.to(output.dtype)
    target = torch.where(keep[:, None], target, 0.0).expand_as(output)
    output = torch.where(keep[:, None], output, 0.0)
    # where they lie need not be exact, but the same everywhere
    places = [*association.centre_and_scale(output), *association.centre_and_scale(target)]
    out_centre, out_scale, centre, scale = mean(torch.stack(places))
    whole = (target == 0) | (target == 1)
    first = {
        "count": weight.sum(),
        "other": (~whole).any(1).to(weight).sum(),
        "uneven": (weight * (((target.sum(1) - 1).abs() > 1e-4) | (target < 0).any(1))).sum(),
        "beyond": ((output < 0) | (output > 1)).to(weight).sum(),
        "moments": torch.stack([_moments(output - out_centre, weight), _moments(target - centre, weight)]),
        "error": (weight[:, None] * (output - target).square()).sum(),
    }
    s = add(first)
    n = s["count"].clamp(min=1)
    variances = (s["moments"][:, 1] / n - (s["moments"][:, 0] / n).square()).clamp(min=0.0)
    ratios = prediction.spread_ratio(variances[0], variances[1])
    robust = prediction.spread_ratio(out_scale.square(), scale.square())
    likely = (s["beyond"] == 0) & (not logits)
    p = torch.where(likely, output, output.sigmoid()).clamp(_SURE, 1 - _SURE)
    log_p = torch.where(likely, output.clamp(min=_SURE).log(), output.log_softmax(1))
    q = target.clamp(0, 1)
    # counted from near their mean: uncentred squares would lose a small variance
    near = out_centre.expand(1, output.shape[1])
    p_near = torch.where(likely, near, near.sigmoid())
    share_near = torch.where(likely, near, near.softmax(1))
    losses = {
        "binary": (weight[:, None] * F.binary_cross_entropy(p, q, reduction="none")).sum(0),
        "positives": (weight[:, None] * q).sum(0),
        "p": _moments(p - p_near, weight),
        "class": -(weight[:, None] * q * log_p).sum(),
        "share": _moments(log_p.exp() - share_near, weight),
    }
    shown = spread(output.shape[1], COLUMNS, output.device)
    f = association.bounded_scores(output, out_centre, out_scale)[:, shown]
    g = association.bounded_scores(target, centre, scale)[:, shown]
    losses |= {"f": (weight[:, None] * f).sum(0), "g": (weight[:, None] * g).sum(0)}
    t = add(losses)
    f, g = (weight[:, None] * (x - t[name] / n) for x, name in ((f, "f"), (g, "g")))
    u = add({"cross": (f * g).sum(), "ff": f.T @ f, "gg": g.T @ g})
    score = association.standard_score(u["cross"], (u["ff"] * u["gg"]).sum() / n, n)
    size = (u["ff"].trace() * u["gg"].trace()).sqrt()
    frequency = t["positives"] / n
    even = (frequency * (1 - frequency)).sum()
    return torch.stack(
        [
            s["count"],
            s["other"],
            s["uneven"],
            s["beyond"],
            score,
            torch.where(size > 0, u["cross"] / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0),
            prediction.r_squared(s["error"], n * variances[1].sum()),
            ratios.nan_to_num(-1.0).max(),
            robust.nan_to_num(-1.0).max(),
            s["error"] / n / output.shape[1],
            prediction.multilabel_skill(t["binary"] / n, frequency)[-1],
            t["binary"].sum() / n / output.shape[1],
            prediction.entropy(torch.stack([frequency, 1 - frequency], -1)).sum() / output.shape[1],
            prediction.spread_ratio(_variance(t["p"], n), even),
            prediction.skill(t["class"] / n, t["positives"]),
            t["class"] / n,
            prediction.entropy(prediction.shares(t["positives"])),
            prediction.spread_ratio(_variance(t["share"], n), even),
        ]
    )


def _moments(values: Tensor, weight: Tensor) -> Tensor:
    """Return sums of values and of their squares by column, ``[2, D]``."""
    counted = weight[:, None] * values
    return torch.stack([counted.sum(0), (counted * values).sum(0)])


def _variance(moments: Tensor, count: Tensor) -> Tensor:
    return (moments[1] / count - (moments[0] / count).square()).clamp(min=0.0).sum()


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
        apart = max(numbers["variance_ratio"], numbers["spread"])
        own = {"input_dependence": math.nan if apart < 0 else apart, "squared_error": numbers["squared_error"]}
        if quantiles:
            return {**own, "correlation": numbers["correlation"], **hidden}
        known = {name: numbers[name] for name in ("correlation", "r_squared", "variance_ratio")}
        return {"skill": numbers["correlation"] ** 2, **known, **own, **hidden}
    stem = "class" if kind == "shares" else "label"
    return {
        "skill": numbers[f"{stem}_skill"],
        "input_dependence": numbers[f"{stem}_spread"],
        "cross_entropy": numbers[f"{stem}_loss"],
        "label_entropy": numbers[f"{stem}_entropy"],
        **hidden,
    }
