"""From a curve of losses over learning rates to a rate, and whether to believe it. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning_tricks.lr_finder.figures import draw_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_POINTS = 30
CANDIDATES = (0.1, 0.3, 1.0, 3.0)  # times the suggestion
LEAST_FALL = 0.02  # of the first loss; below it, suggestions are chance
# An easy mode saturates: a small fall, and far larger rates do not end the sweep. This refuses 56 of 370 sweeps on the
# development half of benchmarks/lr_finder.py. A quarter of them suggests a rate whose loss is more than three times
# the best one; 3 % of the others do. In other people's trainings bad suggestions diverged two decades above the lowest
# point; on this half, that alone refuses only good ones, a few.
EASY_FALL, EASY_DECADES = 0.15, 1.5
MOST_DECADES = 2.0

_EASY_MODE = "the sweep may have learnt only biases or a mean. Raise num_steps, or use refine=True"


@dataclass(frozen=True)
class Result:
    """What a sweep has found.

    Args:
        lrs: rates of the first parameter group, rising; as far as the losses were finite.
        losses: loss after the update with each of them.
        smoothed: the same, smoothed.
        first_loss: before the first update.
        suggestions: name of a rule -> rate; a rule that finds none is not there.
        suggestion: the rate of the chosen rule; None when it finds none.
        confident: whether to believe it.
        reasons: what speaks against it; empty when nothing does.
        diverged: whether the loss rose again, or was not finite, at the largest rates.
        bake_off: candidate rate -> loss after a short training with it; empty without ``refine``.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    first_loss: float
    suggestions: dict[str, float]
    suggestion: float | None
    confident: bool
    reasons: list[str]
    diverged: bool
    bake_off: dict[float, float] = field(default_factory=dict)

    def plot(self) -> Figure:
        """Return a matplotlib figure: losses over rates (log), raw and smoothed, every suggestion marked."""
        return draw_sweep(
            self.lrs,
            self.losses,
            self.smoothed,
            first_loss=self.first_loss,
            suggestions=self.suggestions,
            suggestion=self.suggestion,
            title="" if self.confident else "low confidence: " + "; ".join(self.reasons),
        )


