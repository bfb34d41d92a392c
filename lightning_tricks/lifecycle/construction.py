"""How a callback is made: names that it does not have are refused with the right one, and what was given is kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lightning_tricks.errors import message, nearest, shown


def remembers_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that refuses unknown names with the right one, and keeps the arguments as ``_given``.

    The class may have ``also_called``: the name of an argument elsewhere -> how it is written here.

    Args:
        init: ``__init__`` of a class, without ``**kwargs``. Signature and type hints stay those of ``init``.

    Example:
        >>> class Clip:
        ...     also_called = {"max_norm": "rule={}"}
        ...     @remembers_arguments
        ...     def __init__(self, rule=1.0): ...
        >>> Clip(0.5)._given
        {'rule': 0.5}
        >>> Clip(max_norm=2)
        Traceback (most recent call last):
        TypeError: Clip(max_norm=2): Clip has no argument 'max_norm'. Write rule=2.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def remembering(self: Any, *arguments: Any, **named: Any) -> None:
        for name, value in named.items():
            if name not in signature.parameters:
                raise TypeError(_unknown(type(self), name, value))
        bound = signature.bind(self, *arguments, **named).arguments
        # (without ``self``)
        self._given = dict(list(bound.items())[1:])
        init(self, *arguments, **named)

    return remembering


def non_default(owner: object) -> dict[str, Any]:
    """Return the arguments that an object was made with, without those that are the default.

    Args:
        owner: was made by a constructor that ``remembers_arguments``.

    Example:
        >>> class Clip:
        ...     @remembers_arguments
        ...     def __init__(self, rule=1.0, per="model"): ...
        >>> non_default(Clip(0.5, "model"))
        {'rule': 0.5}
    """
    parameters = inspect.signature(type(owner)).parameters
    given: Mapping[str, Any] = getattr(owner, "_given", {})
    return {name: value for name, value in given.items() if not _equal(value, parameters[name].default)}


def as_call(owner: object) -> str:
    """Return an object as the call that makes it, with the arguments that differ from the default.

    Example:
        >>> class Clip:
        ...     @remembers_arguments
        ...     def __init__(self, rule=1.0, per="model"): ...
        >>> as_call(Clip(per="layer"))
        "Clip(per='layer')"
    """
    return f"{type(owner).__name__}({', '.join(f'{n}={_short(v)}' for n, v in non_default(owner).items())})"


def _short(value: Any) -> str:
    """Return a value as a reader would write it: functions and classes by their names."""
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(getattr(value, "__qualname__", value))
    return shown(value)


def _equal(value: Any, default: Any) -> bool:
    try:
        return value is default or bool(type(value) is type(default) and value == default)
    except Exception:  # of a class of the user's, or a tensor
        return False


def _unknown(cls: type, name: str, value: Any) -> str:
    known = list(inspect.signature(cls).parameters)
    elsewhere: Mapping[str, str] = getattr(cls, "also_called", {})
    if name in elsewhere:
        remedy = f"Write {elsewhere[name].format(shown(value))}"
    else:
        near = nearest(name, known)
        remedy = f"Did you mean {near!r}?" if near else f"It has {', '.join(known)}" if known else "It has none"
    return message(cls.__name__, name, value, f"{cls.__name__} has no argument {name!r}", remedy)
