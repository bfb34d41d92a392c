"""Where a walk finds things, what it finds, and how far it goes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from lightning_tricks.dry_run import tensors


class Place(NamedTuple):
    """Where an object was found; written out only for a message."""

    parent: Place | None
    name: str

    @property
    def root(self) -> str:
        """The name of the root that it was reached from."""
        place = self
        while place.parent is not None:
            place = place.parent
        return place.name

    def __str__(self) -> str:
        parts, place = [], self
        while place.parent is not None:
            parts.append(place.name)
            place = place.parent
        text = "".join([place.name, *reversed(parts)])
        return re.sub(r"\._(?:modules|parameters|buffers)\['([^']*)'\]", r".\1", text)


@dataclass(frozen=True)
class Limits:
    """How far a walk goes. Beyond it, a model is refused, and data are held as they are.

    Args:
        objects: that are looked at, in the model and again in data; empty dicts of modules do not count.
        seconds: of this thread's work that the model may take, and again data; waiting for other programs is none.
        items: of a container in data that is still walked.
        data_seconds: that data may take.
        data_copied: bytes of arrays of data that are copied, the smallest first.
        data_read: bytes of larger arrays of data that are read for a checksum.
    """

    objects: int = 500_000
    seconds: float = 30.0
    items: int = 20_000
    data_seconds: float = 10.0
    data_copied: int = 2**28
    data_read: int = 2**32


# of a look in the middle of training, of which there may be many
SHORT = Limits(objects=300_000, seconds=20.0, items=2_000, data_seconds=0.5, data_copied=2**22, data_read=2**24)


class Obstacle(NamedTuple):
    """Something that cannot be put back."""

    place: Place
    what: str

    def __str__(self) -> str:
        return f"{self.place} is {self.what}"


class FoundTensor(NamedTuple):
    """A tensor and what is known of it."""

    place: Place
    record: tensors.TensorRecord
    data: bool
    trained: bool


class FoundArray(NamedTuple):
    """A numpy array."""

    place: Place
    array: numpy.ndarray[Any, Any]
    data: bool


SMALL = 2**20  # bytes: what is not larger is copied at once


_FALLBACK_MEMORY = 8 * 2**30


def affordable(found: list[FoundArray], limits: Limits) -> tuple[list[FoundArray], list[FoundArray]]:
    """Return the arrays that are copied, and those whose checksum is noted; what is larger still is only held."""
    copied = [f for f in found if not f.data]
    left, spent, read = [], 0, 0
    for f in sorted((f for f in found if f.data), key=lambda f: f.array.nbytes):
        spent += f.array.nbytes
        if spent <= limits.data_copied or f.array.nbytes <= SMALL:
            copied.append(f)
        elif f.array.flags.c_contiguous and not f.array.dtype.hasobject and read + f.array.nbytes <= limits.data_read:
            read += f.array.nbytes
            left.append(f)
    return copied, left


def spare_memory() -> int:
    """Return half of the host's free memory, divided among the processes that run on it."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # (only Linux tells the number of free pages)
        free = 2 * _FALLBACK_MEMORY
    return max(free // 2, 2**28) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def gigabytes(size: int) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"
