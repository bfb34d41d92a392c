"""The parts of the suite in the order of their worth, and how much time each one gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESERVE = 4.0  # seconds at the end for the summary
START = 6.0  # seconds that a process needs until its first task, as long as that was not measured
LEAST = 0.5  # seconds for tasks below which a part is not begun
KILL = 5.0  # seconds after its time at which a part that does not end by itself is killed


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        name: of its files, and of its module in this package.
        text: what it measures.
        weight: of its share of the time.
        module: with ``tasks(context)``; by default the one of this package with that name.
    """

    name: str
    text: str
    weight: float
    module: str = ""


PARTS = (
    Part("environment", "the machine: hardware, versions, flags; ceilings of copying and of matrix products", 0.7),
    Part("correctness", "equal to plain torch loops, no waiting for the device, no trace of observers, resume", 2.6),
    Part("amp", "float32 against mixed precision: time, memory, accuracy", 3.4),
    Part("overhead", "what the callbacks add to a step, against Lightning's own means", 2.5),
    Part("memory", "memory over many steps; seconds of the finder, of a snapshot, of the advice", 0.8),
)


@dataclass(frozen=True)
class Slot:
    """A part and the seconds that it gets, to be killed ``KILL`` seconds later at the latest."""

    part: Part
    seconds: float


def schedule(parts: Sequence[Part], seconds: float, starts: int = 0, start: float = START) -> list[Slot]:
    """Divide the seconds by weight, after those that processes need to start.

    Where that leaves too little, parts are left out from the end on. The time to kill the last one is kept.

    Args:
        parts: those that are left, in order.
        seconds: that are left.
        starts: how many processes are to be started for the later ones of them.
        start: seconds that a process needs to start.

    >>> [round(slot.seconds) for slot in schedule(PARTS, 540, 4)]
    [35, 132, 172, 127, 41]
    >>> [slot.part.name for slot in schedule(PARTS, 8)]
    ['environment', 'correctness']
    >>> schedule(PARTS, 1)
    []
    """
    kept = list(parts)
    while kept:
        left = seconds - RESERVE - (KILL if seconds > 10 * KILL else 0.0) - start * min(starts, len(kept) - 1)
        whole = sum(part.weight for part in kept)
        slots = [Slot(part, left * part.weight / whole) for part in kept]
        if all(slot.seconds >= LEAST for slot in slots):
            return slots
        kept.pop()
    return []
