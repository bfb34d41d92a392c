"""Contents of a snapshot that are copied: arrays, stretches of memory, positions in files, states of generators."""

from __future__ import annotations

import array
import copy
import warnings
from typing import Any

import numpy
import torch

from lightning_tricks.dry_run.generators import set_state, state_of
from lightning_tricks.dry_run.objects import are_the_same
from lightning_tricks.dry_run.states import equal_states
from lightning_tricks.dry_run.storages import checksum


class ArrayRecord:
    """The elements of a numpy array; those of an array of objects are kept as the objects themselves."""

    __slots__ = ("_copy", "_shape", "_writeable", "owner")

    def __init__(self, owner: numpy.ndarray[Any, Any]) -> None:
        self.owner, self._shape, self._writeable = owner, owner.shape, owner.flags.writeable
        self._copy = owner.copy(order="K")

    def restore(self) -> None:
        """Write the elements back into the array's own memory."""
        if self.owner.shape != self._shape:
            # (numpy counts references before it resizes, and the snapshot itself holds one)
            self.owner.resize(self._shape, refcheck=False)
        if not self.intact():
            self._make_writeable(True)
            numpy.copyto(self.owner, self._copy)
        self._make_writeable(self._writeable)

    def _make_writeable(self, flag: bool) -> None:
        # (numpy refuses to be asked for memory of torch, even if nothing changes)
        if self.owner.flags.writeable != flag:
            self.owner.setflags(write=flag)

    def intact(self) -> bool:
        """Whether every element is the same, bit for bit."""
        if self.owner.shape != self._shape or self.owner.flags.writeable != self._writeable:
            return False
        if self.owner.dtype.hasobject and self.owner.dtype.names is None:
            return are_the_same(self.owner.ravel().tolist(), self._copy.ravel().tolist())
        return equal_states(numpy.asarray(self.owner), numpy.asarray(self._copy))


class ChecksumRecord:
    """A large array of data that is not copied: a change of it is not undone, but reported.

    Args:
        owner: contiguous, of plain numbers.
    """

    __slots__ = ("_before", "owner")

    def __init__(self, owner: numpy.ndarray[Any, Any]) -> None:
        self.owner, self._before = owner, self._now(owner)

    @staticmethod
    def _now(owner: numpy.ndarray[Any, Any]) -> Any:
        flat = numpy.frombuffer(owner.data.cast("B"), dtype=numpy.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # (torch warns of arrays that are read-only)
            return checksum(torch.from_numpy(flat).untyped_storage())

    def restore(self) -> None:
        """There is no copy."""

    def intact(self) -> bool:
        """Whether the checksum is the same."""
        return torch.equal(self._now(self.owner), self._before)


class FileRecord:
    """Where a file that is only read stands."""

    __slots__ = ("_position", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner, self._position = owner, owner.tell()

    def restore(self) -> None:
        """Go back there."""
        self.owner.seek(self._position)

    def intact(self) -> bool:
        """Whether it stands there."""
        return bool(self.owner.tell() == self._position)


class BytesRecord:
    """The content of a ``bytearray``, an ``array.array``, or of memory that ctypes shares with other processes."""

    __slots__ = ("_content", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner, self._content = owner, self._now(owner)

    @staticmethod
    def _now(owner: Any) -> Any:
        return bytes(memoryview(owner).cast("B")) if _is_shared(type(owner)) else owner[:]

    def restore(self) -> None:
        """Write it back, if it has changed."""
        if _is_shared(type(self.owner)):
            memoryview(self.owner).cast("B")[:] = self._content
        elif not self.intact():
            self.owner[:] = self._content

    def intact(self) -> bool:
        """Whether it is the same."""
        return bool(self._now(self.owner) == self._content)


class GeneratorRecord:
    """The state of a random generator."""

    __slots__ = ("_state", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner, self._state = owner, state_of(owner)

    def restore(self) -> None:
        """Set it."""
        set_state(self.owner, self._state)

    def intact(self) -> bool:
        """Whether it would draw the same numbers next."""
        return equal_states(state_of(self.owner), self._state)


class ProtocolRecord:
    """An object whose state lies outside of Python, but which can give it out and take it back, as pickling does.

    Raises:
        Exception: whatever the object raises when it is asked for its state.
    """

    __slots__ = ("_state", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner, self._state = owner, copy.deepcopy(self._now(owner))

    @staticmethod
    def _now(owner: Any) -> Any:
        # (pickling gives a function, its arguments, and the state)
        return owner.__reduce_ex__(4)[2]

    def restore(self) -> None:
        """Set it, if it has changed."""
        if not self.intact():
            # (copied once more: the object may keep what it is given and write into it)
            self.owner.__setstate__(copy.deepcopy(self._state))

    def intact(self) -> bool:
        """Whether it gives out the same state."""
        return equal_states(self._now(self.owner), self._state)


def is_bytes(kind: type) -> bool:
    """Whether instances of a class are a stretch of memory."""
    return issubclass(kind, (bytearray, array.array)) or _is_shared(kind)


def _is_shared(kind: type) -> bool:
    return any(cls.__module__ == "_ctypes" for cls in kind.__mro__)
