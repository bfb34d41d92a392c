"""How many micro-batches make one update. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lightning_tricks.errors import message, require_count


class Window(ABC):
    """When an accumulation window closes."""

    # whether it closes when enough samples are in it (``isinstance`` of a class with ABC takes long in each batch)
    by_size: ClassVar[bool] = False

    @abstractmethod
    def closes(self, batches: int, size: float, applied: int) -> bool:
        """Whether a window of so many micro-batches and so much size is complete, for the update after ``applied``."""

    @abstractmethod
    def enlarged(self, factor: int) -> Window:
        """Return the window that takes ``factor`` times as much, to change to between two windows of a run."""

    @abstractmethod
    def planned(self, micro_size: float, applied: int) -> int:
        """Return how many micro-batches of ``micro_size`` the window will take."""

    def updates(self, batches: float, micro_size: float | None, done: int) -> int | None:
        """Return the updates in an epoch of ``batches`` micro-batches, the last window being partial; None if unknown.

        Args:
            batches: micro-batches of the epoch; inf when not known.
            micro_size: of a micro-batch on all processes; None when not known.
            done: updates before the epoch.
        """
        if not math.isfinite(batches):
            return None
        left, updates, size = int(batches), 0, micro_size or 1.0
        for change in (*(start - done for start in self.changes() if start > done), math.inf):
            window = self.planned(size, done + updates)
            # (-(-a // b) is a / b, rounded up)
            whole = min(-(-left // window), change - updates)  # windows of one length at a time, however many they are
            left, updates = left - int(whole) * window, updates + int(whole)
            if left <= 0:
                break
        return updates

    def changes(self) -> list[int]:
        """Return the updates at which the number of micro-batches changes, in order."""
        return []


@dataclass(frozen=True)
class Fixed(Window):
    """``batches`` micro-batches."""

    batches: int = 1

    def closes(self, batches: int, size: float, applied: int) -> bool:
        """Whether there are as many."""
        return batches >= self.batches

    def planned(self, micro_size: float, applied: int) -> int:
        """Return the number."""
        return self.batches

    def enlarged(self, factor: int) -> Window:
        """Return the longer window, as one that may begin at any batch.

        >>> Fixed(2).enlarged(8).planned(1.0, 0)
        16
        """
        return ByUpdate({0: factor * self.batches})


@dataclass(frozen=True)
class ByUpdate(Window):
    """A number that depends on the applied updates: the one of the largest key that is reached, 1 before the first.

    >>> window = ByUpdate({0: 4, 10: 1})
    >>> window.planned(1.0, 9), window.planned(1.0, 10)
    (4, 1)
    """

    schedule: Mapping[int, int]

    def closes(self, batches: int, size: float, applied: int) -> bool:
        """Whether there are as many as now."""
        return batches >= self.planned(size, applied)

    def planned(self, micro_size: float, applied: int) -> int:
        """Return the number in force."""
        reached = [start for start in self.schedule if start <= applied]
        return self.schedule[max(reached)] if reached else 1

    def changes(self) -> list[int]:
        """Return the keys of the schedule."""
        return sorted(self.schedule)

    def enlarged(self, factor: int) -> Window:
        """Return the longer window."""
        # (before the first key there is 1, and it grows as well)
        return ByUpdate({start: factor * batches for start, batches in {0: 1, **self.schedule}.items()})


@dataclass(frozen=True)
class Target(Window):
    """As many micro-batches as it takes to reach ``size``, in samples or tokens over all processes.

    >>> Target(32).closes(3, 30.0, 0), Target(32).planned(10.0, 0)
    (False, 4)
    """

    by_size: ClassVar[bool] = True
    size: int

    def closes(self, batches: int, size: float, applied: int) -> bool:
        """Whether the size is reached."""
        return size >= self.size

    def planned(self, micro_size: float, applied: int) -> int:
        """Return the number for micro-batches of equal size."""
        return max(1, math.ceil(self.size / max(micro_size, 1e-12)))

    def enlarged(self, factor: int) -> Window:
        """Return the window of the larger size."""
        return Target(factor * self.size)

    def updates(self, batches: float, micro_size: float | None, done: int) -> int | None:
        """Return the updates in an epoch; None without the size of a micro-batch."""
        return None if micro_size is None else super().updates(batches, micro_size, done)


def as_window(batches: object, target: object) -> Window:
    """Return the window that the arguments of GradientAccumulation mean.

    Raises:
        TypeError: a number is none.
        ValueError: a number is below 1, or both are given.
    """
    owner, remedy = "GradientAccumulation", "Use e.g. 4, or {0: 1, 1000: 4}: applied update -> micro-batches"
    if target is not None:
        if batches != 1:
            text = "batches and target_batch_size exclude each other"
            raise ValueError(message(owner, "target_batch_size", target, text, "Leave out one of them"))
        return Target(require_count(owner, "target_batch_size", target, remedy="Use e.g. 256"))
    if not isinstance(batches, Mapping):
        return Fixed(require_count(owner, "batches", batches, remedy=remedy))
    if not batches:
        raise ValueError(message(owner, "batches", batches, "batches must not be empty", remedy))
    for start, count in batches.items():
        require_count(owner, "batches", start, low=0, remedy=remedy)
        require_count(owner, "batches", count, remedy=remedy)
    return ByUpdate(dict(batches))
