"""One training of which it is known, by a score of its own, whether it fails or is healthy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.models.trainings import Training

HALVES = ("develop", "verify")
SANITY = "sanity:"  # before the name of a row of SanityCheck, in the causes of a scenario
SANITY_ROWS = (
    "initial loss",
    "inputs matter",
    "all parameters learn",
    "units are alive",
    "samples do not leak",
    "labels follow from inputs",
    "overfits one batch",
    "shapes of outputs and labels",
    "data are shuffled",
    "no look into the future",
    "modules are in training mode",
    "validation data are new",
    "validation is prepared as training",
    "class weights",
    "learning rate schedule",
)


@dataclass(frozen=True)
class Scenario:
    """One training that is known to fail or to be healthy.

    Args:
        name: what happens, unique among all scenarios: it decides in which half the scenario is.
        make: seed -> training.
        causes: what a correct verdict calls it, or after ``SANITY`` the row of SanityCheck that fails; empty for a
            healthy training.
        onset: share of the run after which an alarm is correct.
        rescuable: the name of the healthy twin. It counts as one that can be rescued only where that twin trains with
            another learning rate or another size of the batch, and is the same in all else (``rescuable.py``): that is
            what a rollback changes. A penalty that is missing, damaged data or a module in eval() it cannot put right.
        passes: a run is healthy if and only if ``training.score`` reaches this; None where there is no score.
        family: what kind of training it is, e.g. ``"regression"``.
        fixed_half: ``"develop"`` or ``"verify"`` for scenarios that are older than the two halves.
    """

    name: str
    make: Callable[[int], Training]
    causes: frozenset[str] = frozenset()
    onset: float = 0.0
    rescuable: str = ""
    passes: float | None = None
    family: str = ""
    fixed_half: str = ""

    @property
    def failing(self) -> bool:
        """Whether it fails."""
        return bool(self.causes)

    @property
    def half(self) -> str:
        """``"develop"``, on which thresholds may be tuned, or ``"verify"``, which plays no part in that.

        Decided by a hash of the name, so by nobody, and before any threshold was touched.
        """
        return self.fixed_half or HALVES[hashlib.sha256(self.name.encode()).digest()[0] % 2]


def healthy(family: str, name: str, passes: float, make: Callable[[int], Training]) -> Scenario:
    """Make a scenario of a healthy training that looks as if it failed."""
    return Scenario(name, make, passes=passes, family=family)


def failing(
    family: str,
    name: str,
    passes: float,
    make: Callable[[int], Training],
    *causes: str,
    onset: float = 0.0,
    twin: str = "",
) -> Scenario:
    """Make a scenario of a training that fails: its score stays below ``passes``."""
    return Scenario(name, make, frozenset(causes), onset, twin, passes, family)
