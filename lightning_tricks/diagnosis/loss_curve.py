"""What curves say about a training: losses, validation losses, gradient norms, weights. Numbers in, alarms out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MAD_TO_STD = 1.4826  # the standard deviation of normal noise over its median absolute deviation
FEWEST_LOSSES = 24  # before the curve of a run says anything, but that it is not finite
_LARGE_UPDATE = 0.03  # of the weights; ten times what is usual
_BEFORE_RISE = 12  # checks that a relapse is compared with
_RESOLUTION = 2**-24  # of float32, half of the distance to the next number
_SAME_LOSS = 1e-4  # of it: weights that move within float32's resolution change a loss by less
_GONE = 1e-4  # of the largest learning rate
_NO_EFFECT = 0.01  # of the weights, by all updates of a run together
_STEADY_CHECKS = 12  # that show whether a fall slows down
_SHRUNK = 0.3  # of the norm that the weights began with


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


_LARGER = 1.05  # times the numbers that a sample had


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


_NOISY = 5.0  # standard deviations of single losses that a gain must be


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

    That is: it began near 0, by a third of how far it has moved, was below 0, and is as near to 0 as single losses are
    to each other. A likelihood that is lost passes such a narrow place at most by chance.

    >>> def curve(*medians):
    ...     return [Check(i, m, m, spread=0.1, losses=10) for i, m in enumerate(medians)]
    >>> in_balance(-0.1, curve(-0.8, -0.9, -0.1, 0.0)), in_balance(-0.1, curve(-0.8, -0.9, -0.4))
    (True, False)
    """
    known = [c for c in checks if math.isfinite(c.median)]
    if len(known) < 2 or not math.isfinite(start):
        return False
    lowest = min(c.median for c in known)
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


def has_learned(start: float, checks: Sequence[Check], share: float = 0.1) -> bool:
    """Whether the loss has ever been below its beginning by a tenth of it.

    >>> has_learned(2.0, [Check(10, 1.5, 1.5)]), has_learned(2.0, [Check(10, 1.9, 1.9)])
    (True, False)
    """
    known = [c.median for c in checks if math.isfinite(c.median)]
    return bool(known) and start - min(known) > share * abs(start)


def at_floor(start: float, checks: Sequence[Check]) -> bool:
    """Whether there is nothing more to learn where gradients are exactly 0: the loss is 0, or fell and is at its best.

    As a triplet or hinge loss is 0 once every margin is kept.

    >>> at_floor(0.2, [Check(10, 0.1, 0.1), Check(20, 0.0, 0.0)]), at_floor(0.2, [Check(10, 0.2, 0.2)])
    (True, False)
    """
    known = [c.median for c in checks if math.isfinite(c.median)]
    if not known:
        return False
    near = 0.05 * (start - min(known))
    return known[-1] == 0.0 or (has_learned(start, checks) and known[-1] <= min(known) + near)


def shrinking(start: float, checks: Sequence[Check], count: int = 5) -> bool:
    """Whether the weights shrink to nothing and take the network along: below 30 %, still falling, and loss no better.

    Weights that a normalisation makes free of scale shrink to an equilibrium, where they stay, and the loss falls.

    Args:
        start: the loss before training.
        checks: the checks so far.
        count: checks over which the weights must have fallen by 5 % each; at under 1 % they need not fall any more.

    >>> shrinking(2.3, [Check(i, 2.3, 2.3, weights=0.8**i) for i in range(9)])
    True
    >>> shrinking(2.3, [Check(i, 2.3, 2.3, weights=max(0.2, 0.8**i)) for i in range(20)])
    False
    """
    known = [c for c in checks if math.isfinite(c.weights) and math.isfinite(c.median)]
    if len(known) <= count or known[-1].weights > _SHRUNK:
        return False
    last = known[-count - 1 :]
    falls = all(b.weights < 0.95 * a.weights for a, b in pairwise(last)) or known[-1].weights < 0.01
    improved = known[-1].median < last[0].median - 0.02 * abs(start) or known[-1].median < 0.5 * start
    return falls and not improved


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


