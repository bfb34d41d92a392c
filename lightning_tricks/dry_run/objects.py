"""Plain Python in a snapshot: containers, attributes, closures, arrays, generators, each put back in place.

A container is kept as the list of the very objects in it. So nothing is copied but references, and a Parameter in a
list, a module in a dict or a tensor in a tuple is afterwards the same Parameter, module and tensor.
"""

from __future__ import annotations

import array
import copy
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy
import torch

from lightning_tricks.dry_run.generators import set_state, state_of

_MISSING = object()


class Record(Protocol):
    """What a snapshot keeps of one object."""

    def restore(self) -> None:
        """Make the object as it was."""

    def intact(self) -> bool:
        """Whether it is as it was."""


def _same(now: Any, before: Any) -> bool:
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))


class DictRecord:
    """Keys and values of a dict of any kind, in their order. Methods that a subclass overrides are not called."""

    __slots__ = ("_base", "_keys", "_values", "owner")

    def __init__(self, owner: dict[Any, Any]) -> None:
        self.owner = owner
        self._base: Any = OrderedDict if isinstance(owner, OrderedDict) else dict
        self._keys, self._values = list(self._base.keys(owner)), list(self._base.values(owner))

    def restore(self) -> None:
        """Fill it again, if anything in it has changed."""
        if not self.intact():
            self._base.clear(self.owner)
            for key, value in zip(self._keys, self._values, strict=True):
                self._base.__setitem__(self.owner, key, value)

    def intact(self) -> bool:
        """Whether it holds the same objects in the same order."""
        keys, values = list(self._base.keys(self.owner)), list(self._base.values(self.owner))
        return _same(values, self._values) and _same(keys, self._keys)


class ItemsRecord:
    """The items of a list, deque or set of any kind."""

    __slots__ = ("_clear", "_fill", "_items", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        base: Any = list if isinstance(owner, list) else deque if isinstance(owner, deque) else set
        self._clear, self._fill = base.clear, base.update if base is set else base.extend
        self._items = list(base.__iter__(owner))

    def restore(self) -> None:
        """Fill it again, if anything in it has changed."""
        if not self.intact():
            self._clear(self.owner)
            self._fill(self.owner, self._items)

    def intact(self) -> bool:
        """Whether it holds the same objects; those of a set in any order."""
        if isinstance(self.owner, set):
            return {id(x) for x in self.owner} == {id(x) for x in self._items}
        return _same(list(self.owner), self._items)


class ObjectRecord:
    """Class and attributes of an object: its ``__dict__`` and its slots. No property or ``__setattr__`` is called."""

    __slots__ = ("_attributes", "_contents", "_kind", "_slots", "owner")

    def __init__(self, owner: Any, slots: list[tuple[str, Any]]) -> None:
        self.owner, self._kind = owner, type(owner)
        self._attributes: dict[str, Any] | None = attributes_of(owner)
        self._contents = None if self._attributes is None else DictRecord(self._attributes)
        self._slots = [(slot, slot_value(owner, slot)) for _, slot in slots]

    def restore(self) -> None:
        """Give it its class and attributes back."""
        if type(self.owner) is not self._kind:
            object.__setattr__(self.owner, "__class__", self._kind)
        if self._attributes is not None and self._contents is not None:
            if attributes_of(self.owner) is not self._attributes:
                object.__setattr__(self.owner, "__dict__", self._attributes)
            self._contents.restore()
        for slot, value in self._slots:
            if slot_value(self.owner, slot) is not value:
                if value is _MISSING:
                    slot.__delete__(self.owner)
                else:
                    slot.__set__(self.owner, value)

    def intact(self) -> bool:
        """Whether class and attributes are the same objects."""
        return (
            type(self.owner) is self._kind
            and attributes_of(self.owner) is self._attributes
            and (self._contents is None or self._contents.intact())
            and all(slot_value(self.owner, slot) is value for slot, value in self._slots)
        )


class ValueRecord:
    """A value that one function reads and another writes: a variable of a closure, an attribute of a class."""

    __slots__ = ("_read", "_value", "_write")

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._read, self._write = read, write
        self._value = read()

    def restore(self) -> None:
        """Write it, if it has changed."""
        if not self.intact():
            self._write(self._value)

    def intact(self) -> bool:
        """Whether it is the same object."""
        return self._read() is self._value


class ArrayRecord:
    """The elements of a numpy array; those of an array of objects are kept as the objects themselves."""

    __slots__ = ("_copy", "_shape", "owner")

    def __init__(self, owner: numpy.ndarray[Any, Any]) -> None:
        self.owner, self._shape = owner, owner.shape
        self._copy = owner.copy(order="K")

    def restore(self) -> None:
        """Write the elements back into the array's own memory."""
        if self.owner.shape != self._shape:
            self.owner.resize(self._shape, refcheck=False)
        numpy.copyto(self.owner, self._copy)

    def intact(self) -> bool:
        """Whether every element is the same, bit for bit."""
        if self.owner.shape != self._shape:
            return False
        if self.owner.dtype.hasobject:
            return _same(self.owner.ravel().tolist(), self._copy.ravel().tolist())
        return bool(self.owner.tobytes() == self._copy.tobytes())


class BytesRecord:
    """The content of a ``bytearray`` or an ``array.array``."""

    __slots__ = ("_content", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner, self._content = owner, owner[:]

    def restore(self) -> None:
        """Write it back."""
        self.owner[:] = self._content

    def intact(self) -> bool:
        """Whether it is the same."""
        return bool(self.owner == self._content)


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
        return owner.__reduce_ex__(4)[2]

    def restore(self) -> None:
        """Set it, if it has changed."""
        if not self.intact():
            self.owner.__setstate__(copy.deepcopy(self._state))

    def intact(self) -> bool:
        """Whether it gives out the same state."""
        return equal_states(self._now(self.owner), self._state)


def attributes_of(owner: Any) -> dict[str, Any] | None:
    """Return an object's own ``__dict__``, whatever its class makes of that name; None without one."""
    try:
        found = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


def slots_of(kind: type) -> list[tuple[str, Any]]:
    """Return name and descriptor of the slots that a class and its bases declare.

    >>> class Point: __slots__ = ("x", "__y")
    >>> [name for name, _ in slots_of(Point)]
    ['x', '__y']
    """
    found = []
    for cls in kind.__mro__:
        declared = cls.__dict__.get("__slots__", ())
        for name in (declared,) if isinstance(declared, str) else tuple(declared):
            private = name.startswith("__") and not name.endswith("__")
            descriptor = cls.__dict__.get(f"_{cls.__name__.lstrip('_')}{name}" if private else name)
            if hasattr(descriptor, "__set__") and hasattr(descriptor, "__delete__"):
                found.append((name, descriptor))
    return found


def slot_value(owner: Any, slot: Any) -> Any:
    """Return what a slot holds; a value of its own where it is empty."""
    try:
        return slot.__get__(owner, type(owner))
    except AttributeError:
        return _MISSING


def is_missing(value: Any) -> bool:
    """Whether a slot was empty."""
    return value is _MISSING


def equal_states(one: Any, other: Any) -> bool:
    """Whether two states are equal: containers of numbers, strings, tensors and arrays.

    >>> equal_states({"key": torch.ones(2)}, {"key": torch.ones(2)}), equal_states([1], [2])
    (True, False)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal_states, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, numpy.ndarray) and isinstance(other, numpy.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.names is not None:  # (between the fields there may be bytes that nobody set)
            return all(equal_states(one[name], other[name]) for name in one.dtype.names)
        return one.tobytes() == other.tobytes()
    return bool(one == other)


BYTES = (bytearray, array.array)
