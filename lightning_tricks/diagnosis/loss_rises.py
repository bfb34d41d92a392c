"""When a loss rises for good: divergence, a relapse, no bottom, another loss in eval mode. Numbers in, alarms out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from lightning_tricks.diagnosis.loss_curve import (
    FEWEST_LOSSES,
    MAD_TO_STD,
    Check,
    beginning,
    falling,
    finite_median,
    largest_early,
    samples_grew,
)

_LARGE_UPDATE = 0.03  # of the weights; ten times what is usual
_BEFORE_RISE = 12  # checks that a relapse is compared with
_STEADY_CHECKS = 12  # that show whether a fall slows down
_NOISY = 5.0  # standard deviations of single losses that a gain must be


def divergence(early: Sequence[float], checks: Sequence[Check]) -> float:
    """Return how far below "diverged" the present loss is, over the size of the loss: negative once it has diverged.

    Diverged means that the median of the check is above the largest early loss by 20 % of the size of the loss (of the
    first one; where losses are not all positive, of what the loss had moved before), and by more than losses of one
    check differ, and is not on its way down again. Besides, the rise must be of a kind that a change of the data or of
    the schedule does not have; any of these will do:

    - a jump: the loss was clearly below its early values a few checks ago;
    - updates of more than 3 % of the weights came before it;
    - a runaway: the loss is at its largest, and rose by more in the last half of the checks than before;
    - a fall without end counts as well: ``bottomless``;
    - a rise without end: the loss was never better than at the beginning, and the loss on the first batch, which
      stays the same, has risen for 30 checks as well.

    Args:
        early: first losses of the run, in order.
        checks: the checks so far.

    >>> def curve(*medians):
    ...     return [Check(10 * i + 10, m, m, losses=10) for i, m in enumerate(medians)]
    >>> divergence([2.0] * 10, curve(1.0, 0.5, 2.6, 2.7)) < 0, divergence([2.0] * 10, curve(1.0, 0.5, 1.5, 1.6)) < 0
    (True, False)
    """
    known = [c for c in checks if math.isfinite(c.median)]
    if not known or not early or sum(c.losses for c in checks) < FEWEST_LOSSES:
        return math.inf
    now, before, start = known[-1].median, [c.median for c in known[:-1]], beginning(early)
    top, size = largest_early(early), _size(start, before)
    # a loss below 0 may go to 0, as that of advantages which vanish: it is worse than at the beginning above 0 only
    if start < 0:
        top = max(top, 0.0)
    noise = known[-1].spread / math.sqrt(known[-1].losses) if known[-1].losses > 1 else 0.0
    if bottomless(start, known):
        return -1.0
    margin = (top + max(0.2 * size, 4 * noise if math.isfinite(noise) else 0.0) - now) / size
    if margin >= 0:
        return margin
    return margin if _is_of_divergence(start, top, size, known) and not falling(known, top) else 0.05


def bottomless(start: float, checks: Sequence[Check]) -> bool:
    """Whether a loss falls without bound: far below 0, and without slowing down.

    Far below 0, either is enough:

    - ten thousand times its first size, over the last checks;
    - fifty times its first size, and fifty for each number that a sample has, over the last half of the run. Numbers of
      float32 have a log-likelihood of some 17 at most, each, around data of size 1.

    A likelihood has no bound below 0 either, but it falls more and more slowly, and by tens of its first size.

    >>> deep = [Check(10 * i, -(10.0**i), -(10.0**i)) for i in range(9)]
    >>> bottomless(1.0, deep), bottomless(1.0, deep[:4]), bottomless(1.0, [Check(i, -9e4, -9e4) for i in range(9)])
    (True, False, False)
    >>> [bottomless(1.0, [Check(i, -9.0 * i, -9.0 * i, extent=x) for i in range(20)]) for x in (2.0, 64.0)]
    [True, False]
    """
    known = [c for c in checks if math.isfinite(c.median)]
    medians = [c.median for c in known]
    if len(known) < 4:
        return False
    unit = max(abs(start), 1.0)
    falls = [before - after for before, after in pairwise(medians[-4:])]
    if medians[-1] <= -1e4 * unit and falls[0] > 0 and all(late > 0.5 * early for early, late in pairwise(falls)):
        return True
    extent = known[-1].extent
    if len(known) < _STEADY_CHECKS or not medians[-1] < -50 * max(unit, extent):
        return False
    # (thirds: of the first one, the second and the last)
    third = len(medians) // 3
    early, middle, late = (medians[i * third] - medians[(i + 1) * third - 1] for i in range(3))
    return late > 0.7 * middle > 0 and middle > 0.5 * early


def _size(start: float, before: Sequence[float]) -> float:
    """Return what a loss is large against: where it can be 0 or negative, the first one says nothing."""
    moved = max(before) - min(before) if before else 0.0
    signed = start <= 0 or min(before, default=start) < 0
    return max(abs(start), moved if signed else 0.0, 1e-12)


def _is_of_divergence(start: float, top: float, size: float, known: Sequence[Check]) -> bool:
    medians = [start, *(c.median for c in known)]
    now, limit = medians[-1], top + 0.2 * size
    few = max(3, len(medians) // 10)
    above = next((i for i in range(len(medians) - 1, -1, -1) if medians[i] <= limit), -1)  # last one before the rise
    jumped = above >= 0 and min(medians[max(0, above - few) : above + 1]) < start - 0.2 * size
    violent = any(c.ratio > _LARGE_UPDATE for c in known[max(0, above - 2) :])
    half = medians[len(medians) // 2]
    lowest = min(medians)
    runaway = now >= max(medians) and now - half > max(half - lowest, size) and len(medians) >= 6
    fixed = [c.fixed for c in known if math.isfinite(c.fixed)]
    endless = len(fixed) > 30 and lowest >= start - 0.2 * size and all(f > fixed[0] + 0.2 * size for f in fixed[-30:])
    return jumped or violent or runaway or endless


def blow_up(early: Sequence[float], checks: Sequence[Check], count: int = 4) -> Check | None:
    """Return the check at which updates that were too large broke the network, where it has learned nothing since.

    That is: the loss was at twice its beginning or more, with updates of more than 3 % of the weights or weights that
    grew by half from one check to the next, and at all checks since then, and for at least four, it has not been below
    its beginning by a fifth, nor does it fall now.

    Args:
        early: first losses of the run, in order.
        checks: the checks so far.
        count: checks since the blow-up before anything is said.

    >>> def curve(*medians):
    ...     return [Check(10 * i, m, m, ratio=0.5 if i == 1 else 1e-3) for i, m in enumerate(medians)]
    >>> early = [2.3] * 5
    >>> blow_up(early, curve(2.3, 90.0, 2.4, 2.4, 2.4, 2.4)).mean, blow_up(early, curve(2.3, 90.0, 2.4, 1.5, 1.0, 0.8))
    (90.0, None)
    """
    if not early:
        return None
    known = [c for c in checks if math.isfinite(c.median)]
    # the first loss is the only one before any update, but of one batch: take what makes an alarm less likely
    high, start = max(early[0], beginning(early)), min(early[0], beginning(early))
    giant = [i for i, c in enumerate(known) if c.mean > high + max(abs(high), 1e-12)]
    places = [i for i in giant if known[i].ratio > _LARGE_UPDATE or _grew(known[max(0, i - 1) : i + 2])]
    since = known[places[-1] + 1 :] if places else []
    if len(since) < count:
        return None
    learned = min(c.median for c in since) < start - 0.2 * abs(start)
    last = min(len(since) // 2, 4)
    before, now = (min(c.median for c in part) for part in (since[-2 * last : -last], since[-last:]))
    falls = now < before - 0.02 * abs(start)
    return None if learned or falls else known[places[-1]]


def _grew(checks: Sequence[Check]) -> bool:
    """Whether the weights grew at once: the update that did it need not have been that of a check."""
    return any(b.weights > 1.5 * a.weights for a, b in pairwise(checks))


def relapse(start: float, checks: Sequence[Check], few: int = 3) -> bool:
    """Whether the loss has lost at once more than half of what it had gained, and stays there.

    At once: within three checks, since a term whose weight grows raises a loss slowly. Where the loss on the first
    batch is known, it must have risen as well: it does not when only the data have become harder.

    >>> fell = [2.5, 1.5, 1.0, 0.6, 0.5, 0.5]
    >>> def curve(*medians):
    ...     return [Check(i, m, m) for i, m in enumerate(medians)]
    >>> relapse(3.0, curve(*fell, 2.4, 2.4, 2.4)), relapse(3.0, curve(*fell, 2.4, 1.8, 1.2))
    (True, False)
    """
    known = [c for c in checks if math.isfinite(c.median)]
    if len(known) < 6 or not math.isfinite(start):
        return False
    medians = [c.median for c in known]
    best, errors = min(medians), [c.spread / math.sqrt(c.losses) for c in known if c.losses > 1]
    gain, noise = start - best, 4 * finite_median(errors) if errors else 0.0
    # a loss that may be 0 at its best and at its worst, as that of a policy, is judged where it is not mostly noise
    if best < 0:
        noise = max(noise, _NOISY * finite_median([c.spread for c in known if math.isfinite(c.spread)] or [0.0]))
    if gain < max(0.1 * abs(start), noise) or medians[-1] < best + max(0.5 * gain, noise):
        return False
    low = max(i for i, m in enumerate(medians) if m <= best + 0.25 * gain)
    if samples_grew(known[max(0, low + 1 - _BEFORE_RISE) : low + 1], known[low + 1 :]):
        return False
    after = medians[low + 1 :]
    # the best of many checks is low by chance: the rise must be more than checks differ from one to the next
    reached = next(i for i, m in enumerate(medians) if m <= best + 0.5 * gain)
    before = medians[reached : low + 1][-_BEFORE_RISE:]
    error = _scatter(medians) * math.sqrt(1 / len(before) + 1 / max(1, len(after)))
    if not after or statistics.fmean(after) - statistics.fmean(before) < 4 * error:
        return False
    if max(after[:few]) < best + 0.5 * gain or any(m < best + 0.5 * gain for m in after[few:]):
        return False
    fixed = [c.fixed for c in known[: low + 1] if math.isfinite(c.fixed)]
    same = not fixed or not known[-1].fixed <= min(fixed) + 0.25 * gain
    return same and not falling(known, best)


def _scatter(medians: Sequence[float]) -> float:
    """Return the standard deviation of checks, from how much one differs from the next, less what is usual.

    A steady fall is not noise, and a few jumps do not change it.

    >>> _scatter([1.0, 0.9, 0.8, 0.7]) < 1e-12, round(_scatter([1.0, 1.0, 1.4, 1.0, 1.0, 1.4] * 2), 2)
    (True, 0.42)
    """
    changes = [b - a for a, b in pairwise(medians)]
    usual = statistics.median(changes) if changes else 0.0
    # (the difference of two checks has twice the variance of one)
    return MAD_TO_STD * statistics.median(abs(c - usual) for c in changes) / math.sqrt(2) if changes else 0.0


def fails_in_eval_mode(start: float, checks: Sequence[Check], count: int = 6) -> bool:
    """Whether the loss fell to half, and in eval mode, on the first batch of training, never by a fifth of that.

    So it is where the running statistics of BatchNorm do not follow: a momentum near 0, or batches unlike each other.
    What was learned and is forgotten later has been better in between.

    Args:
        start: the loss before training.
        checks: the checks so far.
        count: checks with a loss in eval mode that are needed.

    >>> learned = [Check(10 * i, 2.0 * 0.8**i, 2.0 * 0.8**i, fixed=2.1 + 0.1 * i) for i in range(9)]
    >>> fails_in_eval_mode(2.0, learned), fails_in_eval_mode(2.0, [c._replace(fixed=c.mean) for c in learned])
    (True, False)
    """
    fixed = [c.fixed for c in checks if math.isfinite(c.fixed)]
    last = [c.median for c in checks[-3:] if math.isfinite(c.median)]
    if start <= 0 or len(fixed) < count or not last or max(last) > 0.5 * start:
        return False
    # (a first batch that is harder than others, as with a few targets that are far out, begins above the rest)
    follows = min(fixed) < 0.7 * fixed[0]
    return not follows and start - min(fixed) < 0.2 * (start - max(last))
