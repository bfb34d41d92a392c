"""What the last checks of predictions say together, whether their samples were new or not. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_tricks.collapse.association import pooled

_SCORES, _SKILLS = 8, 4  # checks
_LARGER = 1.05  # times the numbers that samples have had at most


class RecentChecks:
    """The association at the last eight checks, two skills at the last four, and how large samples have been.

    Args:
        scores: standard scores of earlier checks.
        skills: of the network and of a reference, at earlier checks.
        extents: numbers of a sample, at most before the last check, and at that.
        compares: whether the next check asks what a reference makes of the same rows.

    Example:
        >>> recent = RecentChecks()
        >>> recent.score(3.0), recent.score(-3.0)
        (3.0, 0.0)
        >>> recent.skills(0.2, 0.8), recent.skills(0.4, 0.8)
        ((0.2, 0.8), (0.30000000000000004, 0.8))
    """

    def __init__(
        self,
        scores: Sequence[float] = (),
        skills: Sequence[Sequence[float]] = (),
        extents: Sequence[float] = (-math.inf, -math.inf),
        compares: bool = True,
    ) -> None:
        self.compares = compares
        self._scores, self._skills, self._extents = list(scores), [list(pair) for pair in skills], tuple(extents)

    def score(self, score: float, *, both_signs: bool = False) -> float:
        """Add a standard score, and return that of the last checks together; its size, where either sign will do."""
        self._scores = [*self._scores, score if math.isfinite(score) else 0.0][-_SCORES:]
        return abs(pooled(self._scores)) if both_signs else pooled(self._scores)

    def skills(self, network: float, reference: float) -> tuple[float, float]:
        """Add both skills, and return their means over the last checks; NaN where one of them is not known."""
        self._skills = [*self._skills, [network, reference]][-_SKILLS:]
        count = len(self._skills)
        return sum(pair[0] for pair in self._skills) / count, sum(pair[1] for pair in self._skills) / count

    def grew(self, extent: float) -> bool:
        """Add how many numbers a sample has, and return whether that is more than ever before, for the second time.

        Once is not enough: batches that are padded to the longest of their sequences go up and down.

        >>> recent = RecentChecks()
        >>> [recent.grew(extent) for extent in (4.0, 4.0, 9.0, 4.0, 9.0, 9.0, 16.0, 16.0)]
        [False, False, False, False, False, False, False, True]
        """
        most, last = self._extents
        if not math.isfinite(extent):
            return False
        if 0 <= most * _LARGER < min(last, extent):
            self._extents = (max(last, extent), extent)
            return True
        self._extents = (max(most, last), extent)
        return False

    def state(self) -> dict[str, Any]:
        """Return the arguments that make the same again."""
        skills = [list(pair) for pair in self._skills]
        own = {"scores": list(self._scores), "skills": skills, "extents": list(self._extents)}
        return {**own, "compares": self.compares}