def minimum(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return a tenth of the rate with the lowest loss. Reference: Howard, Gugger, "fastai", 2020, arXiv:2002.04688.

    >>> minimum([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], 2.0)
    0.01
    """
    return lrs[_lowest(losses)] / 10.0 if lrs and _fell(losses, first) else None


def steepest(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return the rate at which the loss falls fastest per decade. Reference: Smith, 2017, arXiv:1506.01186.

    >>> steepest([0.01, 0.1, 1.0, 10.0], [2.0, 1.9, 1.0, 0.9], 2.0)
    0.1
    """
    end = _lowest(losses)
    if end < 2 or not _fell(losses, first):
        return None
    slopes = [_slope(lrs, losses, i) for i in range(1, end)]
    return lrs[1 + slopes.index(min(slopes))]


def valley(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return the rate half-way, in log, through the fall: from 5 % of it to its bottom.

    fastai takes the longest falling subsequence; a fixed batch falls from the first rate on, so that its begin says
    nothing: here the fall begins where it is noticeable.

    >>> round(valley([0.001, 0.01, 0.1, 1.0], [2.0, 1.5, 1.0, 5.0], 2.0), 4)
    0.0316
    """
    end = _lowest(losses)
    if not _fell(losses, first):
        return None
    drop = first - losses[end]
    begin = next(i for i, loss in enumerate(losses) if loss < first - 0.05 * drop)
    return math.sqrt(lrs[min(begin, end)] * lrs[end])


def slide(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return the largest rate before the loss turns: from the right, where the slopes at both ends of a gap agree.

    The gap is 15 % of the points; slopes agree within 0.5 % of the fall. fastai's rule, made independent of the scale.

    >>> slide([0.001 * 2**i for i in range(20)], [2.0 - 0.1 * i for i in range(17)] + [2.0, 4.0, 8.0], 2.0)
    32.768
    """
    count = len(losses)
    gap = max(2, round(0.15 * count))
    if count < gap + 3 or not _fell(losses, first):
        return None
    drop = first - min(losses)
    slopes = [_difference(losses, i) for i in range(count)]
    right = count - 1
    while right > gap and abs(slopes[right] - slopes[right - gap]) > 0.005 * drop:
        right -= 1
    return lrs[right]


def center(lrs: Sequence[float], losses: Sequence[float], first: float) -> float | None:
    """Return a quarter of the mean rate, in log, with each rate weighted by how far the loss has fallen there.

    The lowest point of a flat bottom is chance; a mean over the whole fall moves little with the order of the data.

    >>> round(center([0.01, 0.1, 1.0], [1.5, 1.0, 1.5], 2.0), 3)
    0.025
    """
    if not lrs or not _fell(losses, first):
        return None
    weights = [max(0.0, first - loss) for loss in losses]
    mean = sum(weight * math.log(lr) for weight, lr in zip(weights, lrs, strict=True)) / sum(weights)
    return math.exp(mean) / 4.0


RULES = {"minimum": minimum, "slide": slide, "valley": valley, "steepest": steepest, "center": center}


def judge(
    suggestion: float | None,
    suggestions: dict[str, float],
    lrs: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    first: float,
    turned: bool,
    ended: bool = False,
    settled: bool = False,
) -> list[str]:
    """Return what speaks against a suggestion: no text means that it can be believed.

    A loss that does not rise again is no objection: many are bounded (a contrastive one, the output of a sigmoid).

    Args:
        suggestion: the rate.
        suggestions: of all rules.
        lrs: that were tried.
        losses: after each update.
        smooth: the same, smoothed.
        first: loss before the first update.
        turned: whether the loss rose again at the largest rates.
        ended: whether the sweep stopped because the loss diverged.
        settled: whether a bake-off decides; then it does not matter how little the sweep itself has learnt.
    """
    reasons = []
    if len(lrs) < FEWEST_POINTS:
        reasons.append(f"only {len(lrs)} points, fewer than {FEWEST_POINTS}")
    if suggestion is None:
        return [*reasons, "the loss never fell"]
    drop, early = first - min(smooth), losses[: max(5, len(losses) // 7)]
    noise = statistics.pstdev(early)
    if drop < 3.0 * noise:  # (a fixed batch has no noise at rates that do nothing; the batches of the updates have)
        reasons.append(
            f"the loss fell by {drop:.3g}, hardly more than it changes at rates that do nothing ({noise:.3g})"
        )
    if not settled:
        reasons += _learnt_little(lrs, losses, smooth, first, turned, ended)
    if _lowest(smooth) < max(2, len(smooth) // 10):
        reasons.append(f"the lowest loss is at the smallest rates ({lrs[_lowest(smooth)]:.3g}): lower min_lr")
    others = [name for name, lr in suggestions.items() if lr != suggestion]
    near = [name for name in others if abs(math.log10(suggestions[name] / suggestion)) <= 1.0]
    if len(near) < min(2, len(others)):
        told = ", ".join(f"{name} {lr:.2g}" for name, lr in suggestions.items())
        reasons.append(f"the rules are more than a decade apart ({told})")
    return reasons


def _learnt_little(
    lrs: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    first: float,
    turned: bool,
    ended: bool,
) -> list[str]:
    """Return why the sweep may have learnt nothing, or only an easy mode (biases, the mean) with a rate of its own."""
    fall = _share(min(losses), first)  # (of the losses themselves: smoothing hides a fall just before a divergence)
    decades = math.log10(lrs[-1] / lrs[_lowest(smooth)])
    if fall < LEAST_FALL:
        where = "" if turned else f", and had not risen again at the largest rate ({lrs[-1]:.3g}): raise max_lr"
        return [f"the loss fell by less than {LEAST_FALL:.0%} of the first one{where}"]
    if fall < EASY_FALL and decades > EASY_DECADES:
        beyond = f"and rates {decades:.1f} decades above its lowest point were tried before the sweep ended"
        return [f"the loss fell by only {fall:.0%} of the first one, {beyond}: {_EASY_MODE}"]
    if ended and decades > MOST_DECADES:
        return [f"the loss diverged only {decades:.1f} decades above its lowest point: {_EASY_MODE}"]
    return []


def candidates(suggestion: float, last: float | None = None) -> list[float]:
    """Return the rates of a bake-off: four around the suggestion; with ``last``, on up to a third of that rate.

    >>> [round(lr, 4) for lr in candidates(0.01)], [round(lr, 4) for lr in candidates(0.01, last=3.0)]
    ([0.001, 0.003, 0.01, 0.03], [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    """
    around = [factor * suggestion for factor in CANDIDATES]
    while last is not None and around[-2] * 10.0 <= last / 3.0 * (1.0 + 1e-9):
        around.append(around[-2] * 10.0)
    return around


def best_candidate(bake_off: Mapping[float, float], first: float) -> float | None:
    """Return the smallest rate whose loss is within 5 % of the best one's fall; None when no loss is finite.

    A short training favours large rates, which a long one does not.

    >>> best_candidate({0.01: 1.02, 0.1: 1.0, 1.0: 3.0}, first=2.0)
    0.01
    """
    finite = {lr: loss for lr, loss in bake_off.items() if math.isfinite(loss)}
    if not finite:
        return None
    lowest = min(finite.values())
    return min(lr for lr, loss in finite.items() if loss <= lowest + 0.05 * max(0.0, first - lowest))


def has_learnt(loss: float, first: float) -> bool:
    """Whether a loss lies below the first one by more than chance.

    >>> has_learnt(1.0, 2.0), has_learnt(1.99, 2.0)
    (True, False)
    """
    return _share(loss, first) >= LEAST_FALL


def has_turned(losses: Sequence[float], first: float, diverged: bool) -> bool:
    """Whether the loss, after its lowest point, lost half of what it had gained.

    >>> has_turned([1.0, 0.5, 0.6], 1.0, False), has_turned([1.0, 0.5, 0.9], 1.0, False)
    (False, True)
    """
    lowest = min(losses, default=first)
    return diverged or (bool(losses) and max(losses[_lowest(losses) :]) - lowest > 0.5 * (first - lowest) > 0)


def _lowest(losses: Sequence[float]) -> int:
    return min(range(len(losses)), key=losses.__getitem__, default=0)


def _share(loss: float, first: float) -> float:
    """Return the share of the first loss by which it fell; inf for losses below 0, whose floor is not known."""
    if min(loss, first) < 0.0:
        return math.inf if loss < first else -math.inf
    return (first - loss) / max(first, 1e-12)


def _fell(losses: Sequence[float], first: float) -> bool:
    return bool(losses) and first - min(losses) > 1e-6 * max(abs(first), 1e-3)


def _difference(values: Sequence[float], i: int) -> float:
    low, high = max(0, i - 1), min(len(values) - 1, i + 1)
    return (values[high] - values[low]) / (high - low)


def _slope(lrs: Sequence[float], losses: Sequence[float], i: int) -> float:
    return (losses[i + 1] - losses[i - 1]) / math.log10(lrs[i + 1] / lrs[i - 1])
