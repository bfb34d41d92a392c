"""Private names of torch and Lightning: what each is needed for, what happens without it, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

REFUSED = "refused"


@dataclass(frozen=True)
class Internal:
    """A private name of another package.

    Args:
        path: where it is, as ``torch._foreach_norm``.
        purpose: what it is needed for.
        without: what happens where it is missing; ``REFUSED`` where nothing can replace it.
    """

    path: str
    purpose: str
    without: str


def missing(internals: Iterable[Internal], roots: Mapping[str, Any]) -> list[Internal]:
    """Return the names that are not there.

    Args:
        roots: objects by the beginning of a path; the longest beginning counts.
    """
    return [internal for internal in internals if not _is_there(internal.path, roots)]


def _is_there(path: str, roots: Mapping[str, Any]) -> bool:
    root = max((name for name in roots if path.startswith(f"{name}.")), key=len)
    found = roots[root]
    for name in path[len(root) + 1 :].split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True
