"""Result files: JSON with everything, and a Markdown table made from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def save(result: dict[str, Any], path: Path, markdown: str) -> None:
    """Write the JSON and the Markdown beside it, each at once: an interrupted benchmark leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((path, json.dumps(result, indent=1) + "\n"), (path.with_suffix(".md"), markdown)):
        part = target.with_name(target.name + ".part")
        part.write_text(text)
        os.replace(part, target)


def json_path(path: Path) -> Path:
    """Return where ``--out`` means: a name without a suffix gets ``.json``.

    >>> str(json_path(Path("a/b"))), str(json_path(Path("a/b.json"))), str(json_path(Path("run.2026")))
    ('a/b.json', 'a/b.json', 'run.2026.json')
    """
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def out_path(text: str) -> Path:
    """The type of ``--out`` on the command line."""
    return json_path(Path(text))


def is_main(cell: dict[str, Any]) -> bool:
    """Whether a cell of the precision table is one of those that are compared with float32.

    In results of schema 1 those had our callbacks in them.
    """
    old = "main" if cell["pack"] and not cell["cached"] else ""
    return bool(cell.get("role", old) == "main")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
