"""What is measured of predictions and targets of any kind: rows -> one vector -> values by name. torch only.

What kind of target it is, is told from the values, on the host: what could be of several kinds is measured as each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_tricks.collapse import pairs, prediction_sums, sums
from lightning_tricks.collapse.pair_numbers import NUMBERS, measured_pairs
from lightning_tricks.detection.judge import keep_bounded

KINDS = ("classes", "shares", "labels", "numbers")  # the later ones are what the earlier ones are seen to be


@dataclass(frozen=True)
class Targets:
    """What is known of the targets of a run.

    Args:
        kind: one of ``KINDS``.
        logits: outputs are known to be no probabilities.
        paired: rows are of outputs and values, not of logits and class numbers.
        quantiles: there are more outputs than values in a row.
        dense: targets are of pixels.
        next_tokens: class numbers are the tokens that the model is given; each is the target of the place before.
    """

    kind: str = KINDS[0]
    logits: bool = False
    paired: bool = False
    quantiles: bool = False
    dense: bool = False
    next_tokens: bool = False

    def shaped(self, rows: Mapping[str, Tensor]) -> Targets:
        """Return what is known after a look at the shapes of rows."""
        if "output" not in rows:
            return replace(self, paired=False)
        return replace(self, paired=True, quantiles=rows["output"].shape[1] > rows["values"].shape[1])


def measured_rows(rows: Mapping[str, Tensor], logits: bool, add: Callable[[sums.Sums], sums.Sums]) -> Tensor:
    """Return the measures of rows in one vector.

    Args:
        rows: as of ``prediction_rows.rows_of``, with the numbers of their ``part``, ``[n]``.
        logits: outputs are known to be no probabilities.
        add: returns sums over all processes.
    """
    part = rows["part"]
    if "output" not in rows:
        return prediction_sums.measured_classes(rows["logits"].float(), rows["target"], part, add)
    output, values = rows["output"].float(), rows["values"].float()
    vector = measured_pairs(output, values, part, add, logits)
    if output.shape[1] > 1:
        return vector
    certain = (vector[NUMBERS.index("beyond")] == 0) & (not logits)
    return torch.cat([vector, prediction_sums.measured_classes(*pairs.two_classes(output, values, certain), part, add)])


def read_rows(vector: list[float], targets: Targets) -> tuple[dict[str, float], list[float], Targets]:
    """Return the values by name, shares of predicted and of labelled classes, and what is known of the targets now."""
    if targets.paired:
        numbers, vector = dict(zip(NUMBERS, vector, strict=False)), vector[len(NUMBERS) :]
        kind = max(targets.kind, pairs.kind_of(numbers, two_classes=bool(vector)), key=KINDS.index)
        targets = replace(targets, kind=kind, logits=targets.logits or numbers["beyond"] > 0)
        if kind != "classes":
            return pairs.read_pairs(numbers, kind, quantiles=targets.quantiles), [], targets
    return dict(zip(sums.CLASSES, vector, strict=False)), vector[len(sums.CLASSES) :], targets


class ClassCurve:
    """Shares of predicted classes over time, for the figure."""

    def __init__(self) -> None:
        self.checks = 0
        self.predicted: list[tuple[int, list[float]]] = []
        self.labelled: list[float] = []
        self.pool: list[Part] = []  # what the last checks say about the skill

    def add(self, shares: list[float], every: int) -> None:
        """Add a check, so many updates after the last: shares of predicted and then of labelled classes, or nothing."""
        self.checks += 1
        if shares:
            shown = len(shares) // 2
            self.predicted.append((self.checks * every, shares[:shown]))
            keep_bounded(self.predicted)
            self.labelled = shares[shown:]

    def pooled_skill(self, values: Mapping[str, float]) -> float:
        """Return the skill of the last checks together, with that of ``values``, whose shares were added just now."""
        size = values["_count"]
        part = Part(values["moved_skill"], size * values["label_entropy"], size * (1 - max(self.labelled)))
        skill, self.pool = pooled_skill([*self.pool, part])
        return skill


ENOUGH = 24.0  # labels that are not the most frequent one: the skill has an error of about a fifth then


MOST_CHECKS = 12


class Part(NamedTuple):
    """What one check says about the skill.

    Args:
        skill: ``1 - CE / H`` of its labels.
        information: ``n H`` of its labels, in nats: what the skill is a share of.
        telling: how many of its labels are not the most frequent one.
    """

    skill: float
    information: float
    telling: float


def pooled_skill(parts: Sequence[Part]) -> tuple[float, list[Part]]:
    """Return the skill of the last checks together, and those of them that it needs.

    Of 200 labels of which two are positive, the cross entropy hangs on these two: the skill of one check is noise. So
    many checks are taken together, weighted with their information, that 24 labels are not the most frequent one; one
    check is enough where classes are balanced. NaN where twelve checks do not hold as many.

    Args:
        parts: of the checks so far, the last one last; a skill of NaN, of labels that were all the same, is left out.

    >>> pooled_skill([Part(0.9, 100.0, 60.0), Part(0.5, 100.0, 60.0)])[0]
    0.5
    >>> round(pooled_skill([Part(0.9, 20.0, 12.0), Part(0.5, 20.0, 12.0)])[0], 3)
    0.7
    """
    known = [p for p in parts if math.isfinite(p.skill) and p.information > 0][-MOST_CHECKS:]
    for start in range(len(known) - 1, -1, -1):
        used = known[start:]
        if sum(p.telling for p in used) >= ENOUGH:
            total = sum(p.information for p in used)
            return sum(p.skill * p.information for p in used) / total, known
    return math.nan, known
