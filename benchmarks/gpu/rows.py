"""A part is a list of tasks; a task gives measured values. The part's file is whole after every task, whatever follows."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import markdown
from benchmarks.measure import TooLittleTimeError
from benchmarks.results import save

SCHEMA = 1
AGAIN = 75  # the exit code of a part that has to go on in a new process
UNDONE = ("no time left", "stopped")
SAME = ("table", "schema", "part", "device", "small")


class UnavailableError(RuntimeError):
    """A task that this device, torch or Lightning does not have; the message says why."""


@dataclass(frozen=True)
class Context:
    """On what a part runs.

    Args:
        device: cuda, mps, xpu or cpu.
        out: the folder of the files.
        data_root: a folder with cifar-10-batches-py; None without.
    """

    device: Any
    out: Path
    data_root: Path | None = None

    @property
    def small(self) -> bool:
        """Whether models are small: everywhere but on CUDA."""
        return bool(self.device.type != "cuda")

    @property
    def accelerator(self) -> str:
        """As the Trainer calls it.

        Raises:
            UnavailableError: Lightning has none for this device.
        """
        known = {"cuda": "cuda", "cpu": "cpu", "mps": "mps"}
        if self.device.type not in known:
            raise UnavailableError(f"Lightning has no accelerator for {self.device.type}")
        return known[self.device.type]


@dataclass(frozen=True)
class Task:
    """One row group of a part.

    Args:
        name: unique within the part.
        run: called with the clock; returns values of ``measured``, or a dict with them as ``"measured"`` and with details.
        least: seconds without which it is not begun.
        limit: seconds after which it counts as hanging.
    """

    name: str
    run: Callable[[Clock], Any]
    least: float = 1.0
    limit: float = 120.0


class Clock:
    """Counts down to the moment (``time.time()``) at which a part has to be done."""

    def __init__(self, until: float) -> None:
        self.until = until

    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.time()

    def part_of(self, seconds: float) -> Clock:
        """Return a clock of at most so many seconds from now."""
        return Clock(min(self.until, time.time() + seconds))


def measured(
    what: str,
    value: float | None,
    unit: str = "",
    *,
    interval: dict[str, float] | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
) -> dict[str, Any]:
    """Return one measured value, with its 95 % interval and whether it is within a limit.

    >>> measured("ratio", 1.2, "x", at_most=1.5)["reached"]
    True
    """
    row: dict[str, Any] = {"what": what, "value": value, "unit": unit}
    if interval is not None:
        row.update(value=interval["value"], low=interval["low"], high=interval["high"])
    if at_most is not None and row["value"] is not None:
        row.update(limit=f"<= {at_most:g}", reached=row["value"] <= at_most)
    if at_least is not None and row["value"] is not None:
        row.update(limit=f">= {at_least:g}", reached=row["value"] >= at_least)
    return row


def load(path: Path) -> dict[str, Any] | None:
    """Return what a part's file holds; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(result: dict[str, Any], path: Path) -> None:
    """Write the JSON and the Markdown of a part."""
    save(result, path, markdown(result))


def is_whole(result: dict[str, Any] | None, header: dict[str, Any]) -> bool:
    """Whether every task of a part was tried, in the way that ``header`` says."""
    return result is not None and bool(result.get("complete")) and all(result.get(k) == header.get(k) for k in SAME)


def reopened(result: dict[str, Any] | None, header: dict[str, Any]) -> dict[str, Any]:
    """Return a result to go on with: the rows of tasks that were tried are kept, the others are tried again."""
    if result is None or any(result.get(k) != header.get(k) for k in SAME):
        return {**header, "rows": []}
    return {**header, "rows": [row for row in result.get("rows", []) if row["status"] not in UNDONE]}


def play(tasks: Sequence[Task], result: dict[str, Any], path: Path, clock: Clock) -> int:
    """Run the tasks that have no row yet, and write the file after each.

    Returns:
        0; or ``AGAIN`` where the device does not work any more in this process.
    """
    for task in tasks:
        if any(row["task"] == task.name for row in result["rows"]):
            continue
        if clock.left() < task.least:
            result["rows"].append({"task": task.name, "status": "no time left", "measured": []})
            continue
        result["current"] = {"task": task.name, "until": time.time() + task.limit}
        write(result, path)
        row, broken = _tried(task, clock)
        result["current"] = None
        result["rows"].append(row)
        write(result, path)
        if broken:
            return AGAIN
    finish(result, path, [task.name for task in tasks])
    return 0


def finish(result: dict[str, Any], path: Path, names: Sequence[str]) -> None:
    """Put the rows in the order of the tasks, and say whether all were tried."""
    order = {name: i for i, name in enumerate(names)}
    result["rows"].sort(key=lambda row: order.get(row["task"], len(order)))
    result["complete"] = all(row["status"] not in UNDONE for row in result["rows"])
    result["state"] = "done"
    write(result, path)


def _tried(task: Task, clock: Clock) -> tuple[dict[str, Any], bool]:
    row: dict[str, Any] = {"task": task.name, "status": "ok", "measured": []}
    began, broken = time.time(), False
    try:
        found = task.run(clock)
        row.update(found if isinstance(found, dict) else {"measured": found})
    except UnavailableError as error:
        row.update(status="unavailable", reason=str(error))
    except TooLittleTimeError as error:
        row.update(status="no time left", reason=str(error))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        row.update(status="failed", reason=text[:300], where=traceback.format_exc()[-2000:])
        broken = any(
            word in text for word in ("CUDA error", "AcceleratorError", "CUDNN_STATUS_EXECUTION", "illegal memory")
        )
    row["seconds"] = round(time.time() - began, 3)
    return row, broken
