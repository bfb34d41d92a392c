"""Where the error of a finished training comes from: too little fit, too little data, or labels that cannot be learned.

A reading of losses that were logged anyway; plain numbers in, sentences out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SOLVED = 0.05  # of the loss before training
_LARGE = 0.15  # the same: from where a part is worth a change

_BIAS = (
    "The training error is the larger part: train for longer or at a better rate, use a larger network, or less "
    "regularisation (Goodfellow et al., Deep Learning, 2016, chapter 11)"
)
_VARIANCE = (
    "The gap to validation is the larger part: more data or augmentation, weight decay, dropout (Srivastava et al., "
    "JMLR 2014), or the checkpoint of the best validation loss (Prechelt, Early Stopping - but when?, 1998)"
)
_NOISE = (
    "If labels are wrong, no network can be better than that: look at the samples with the largest losses (Northcutt "
    "et al., Confident Learning, arXiv:1911.00068), or smooth the labels (Lukasik et al., arXiv:2003.02819)"
)


@dataclass(frozen=True)
class ErrorParts:
    """The losses of a training, as shares of the loss before training.

    Args:
        start: loss before training, > 0.
        train: loss of training at the end.
        best: best loss of validation; NaN without one.
        last: last loss of validation; NaN without one.

    Example:
        >>> parts = ErrorParts(start=2.0, train=0.1, best=0.8, last=1.0)
        >>> parts.bias, parts.variance, parts.noise_at_most
        (0.05, 0.45, 0.4)
    """

    start: float
    train: float
    best: float = math.nan
    last: float = math.nan

    @property
    def bias(self) -> float:
        """Training error over the loss before training. The attainable baseline is 0: no smaller one is known."""
        return self.train / self.start

    @property
    def variance(self) -> float:
        """How much worse validation is than training, over the loss before training; NaN without validation."""
        return (self.last - self.train) / self.start

    @property
    def noise_at_most(self) -> float:
        """A bound on the part of labels that cannot be learned: the best validation loss; NaN without validation.

        The expected loss of the best possible network is what the labels do not follow from the inputs; no network that
        was measured on fresh samples can be below it, but for chance.
        """
        return self.best / self.start

    @property
    def solved(self) -> bool:
        """Whether training, and validation where there is one, are below 5 % of the loss before training."""
        # (without validation ``last`` is NaN, which is not above any number)
        return self.bias <= _SOLVED and not self.last / self.start > _SOLVED

    def sentences(self, *, advise: bool = True) -> list[str]:
        """Return the parts with their numbers, and what the literature advises for the largest.

        Args:
            advise: False where the run has a finding, whose remedy comes first and may be the opposite.

        >>> ErrorParts(2.3, 0.01, 0.02, 0.02).sentences()[0]
        'The task is solved: of the loss before training, 0.4% is left in training and 0.9% in validation.'
        """
        known = math.isfinite(self.last)
        if self.solved:
            more = f" and {self.last / self.start:.1%} in validation" if known else " in training"
            left = f"{self.bias:.1%} is left" + (" in training" if known else "")
            return [f"The task is solved: of the loss before training, {left}{more}."]
        found = [
            f"Training error (bias): {self.train:.4g}, {self.bias:.0%} of the loss before training ({self.start:.4g}), "
            "against an attainable 0."
        ]
        if not known:
            return [*found, f"{_BIAS}."] if advise and self.bias > _LARGE else found
        found.append(
            f"Gap to validation (variance): {self.last - self.train:.4g}, {self.variance:.0%} of it; validation was "
            f"best at {self.best:.4g} and ended at {self.last:.4g}."
        )
        found.append(
            f"Label noise: at most {self.best:.4g}, {self.noise_at_most:.0%} of it; no network has a lower loss on "
            "fresh samples than the noise of their labels allows."
        )
        if not advise:
            return found
        if max(self.bias, self.variance) > _LARGE:
            found.append(f"{_BIAS if self.bias >= self.variance else _VARIANCE}.")
        # Wrong labels can be memorised but not predicted: training goes on falling while validation stays high. Only
        # then is label noise worth mentioning.
        memorised = self.noise_at_most > 0.3 and self.train < 0.5 * self.best
        return [*found, f"{_NOISE}."] if memorised else found


def error_parts(start: float, train: float, validation: Sequence[float] = ()) -> ErrorParts | None:
    """Return the parts; None where they have no meaning.

    That is so for losses that are not finite, negative, or 0 at the beginning, and for a training that ended above the
    loss it began with: nothing was fitted, so no share of the error is left to divide.

    >>> error_parts(2.0, 0.5, [1.0, 0.6, 0.7]), error_parts(-1.0, -2.0)
    (ErrorParts(start=2.0, train=0.5, best=0.6, last=0.7), None)
    """
    known = [v for v in validation if math.isfinite(v)]
    numbers = [start, train, *known]
    if not all(map(math.isfinite, numbers)) or min(numbers) < 0 or start <= 0 or train > start:
        return None
    return ErrorParts(start, train, *((min(known), known[-1]) if known else ()))
