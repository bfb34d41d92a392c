"""Every tracker gets what it can take: a training with the real package, read back from its files, without an account."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_tricks.publishing.trackers import Table
from tests.forked import run_module
from tests.trackers.reading import HISTOGRAM, READERS
from tests.trackers.scene import MAKERS
from tests.trackers.table import KEPT, LOGGERS, NOT_SENT, loggers_page

ROOT = Path(__file__).parents[2]
BESIDE_EVERY_INSTALL = ("TensorBoard", "CSV")


def _case(name: str, package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    reason = f"trackers: {package} is not installed (pip install 'lightning-tricks[trackers]')"
    marks = [] if name in BESIDE_EVERY_INSTALL else [pytest.mark.trackers]
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(missing, reason=reason)], id=name)


def train(name: str, folder: Path, **environment: str) -> dict[str, Any]:
    """Train in a process of its own; return what a logger that only remembers got.

    Those of packages of others are not forked: their import changes torch and streams.
    """
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", **environment}
    run: Any
    if name in BESIDE_EVERY_INSTALL:
        run = run_module("tests.trackers.scene", name, str(folder), folder=folder, environment=settings)
    else:
        command = [sys.executable, "-m", "tests.trackers.scene", name, str(folder)]
        run = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "training goes on" not in run.stdout + run.stderr, "a logger failed"
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    expected["series"] = {
        key: {int(step): value for step, value in points.items()} for key, points in expected["series"].items()
    }
    return expected


@pytest.mark.filterwarnings("ignore")  # of the readers of others
@pytest.mark.parametrize("name", [_case(name, row.package) for name, row in LOGGERS.items()])
def test_a_logger_gets_every_number_text_table_and_picture(name: str, tmp_path: Path) -> None:
    expected = train(name, tmp_path)
    found = READERS[name](tmp_path)
    separate = "." if name == "Neptune" else "/"  # where a/b and a/b/c cannot both be there
    for key, points in expected["series"].items():
        first, *rest = key.split("/", 1)
        assert found.series["/".join([first, *(part.replace("/", separate) for part in rest)])] == pytest.approx(points)
        assert len(points) == 12
    assert found.text == "**two** words"
    table = Table(["check", "result", "what was seen", "fix"], expected["checks"])
    assert len(table.rows) >= 5
    assert found.table in (table.markdown(), [list(table.columns), *table.cells])
    # (Comet draws the figure again, as an SVG of 100 dots per inch with other margins)
    sharpness = 100 / expected["dpi"] if name == "Comet" else 1.0
    assert found.figure == pytest.approx([sharpness * pixels for pixels in expected["size"]], rel=0.04)
    row = LOGGERS[name]
    called = {kind: way or (NOT_SENT if kind == "histogram" else KEPT) for kind, way in expected["ways"].items()}
    called["table"] = expected["ways"]["table"] or ("text" if expected["ways"]["text"] else KEPT)
    assert row.methods == called, "the page says otherwise"
    assert found.histogram == (row.methods["histogram"] != NOT_SENT), HISTOGRAM


@pytest.mark.trackers
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="trackers: mlflow is not installed")
def test_mlflows_file_store_holds_a_norm_and_the_norms_of_its_layers(tmp_path: Path) -> None:
    """A file and a folder of one name cannot both be there: MLflow itself fails, and every later value was lost."""
    expected = train("MLflow's file store", tmp_path, MLFLOW_ALLOW_FILE_STORE="true")
    (total,) = tmp_path.rglob("metrics/grad/norm")
    (layer,) = tmp_path.rglob("metrics/grad/norm.net.0.weight")
    for path, key in ((total, "grad/norm"), (layer, "grad/norm/net.0.weight")):
        lines = [line.split() for line in path.read_text().splitlines()]
        assert {int(step): float(value) for _, value, step in lines} == expected["series"][key]


def test_every_logger_of_the_table_has_a_training_and_a_reader() -> None:
    assert set(LOGGERS) == set(READERS) == set(MAKERS) - {"MLflow's file store"}


def test_the_page_is_made_from_the_table() -> None:
    assert (ROOT / "docs" / "loggers.md").read_text() == loggers_page()
