"""What a training left in each tracker, read from its files: by the tracker's own reader where it has one."""

from __future__ import annotations

import base64
import csv
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests.trackers.scene import FIGURE, TABLE, TEXT

HISTOGRAM = "grad/histogram/net.0.weight"


@dataclass
class Found:
    """What was found.

    Args:
        series: log key -> step -> value.
        text: of the name ``TEXT``.
        table: of the name ``TABLE``: the rows, the columns first; or the table as a text.
        figure: of the name ``FIGURE``: width and height in pixels.
        histogram: whether there is one of the first layer.
    """

    series: dict[str, dict[int, float]] = field(default_factory=dict)
    text: str = ""
    table: list[list[str]] | str = ""
    figure: tuple[int, int] = (0, 0)
    histogram: bool = False


def one(folder: Path, pattern: str) -> Path:
    """The only file of a pattern."""
    (path,) = sorted(folder.rglob(pattern))
    return path


def size(content: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(content)).size


def from_tensorboard(folder: Path) -> Found:
    from lightning_tricks.report.logs import read_logs

    path = one(folder, "events.out.tfevents.*")
    logs = read_logs(path.parent)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(path)).Reload().Tags()
    return Found(
        {key: dict(points) for key, points in logs.scalars.items()},
        logs.texts[TEXT][0][1],
        logs.texts[TABLE][0][1],
        size(logs.images[FIGURE]),
        HISTOGRAM in tags["histograms"],
    )


def from_csv(folder: Path) -> Found:
    from lightning_tricks.report.logs import read_logs

    run = one(folder, "metrics.csv").parent
    kept = run / "lightning_tricks"
    return Found(
        {key: dict(points) for key, points in read_logs(run).scalars.items()},
        (kept / TEXT / "step_0000002.md").read_text().rstrip("\n"),
        list(csv.reader(io.StringIO((kept / TABLE / "step_0000000.csv").read_text()))),
        size((kept / FIGURE / "step_0000011.png").read_bytes()),
    )


def _records(path: Path) -> Iterator[bytes]:
    """The records of a log of LevelDB: blocks of 32 KiB of pieces with a checksum, a length and a kind."""
    content, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        piece, position = content[position + 7 : position + 7 + length], position + 7 + length
        record = piece if kind in (1, 2) else record + piece
        if kind in (1, 4):
            yield record


def from_wandb(folder: Path) -> Found:
    from wandb.proto.wandb_internal_pb2 import Record

    found, media = Found(), dict[str, dict[str, Any]]()
    for content in _records(one(folder, "run-*.wandb")):
        record = Record.FromString(content)
        items = [([*item.nested_key] or [item.key], json.loads(item.value_json)) for item in record.history.item]
        step = next((value for (key, *_), value in items if key == "trainer/global_step"), None)
        for (key, *inner), value in items:
            if inner:
                media.setdefault(key, {"step": step})[inner[0]] = value
            else:
                found.series.setdefault(key, {})[step] = value
    files = one(folder, "run-*.wandb").parent / "files"
    assert [media[key]["step"] for key in (TEXT, TABLE, FIGURE)] == [2, 0, 11]
    (found.text,), *_ = json.loads((files / media[TEXT]["path"]).read_text())["data"]
    table = json.loads((files / media[TABLE]["path"]).read_text())
    found.table = [table["columns"], *table["data"]]
    found.figure = size((files / media[FIGURE]["filenames"][0]).read_bytes())
    found.histogram = media[HISTOGRAM]["_type"] == "histogram"
    return found


