"""What the tricks of one run have in common: parts that they share, and what one of them has said for all."""

from __future__ import annotations

from typing import Any, TypeVar

_Part = TypeVar("_Part")


class StopRequest:
    """Shared once a trick has ended the run: nobody needs to be told that the run was short."""


class SharedParts:
    """Parts by their class, and texts that were told; kept until the run closes.

    Example:
        >>> common = SharedParts()
        >>> common.first_to_say("no GPU"), common.first_to_say("no GPU")
        (True, False)
        >>> common.share([1, 2]), common.shared(list), common.shared(dict)
        ([1, 2], [1, 2], None)
    """

    def __init__(self) -> None:
        self._parts: dict[type, Any] = {}  # by class and not by name: no two packages can mean different things by one
        self._said: set[str] = set()

    def first_to_say(self, what: str) -> bool:
        """Whether no trick of this run has said it yet; from now on one has."""
        first = what not in self._said
        self._said.add(what)
        return first

    def shared(self, kind: type[_Part]) -> _Part | None:
        """Return what the tricks of this run share of a kind; None before one of them has shared it."""
        return self._parts.get(kind)

    def share(self, part: _Part) -> _Part:
        """Let all tricks of this run have a part, until the run closes; return it."""
        self._parts[type(part)] = part
        return part

    def close(self) -> None:
        """Let go of the parts; what was told stays told to this Trainer's user."""
        self._parts = {}
