"""What curves say about a training: losses, gradient norms, the size of updates. Numbers in, findings out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_tricks.measure.causes import Cause

MAD_TO_STD = 1.4826
SMALLEST_RATIO, LARGEST_RATIO = 1e-4, 1e-2


@dataclass(frozen=True)
class Finding:
    """Something that was noticed.

    Args:
        kind: what it is called, e.g. ``"plateau"``.
        evidence: the numbers that say so.
        confidence: how sure that is, in [0, 1]: 0.9 where nothing else looks like it, 0.5 for a hint.
        next_step: what to try.
        step: when it was noticed first.

    Example:
        >>> print(Finding("plateau", "the loss fell by 0.1% in 200 steps", 0.5, "lower the learning rate", 900))
        plateau (step 900, confidence 50%): the loss fell by 0.1% in 200 steps. Next: lower the learning rate.
    """

    kind: str
    evidence: str
    confidence: float
    next_step: str
    step: int

    def __str__(self) -> str:
        head = f"{self.kind} (step {self.step}, confidence {self.confidence:.0%})"
        return f"{head}: {self.evidence}. Next: {self.next_step}."


def finite_mean(losses: Sequence[float]) -> float:
    """Return the mean of the losses that are finite; NaN when none is.

    >>> finite_mean([1.0, float("nan"), 3.0])
    2.0
    """
    finite = [x for x in losses if math.isfinite(x)]
    return statistics.fmean(finite) if finite else math.nan


def beginning(losses: Sequence[float]) -> float:
    """Return the loss before training: the median of the first five; the first one, where they run away from it.

    >>> beginning([2.0, 2.4, 2.2, 1.9, 2.1]), beginning([2.0, 50.0, 1e6, 1e9, 1e12])
    (2.1, 2.0)
    """
    first, usual = losses[0], statistics.median(losses[:5])
    near = abs(usual - first) <= max(abs(first), 1e-12)
    return usual if near else first


def ends_nonfinite(losses: Sequence[float], least: int = 3) -> bool:
    """Whether the last ``least`` losses (all, where there are fewer) are NaN or inf: not one bad batch, but the model.

    >>> ends_nonfinite([1.0, float("nan"), 2.0]), ends_nonfinite([1.0, *[float("nan")] * 3])
    (False, True)
    """
    last = losses[-least:]
    return bool(last) and not any(map(math.isfinite, last))


def divergence(means: Sequence[float]) -> float:
    """Return how far below "diverged" the present loss is, over the size of the loss: negative once it has diverged.

    Diverged means 20 % above the first loss, or, where the loss changes sign, above it by 20 % of what it has moved.

    Args:
        means: mean losses of the checks so far, the first one near step 0.

    >>> divergence([2.0, 1.0, 1.5]) > 0, divergence([2.0, 1.0, 2.6]) < 0, divergence([-0.1, -0.9, 0.5]) < 0
    (True, True, True)
    """
    finite = [x for x in means if math.isfinite(x)]
    if len(finite) < 2:
        return math.inf
    first, now = finite[0], finite[-1]
    scale = max(abs(first), max(finite) - min(finite) if first <= 0 else 0.0, 1e-12)
    return (first + 0.2 * scale - now) / scale


def spiking(losses: Sequence[float], history: Sequence[float], consecutive: int = 5) -> bool:
    """Whether the losses end with several far above what was usual.

    ``loss > median + 6 * 1.4826 * MAD`` and ``loss > median + 0.2 * |median|``, of a window of at least 50 losses
    before; ratios of losses would have no meaning near 0 and below.

    Args:
        losses: of the steps since the last check.
        history: of the steps before them.
        consecutive: how many in a row.

    >>> usual = [1.0 + 0.01 * (i % 5) for i in range(100)]
    >>> spiking([2.0] * 5, usual), spiking([1.0, 2.0, 1.0], usual)
    (True, False)
    """
    known = [x for x in history if math.isfinite(x)][-100:]
    if len(known) < 50 or len(losses) < consecutive:
        return False
    middle = statistics.median(known)
    spread = MAD_TO_STD * statistics.median(abs(x - middle) for x in known)
    limit = max(middle + 6 * spread, middle + 0.2 * abs(middle))
    return all(x > limit or not math.isfinite(x) for x in losses[-consecutive:])


def plateau(steps: Sequence[int], means: Sequence[float], total: int) -> str | None:
    """Return the evidence of a plateau: gain of less than 0.5 % of what was gained before, over 20 % of the run.

    >>> plateau([100 * i for i in range(10)], [2.0] + [1.0] * 9, 1000)
    'the loss moved by 0.0% of its gain in the last 200 steps'
    """
    recent = [m for s, m in zip(steps, means, strict=True) if s >= steps[-1] - 0.2 * total and math.isfinite(m)]
    before = [m for s, m in zip(steps, means, strict=True) if s < steps[-1] - 0.2 * total and math.isfinite(m)]
    if len(recent) < 3 or len(before) < 2:
        return None
    half = len(recent) // 2
    gained = before[0] - min(before)
    fell = statistics.fmean(recent[:half]) - statistics.fmean(recent[-half:])
    if gained <= 0 or abs(fell) >= 0.005 * gained:
        return None
    return f"the loss moved by {abs(fell) / gained:.1%} of its gain in the last {round(0.2 * total)} steps"


def oscillation(means: Sequence[float], least: int = 8) -> str | None:
    """Return the evidence of an oscillation: the loss turns at most checks, by more than 10 % of its size.

    >>> oscillation([1.0, 2.0] * 5)
    'the loss turned at 100% of checks, by 67% of its size'
    """
    recent = [m for m in means if math.isfinite(m)][-12:]
    if len(recent) < least:
        return None
    moves = [b - a for a, b in pairwise(recent)]
    turns = sum(a * b < 0 for a, b in pairwise(moves)) / (len(moves) - 1)
    size = statistics.fmean(abs(m) for m in recent)
    swing = statistics.fmean(abs(m) for m in moves) / size if size else 0.0
    if turns <= 0.6 or swing <= 0.1:
        return None
    return f"the loss turned at {turns:.0%} of checks, by {swing:.0%} of its size"


def overfitting(train: float, validation: Sequence[float]) -> bool:
    """Whether validation has turned while training goes on: 1.5 times its best, and train at half of it.

    >>> overfitting(0.05, [1.0, 0.6, 0.8, 1.1]), overfitting(0.5, [1.0, 0.6, 0.7])
    (True, False)
    """
    known = [v for v in validation if math.isfinite(v)]
    if not known or not math.isfinite(train):
        return False
    best, now = min(known), known[-1]
    return now > best + 0.5 * abs(best) and now > best + 0.1 and train < 0.5 * now


def vanishing(norms: Sequence[float]) -> bool:
    """Whether the gradient of the first layer is lost: below 1e-4, and 1,000 times smaller than that of the last one.

    Args:
        norms: gradient norms of the parameters, from input to output.

    >>> vanishing([1e-7, 1e-7, 0.5, 0.2]), vanishing([0.1, 0.5, 0.2])
    (True, False)
    """
    there = [n for n in norms if math.isfinite(n)]
    if len(there) < 4:
        return False
    first, last = max(there[:2]), max(there[-2:])
    return first < 1e-4 and first < 1e-3 * last


def update_advice(ratio: float, step: int) -> Finding | None:
    """Return advice where updates are unusually large or small for the weights.

    >>> update_advice(0.05, 100).kind, update_advice(1e-3, 100)
    ('large updates', None)
    """
    if not math.isfinite(ratio) or SMALLEST_RATIO <= ratio <= LARGEST_RATIO:
        return None
    if ratio > LARGEST_RATIO:
        text = "lower the learning rate if the loss is restless; early in training this is usual"
        return Finding("large updates", f"the median update is {ratio:.1g} of the weights", 0.4, text, step)
    text = "raise the learning rate if the loss hardly moves; late in a decay this is usual"
    return Finding("small updates", f"the median update is {ratio:.1g} of the weights", 0.4, text, step)


def too_slow(means: Sequence[float], ratio: float, step: int) -> Finding | None:
    """Return a finding where the loss hardly moves and updates are tiny: the learning rate is probably too low.

    >>> too_slow([2.3, 2.299, 2.298, 2.297, 2.296], 1e-6, 100).kind
    'learning rate too low'
    """
    finite = [m for m in means if math.isfinite(m)]
    if len(finite) < 5 or not math.isfinite(ratio) or ratio >= SMALLEST_RATIO:
        return None
    gain = (finite[0] - finite[-1]) / max(abs(finite[0]), 1e-12)
    if abs(gain) > 0.02:
        return None
    evidence = f"the loss moved by {gain:.1%} since the start, with updates of {ratio:.1g} of the weights"
    return Finding("learning rate too low", evidence, 0.7, "try LRFinder(), or 10 times the rate", step)


def waiting(seconds_waited: float, seconds: float, step: int) -> Finding | None:
    """Return a finding where training waits for its data for more than half of the time.

    >>> waiting(6.0, 10.0, 50).kind, waiting(1.0, 10.0, 50)
    ('waiting for data', None)
    """
    if seconds <= 0 or seconds_waited / seconds <= 0.5:
        return None
    evidence = f"{seconds_waited / seconds:.0%} of the time between two checks went by before batches arrived"
    return Finding(
        "waiting for data", evidence, 0.8, "use more workers: DataLoader(num_workers=..., pin_memory=True)", step
    )


def named(
    alarm: str,
    values: Mapping[str, float],
    means: Sequence[float],
    validation: Sequence[float],
    culprit: str = "",
) -> tuple[Cause, str, tuple[str, ...]]:
    """Return cause, evidence and advice of an alarm of the doctor.

    >>> named("divergence", {}, [2.0, 9.0], [])[0].value
    'divergence'
    """
    first, now = (next((m for m in order if math.isfinite(m)), math.nan) for order in (means, means[::-1]))
    if alarm == "finite":
        evidence = "the loss is NaN or inf" + (f"; {culprit}" if culprit else "")
        skip = "skip such updates: GradientClip(1.0, nonfinite='skip')"
        return Cause.NON_FINITE, evidence, (skip, "lower the learning rate", "find the module: PrecisionDoctor()")
    if alarm == "divergence":
        advice = ("lower the learning rate: LRFinder()", "clip gradients: GradientClip(1.0)", "warm up for longer")
        return Cause.DIVERGENCE, f"the loss began at {first:.4g} and is {now:.4g}", advice
    if alarm == "flow" and values.get("_silent"):
        advice = (
            "give the optimizer the parameters of the model that is trained: self.parameters()",
            "look for detach() and no_grad() between them and the loss",
            "ask SanityCheck()",
        )
        return Cause.NO_GRADIENTS, "no parameter of the optimizer gets a gradient", advice
    if alarm == "flow":
        first, now = (values.get(name, 0.0) for name in ("first_gradient", "last_gradient"))
        ends = f"{first:.1g} in the first layer, {now:.1g} in the last"
        advice = (
            "use ReLU or GELU, normalisation, residual connections",
            "initialise for the activation",
            "fewer layers",
        )
        return Cause.VANISHING_GRADIENTS, f"gradient norms are {ends}, and the loss does not fall", advice
    if alarm == "spike":
        before = [m for m in means[:-1] if math.isfinite(m)]
        usual = statistics.median(before) if before else math.nan
        advice = ("lower the learning rate", "clip gradients: GradientClip(1.0)", "look at the data of these steps")
        return Cause.LOSS_SPIKES, f"the loss jumped from about {usual:.4g} to {now:.4g}", advice
    best, last = min(validation, default=math.nan), validation[-1] if validation else math.nan
    advice = (
        "go back to the checkpoint of the best validation loss, and stop earlier",
        "more data or augmentation, weight decay, dropout",
        "a smaller model",
    )
    return (
        Cause.OVERFITTING,
        f"validation loss rose from {best:.4g} to {last:.4g} while training reached {now:.4g}",
        advice,
    )
