"""What a trivial learner makes of the same rows: answers from other rows of a check, beside those of the network.

Two of them: from the nearest samples by their raw inputs, and from rows with the same ids, as of shops and articles, of
words, or of the token before. A network that is far behind either, late in a run, does not use what its inputs say: a
head that nobody trains, tables that are not those of the optimizer, a learning rate that is a thousand times too small.
Where a trivial learner finds little, as in large images, nothing follows. torch only, no host read.

Classes are compared by accuracy, numbers by the squared correlation of bounded scores: no row far out decides. Numbers
only where the loss is known to compare them: a network that answers in units of each sample, as of windows that are
standardised, need not follow the targets of other samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_tricks.collapse.neighbours import FEWEST, weights_of_ids, weights_of_nearest
from lightning_tricks.collapse.pair_numbers import COLUMNS, bounded_within
from lightning_tricks.collapse.pairs import two_classes
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics.subset import spread, subset

Sums = dict[str, Tensor]


class Reference(NamedTuple):
    """A trivial learner.

    Args:
        told: what it answers from, for a message.
        rows: at most so many are compared.
        weigh: what it knows of rows, ``[n, d]``, and targets, ``[n]`` -> weights of the others for each, ``[n, n]``.
    """

    told: str
    rows: int
    weigh: Callable[[Tensor, Tensor], Tensor]


REFERENCES = {
    "inputs": Reference("the nearest samples, by their raw inputs", 256, weights_of_nearest),
    "ids": Reference("other rows, by the ids that are looked up", 512, weights_of_ids),
}
_MEASURES = ("classes", "numbers")  # kinds of targets; of others no skill is known
SKILLS = 2 * len(_MEASURES) * len(REFERENCES)
LEVEL = (1.0, 1.0)  # skills of a network and a reference that is not asked, since it cannot be far ahead
_ABOVE = 0.5  # skill of a network that no trivial learner is far ahead of
# Rows over all processes that make a skill: with these, 0.2 is four standard errors above none.
_FEWEST = 64


def answers(rows: Mapping[str, Tensor], *, logits: bool = False) -> Sums:
    """Return sums for ``skills``, which can be added over processes: each answers from its own rows.

    Nothing for quantiles, of which there are more than targets.

    Args:
        rows: as of ``prediction_rows.rows_of``, with ``part``, and beside them ``inputs``, NaN where they are not
            known, ``ids``, of no columns where there are none, and ``explained``, whether the loss is one of them.
        logits: outputs are known to be no probabilities.
    """
    found: Sums = {}
    for name, reference in REFERENCES.items():
        there = rows[name].shape[1] > 0
        part = {key: subset(tensor, reference.rows if there else 1) for key, tensor in rows.items()}
        known = torch.isfinite(part[name]).all() & there
        own = _answers(part, reference.weigh, torch.where(known, part[name], 0), logits)
        unknown = ~known | (len(part["part"]) < FEWEST)
        found |= {f"{name}/{key}": torch.where(unknown, 0.0, value) for key, value in own.items()}
        found[f"{name}/unknown"] = unknown.float()
    return found


def skills(total: Sums) -> Tensor:
    """Return skills of the network and of each reference, by classes and as numbers, ``[2, 2, 2]``; NaN where unknown.

    Of classes the accuracy above that of the commonest label, as a share of what is possible; of numbers the squared
    correlation, which is 0 for a reference that goes against its targets.
    """
    return torch.stack([torch.stack([_of_classes(total, name), _of_numbers(total, name)]) for name in REFERENCES])


def best(skills: Sequence[float], kind: str) -> tuple[float, float, float]:
    """Return the skill of the network, that of the better reference on the same rows, and which one it is; on the host.

    >>> best([0.1, 0.9, *[math.nan] * 6], "classes"), best([0.1, 0.9, *[math.nan] * 6], "numbers")
    ((0.1, 0.9, 0.0), (nan, nan, 0.0))
    """
    if kind not in _MEASURES:
        return math.nan, math.nan, 0.0
    place = 2 * _MEASURES.index(kind)
    step = SKILLS // len(REFERENCES)
    pairs = [skills[place + step * i : place + step * i + 2] for i in range(len(REFERENCES))]
    found = max(range(len(pairs)), key=lambda i: -1.0 if math.isnan(sum(pairs[i])) else pairs[i][1])
    return pairs[found][0], pairs[found][1], float(found)


def may_be_ahead(values: Mapping[str, float], kind: str) -> bool:
    """Return whether a trivial learner may be far ahead of the network at the next check: else it need not be asked.

    >>> may_be_ahead({"balanced_skill": 0.1}, "classes"), may_be_ahead({"balanced_skill": 0.9}, "classes")
    (True, False)
    """
    measure = {"classes": "balanced_skill", "numbers": "skill"}.get(kind)
    return measure is not None and not values.get(measure, math.nan) > _ABOVE


def _answers(rows: Mapping[str, Tensor], weigh: Callable[[Tensor, Tensor], Tensor], by: Tensor, logits: bool) -> Sums:
    """Return the sums of one reference, which answers by what it knows of each row."""
    numbers = rows.get("output")
    target = rows["target"] if numbers is None else rows["values"][:, 0]
    weights = weigh(by, target)
    found: Sums = {}
    if numbers is None or numbers.shape[1] == 1:
        found |= _votes(*_classes(rows, logits), weights)
    if numbers is not None and numbers.shape == rows["values"].shape:
        found |= _means(numbers.float(), rows["values"].float(), rows["part"], weights)
        found["count"] = torch.where(rows["explained"].all(), found["count"], 0.0)
    return found


def _votes(outputs: Tensor, target: Tensor, weights: Tensor) -> Sums:
    """Return how many answers of the network and of a weighted vote of other rows are right."""
    classes, counted = outputs.shape[1], counts(target)
    label = target.clamp(min=0, max=classes - 1)
    # (as many columns as there are labels, or rows that stand for theirs, whatever is less)
    named = torch.arange(classes, device=label.device) if classes < len(label) else label
    vote = named[(weights @ ((label[:, None] == named) & counted[:, None]).to(weights.dtype)).argmax(1)]
    right = {"network": outputs.argmax(1) == label, "reference": vote == label}
    return {
        "labels": torch.zeros(classes, device=label.device).scatter_add(0, label, counted.float()),
        **{name: (counted & hits).sum().float() for name, hits in right.items()},
    }


def _means(output: Tensor, values: Tensor, part: Tensor, weights: Tensor) -> Sums:
    """Return the sums of correlations of values, with outputs of the network and with weighted means of other rows."""
    shown = spread(values.shape[1], COLUMNS, values.device)
    keep = torch.isfinite(values).all(1)
    values, weights = torch.where(keep[:, None], values[:, shown], 0.0), weights * keep
    mean = weights @ values / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    g = bounded_within(values, part, keep)
    own = {"network": bounded_within(output[:, shown], part, keep), "reference": bounded_within(mean, part, keep)}
    cross = {f"{name}_cross": (f * g).sum() for name, f in own.items()}
    sizes = {f"{name}_size": f.square().sum() for name, f in own.items()}
    return {**cross, **sizes, "size": g.square().sum(), "count": keep.sum().float()}


def _of_classes(total: Sums, name: str) -> Tensor:
    if f"{name}/labels" not in total:
        return torch.full((2,), torch.nan, device=total[f"{name}/unknown"].device)
    labels = total[f"{name}/labels"]
    asked, commonest = labels.sum(), labels.max()
    right = torch.stack([total[f"{name}/network"], total[f"{name}/reference"]])
    there = (total[f"{name}/unknown"] == 0) & (commonest < asked) & (asked >= _FEWEST)
    return torch.where(there, (right - commonest) / (asked - commonest).clamp(min=1), torch.nan)


def _of_numbers(total: Sums, name: str) -> Tensor:
    if f"{name}/size" not in total:
        return torch.full((2,), torch.nan, device=total[f"{name}/unknown"].device)
    of = {key: total[f"{name}/{key}"] for key in ("size", "count", "unknown")}
    found = []
    for who, least in (("network", -1.0), ("reference", 0.0)):
        size = (total[f"{name}/{who}_size"] * of["size"]).sqrt()
        found.append((total[f"{name}/{who}_cross"] / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(min=least))
    there = (of["unknown"] == 0) & (of["count"] >= _FEWEST) & (of["size"] > 0)
    return torch.where(there, torch.stack(found).square(), torch.nan)


def _classes(rows: Mapping[str, Tensor], logits: bool) -> tuple[Tensor, Tensor]:
    """Return outputs ``[n, K]`` and class numbers ``[n]``, also of one output and one label in each row."""
    if "logits" in rows:
        return rows["logits"], rows["target"]
    output = rows["output"].float()
    inside = ((output >= 0) & (output <= 1)).all()
    return two_classes(output, rows["values"].float(), inside & (not logits))
