"""When a training stands still, or weights shrink: from rates, updates and losses. Numbers in, alarms out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from lightning_tricks.detection.alarm import steepness
from lightning_tricks.diagnosis.loss_curve import Check

_RESOLUTION = 2**-24  # of float32, half of the distance to the next number
_SAME_LOSS = 1e-4  # of it: weights that move within float32's resolution change a loss by less
_GONE = 1e-4  # of the largest learning rate
# Of the weights, by all updates of a run together. Among the development scenarios no healthy run moves them by less
# than 0.03, and those that go on with a good network and move them little change the loss by a tenth all the same.
_NO_EFFECT, _LITTLE_EFFECT = 0.01, 0.05
_MOST_OF_A_RUN = 0.6
_FEWEST_UPDATES = 100  # (fewer may be too few for anything)
# Of the loss. A weak signal gives more: a logistic regression with an area under the curve of 0.53, from weights of 0
# and without noise to hide in (4,096 samples a batch), 0.0017. No healthy development scenario is below 0.02.
_UNMOVED = 0.001
_RISEN = 0.2  # of the loss: in the failing ones at least one of the last ten checks is less above their beginning
_WARMS_UP = 0.5  # of the base rate
_STILL = 0.02  # of the loss on the first batch, by a whole run
_GROWS, _STEADILY = 1.1, 4.0  # times, from four checks to the next four; standard errors of a slope
_SHRUNK = 0.3  # of the norm that the weights began with


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


def never_moves(start: float, checks: Sequence[Check], total: int, base_rate: float = math.nan, count: int = 8) -> bool:
    """Whether all updates of a run together would hardly change the weights, and nothing is learned.

    By less than a hundredth, where the loss on the first batch stays within 1 %, or where that is not known the loss
    within 2 %; by less than a twentieth, where the loss on the first batch would have moved by less than 2 % at the end
    of the run. A warm-up says nothing yet: the rate rises, or is far below the one that a schedule multiplies. Nor do
    updates that still grow over the rate, as with a momentum of 0.99 in its first hundred steps.

    Args:
        start: the loss before training.
        checks: the checks so far.
        total: updates of the whole run.
        base_rate: that schedulers multiply; NaN where there is none.
        count: checks that are needed.

    >>> still = [Check(10 * i + 10, 0.69, 0.69, rate=1e-8, ratio=1e-7, fixed=0.69) for i in range(9)]
    >>> never_moves(0.69, still, 1000), never_moves(0.69, [c._replace(ratio=1e-4) for c in still], 1000)
    (True, False)
    """
    known = [c for c in checks if math.isfinite(c.ratio) and math.isfinite(c.rate) and math.isfinite(c.median)]
    if len(known) < count or not total or known[-1].rate > min(c.rate for c in known[-count:]):
        return False
    if max(c.rate for c in known) < _WARMS_UP * base_rate:
        return False
    if _grow([c.ratio / c.rate for c in known[-count:] if c.rate > 0]):
        return False
    moves = max(c.ratio for c in known) * total
    fixed = [c.fixed for c in known if math.isfinite(c.fixed)]
    if moves > _LITTLE_EFFECT or (moves > _NO_EFFECT and len(fixed) < 2):
        return False
    if len(fixed) > 1:
        still = 0.01 if moves <= _NO_EFFECT else _STILL * known[-1].step / total
        return abs(fixed[-1] - fixed[0]) <= still * abs(fixed[0])
    return abs(known[-1].median - start) <= 0.02 * abs(start)


def _grow(values: Sequence[float]) -> bool:
    """Whether the later half of some values is larger than the earlier one, and they rise as chance does not.

    >>> _grow([1.0, 2.0, 3.0, 4.0]), _grow([4.0, 4.1, 4.0, 3.9]), _grow([1.0, 4.0, 2.0, 4.0])
    (True, False, False)
    """
    half = len(values) // 2
    return sum(values[-half:]) > _GROWS * sum(values[:half]) and steepness(values) > _STEADILY


def never_falls(start: float, checks: Sequence[Check], total: int, count: int = 10) -> bool:
    """Whether the loss has not fallen in most of the run: neither that of batches nor that on the first batch.

    Losses of 0 or below, as those of a policy, do not say how much is missing. A loss that is far above its beginning
    is not where it was: the first losses may have been of an easier task, as of a teacher that answers the same for all
    or of an empty queue of negatives, or the training diverges.

    Args:
        start: the loss before training.
        checks: the checks so far.
        total: updates of the whole run.
        count: checks that are needed.

    >>> flat = [Check(10 * i + 10, 4.844, 4.843, ratio=0.01, fixed=4.844) for i in range(10)]
    >>> never_falls(4.844, flat, 150), never_falls(4.844, flat, 300), never_falls(4.9, flat, 150)
    (True, False, False)
    """
    enough = max(_FEWEST_UPDATES, _MOST_OF_A_RUN * total)
    if len(checks) < count or not total or not start > 0 or checks[-1].step < enough:
        return False
    fixed = [c.fixed for c in checks if math.isfinite(c.fixed)]
    losses = [c.median for c in checks if math.isfinite(c.median)]
    if min(losses[-count:], default=math.inf) - start > _RISEN * start:
        return False
    curves = [(start, losses), *([(fixed[0], fixed)] if len(fixed) >= count else [])]
    return all(values and first - min(values) <= _UNMOVED * abs(first) for first, values in curves)


def wasting_away(checks: Sequence[Check], count: int = 3) -> bool:
    """Whether most weights have lost 40 % of their norm and still lose 5 % from check to check.

    >>> [wasting_away([Check(i, 2.3, 2.3, weights=rate**i) for i in range(6)]) for rate in (0.8, 0.99)]
    [True, False]
    """
    weights = [c.weights for c in checks if math.isfinite(c.weights)][-count - 1 :]
    falls = all(b < 0.95 * a for a, b in pairwise(weights))
    return len(weights) > count and falls and weights[-1] < 0.6