def ran_out(checks: Sequence[Check], total: int) -> bool:
    """Whether the learning rate is gone in the first half of a run: a ten-thousandth of its largest, or of no effect.

    No effect: it does not rise, and updates are smaller than float32 can add to most of the weights, while the loss on
    the first batch stays the same. In a mixture most experts may rest while the others learn.

    A schedule that was meant for epochs and is called at each update does this; one that ends at 0 does not, nor do
    restarts, which are that low for a few updates only.

    Args:
        checks: the checks so far.
        total: updates of the whole run.

    >>> fallen = [Check(10 * i + 10, 2.3, 2.3, rate=0.1 * 0.1**i) for i in range(9)]
    >>> ran_out(fallen, 1000), ran_out(fallen, 100)
    (True, False)
    """
    rates = [c.rate for c in checks if math.isfinite(c.rate)]
    if not rates or checks[-1].step > 0.5 * total:
        return False
    ratios = [c.ratio for c in checks[-2:] if math.isfinite(c.ratio)]
    fixed = [c.fixed for c in checks[-2:] if math.isfinite(c.fixed)]
    moved = len(fixed) == 2 and abs(fixed[1] - fixed[0]) > _SAME_LOSS * abs(fixed[0])
    lost = len(ratios) == 2 and max(ratios) < _RESOLUTION and rates[-1] <= min(rates) and not moved
    return lost or rates[-1] < _GONE * max(rates)


def never_warms_up(checks: Sequence[Check], base: float, total: int, count: int = 5) -> bool:
    """Whether a run is at 40 % and its rate, which rises steadily, at under a twentieth of what a warm-up leads to.

    Args:
        checks: the checks so far.
        base: the rate that schedulers multiply, ``initial_lr``; NaN where there is none.
        total: updates of the whole run.
        count: checks in a row at which the rate has risen.

    >>> slow = [Check(10 * i + 10, 4.0, 4.0, rate=1e-6 * (i + 1)) for i in range(45)]
    >>> never_warms_up(slow, 1e-2, 1000), never_warms_up(slow, 1e-4, 1000), never_warms_up(slow[:20], 1e-2, 1000)
    (True, False, False)
    """
    rates = [c.rate for c in checks if math.isfinite(c.rate)]
    if len(rates) <= count or not total or checks[-1].step < 0.4 * total or not rates[-1] < 0.05 * base:
        return False
    return all(b > a for a, b in pairwise(rates[-count - 1 :])) and rates[-1] >= max(rates)


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


def never_moves(start: float, checks: Sequence[Check], total: int, count: int = 8) -> bool:
    """Whether all updates of a run together would change the weights by less than a hundredth, and nothing is learned.

    Nothing: the loss on the first batch stays within 1 %, or where that is not known the loss within 2 %. A warm-up,
    in which the rate rises, says nothing yet.

    Args:
        start: the loss before training.
        checks: the checks so far.
        total: updates of the whole run.
        count: checks that are needed.

    >>> still = [Check(10 * i + 10, 0.69, 0.69, rate=1e-8, ratio=1e-7, fixed=0.69) for i in range(9)]
    >>> never_moves(0.69, still, 1000), never_moves(0.69, [c._replace(ratio=1e-4) for c in still], 1000)
    (True, False)
    """
    known = [c for c in checks if math.isfinite(c.ratio) and math.isfinite(c.rate) and math.isfinite(c.median)]
    if len(known) < count or not total or known[-1].rate > min(c.rate for c in known[-count:]):
        return False
    if max(c.ratio for c in known) * total > _NO_EFFECT:
        return False
    fixed = [c.fixed for c in known if math.isfinite(c.fixed)]
    if len(fixed) > 1:
        return abs(fixed[-1] - fixed[0]) <= 0.01 * abs(fixed[0])
    return abs(known[-1].median - start) <= 0.02 * abs(start)


def wasting_away(checks: Sequence[Check], count: int = 3) -> bool:
    """Whether most weights have lost 40 % of their norm and still lose 5 % from check to check.

    >>> [wasting_away([Check(i, 2.3, 2.3, weights=rate**i) for i in range(6)]) for rate in (0.8, 0.99)]
    [True, False]
    """
    weights = [c.weights for c in checks if math.isfinite(c.weights)][-count - 1 :]
    falls = all(b < 0.95 * a for a, b in pairwise(weights))
    return len(weights) > count and falls and weights[-1] < 0.6
