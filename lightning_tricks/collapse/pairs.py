"""Outputs and targets that are numbers of the same size: several labels at once, values of a regression, quantiles.

What kind it is, is told from the values: targets that are all 0 or 1 are labels, others that are shares of 1 in each
row are soft classes, the rest is a regression. torch only, no host read: all kinds are measured, and the host chooses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SURE = 1e-6  # a probability of 1 as a logit


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
    elif any(_without(a.shape, i) == tuple(b.shape) for a, b in ((output, target), (target, output)) for i in (1, -1)):
        one, two = output.reshape(-1, 1), target.reshape(-1, 1)
    else:
        return None
    return one, two.to(one.dtype)


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


def two_classes(output: Tensor, target: Tensor, certain: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits ``[n, 2]`` and class numbers ``[n]`` of one output and one label in each row; -100 for a NaN.

    Args:
        output: ``[n, 1]``.
        target: ``[n, 1]``, 0 or 1.
        certain: whether outputs are probabilities, bool 0-d.

    >>> two_classes(torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor(True))
    (tensor([[0., 0.]]), tensor([1]))
    """
    logit = torch.where(certain, output.clamp(SURE, 1 - SURE).logit(), output)
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
    """Return the values by the names that are logged."""
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
