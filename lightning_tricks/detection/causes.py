"""What can be wrong with a training, and what a rollback has to change then, as types: no wording decides.

Texts for people are made from a cause at the very end. The values are the names in verdicts, reports and checkpoints.
"""

from __future__ import annotations

from enum import Enum, auto


class Rate(Enum):
    """Which way a cause or a hint says that the learning rate should go: advice of both kinds contradicts itself."""

    LOWER = auto()
    SAME = auto()
    HIGHER = auto()


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
    UNCHANGED_WEIGHTS = "weights do not change"
    EVALUATION_DIFFERS = "evaluation differs"
    OVERFITTING = "overfitting"
    MEMORY_GROWTH = "growing memory"

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"Cause.{self.name}"

    # (versions of Python differ in what they show of an enum of strings in an f-string)
    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    @property
    def remedy(self) -> Remedy:
        """What a rollback changes first."""
        return _REMEDIES.get(self, Remedy.LOWER_RATE)

    @property
    def severity(self) -> int:
        """How bad it is: 3 where the weights are lost, 1 where an earlier state of them is as good, 2 for all else."""
        return 3 if self in _LOST else 1 if self in _MILD else 2

    @property
    def rate(self) -> Rate:
        """Which way the learning rate should go."""
        return Rate.LOWER if self in _TOO_FAST else Rate.SAME

    @classmethod
    def named(cls, text: str) -> Cause:
        """Return the cause of that name; ``NONE`` for a name that an older version used.

        >>> Cause.named("dead units"), Cause.named("no longer known")
        (Cause.DEAD_UNITS, Cause.NONE)
        """
        return cls(text) if text in {c.value for c in cls} else cls.NONE


class Hint(str, Enum):
    """What is worth a look, but not an alarm; equal to its text, as in ``finding.kind == "plateau"``.

    Example:
        >>> Hint.PLATEAU == "plateau", Hint.SMALL_UPDATES.rate.name
        (True, 'HIGHER')
    """

    PLATEAU = "plateau"
    OSCILLATION = "oscillation"
    LARGE_UPDATES = "large updates"
    SMALL_UPDATES = "small updates"
    RATE_TOO_LOW = "learning rate too low"
    WAITING = "waiting for data"
    PASSING_SPIKE = "passing loss spike"
    FORGETTING = "forgetting"
    OUTLYING_ROW = "outlying row"
    OVERCONFIDENCE = "overconfident predictions"

    def __str__(self) -> str:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    @property
    def rate(self) -> Rate:
        """Which way the learning rate should go."""
        if self in (Hint.SMALL_UPDATES, Hint.RATE_TOO_LOW):
            return Rate.HIGHER
        return Rate.LOWER if self in (Hint.PLATEAU, Hint.OSCILLATION, Hint.LARGE_UPDATES) else Rate.SAME


def kind_of(text: str) -> Cause | Hint:
    """Return the cause or the hint of that name; ``Cause.NONE`` for a name that an older version used."""
    return Hint(text) if text in {h.value for h in Hint} else Cause.named(text)


_TOO_FAST = {Cause.DIVERGENCE, Cause.RATE_TOO_HIGH, Cause.LOSS_SPIKES, Cause.NON_FINITE}
_REMEDIES = {
    Cause.PREDICTION_COLLAPSE: Remedy.LARGER_BATCH,
    Cause.LABELS_UNRELATED: Remedy.LARGER_BATCH,
    Cause.POLICY_COLLAPSE: Remedy.LARGER_BATCH,
    Cause.NON_FINITE: Remedy.OTHER_DATA,
    Cause.LOSS_SPIKES: Remedy.OTHER_DATA,
}

_LOST = {
    Cause.NON_FINITE,
    Cause.DIVERGENCE,
    Cause.COMPLETE_COLLAPSE,
    Cause.PREDICTION_COLLAPSE,
    Cause.SHRINKING_WEIGHTS,
}
_MILD = {Cause.EVALUATION_DIFFERS, Cause.OVERFITTING, Cause.LOSS_SPIKES, Cause.MEMORY_GROWTH}

# cause, reasons with their figures, and advice, the most promising first
Explained = tuple[Cause, tuple[str, ...], tuple[str, ...]]
