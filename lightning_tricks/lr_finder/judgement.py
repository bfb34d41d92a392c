"""Whether a sweep is to be believed, and why not. Pure: numbers in, reasons out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lightning_tricks.lr_finder.suggest import lowest

FEWEST_POINTS = 30
LEAST_FALL = 0.02  # of the first loss; below it, suggestions are chance
# An easy mode saturates: a small fall, and far larger rates do not end the sweep. This refuses 56 of 370 sweeps on the
# development half of benchmarks/lr_finder.py. A quarter of them suggests a rate whose loss is more than three times
# the best one; 3 % of the others do. In other people's trainings bad suggestions diverged two decades above the lowest
# point; on this half, that alone refuses only good ones, a few.
EASY_FALL, EASY_DECADES = 0.15, 1.5
MOST_DECADES = 2.0

_EASY_MODE = "the sweep may have learnt only biases or a mean. Raise num_steps, or use refine=True"


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
    """Return what speaks against a suggestion: an empty list means that it can be trusted.

    A loss that does not rise again is not an objection: many are bounded (a contrastive one, the output of a sigmoid).

    Args:
        suggestion: the rate.
        suggestions: of all rules.
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
    # (the first seventh is about one of the eight decades of the default sweep, where rates are too small to do
    # anything)
    drop, early = first - min(smooth), losses[: max(5, len(losses) // 7)]
    noise = statistics.pstdev(early)
    if drop < 3.0 * noise:  # (a fixed batch has no noise at rates that do nothing; the batches of the updates have)
        reasons.append(
            f"the loss fell by {drop:.3g}, hardly more than it changes at rates that do nothing ({noise:.3g})"
        )
    if first > 0 and min(losses) == 0.0:
        reasons.append("the loss comes to exactly 0: at large rates nothing may count any more (margins, mined pairs)")
    if not settled:
        reasons += _learnt_little(lrs, losses, smooth, first, turned, ended)
    if lowest(smooth) < max(2, len(smooth) // 10):
        reasons.append(f"the lowest loss is at the smallest rates ({lrs[lowest(smooth)]:.3g}): lower min_lr")
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
    decades = math.log10(lrs[-1] / lrs[lowest(smooth)])
    if fall < LEAST_FALL:
        where = "" if turned else f", and had not risen again at the largest rate ({lrs[-1]:.3g}): raise max_lr"
        return [f"the loss fell by less than {LEAST_FALL:.0%} of the first one{where}"]
    if fall < EASY_FALL and decades > EASY_DECADES:
        beyond = f"and rates {decades:.1f} decades above its lowest point were tried before the sweep ended"
        return [f"the loss fell by only {fall:.0%} of the first one, {beyond}: {_EASY_MODE}"]
    if ended and decades > MOST_DECADES:
        return [f"the loss diverged only {decades:.1f} decades above its lowest point: {_EASY_MODE}"]
    return []


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
    best = min(losses, default=first)
    return diverged or (bool(losses) and max(losses[lowest(losses) :]) - best > 0.5 * (first - best) > 0)


def _share(loss: float, first: float) -> float:
    """Return the share of the first loss by which it fell; inf for losses below 0, whose floor is not known."""
    if min(loss, first) < 0.0:
        return math.inf if loss < first else -math.inf
    return (first - loss) / max(first, 1e-12)
