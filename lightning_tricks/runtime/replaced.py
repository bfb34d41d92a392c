"""Attributes of other people's objects that are replaced for a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PutBack = Callable[[], None]


def replaced(owner: Any, name: str, value: Any) -> PutBack:
    """Give an object an attribute or method of its own; return what makes it as it was.

    Example:
        >>> class Loop:
        ...     def run(self): return 1
        >>> loop = Loop()
        >>> put_back = replaced(loop, "run", lambda: 2)
        >>> loop.run(), put_back(), loop.run(), vars(loop)
        (2, None, 1, {})
    """
    own, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = value

    def put_back() -> None:
        if own:
            vars(owner)[name] = before
        else:
            vars(owner).pop(name, None)

    return put_back
