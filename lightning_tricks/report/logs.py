"""The logs of a run, read from its folder: TensorBoard events or metrics.csv, hyperparameters, the doctor's report."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Points = list[tuple[int, float]]

_LARGEST = 10_000_000  # bytes of a JSON or YAML file that is read


@dataclass
class Logs:
    """What a run left.

    Args:
        folder: where.
        scalars: log key -> (step, value), by step.
        texts: tag -> (step, text).
        images: tag -> the last picture, as the bytes of a PNG.
        hyperparameters: by name, as text.
        health: the doctor's ``health.json``; None where there is none.
        facts: the run's ``run.json``; empty where there is none.
        changed: when the last of its files was written, in seconds since 1970; 0 where that is not known.
        seconds: between the first and the last entry; NaN where that is not logged.
    """

    folder: Path
    scalars: dict[str, Points] = field(default_factory=dict)
    texts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    hyperparameters: dict[str, str] = field(default_factory=dict)
    health: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    changed: float = 0.0
    seconds: float = math.nan

    @property
    def steps(self) -> int:
        """The last step that was logged, counted from 1; 0 without any."""
        return 1 + max((points[-1][0] for points in self.scalars.values() if points), default=-1)


def read_logs(folder: Path) -> Logs:
    """Read the logs of a run.

    Args:
        folder: of one run, with TensorBoard's event files or a ``metrics.csv``; or one above the only run.

    Raises:
        ValueError: there is no run in it, or several.
        ImportError: there are event files, and TensorBoard is missing.
    """
    found = _find(folder)
    logs = Logs(found)
    if list(found.glob("events.out.tfevents.*")):
        _read_events(found, logs)
    elif (found / "metrics.csv").is_file():
        _read_csv(found / "metrics.csv", logs)
    hyperparameters = _content(found / "hparams.yaml")
    logs.hyperparameters = {str(k): str(v) for k, v in (hyperparameters or {}).items()}
    logs.health = _content(found / "health.json")
    logs.facts = _content(found / "run.json") or {}
    logs.changed = _last_change(found)
    return logs


def _last_change(folder: Path) -> float:
    files = [*folder.glob("events.out.tfevents.*"), folder / "metrics.csv", folder / "run.json"]
    return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)


def _find(folder: Path) -> Path:
    if not folder.is_dir():
        wrong = "not a folder" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: {wrong}. Pass the folder of a run, e.g. lightning_logs/version_0.")
    runs = sorted({p.parent for pattern in ("events.out.tfevents.*", "metrics.csv") for p in folder.rglob(pattern)})
    if folder in runs:
        return folder
    if not runs:
        raise ValueError(f"{folder}: neither TensorBoard events nor metrics.csv in it. Train with a logger first.")
    if len(runs) > 1:
        names = ", ".join(str(p.relative_to(folder)) for p in runs[:8])
        raise ValueError(f"{folder}: holds {len(runs)} runs ({names}). Name one of them.")
    return runs[0]


def _read_events(folder: Path, logs: Logs) -> None:
    # (imported where there are such files: the package is optional)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # (0 keeps all of them; by default TensorBoard draws a sample of 10,000)
    sizes = {"scalars": 0, "tensors": 200, "images": 1}
    events = EventAccumulator(str(folder), size_guidance=sizes).Reload()
    tags = events.Tags()
    times = []
    for tag in tags["scalars"]:
        rows = events.Scalars(tag)
        logs.scalars[tag] = without_overwritten([(row.step, row.value) for row in rows])
        times += [rows[0].wall_time, rows[-1].wall_time]
    for tag in tags["tensors"]:
        if tag.endswith("/text_summary"):
            texts = [(row.step, _text(row.tensor_proto)) for row in events.Tensors(tag)]
            # (each once: a resumed run may write some again)
            logs.texts[tag.removesuffix("/text_summary")] = list(dict.fromkeys(texts))
    for tag in tags["images"]:
        logs.images[tag] = events.Images(tag)[-1].encoded_image_string
    if times:
        logs.seconds = max(times) - min(times)


def without_overwritten(points: Points) -> Points:
    """Return the values of the last pass, where a run was resumed or repeated in the folder of an earlier one.

    >>> without_overwritten([(0, 5.0), (1, 4.0), (2, 3.0), (1, 2.0), (2, 1.0)])
    [(0, 5.0), (1, 2.0), (2, 1.0)]
    """
    kept: Points = []
    for step, value in points:
        while kept and kept[-1][0] >= step:
            kept.pop()
        kept.append((step, value))
    return kept


def _text(proto: Any) -> str:
    return b"\n".join(proto.string_val).decode("utf-8", "replace")


def _read_csv(path: Path, logs: Logs) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        for i, row in enumerate(csv.DictReader(file)):
            # (a file of another origin may have no steps)
            step = _number(row.get("step")) if row.get("step") else float(i)
            for name, cell in row.items():
                # (CSVLogger leaves cells empty where a row has no such value; None holds cells beyond the header)
                if name not in ("step", "epoch", None) and cell:
                    logs.scalars.setdefault(name, []).append((int(step), _number(cell)))
    logs.scalars = {name: without_overwritten(points) for name, points in logs.scalars.items()}


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


def _content(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON or YAML file; None where there is none that can be read."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    # (a file that is half-written or nested too deeply costs a section of the report, and not the report)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
