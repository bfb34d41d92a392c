"""The configuration of a callback, derived from its constructor: nothing has to be listed a second time."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any


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
    return {name: plain(getattr(owner, name)) for name in inspect.signature(type(owner)).parameters}


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
    if callable(value) and not repr(value).startswith(f"{type(value).__name__}("):  # (a dataclass shows its values)
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)
