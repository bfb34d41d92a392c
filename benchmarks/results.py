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


def compare(old: Path, new: Path) -> str:
    """Return the ratios of two result files of the same table side by side.

    Raises:
        SystemExit: a file cannot be read, or the files are of different tables.
    """
    try:
        results = [json.loads(path.read_text()) for path in (old, new)]
    except (OSError, ValueError) as error:
        raise SystemExit(f"compare: {error}") from error
    if results[0]["table"] != results[1]["table"]:
        raise SystemExit(f"compare: {old} is of {results[0]['table']!r}, {new} of {results[1]['table']!r}.")
    if "summary" in results[0]:
        return _compare_summaries(results, [old.name, new.name])
    index = [{(r["model"], r["optimizer"], r["row"]): r for r in result["rows"]} for result in results]
    rows = []
    for key in index[0].keys() & index[1].keys():
        before, after = (side[key].get("ratio") for side in index)
        if before and after:
            apart = "differs" if after["low"] > before["high"] or after["high"] < before["low"] else "same"
            rows.append([*key, f"{before['value']:.3f}", f"{after['value']:.3f}", apart])
    return table(["model", "optimizer", "row", old.name, new.name, "intervals"], sorted(rows))


def _compare_summaries(results: list[dict[str, Any]], names: list[str]) -> str:
    sides = [{row["finder"]: row for row in result["summary"]} for result in results]
    keys = ("median_loss_ratio", "p90_loss_ratio", "median_time_ratio")
    rows = [
        [finder, key, *("-" if side[finder][key] is None else f"{side[finder][key]:.2f}" for side in sides)]
        for finder in sides[0].keys() & sides[1].keys()
        for key in keys
    ]
    return table(["finder", "value", *names], sorted(rows))
