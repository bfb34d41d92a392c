"""The arguments of a callback, declared once: a frozen specification, shown as attributes, kept as plain values.

The constructor's signature is the declaration. What a checkpoint holds, what loggers show and what a resume compares is
derived from it, so that no argument can be forgotten in one of these places.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from operator import attrgetter
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


def holds_arguments(specification: type) -> Callable[[_Class], _Class]:
    """Return a class decorator for a callback whose ``self.spec`` holds its constructor arguments.

    Each argument becomes a read-only attribute: loggers, users and ``LightningCLI`` look it up by its name on the
    callback.

    Args:
        specification: a frozen dataclass with one field per constructor argument.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Spec:
        ...     patience: int
        >>> @holds_arguments(Spec)
        ... class Callback:
        ...     def __init__(self, patience): self.spec = Spec(patience)
        >>> Callback(3).patience, constructor_arguments(Callback(3))
        (3, {'patience': 3})
    """

    def add(cls: _Class) -> _Class:
        for field in fields(specification):
            setattr(cls, field.name, property(attrgetter(f"spec.{field.name}")))
        return cls

    return add


def constructor_arguments(owner: object) -> dict[str, Any]:
    """Return the arguments that an object was made with, as plain values.

    Args:
        owner: keeps each argument in an attribute of the same name.

    Example:
        >>> class Clip:
        ...     def __init__(self, rule: object, groups: dict[str, str] | None = None) -> None:
        ...         self.rule, self.groups = rule, groups
        >>> constructor_arguments(Clip(1 + 2j))
        {'rule': '(1+2j)', 'groups': None}
    """
    return {name: plain(value) for name, value in _held(owner).items()}


def changed_arguments(owner: object, saved: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the arguments that differ from those in a checkpoint: name -> (saved, present), as plain values.

    Arguments that the checkpoint does not have are newer than it, and are left out.

    Args:
        owner: keeps each argument in an attribute of the same name.
        saved: what ``constructor_arguments`` returned when the checkpoint was written. Earlier versions wrote some
            lists and dicts as text.

    Example:
        >>> class Accumulation:
        ...     def __init__(self, batches: object, weight: str) -> None:
        ...         self.batches, self.weight = batches, weight
        >>> changed_arguments(Accumulation({0: 4}, "tokens"), {"batches": "{0: 4}", "weight": "samples"})
        {'weight': ('samples', 'tokens')}
    """
    return {
        name: (saved[name], plain(value))
        for name, value in _held(owner).items()
        if name in saved and not _was(saved[name], value)
    }


def plain(value: Any) -> Any:
    """Return an argument as a value that a checkpoint may hold and that can be compared: functions by their names.

    >>> plain(["a", 1]), plain(len), plain(slice(2))
    (['a', 1], 'len', 'slice(None, 2, None)')
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, float, int):  # (an enum of strings, a number of numpy: a checkpoint must not need their classes)
        if isinstance(value, kind):
            return kind(value.value if isinstance(value, Enum) else value)
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, dict):
        return {str(key): plain(x) for key, x in value.items()}
    # an address in memory would be another one in the next process; a dataclass shows its values
    if callable(value) and not repr(value).startswith(f"{type(value).__name__}("):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


def _held(owner: object) -> dict[str, Any]:
    return {name: getattr(owner, name) for name in inspect.signature(type(owner)).parameters}


def _was(saved: Any, value: Any) -> bool:
    # Without this, resuming from a checkpoint of an earlier version would report unchanged lists and dicts as changed.
    is_text = isinstance(saved, str) and isinstance(value, (list, tuple, dict))
    return bool(saved == (str(value) if is_text else plain(value)))
