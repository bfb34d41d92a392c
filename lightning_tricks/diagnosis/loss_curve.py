"""What curves say about a training: losses, validation losses, gradient norms, weights. Numbers in, alarms out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MAD_TO_STD = 1.4826  # the standard deviation of normal noise over its median absolute deviation
FEWEST_LOSSES = 24  # before the curve of a run says anything, but that it is not finite
_LARGER = 1.05  # times the numbers that a sample had


class Check(NamedTuple):
    """What is known of one check. NaN says that it is not known.

    Args:
        step: of the check.
        mean: of the losses since the check before; of those that are finite.
        median: of the last losses, at least ten where there are as many.
        rate: learning rate of the first parameter group.
        ratio: size of the update over that of the weights, median over matrices.
        weights: norm of the weights over that at the first check, 80th percentile over matrices.
        fixed: loss on the first batch, in eval mode.
        spread: standard deviation of the losses since the check before.
        losses: how many these are.
        extent: numbers that a sample of the batch of the check has: of a sequence, its length.
    """

    step: int
    mean: float
    median: float
    rate: float = math.nan
    ratio: float = math.nan
    weights: float = math.nan
    fixed: float = math.nan
    spread: float = math.nan
    losses: int = 0
    extent: float = math.nan


def finite_mean(losses: Sequence[float]) -> float:
    """Return the mean of the losses that are finite; NaN when none is.

    >>> finite_mean([1.0, float("nan"), 3.0])
    2.0
    """
    finite = [x for x in losses if math.isfinite(x)]
    return statistics.fmean(finite) if finite else math.nan


def finite_median(losses: Sequence[float]) -> float:
    """Return the median of the losses that are finite; NaN when none is.

    >>> finite_median([1.0, float("nan"), 3.0])
    2.0
    """
    finite = [x for x in losses if math.isfinite(x)]
    return statistics.median(finite) if finite else math.nan


def spread(losses: Sequence[float]) -> float:
    """Return the standard deviation of the losses that are finite; NaN when none is.

    >>> spread([1.0, float("nan"), 3.0])
    1.0
    """
    finite = [x for x in losses if math.isfinite(x)]
    return statistics.pstdev(finite) if finite else math.nan


def beginning(losses: Sequence[float]) -> float:
    """Return the loss before training: the median of the first five; the first one, where they run away from it.

    >>> beginning([2.0, 2.4, 2.2, 1.9, 2.1]), beginning([2.0, 50.0, 1e6, 1e9, 1e12])
    (2.1, 2.0)
    """
    first = [x for x in losses[:5] if math.isfinite(x)]
    return losses[0] if not first or _runs_away(first) else statistics.median(first)


def _runs_away(first: Sequence[float]) -> bool:
    """Whether losses leave the first one at once, by more than single batches differ: tenfold, or step by step."""
    least = max(abs(first[0]), 1e-12)
    if len(first) < 3 or min(first[1:]) <= first[0]:
        return False
    if len(first) > 3 and max(first[1:]) < 3 * min(first[1:]):
        return False  # the first one is the exception, as with a queue that is empty then
    climbs = all(b > a for a, b in pairwise(first)) and first[-1] > first[0] + 2 * least
    return climbs or statistics.median(first) > first[0] + 10 * least


def ends_nonfinite(losses: Sequence[float], least: int = 3) -> bool:
    """Whether the last ``least`` losses (all, where there are fewer) are NaN or inf: not one bad batch, but the model.

    >>> ends_nonfinite([1.0, float("nan"), 2.0]), ends_nonfinite([1.0, *[float("nan")] * 3])
    (False, True)
    """
    last = losses[-least:]
    return bool(last) and not any(map(math.isfinite, last))


def samples_grew(before: Sequence[Check], since: Sequence[Check]) -> bool:
    """Whether samples are larger than they were, as with sequences that get longer or images that grow in stages.

    Batches that are padded to the longest of their sequences go up and down, and have not grown.

    >>> short, long = [Check(i, 1.0, 1.0, extent=8.0) for i in range(3)], [Check(4, 1.0, 1.0, extent=16.0)]
    >>> samples_grew(short, long), samples_grew(long, short), samples_grew(short, [])
    (True, False, False)
    """
    extents = [[c.extent for c in part] for part in (before, since)]
    if not all(extents):
        return False
    # (the losses of the check in which they grow may be mostly those before; NaN is not above anything)
    usual = sorted(extents[0])[-2:][0]
    return min(extents[1]) > _LARGER * usual


def largest_early(early: Sequence[float], count: int = 5) -> float:
    """Return the largest of the first losses; the first one, where they run away from it.

    >>> largest_early([2.0, 2.4, 2.2, 1.9, 2.1]), largest_early([2.0, 50.0, 1e6, 1e9, 1e12])
    (2.4, 2.0)
    """
    first = [x for x in early[:count] if math.isfinite(x)]
    return first[0] if _runs_away(first or [math.nan]) else max(first, default=math.nan)


def falling(checks: Sequence[Check], floor: float) -> bool:
    """Whether a loss that has risen is on its way down: at its lowest of the last checks, by 10 % of the rise.

    Args:
        checks: the checks so far.
        floor: from where the rise is counted.

    >>> [falling([Check(i, m, m) for i, m in enumerate(x)], 1.0) for x in ([1.0, 5.0, 4.0], [5.0, 4.0, 4.1, 4.0])]
    [True, False]
    """
    medians = [c.median for c in checks if math.isfinite(c.median)]
    peak = max(range(len(medians)), key=lambda i: medians[i], default=0)
    since = medians[max(peak, len(medians) - 4) : -1]
    return bool(since) and medians[-1] < min(since) - 0.1 * (since[-1] - floor)


def spike_limit(history: Sequence[float]) -> float:
    """Return above which a loss is far above what was usual; inf where too little is known.

    ``median + 6 * 1.4826 * MAD`` and ``median + 0.2 * |median|``, of a window of at least 50 losses; ratios of losses
    would have no meaning near 0 and below. Where some are negative, above all of them by a fifth of their range too.

    >>> spike_limit([1.0 + 0.01 * (i % 5) for i in range(100)]), spike_limit([1.0] * 49)
    (1.224, inf)
    """
    known = [x for x in history if math.isfinite(x)][-100:]
    if len(known) < 50:
        return math.inf
    middle = statistics.median(known)
    spread = MAD_TO_STD * statistics.median(abs(x - middle) for x in known)
    limit = max(middle + 6 * spread, middle + 0.2 * abs(middle))
    # (the size of a loss that may be negative is what it moves by)
    return max(limit, max(known) + 0.2 * (max(known) - min(known))) if min(known) < 0 else limit


def spiking(losses: Sequence[float], history: Sequence[float], consecutive: int = 5) -> bool:
    """Whether the losses end with several far above what was usual.

    Args:
        losses: of the steps since the last check.
        history: of the steps before them.
        consecutive: how many in a row.

    >>> usual = [1.0 + 0.01 * (i % 5) for i in range(100)]
    >>> spiking([2.0] * 5, usual), spiking([1.0, 2.0, 1.0], usual)
    (True, False)
    """
    limit = spike_limit(history)
    if len(losses) < consecutive or limit == math.inf:
        return False
    return all(x > limit or not math.isfinite(x) for x in losses[-consecutive:])


def in_balance(start: float, checks: Sequence[Check]) -> bool:
    """Whether a loss that is a difference of two terms is back at 0, where both agree, as that of energies or critics.

    That is: it began near 0, by a third of how far it has moved, was below 0 by more than single losses differ, and is
    as near to 0 as these are to each other. A likelihood that is lost passes such a narrow place at most by chance.

    >>> def curve(*medians):
    ...     return [Check(i, m, m, spread=0.1, losses=10) for i, m in enumerate(medians)]
    >>> in_balance(-0.1, curve(-0.8, -0.9, -0.1, 0.0)), in_balance(-0.1, curve(-0.8, -0.9, -0.4))
    (True, False)
    """
    known = [c for c in checks if math.isfinite(c.median)]
    if len(known) < 2 or not math.isfinite(start):
        return False
    lowest = min((c.median for c in known if c.median < -c.spread), default=0.0)
    near = lowest < 0 and abs(start) <= (max(start, known[-1].median) - lowest) / 3
    return near and abs(known[-1].median) <= 2 * known[-1].spread


def overfitting(train: float, validation: Sequence[float], scale: float) -> bool:
    """Whether validation is clearly worse than its best while training is at half of it.

    Clearly: by half of the best, by a quarter of what was gained since before training, and by five times what
    validation losses differ from one to the next, which is much for a small validation set. Dropout and augmentation
    raise the training loss; so validation below training says nothing.

    Args:
        train: loss of training now.
        validation: all losses of validation, in order.
        scale: the loss before training.

    >>> overfitting(0.05, [1.0, 0.6, 0.8, 1.1], 1.0), overfitting(0.5, [1.0, 0.6, 0.7], 1.0)
    (True, False)
    """
    known = [v for v in validation if math.isfinite(v)]
    if not known or not math.isfinite(train):
        return False
    best, now = min(known), known[-1]
    changes = [b - a for a, b in pairwise(known[-24:])]
    usual = statistics.median(changes) if len(changes) > 3 else 0.0
    noise = MAD_TO_STD * statistics.median(abs(c - usual) for c in changes) / math.sqrt(2) if len(changes) > 3 else 0.0
    worse = max(0.5 * abs(best), 0.25 * (scale - best), 5 * noise)
    return now > best + worse and train < 0.5 * now


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


def never_generalises(train: float, validation: Sequence[float], start: float, count: int = 4) -> bool:
    """Whether training is at 30 % of its beginning or below, and no validation was ever better than that beginning.

    As with inputs that are encoded differently for the two. A validation loss of other units would be better or far
    away; so it must lie within twenty times the beginning, and not improve by itself.

    Args:
        train: loss of training now.
        validation: all losses of validation, in order.
        start: the loss before training.
        count: validations that are needed.

    >>> never_generalises(0.1, [1.0, 1.1, 1.3, 1.4], 1.0), never_generalises(0.1, [1.0, 0.9, 0.95, 1.0], 1.0)
    (True, False)
    """
    known = [v for v in validation if math.isfinite(v)]
    if len(known) < count or start <= 0 or not train < 0.3 * start:
        return False
    return min(known) >= 0.95 * start and max(known) <= 20 * start and min(known) >= 0.95 * known[0]