def from_mlflow(folder: Path) -> Found:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    series = {
        key: {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
    }
    table = json.loads(one(folder, "diagnosis/sanity/step_0000000.json").read_text())
    return Found(
        series,
        one(folder, "diagnosis/note/step_0000002.md").read_text(),
        [table["columns"], *table["data"]],
        size(one(folder, "images/grad~layers+step+11+*.png").read_bytes()),
    )


def from_comet(folder: Path) -> Found:
    found = Found()
    with zipfile.ZipFile(one(folder, "*.zip")) as archive:
        for line in archive.read("messages.json").decode().splitlines():
            payload = json.loads(line)["payload"]
            about = payload.get("additional_params") or {}
            if "metric" in payload:
                metric = payload["metric"]
                found.series.setdefault(metric["metricName"], {})[metric["step"]] = metric["metricValue"]
            elif about.get("type") == "text-sample":
                found.text = archive.read(payload["file_path"]).decode()
                assert (about["step"], payload["metadata"]) == (2, {"name": TEXT})
            elif about.get("fileName") == f"{TABLE}/step_0000000.csv":
                found.table = list(csv.reader(io.StringIO(archive.read(payload["file_path"]).decode())))
            elif about.get("figName") == FIGURE:
                picture = archive.read(payload["file_path"])
                found.figure = size(picture) if about["extension"] != "svg" else _svg_size(picture)
            elif about.get("fileName") == HISTOGRAM:
                found.histogram = True
    return found


def _svg_size(content: bytes) -> tuple[int, int]:
    """In pixels of 100 per inch; an SVG counts 72 points per inch."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(content)
    width, height = (float(root.attrib[name].removesuffix("pt")) * 100 / 72 for name in ("width", "height"))
    return round(width), round(height)


def from_neptune(folder: Path) -> Found:
    found = Found()
    pictures = []
    for line in one(folder, "data-1.log").read_text().splitlines():
        operation = json.loads(line)["obj"]
        path = "/".join(operation["path"])
        for point in operation.get("values", ()) if operation["type"].startswith("Log") else ():
            if operation["type"] == "LogFloats":
                found.series.setdefault(path, {})[int(point["step"])] = point["value"]
            elif path == TEXT:
                found.text = point["value"]
            elif path == TABLE:
                found.table = point["value"]
            elif path == FIGURE:
                pictures.append(point["value"]["data"])
    found.figure = size(base64.b64decode(pictures[0]))
    return found


def from_clearml(folder: Path) -> Found:
    found, lines = Found(), []
    session = one(folder, "metrics.jsonl").parent
    for line in (session / "metrics.jsonl").read_text().splitlines():
        lines += json.loads(line)
    for event in lines:
        key = f"{event['metric']}/{event['variant']}".replace("grad_norm/", "grad/norm/").replace(
            "grad_histogram/", "grad/histogram/"
        )
        if event["type"] == "training_stats_scalar":
            found.series.setdefault(key, {})[event["iter"]] = event["value"]
        elif event["type"] == "plot" and HISTOGRAM in key:
            found.histogram = True
    found.text = one(session, "diagnosis_note_text_summary*.txt").read_text()
    found.table = one(session, "diagnosis_sanity_text_summary*.txt").read_text()
    found.figure = size(one(session, "grad_layers*.jpeg").read_bytes())
    return found


def from_aim(folder: Path) -> Found:
    from aim import Run
    from aim.storage.context import Context

    (name,) = (path.name for path in (folder / ".aim" / "meta" / "chunks").iterdir())
    quiet = {"system_tracking_interval": None, "log_system_params": False, "capture_terminal_logs": False}
    run, nothing = Run(name, repo=str(folder), force_resume=True, **quiet), Context({})
    found = Found()
    for metric in run.metrics():
        frame = metric.dataframe()
        found.series[metric.name] = dict(zip(frame["step"].tolist(), frame["value"].tolist(), strict=True))
    found.text = run.get_text_sequence(TEXT, nothing).values.sparse_list()[1][0].data
    found.table = run.get_text_sequence(TABLE, nothing).values.sparse_list()[1][0].data
    found.figure = run.get_image_sequence(FIGURE, nothing).values.sparse_list()[1][0].size
    found.histogram = run.get_distribution_sequence(HISTOGRAM, nothing) is not None
    run.close()
    return found


def from_swanlab(folder: Path) -> Found:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    found = Found()
    for content in _records(one(folder, "run-*.swanlab")):
        record = Record.FromString(content)
        if record.HasField("scalar"):
            found.series.setdefault(record.scalar.key, {})[record.scalar.step] = record.scalar.value.number
    texts = [path.read_text() for path in sorted(folder.rglob("media/text/*.txt"))]
    found.table = next(text for text in texts if text.startswith("| check"))
    found.text = next(text for text in texts if not text.startswith("| check"))
    found.figure = size(one(folder, "media/image/*.png").read_bytes())
    return found


READERS: dict[str, Callable[[Path], Found]] = {
    "TensorBoard": from_tensorboard,
    "CSV": from_csv,
    "Weights & Biases": from_wandb,
    "MLflow": from_mlflow,
    "Comet": from_comet,
    "Neptune": from_neptune,
    "ClearML": from_clearml,
    "Aim": from_aim,
    "SwanLab": from_swanlab,
}
