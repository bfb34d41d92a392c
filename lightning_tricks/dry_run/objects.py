"""Plain Python in a snapshot: containers, attributes, closures, arrays, generators, each put back in place.

A container is kept as the list of the very objects in it. So nothing is copied but references, and a Parameter in a
list, a module in a dict or a tensor in a tuple is afterwards the same Parameter, module and tensor.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from operator import is_
from typing import Any, Protocol

from lightning_tricks.dry_run.attributes import MISSING, attributes_of, slot_value
from lightning_tricks.dry_run.states import equal_states


class Record(Protocol):
    """What a snapshot keeps of one object."""

    def restore(self) -> None:
        """Make the object as it was."""

    def intact(self) -> bool:
        """Whether it is as it was."""


def are_the_same(now: Any, before: Any) -> bool:
    """Whether two sequences hold the very same objects in the same order."""
    return len(now) == len(before) and all(map(is_, now, before))


class DictRecord:
    """Keys and values of a dict of any kind, in their order. Methods that a subclass overrides are not called."""

    __slots__ = ("_base", "_factory", "_keys", "_values", "owner")

    def __init__(self, owner: dict[Any, Any]) -> None:
        self.owner = owner
        self._base: Any = OrderedDict if issubclass(type(owner), OrderedDict) else dict
        self._keys, self._values = list(self._base.keys(owner)), list(self._base.values(owner))
        self._factory = owner.default_factory if isinstance(owner, defaultdict) else None

    def restore(self) -> None:
        """Fill it again, if anything in it has changed."""
        if isinstance(self.owner, defaultdict):
            self.owner.default_factory = self._factory
        if not self.intact():
            self._base.clear(self.owner)
            for key, value in zip(self._keys, self._values, strict=True):
                self._base.__setitem__(self.owner, key, value)

    def intact(self) -> bool:
        """Whether it holds the same objects in the same order."""
        keys, values = list(self._base.keys(self.owner)), list(self._base.values(self.owner))
        kept = not isinstance(self.owner, defaultdict) or self.owner.default_factory is self._factory
        return kept and are_the_same(values, self._values) and are_the_same(keys, self._keys)


class EmptyRecord:
    """A dict or set that is empty, and has no attributes."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def restore(self) -> None:
        """Empty it."""
        if self.owner:
            self.owner.clear()

    def intact(self) -> bool:
        """Whether it is still empty."""
        return not self.owner


class ItemsRecord:
    """The items of a list, deque or set of any kind."""

    __slots__ = ("_base", "_items", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self._base: Any = next(base for base in (list, deque, set) if issubclass(type(owner), base))
        self._items = list(self._base.__iter__(owner))

    def restore(self) -> None:
        """Fill it again, if anything in it has changed."""
        if not self.intact():
            self._base.clear(self.owner)
            (self._base.update if self._base is set else self._base.extend)(self.owner, self._items)

    def intact(self) -> bool:
        """Whether it holds the same objects; those of a set in any order."""
        now = list(self._base.__iter__(self.owner))
        if self._base is set:
            return {id(x) for x in now} == {id(x) for x in self._items}
        return are_the_same(now, self._items)


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
            # (parametrizations and lazy modules change the class of a module)
            object.__setattr__(self.owner, "__class__", self._kind)
        if self._attributes is not None and self._contents is not None:
            if attributes_of(self.owner) is not self._attributes:
                object.__setattr__(self.owner, "__dict__", self._attributes)
            self._contents.restore()
        for slot, value in self._slots:
            if slot_value(self.owner, slot) is not value:
                if value is MISSING:
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
    """A value that one function reads and another writes: a variable of a closure, a global."""

    __slots__ = ("_read", "_value", "_write")

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._read, self._write = read, write
        self._value = read()

    @classmethod
    def of_name(cls, variables: dict[str, Any], name: str) -> ValueRecord:
        """Return the record of a name in a namespace, where it may be missing."""

        def write(value: Any) -> None:
            if value is MISSING:
                variables.pop(name, None)
            else:
                variables[name] = value

        return cls(lambda: variables.get(name, MISSING), write)

    def restore(self) -> None:
        """Write it, if it has changed."""
        if not self.intact():
            self._write(self._value)

    def intact(self) -> bool:
        """Whether it is the same object."""
        return self._read() is self._value


class ClassRecord:
    """The attributes of a class; one that did not exist before is taken away again. No metaclass is asked."""

    __slots__ = ("_attributes", "owner")

    def __init__(self, owner: type) -> None:
        self.owner = owner
        self._attributes = self._now()

    def _now(self) -> dict[str, Any]:
        # (names with two underscores are Python's own: some are made when they are first asked for)
        return {name: value for name, value in vars(self.owner).items() if not name.startswith("__")}

    def restore(self) -> None:
        """Set what has changed."""
        now = self._now()
        for name in now.keys() - self._attributes.keys():
            type.__delattr__(self.owner, name)
        for name, value in self._attributes.items():
            if now.get(name, MISSING) is not value:
                type.__setattr__(self.owner, name, value)

    def intact(self) -> bool:
        """Whether it has the same attributes."""
        now = self._now()
        return now.keys() == self._attributes.keys() and all(now[n] is v for n, v in self._attributes.items())


class CacheRecord:
    """An ``lru_cache`` around a function: where it was filled, it is emptied, so that the function is called again."""

    __slots__ = ("_misses", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner, self._misses = owner, owner.cache_info().misses

    def restore(self) -> None:
        """Empty it, if anything was computed."""
        if not self.intact():
            self.owner.cache_clear()

    def intact(self) -> bool:
        """Whether nothing was computed since."""
        # (0 misses: somebody has emptied it, and it computes again)
        return bool(self.owner.cache_info().misses in (self._misses, 0))


def property_record(kind: type, name: str) -> ValueRecord:
    """A parametrized module has a class of its own, with a property that computes the parameter."""
    return ValueRecord(lambda: vars(kind).get(name), functools.partial(setattr, kind, name))


class ScriptedRecord(ValueRecord):
    """An attribute of a TorchScript module, which gives out a new Python object at every reading."""

    __slots__ = ()

    def intact(self) -> bool:
        """Whether it reads as it did."""
        return equal_states(self._read(), self._value)
