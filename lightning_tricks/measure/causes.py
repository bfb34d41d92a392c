"""What can be wrong with a training, and what a rollback has to change then, as types: no wording decides.

Texts for people are made from a cause at the very end. The values are the names in verdicts, reports and checkpoints.
"""

from __future__ import annotations

from enum import Enum, auto


class Remedy(Enum):
    """What a rollback changes the first time; from the second time on it changes everything that it can."""

    LOWER_RATE = auto()
    LARGER_BATCH = auto()  # and a lower rate: the gradients were too noisy
    OTHER_DATA = auto()  # the batches since then are passed over


class Cause(str, Enum):
    """What a verdict calls the failure; equal to its text, as in ``verdict.cause == "dead units"``.

    Example:
        >>> Cause.DEAD_UNITS == "dead units", f"{Cause.DEAD_UNITS}", Cause.NON_FINITE.remedy.name
        (True, 'dead units', 'OTHER_DATA')
    """

    NONE = ""
    COMPLETE_COLLAPSE = "complete collapse"
    DIMENSIONAL_COLLAPSE = "dimensional collapse"
    OVERSMOOTHING = "oversmoothing"
    PREDICTION_COLLAPSE = "prediction collapse"
    INPUTS_IGNORED = "inputs ignored"
    LABELS_UNRELATED = "labels do not follow from inputs"
    MODE_COLLAPSE = "mode collapse"
    CODEBOOK_COLLAPSE = "codebook collapse"
    ROUTER_COLLAPSE = "router collapse"
    PROTOTYPE_COLLAPSE = "prototype collapse"
    POLICY_COLLAPSE = "policy collapse"
    POSTERIOR_COLLAPSE = "posterior collapse"
    DEAD_UNITS = "dead units"
    SATURATED_UNITS = "saturated units"
    DORMANT_UNITS = "dormant units"
    REPETITION = "repetition"
    RECURSIVE_COLLAPSE = "recursive collapse"
    NON_FINITE = "non-finite values"
    DIVERGENCE = "divergence"
    RATE_TOO_HIGH = "learning rate too high"
    LOSS_SPIKES = "loss spikes"
    NO_GRADIENTS = "no gradients"
    VANISHING_GRADIENTS = "vanishing gradients"
    SHRINKING_WEIGHTS = "shrinking weights"
    OVERFITTING = "overfitting"
    MEMORY_GROWTH = "growing memory"

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"Cause.{self.name}"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    @property
    def remedy(self) -> Remedy:
        """What a rollback changes first."""
        return _REMEDIES.get(self, Remedy.LOWER_RATE)

    @classmethod
    def named(cls, text: str) -> Cause:
        """Return the cause of that name; ``NONE`` for a name that an older version used.

        >>> Cause.named("dead units"), Cause.named("no longer known")
        (Cause.DEAD_UNITS, Cause.NONE)
        """
        return cls(text) if text in {c.value for c in cls} else cls.NONE


_REMEDIES = {
    Cause.PREDICTION_COLLAPSE: Remedy.LARGER_BATCH,
    Cause.LABELS_UNRELATED: Remedy.LARGER_BATCH,
    Cause.POLICY_COLLAPSE: Remedy.LARGER_BATCH,
    Cause.NON_FINITE: Remedy.OTHER_DATA,
    Cause.LOSS_SPIKES: Remedy.OTHER_DATA,
}

# cause, reasons with their figures, and advice, the most promising first
Explained = tuple[Cause, tuple[str, ...], tuple[str, ...]]
