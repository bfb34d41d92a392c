"""Writes the tables of docs/versions.md: ``python -m tools.versions_page``. A test compares them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_tricks.lifecycle import lightning_internals
from lightning_tricks.numerics import torch_internals
from lightning_tricks.numerics.internals import Internal
from lightning_tricks.optimizer_step import loss_scale

PAGE = Path(__file__).parents[1] / "docs" / "versions.md"
SOURCES = {
    "torch": ("lightning_tricks/numerics/torch_internals.py", torch_internals.INTERNALS),
    "GradScaler": ("lightning_tricks/optimizer_step/loss_scale.py", loss_scale.INTERNALS),
    "Lightning": ("lightning_tricks/lifecycle/lightning_internals.py", lightning_internals.INTERNALS),
}


def table(internals: Sequence[Internal]) -> str:
    """Return the rows of private names.

    >>> print(table([Internal("torch._x", "speed", "slower")]))
    | name | needed for | where it is missing |
    | --- | --- | --- |
    | `torch._x` | speed | slower |
    """
    rows = [f"| `{internal.path}` | {internal.purpose} | {internal.without} |" for internal in internals]
    return "\n".join(["| name | needed for | where it is missing |", "| --- | --- | --- |", *rows])


def with_tables(text: str) -> str:
    """Return the page with the tables that the code has."""
    for name, (path, internals) in SOURCES.items():
        part = f"<!-- {name} -->\n\nIn [`{path}`](../{path}):\n\n{table(internals)}\n\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, part=part: part, text, flags=re.S)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
