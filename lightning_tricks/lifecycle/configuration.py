"""The configuration of a callback, derived from its constructor: nothing has to be listed a second time."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any


def constructor_arguments(owner: object, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Return the arguments that an object was made with, as plain values.

    Args:
        owner: keeps each argument in an attribute of the same name.
        leave_out: arguments that are compared elsewhere: those of the identity are in the ``state_key``.

    Example:
        >>> class Clip:
        ...     def __init__(self, rule: object, groups: dict[str, str] | None = None) -> None:
        ...         self.rule, self.groups = rule, groups
        >>> constructor_arguments(Clip(1 + 2j), leave_out=["groups"])
        {'rule': '(1+2j)'}
    """
    names = [name for name in inspect.signature(type(owner)).parameters if name not in set(leave_out)]
    return {name: plain(getattr(owner, name)) for name in names}


def plain(value: Any) -> Any:
    """Return a value that a checkpoint may hold: numbers, strings, None, containers of them; else what ``repr`` says.

    >>> plain([1, (2.0, None), {"a": 3j}])
    [1, [2.0, None], {'a': '3j'}]
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return repr(value)
