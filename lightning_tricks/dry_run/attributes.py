"""The attributes and slots of an object, read without calling any of its code."""

from __future__ import annotations

import types
from collections import deque
from itertools import islice
from typing import Any

MISSING = object()


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
            # (Python mangles the names of such slots)
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
        return MISSING


def is_missing(value: Any) -> bool:
    """Whether a slot was empty."""
    return value is MISSING


SAMPLED = 96  # items of a larger container that are looked at


_NEWEST = 32  # of them at its end


def base_of(kind: type) -> Any:
    """Return the builtin class whose methods read a container; those that a subclass overrides are not called."""
    return next(b for b in (dict, list, tuple, deque, set, frozenset, types.MappingProxyType) if issubclass(kind, b))


def some_items(base: Any, container: Any, most: int = SAMPLED) -> list[tuple[str, Any]]:
    """Return the items of a container, of a large one the newest and some of the others."""
    size = base.__len__(container)
    if base is dict or base is types.MappingProxyType:
        pairs: Any = base.items(container)
        found = list(pairs) if size <= most else [*islice(pairs, most - _NEWEST), *islice(reversed(pairs), _NEWEST)]
        return [(f"[{key!r}]" if isinstance(key, str) else f"[{i}]", value) for i, (key, value) in enumerate(found)]
    if size <= most:
        return [(f"[{i}]", value) for i, value in enumerate(list(base.__iter__(container)))]
    if base in (list, tuple):  # evenly spaced; of the others the middle is slow to reach
        step = max(1, (size - _NEWEST) // (most - _NEWEST))
        places = [*islice(range(0, size - _NEWEST, step), most - _NEWEST), *range(size - _NEWEST, size)]
        return [(f"[{i}]", base.__getitem__(container, i)) for i in places]
    oldest = list(islice(base.__iter__(container), most - _NEWEST))
    newest = list(islice(base.__reversed__(container), _NEWEST)) if base is deque else []
    return [(f"[{i}]", value) for i, value in enumerate([*oldest, *newest])]
