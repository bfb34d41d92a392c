"""The skill of the last checks together, of as many as say something where one class is rare. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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
