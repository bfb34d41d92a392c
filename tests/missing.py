"""Which test files need a package that is not installed: a machine with a GPU has few of them, and runs the rest."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: switched off in ``sys.modules``
        return False


def imported(text: str) -> Iterator[str]:
    """Yield what a module imports when it is imported itself: not within functions, in ``try`` or behind ``if``."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def missing(path: Path) -> str | None:
    """Return the first package that is missing for a file of the tests, also for those of ours that it imports."""
    for name in imported(path.read_text(encoding="utf-8")):
        package = name.split(".")[0]
        if package in ("tests", "benchmarks"):
            ours = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            found = missing(ours) if ours.is_file() and ours != path else None
        else:
            found = None if installed(package) else package
        if found is not None:
            return found
    return None
