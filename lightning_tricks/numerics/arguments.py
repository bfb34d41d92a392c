"""A callback's arguments, held in one frozen specification: as attributes of the callback, and as plain values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


def holds_arguments(specification: type) -> Callable[[_Class], _Class]:
    """Return a class decorator for a callback whose ``self.spec`` holds its constructor arguments.

    Each argument becomes a read-only attribute: loggers, users and ``LightningCLI`` look it up by its name on the
    callback. ``configuration()`` returns all of them, so that none can be forgotten in a checkpoint.

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
        >>> Callback(3).patience, Callback(3).configuration()
        (3, {'patience': 3})
    """

    def add(cls: _Class) -> _Class:
        for field in fields(specification):
            setattr(cls, field.name, property(attrgetter(f"spec.{field.name}")))
        setattr(cls, "configuration", lambda self: plain_arguments(self.spec))  # noqa: B010
        return cls

    return add


# Beside ``lifecycle.configuration.plain``, which keeps lists and dicts: checkpoints of callbacks with a ``spec`` hold
# those as text, and a resume that compared text with a list would say that an argument had changed.
def plain_arguments(specification: Any) -> dict[str, str | int | float | bool | None]:
    """Return every argument as a value that a checkpoint holds and that a later version can compare.

    Numbers, flags, strings and None stay as they are. A function or class is told by its name, since an address would
    be another one in the next process; all else by its text.

    Args:
        specification: a frozen dataclass with one field per constructor argument.

    Example:
        >>> from dataclasses import make_dataclass
        >>> plain_arguments(make_dataclass("Spec", ["batches", "weight"])({0: 1, 100: 4}, len))
        {'batches': '{0: 1, 100: 4}', 'weight': 'len'}
    """
    return {field.name: _plain(getattr(specification, field.name)) for field in fields(specification)}


def _plain(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if inspect.isroutine(value) or inspect.isclass(value):
        return getattr(value, "__qualname__", str(value))
    return str(value)
