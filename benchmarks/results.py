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


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
