"""Where on its curve an optimizer is now, and the multiplier that this gives: on the host, or on a device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_tricks.numerics import host
from lightning_tricks.schedules.course import Course
from lightning_tricks.schedules.plan import TICKS, Track
from lightning_tricks.schedules.run_curve import Curve

_SLACK = 0.05  # share of max_time in which the clock does not hurry a run whose updates are planned
_SMALLEST_TABLE = 4096  # entries: a short run needs one copy to the device only


class Position(NamedTuple):
    """Where the next update is.

    Args:
        exact: a number, or a 0-d tensor where only the device knows how many steps were skipped.
        on_host: the same as the host knows it without waiting for a device.
    """

    exact: float | Tensor
    on_host: float


def position_of(
    track: Track, applied: int | Tensor, attempted: int, *, skipped: int = 0, time: float | None = None
) -> Position:
    """Return the position of the next update.

    Args:
        skipped: attempts that changed nothing, as the host knew it last; used where ``applied`` is on a device.
        time: share of ``max_time`` that is over, where it hurries this optimizer; else None.
    """
    if isinstance(applied, Tensor):
        number = host.value_on_host(applied)
        applied = applied if number is None else int(number)
    exact = _hurried(track.course.position(applied, attempted), track.course, time)
    if not isinstance(exact, Tensor):
        return Position(exact, exact)
    # (momentum and weight decay are numbers of the host: they count the skipped steps that it knew at the last logged
    # one)
    counted = track.course.position(max(0, attempted - skipped), attempted)
    return Position(exact, float(_hurried(counted, track.course, time)))


def position_by_clock(time: float) -> Position:
    """Return the position of a run that only ``max_time`` bounds, at a share of it.

    >>> position_by_clock(0.25).on_host
    250000
    """
    ticks = round(TICKS * time)
    return Position(ticks, ticks)


def _hurried(position: float | Tensor, course: Course, time: float | None) -> float | Tensor:
    """Return the position, or a later one where ``max_time`` would end the run before its curve.

    A limit that is only there for safety changes nothing: the first 5 % of the time are free.
    """
    if time is None:
        return position
    least = round((course.total or 0) * (time - _SLACK) / (1.0 - _SLACK))
    return position.clamp(min=least) if isinstance(position, Tensor) else max(position, least)


def table_size(curve: Curve, course: Course, attempted: int, have: int) -> int:
    """Return how many entries a table of multipliers needs after so many attempts; ``have`` where that is enough."""
    reached = course.place + 2 * max(1.0, course.speed) * (attempted + 1)  # catching up takes two positions per update
    needed = math.ceil(reached) + 2
    end = needed if curve.total is None else curve.total + 1
    if have >= min(needed, end):
        return have
    # (twice what is needed, so that tables are rarely lengthened)
    size = max(_SMALLEST_TABLE, 2 * needed)
    return size if curve.total is None else min(size, curve.total + 1)


def looked_up(table: Tensor, position: Tensor) -> Tensor:
    """Return the entry of a table at a 0-d position on the same device; between two entries it is interpolated."""
    # not table[position]: torch reads a 0-d index on the host
    place = position.clamp(max=len(table) - 1).reshape(1)
    if not place.is_floating_point():
        return table.index_select(0, place).reshape(())
    low = place.floor()
    high = (low + 1).clamp(max=len(table) - 1)
    below, above = (table.index_select(0, at.to(torch.int64)) for at in (low, high))
    return torch.lerp(below, above, (place - low).to(table.dtype)).reshape(())


class MultiplierTables:
    """The multipliers of curves at positions 0, 1, ... on a device: made when first needed, and lengthened."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], tuple[Curve, Tensor]] = {}

    def multiplier(
        self, index: int, number: int, track: Track, position: float | Tensor, attempted: int
    ) -> float | Tensor:
        """Return the multiplier of curve ``number`` of optimizer ``index`` at a position."""
        curve = track.curves[number]
        if not isinstance(position, Tensor):
            return curve.value(position)
        known, table = self._tables.get((index, number), (None, None))
        # (by identity: a curve that is drawn again is another object)
        usable = known is curve and table is not None and table.device == position.device
        have = len(table) if usable and table is not None else 0
        size = table_size(curve, track.course, attempted, have)
        if table is None or size != have:
            values = torch.tensor(curve.values(size), dtype=torch.float32)
            table = values.to(position.device, non_blocking=True)
            self._tables[index, number] = curve, table
        return looked_up(table, position)
