"""Whether memory grows step by step, and who keeps it: rules on the numbers of several checks.

Growth alone is not a fault: optimizer state, caches and replay buffers are filled, lists are filled and cleared in
every epoch. So like is compared with like: what is kept at a later check has to be more than at an earlier check that
came at the same place of an earlier epoch, or later in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lightning_tricks.detection.alarm import steepness
from lightning_tricks.dry_run.holdings import Holding

LEAST_CHECKS = 4  # that a holder has grown over
LEAST_READINGS = 8  # of the memory of the process or the device
_STILL_GROWS = 0.25  # of the rate of the first half: below it, a holder is filling up
_OF_MODEL = 0.25  # of the memory of weights, gradients and optimizer state
_LEAST_BYTES = 2**24
_NOISE = 2**25  # of the memory of a process
_STEEP = 6.0  # standard errors of the slope

Kind = Literal["graph", "batch", "metric", "hooks", "tensors", "memory"]


class Moment(NamedTuple):
    """When a check was made.

    Args:
        update: number of the update.
        epoch: number of the epoch, from 0.
        batch: index of the batch in its epoch.
    """

    update: int
    epoch: int
    batch: int


Point = tuple[Moment, float]


@dataclass(frozen=True)
class Prospect:
    """What is known of the run.

    Args:
        model: bytes of weights, gradients and optimizer state.
        free: bytes that are still free; inf where that is not known.
        left: updates to the end of the run; inf where that is not known.
        left_in_epoch: updates to the end of the epoch; inf where that is not known.
    """

    model: float
    free: float = math.inf
    left: float = math.inf
    left_in_epoch: float = math.inf

    def full_after(self, per_update: float) -> float:
        """Return after how many updates the memory is full; inf for never.

        >>> Prospect(model=0.0, free=100.0).full_after(25.0)
        4.0
        """
        return max(0.0, self.free) / per_update if per_update > 0 else math.inf

    def ahead(self, made: int, *, in_epoch: bool) -> float:
        """Return how many updates are still to come; where that is not known, three times as many as were made.

        Args:
            made: updates so far.
            in_epoch: only those of this epoch, after which a list may be cleared.

        >>> Prospect(model=0.0, left=90.0, left_in_epoch=9.0).ahead(10, in_epoch=True), Prospect(0.0).ahead(
        ...     10, in_epoch=True)
        (9.0, 30.0)
        """
        known = min(self.left, self.left_in_epoch) if in_epoch else self.left
        return known if math.isfinite(known) else 3.0 * made


@dataclass(frozen=True)
class Growth:
    """A holder that grows, or the memory of the whole process.

    Args:
        holder: its name; empty for the whole process.
        kind: what it keeps.
        certain: whether it is an alarm; advice otherwise.
        per_update: bytes that it grows by with each update; hooks for ``"hooks"``.
        held: what it keeps now: tensors with their graph, tensors, or hooks.
        nbytes: memory that it keeps now.
        full_after: updates until the memory is full; inf where that is after the end of the run.
        single: whether it is one tensor whose graph grows.
        elements: of the largest tensor in it.
        traceback: whether an exception's traceback keeps it.
        metric: whether it is a state of a torchmetrics metric.
    """

    holder: str
    kind: Kind
    certain: bool
    per_update: float
    held: float
    nbytes: float
    full_after: float = math.inf
    single: bool = False
    elements: int = 1
    traceback: bool = False
    metric: bool = False


def rate(points: Sequence[Point]) -> float:
    """Return the growth per update from the first to the last point.

    >>> rate([(Moment(0, 0, 0), 1.0), (Moment(4, 0, 4), 9.0)])
    2.0
    """
    (first, before), (last, now) = points[0], points[-1]
    return (now - before) / max(1, last.update - first.update)


def steady(points: Sequence[Point], least: int = LEAST_CHECKS) -> bool:
    """Whether the last ``least`` points rise one after the other, and do not level off.

    >>> points = [(Moment(i, 0, i), float(i)) for i in range(6)]
    >>> steady(points), steady([*points, (Moment(6, 0, 6), 0.0)]), steady([*points, (Moment(60, 0, 60), 6.0)])
    (True, False, False)
    """
    if len(points) < least:
        return False
    recent = points[-least:]
    if any(now <= before for (_, before), (_, now) in itertools.pairwise(recent)):
        return False
    return rate(recent[least // 2 :]) >= _STILL_GROWS * rate(recent[: least // 2 + 1])


def survives_epochs(points: Sequence[Point]) -> bool:
    """Whether more is kept than at the same place of an earlier epoch, or later in it, and it still grows.

    A list that is cleared in each epoch holds no more than that, wherever in the epoch a check comes. A cache that the
    first epoch has filled does not grow after it.

    >>> cleared = [(Moment(3 * i, 3 * i // 10, 3 * i % 10), 3.0 * i % 10) for i in range(20)]
    >>> kept = [(moment, float(moment.update)) for moment, _ in cleared]
    >>> any(survives_epochs(cleared[:i]) for i in range(1, 20)), survives_epochs(kept)
    (False, True)
    """
    start = len(points) - 1
    while start > 0 and points[start - 1][1] <= points[start][1]:
        start -= 1
    recent = points[start:]
    if len(recent) < 2 or recent[-2][0].epoch <= points[0][0].epoch:
        return False
    return any(
        before.epoch < later.epoch and before.batch >= later.batch and now > then
        for i, (before, then) in enumerate(recent)
        for later, now in recent[i + 1 :]
    )


def growth_of(history: Sequence[tuple[Moment, Holding]], prospect: Prospect, *, ended: bool = False) -> Growth | None:
    """Return how a holder grows; None where it does not, or where that may still be part of a healthy training.

    Args:
        history: what it held at the checks, in order.
        prospect: what is known of the run.
        ended: whether training is over, so that what was to be cleared at the end of the epoch would be by now.
    """
    now = history[-1][1]
    nbytes = [(m, h.nbytes) for m, h in history]
    per_update = rate(nbytes[-LEAST_CHECKS:]) if len(nbytes) > 1 else 0.0
    full = prospect.full_after(per_update)
    for kind, points in _series(history):
        if not steady(points):
            continue
        kept = ended or survives_epochs(points)
        made = history[-1][0].update
        soon = full < prospect.ahead(made, in_epoch=not kept)
        size = per_update * prospect.ahead(made, in_epoch=False)
        expected, share = now.nbytes + size, _OF_MODEL * prospect.model
        large = expected > min(share, _LEAST_BYTES)
        certain = {
            "graph": kept,
            "hooks": True,
            "batch": kept and large,
            "metric": kept and large,
            "tensors": False,
        }[kind] and not now.bounded
        noteworthy = kept and not now.bounded and expected > max(share, _LEAST_BYTES)
        if not (certain or soon or noteworthy):
            continue
        held = points[-1][1] if kind == "hooks" else now.graphs if kind == "graph" else now.tensors or now.arrays
        return Growth(
            now.name,
            kind,
            certain or soon,
            rate(points[-LEAST_CHECKS:]) if kind == "hooks" else per_update,
            held,
            now.nbytes,
            full if soon else math.inf,
            kind == "graph" and history[-LEAST_CHECKS][1].graphs >= now.graphs,
            now.elements,
            now.traceback,
            now.metric,
        )
    return None


def _series(history: Sequence[tuple[Moment, Holding]]) -> list[tuple[Kind, list[Point]]]:
    """Return what may grow, the worst first, with its points."""
    now = history[-1][1]
    series: list[tuple[Kind, list[Point]]] = []
    if now.graphs:
        series.append(("graph", [(m, h.nodes) for m, h in history]))
        if not now.metric:
            series.append(("graph", [(m, h.graphs) for m, h in history]))
    if now.hooks:
        series.append(("hooks", [(m, h.hooks) for m, h in history]))
    kind: Kind = "metric" if now.metric else "batch" if now.kept else "tensors"
    if now.elements > 1 or now.arrays:
        series.append((kind, [(m, h.nbytes) for m, h in history]))
    return series


def is_suspect(history: Sequence[tuple[Moment, Holding]]) -> bool:
    """Whether a holder has grown steadily, and it is not known yet whether the next epoch will clear it."""
    return any(steady(points) and not survives_epochs(points) for _, points in _series(history))


def growth_of_memory(points: Sequence[Point], prospect: Prospect) -> Growth | None:
    """Return how the memory of the device or process grows; None where that is within the noise.

    Certain where it will be full before the end of the run, or, where that is not known, before three times as many
    updates as were made.

    Args:
        points: bytes at the checks, since they last had a reason to rise.
        prospect: what is known of the run.
    """
    late = points[len(points) // 2 :]  # the first half is warm-up
    if len(late) < LEAST_READINGS // 2 or len(points) < LEAST_READINGS:
        return None
    values = [value for _, value in late]
    rises = sum(b >= a for a, b in itertools.pairwise(values))
    risen, per_update = values[-1] - values[0], rate(late)
    if rises < 0.8 * (len(values) - 1) or steepness(values) < _STEEP:
        return None
    if risen < max(_NOISE, 0.05 * prospect.model) or per_update < _STILL_GROWS * rate(points):
        return None
    full = prospect.full_after(per_update)
    certain = full < prospect.ahead(late[-1][0].update, in_epoch=False)
    return Growth("", "memory", certain, per_update, 0.0, values[-1], full if certain else math.inf)


def looks_this_time(check: int) -> bool:
    """Whether the run is looked through at a check: ever more rarely, so that the cost stays small.

    >>> [check for check in range(1, 40) if looks_this_time(check)]
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    """
    power = 1 << (max(1, check).bit_length() - 1)
    return check == power or (check > 2 and 2 * check == 3 * power)
