"""The notebooks of examples/: committed with output, and they run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tools import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_is_a_quickstart_and_one_for_each_main_trick() -> None:
    assert [path.stem for path in PATHS] == [
        "collapse_detection",
        "gradient_monitoring_and_clipping",
        "learning_rate_finder_and_schedules",
        "mixed_precision_advice",
        "quickstart",
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_what_is_committed_was_executed_once_from_top_to_bottom(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) >= 3
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"], (
        "warnings are no part of a lesson"
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_no_path_of_a_machine_and_no_list_of_hundreds_of_numbers_is_shown(path: Path) -> None:
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            assert not re.search(r"(/home|/work|/root|/tmp|/usr|site-packages)", text), text[:200]
            assert len(re.findall(r"\d\.\d", text)) < 60


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_each_says_how_to_get_the_package_in_a_notebook_service(path: Path) -> None:
    first = "".join(cells(path, "markdown")[0]["source"])
    assert "Run it in your notebook service" in first and "%pip install" in first and "http" not in first


def test_the_quickstart_shows_pictures_and_tables() -> None:
    outputs = [o for c in cells(notebooks.FOLDER / "quickstart.ipynb", "code") for o in c["outputs"]]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 2 and kinds.count("text/html") >= 3


@pytest.fixture
def machinery() -> None:
    pytest.importorskip("nbconvert", reason="the extra notebooks is not installed: ./dev notebooks")
    pytest.importorskip("ipykernel", reason="the extra notebooks is not installed: ./dev notebooks")


@pytest.mark.notebooks
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_it_runs(path: Path, tmp_path: Path, machinery: None) -> None:
    copy = shutil.copy(path, tmp_path)
    notebook = notebooks.executed(Path(copy))
    again = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [c["execution_count"] for c in again] == [c["execution_count"] for c in cells(path, "code")]
    assert not [o for c in again for o in c.outputs if o.get("name") == "stderr"]


@pytest.mark.notebooks
def test_a_cell_that_raises_is_told_and_nothing_is_written(
    tmp_path: Path, machinery: None, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    broken = json.loads(PATHS[0].read_text())
    broken["cells"] = [{**cells(PATHS[0], "code")[0], "source": "1 / 0", "outputs": [], "execution_count": None}]
    (tmp_path / "broken.ipynb").write_text(json.dumps(broken))
    before = (tmp_path / "broken.ipynb").read_text()
    assert notebooks.main(["broken"]) == 1 and "ZeroDivisionError" in capsys.readouterr().out
    assert (tmp_path / "broken.ipynb").read_text() == before
    assert notebooks.main(["nothing"]) == 2 and "no such notebook" in capsys.readouterr().out
