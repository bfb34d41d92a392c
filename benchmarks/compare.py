"""Two result files of one table side by side; of the precision table: is the new one worse than noise allows?

On one kind of GPU, times are compared as they are. On a CPU, and across machines, absolute times say little: there every
precision's speed over IEEE float32 in the same run is compared. A change counts when the 95 % interval of the ratio lies wholly beyond the tolerance.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import compare as compare_parts
from benchmarks.measure import Estimate
from benchmarks.results import table

SPEED, MEMORY, JUMP = 0.05, 0.02, 3.0


class AbsurdError(ValueError):
    """A result holds numbers that no machine can have produced."""


def compare_files(old: Path, new: Path) -> tuple[str, int]:
    """Return the files' results side by side, and the exit code: 1 for a regression (precision table only).

    Raises:
        SystemExit: a file cannot be read, the files are of different tables, or a number in them is absurd.
    """
    try:
        results = [json.loads(path.read_text()) for path in (old, new)]
    except (OSError, ValueError) as error:
        raise SystemExit(f"compare: {error}") from error
    tables = [result.get("table") if isinstance(result, dict) else None for result in results]
    if tables[0] != tables[1] or tables[0] is None:
        raise SystemExit(f"compare: {old} is of {tables[0]!r}, {new} of {tables[1]!r}.")
    if tables[0] == "precision":
        try:
            return compare(*results)
        except AbsurdError as error:
            raise SystemExit(f"compare: refused. {error}") from error
        except (KeyError, TypeError) as error:
            raise SystemExit(f"compare: a file is no precision result ({type(error).__name__}: {error}).") from error
    if tables[0] == "gpu":
        kinds = [(result.get("part"), result.get("small")) for result in results]
        if kinds[0] != kinds[1]:
            raise SystemExit(f"compare: {old} is of the part and size {kinds[0]}, {new} of {kinds[1]}.")
        return compare_parts(*results)
    show = _summaries if "summary" in results[0] else _rows
    return show(results, [old.name, new.name]), 0


def _rows(results: list[dict[str, Any]], names: list[str]) -> str:
    index = [{(r["model"], r["optimizer"], r["row"]): r for r in result["rows"]} for result in results]
    rows = []
    for key in index[0].keys() & index[1].keys():
        before, after = (side[key].get("ratio") for side in index)
        if before and after:
            apart = "differs" if after["low"] > before["high"] or after["high"] < before["low"] else "same"
            rows.append([*key, f"{before['value']:.3f}", f"{after['value']:.3f}", apart])
    return table(["model", "optimizer", "row", *names, "intervals"], sorted(rows))


def _summaries(results: list[dict[str, Any]], names: list[str]) -> str:
    sides = [{" ".join((row["finder"], row.get("half", ""))): row for row in result["summary"]} for result in results]
    keys = ("median_loss_ratio", "p90_loss_ratio", "median_time_ratio")
    rows = [
        [finder, key, *("-" if side[finder][key] is None else f"{side[finder][key]:.2f}" for side in sides)]
        for finder in sides[0].keys() & sides[1].keys()
        for key in keys
    ]
    return table(["finder", "value", *names], sorted(rows))


def compare(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, int]:
    """Return a Markdown table and the exit code: 0, or 1 when something became worse beyond tolerance.

    Raises:
        AbsurdError: a result is absurd, or the two cannot be compared; the message says which number.
    """
    for result, name in ((old, "OLD"), (new, "NEW")):
        check(result, name)
    _comparable(old, new)
    kinds = [r["environment"]["gpu"] if r["profile"] == "gpu" else r["environment"]["cpu"] for r in (old, new)]
    elsewhere = kinds[0] != kinds[1]
    relative = elsewhere or old["profile"] != "gpu"
    sides = [{(c["workload"], c["setting"]): c for c in r["cells"]} for r in (old, new)]
    rows, worse = [], 0
    for key in sides[0].keys() & sides[1].keys():
        for what, before, after, found, tolerance in _changes(key, sides, relative):
            if found.value > JUMP or found.value < 1 / JUMP:
                raise AbsurdError(
                    f"{' '.join(key)}: {what} changed {found.value:.2f}-fold. More than {JUMP:g}-fold is no regression "
                    "but another machine, model or a broken measurement. Measure both again."
                )
            verdict = "WORSE" if found.low > 1 + tolerance else "better" if found.high < 1 - tolerance else "same"
            worse += verdict == "WORSE"
            rows.append([*key, what, before, after, f"{found}", verdict])
    for task, precision, before, after in _verdicts(old, new):
        # an inconclusive test is no finding; one that was equivalent and is worse now is
        verdict = "WORSE" if after == "WORSE" and before != "WORSE" else "same"
        worse += verdict == "WORSE"
        rows.append([task, precision, "accuracy", before, after, "-", verdict])
    header = ["workload", "precision", "what", "old", "new", "new / old [95 %]", "verdict"]
    text = f"{table(header, sorted(rows))}\n\n{worse} of {len(rows)} became worse beyond tolerance."
    if elsewhere:
        text = f"OLD is of {kinds[0]}, NEW of {kinds[1]}: times are compared as ratios over IEEE float32.\n\n{text}"
    return text, 1 if worse else 0


def check(result: dict[str, Any], name: str) -> None:
    """Look for numbers that cannot be.

    Raises:
        AbsurdError: a time is not > 0, more than the peak was reached, or a share is out of range.
    """
    if result.get("schema") not in (1, 2):
        raise AbsurdError(f"{name}: schema {result.get('schema')!r} cannot be read. This version reads 1 and 2.")
    for cell in result["cells"]:
        if cell["status"] != "ok":
            continue
        where = f"{name}, {cell['workload']} {cell['setting']}"
        if not all(isinstance(s, (int, float)) and math.isfinite(s) and s > 0 for s in cell["seconds"]):
            raise AbsurdError(f"{where}: seconds hold {min(cell['seconds'])!r}. A time is > 0.")
        if (cell["mfu_datasheet"] or 0) > 1:
            raise AbsurdError(f"{where}: MFU {cell['mfu_datasheet']:.2f}. Nothing is faster than the datasheet's peak.")
        # the measured ceiling is itself a measurement: some slack
        if cell["mfu_ceiling"] > 1.5:
            raise AbsurdError(f"{where}: {cell['mfu_ceiling']:.2f} of the measured ceiling. Measure again.")
        if not cell["peak_bytes"] > 0:
            raise AbsurdError(f"{where}: peak memory {cell['peak_bytes']}. A step needs some.")


def _comparable(old: dict[str, Any], new: dict[str, Any]) -> None:
    for what, get in (
        ("schema", lambda r: r["schema"]),
        ("table", lambda r: r["table"]),
        ("profile", lambda r: r["profile"]),
        ("fused", lambda r: r["fused"]),
        ("threads", lambda r: r["environment"]["threads"] if r["profile"] != "gpu" else None),
    ):
        a, b = get(old), get(new)  # type: ignore[no-untyped-call]
        if a != b:
            raise AbsurdError(f"{what} differs: OLD has {a!r}, NEW has {b!r}. Compare results of one kind and profile.")


def _changes(
    key: tuple[str, str], sides: list[dict[tuple[str, str], dict[str, Any]]], relative: bool
) -> Iterator[tuple[str, str, str, Estimate, float]]:
    before, after = (side[key] for side in sides)
    if before["status"] != "ok" or after["status"] != "ok":
        return
    base = (key[0], "ieee-fp32")
    usable = all(base in side and side[base]["status"] == "ok" for side in sides)
    if relative and usable and key != base:
        samples = [
            [a / b for a, b in zip(side[key]["seconds"], side[base]["seconds"], strict=True)] for side in sides
        ]  # fmt: skip
        shown = [f"{statistics.median(s):.3f} of IEEE" for s in samples]
        yield "time", *shown, ratio_interval(*samples), SPEED
    elif not relative:
        samples = [before["seconds"], after["seconds"]]
        shown = [f"{1e3 * statistics.median(s):.2f} ms" for s in samples]
        yield "time", *shown, ratio_interval(*samples), SPEED
    sizes = before["peak_bytes"], after["peak_bytes"]
    exact = sizes[1] / sizes[0]
    yield "memory", *(f"{s / 2**20:.1f} MB" for s in sizes), Estimate(exact, exact, exact), MEMORY


def ratio_interval(old: list[float], new: list[float], seed: int = 0, resamples: int = 2000) -> Estimate:
    """Return ``median(new) / median(old)`` with a 95 % bootstrap interval of independent samples.

    >>> ratio_interval([1.0] * 5, [1.1] * 5).low > 1.05
    True
    """
    draw = random.Random(seed)

    def picked(values: list[float]) -> float:
        return statistics.median(draw.choices(values, k=len(values)))

    drawn = sorted(picked(new) / picked(old) for _ in range(resamples))
    low, high = drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples) - 1]
    return Estimate(statistics.median(new) / statistics.median(old), low, high)


def _verdicts(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    sides = [
        {(t["task"], r["precision"]): r["verdict"] for t in result.get("accuracy", []) for r in t["rows"] if "verdict" in r}
        for result in (old, new)
    ]  # fmt: skip
    for key in sides[0].keys() & sides[1].keys():
        yield *key, sides[0][key], sides[1][key]
