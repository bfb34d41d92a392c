"""Markdown of the suite: a table for each part, and one summary of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.results import table


def value_of(row: dict[str, Any]) -> str:
    """Return a measured value with its interval and unit.

    >>> value_of({"value": 1.5, "low": 1.4, "high": 1.6, "unit": "x"})
    '1.5 [1.4, 1.6] x'
    >>> value_of({"value": None, "unit": "ms"})
    '-'
    """
    if row["value"] is None:
        return "-"
    text = number(row["value"])
    if "low" in row:
        text += f" [{number(row['low'])}, {number(row['high'])}]"
    return f"{text} {row['unit']}".rstrip()


def number(value: float | str) -> str:
    """Return four digits.

    >>> number(0.00012345), number(1234567.0), number(True), number(0.0)
    ('0.0001234', '1,234,567', 'yes', '0')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def verdict(row: dict[str, Any]) -> str:
    """Whether the limit was reached; empty where there is none.

    >>> verdict({"reached": False}), verdict({})
    ('NO', '')
    """
    return "" if "reached" not in row else "yes" if row["reached"] else "NO"


def hardware(result: dict[str, Any]) -> str:
    """Return on what a part was measured, in a few words."""
    e = result["environment"]
    name = e["gpu"] if result["device"] == "cuda" else f"{e['cpu']} ({result['device']})"
    return f"{name}, torch {e['torch']}, lightning {e['lightning']}, commit {e['commit']}"


def markdown(result: dict[str, Any]) -> str:
    """Return the page of a part."""
    lines = [f"# GPU suite: {result['part']}", "", f"{result['text'].capitalize()}.", ""]
    lines += [f"`{result['command']}` ({result['date']})", "", f"{hardware(result)}.", ""]
    if not result.get("complete"):
        lines += [f"**Not complete: {result['state']}.**", ""]
    rows = []
    for row in result["rows"]:
        if row["status"] != "ok":
            rows.append([row["task"], row["status"], row.get("reason", ""), "", ""])
        for m in row["measured"]:
            rows.append([row["task"], m["what"], value_of(m), m.get("limit", ""), verdict(m)])
    lines.append(table(["task", "what", "measured [95 %]", "limit", "reached"], [[_cell(c) for c in r] for r in rows]))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Return the summary: what each part did, every limit, and every failure."""
    parts = []
    for result in results:
        count = {s: sum(row["status"] == s for row in result["rows"]) for s in ("ok", "failed", "unavailable")}
        undone = len(result["rows"]) - sum(count.values())
        took = sum(row.get("seconds", 0.0) for row in result["rows"])
        limits = [m for row in result["rows"] for m in row["measured"] if "reached" in m]
        reached = f"{sum(m['reached'] for m in limits)} of {len(limits)}"
        parts.append([result["part"], result["state"], *map(str, count.values()), str(undone), reached, f"{took:.0f}"])
    header = ["part", "state", "ok", "failed", "unavailable", "not done", "limits reached", "seconds"]
    lines = ["# GPU suite: summary", "", *([hardware(results[0]) + ".", ""] if results else []), table(header, parts)]
    gates = [
        [result["part"], row["task"], m["what"], value_of(m), m["limit"], verdict(m)]
        for result in results
        for row in result["rows"]
        for m in row["measured"]
        if "reached" in m
    ]
    if gates:
        lines += ["", table(["part", "task", "what", "measured [95 %]", "limit", "reached"], [[_cell(c) for c in g] for g in gates])]  # fmt: skip
    failures = [
        [result["part"], row["task"], row["status"], _cell(row.get("reason", ""))]
        for result in results
        for row in result["rows"]
        if row["status"] in ("failed", "stopped")
    ]
    if failures:
        lines += ["", table(["part", "task", "status", "reason"], failures)]
    return "\n".join(lines) + "\n"


def compare(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, int]:
    """Return two files of one part side by side, and 1 where a limit is missed, or a task fails, that did not before."""
    sides = [{row["task"]: row for row in result["rows"]} for result in (old, new)]
    rows, worse = [], 0
    for task, before in sides[0].items():
        after = sides[1].get(task)
        if after is None:
            continue
        if before["status"] == "ok" and after["status"] == "failed":
            worse += 1
            rows.append([task, "status", "ok", after.get("reason", "failed"), "WORSE"])
        known = {m["what"]: m for m in before["measured"]}
        for m in after["measured"]:
            was = known.get(m["what"])
            if was is None or was["value"] is None or m["value"] is None:
                continue
            lost = was.get("reached") is True and m.get("reached") is False
            worse += lost
            rows.append([task, m["what"], value_of(was), value_of(m), "WORSE" if lost else _apart(was, m)])
    cells = [[_cell(c) for c in row] for row in rows]
    text = table(["task", "what", "old", "new", "verdict"], cells)
    return f"{text}\n\n{worse} of {len(rows)} became worse: a limit that was reached is missed, or a task fails.", int(
        worse > 0
    )


def _apart(was: dict[str, Any], now: dict[str, Any]) -> str:
    if "low" not in was or "low" not in now:
        return ""
    return "differs" if now["low"] > was["high"] or now["high"] < was["low"] else "same"
