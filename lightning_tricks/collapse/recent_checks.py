"""What the last checks of predictions say together, whether their samples were new or not. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_tricks.collapse.association import pooled

_SCORES, _SKILLS = 8, 4  # checks


class RecentChecks:
    """The association at the last eight checks, and two skills at the last four.

    Args:
        scores: standard scores of earlier checks.
        skills: of the network and of a reference, at earlier checks.

    Example:
        >>> recent = RecentChecks()
        >>> recent.score(3.0), recent.score(-3.0)
        (3.0, 0.0)
        >>> recent.skills(0.2, 0.8), recent.skills(0.4, 0.8)
        ((0.2, 0.8), (0.30000000000000004, 0.8))
    """

    def __init__(self, scores: Sequence[float] = (), skills: Sequence[Sequence[float]] = ()) -> None:
        self._scores, self._skills = list(scores), [list(pair) for pair in skills]

    def score(self, score: float, *, both_signs: bool = False) -> float:
        """Add a standard score, and return that of the last checks together; its size, where either sign will do."""
        self._scores = [*self._scores, score if math.isfinite(score) else 0.0][-_SCORES:]
        return abs(pooled(self._scores)) if both_signs else pooled(self._scores)

    def skills(self, network: float, reference: float) -> tuple[float, float]:
        """Add both skills, and return their means over the last checks; NaN where one of them is not known."""
        self._skills = [*self._skills, [network, reference]][-_SKILLS:]
        count = len(self._skills)
        return sum(pair[0] for pair in self._skills) / count, sum(pair[1] for pair in self._skills) / count

    def state(self) -> dict[str, Any]:
        """Return the arguments that make the same again."""
        return {"scores": list(self._scores), "skills": [list(pair) for pair in self._skills]}
