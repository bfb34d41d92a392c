from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import nn

from lightning_tricks.diagnosis.autopsy import as_text, batch_statistics, nonfinite_names, of_exception, plain, write


def test_parameters_and_buffers_that_are_not_finite_are_named_in_order() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert nonfinite_names(net) == []
    with torch.no_grad():
        net[2].bias[0] = math.inf  # type: ignore[index]
        net[1].running_var[1] = math.nan  # type: ignore[index]
    assert nonfinite_names(net) == ["2.bias", "1.running_var"]


def test_every_tensor_of_a_batch_is_described() -> None:
    batch = {"x": [torch.tensor([[1.0, math.nan], [math.inf, 3.0]])], "y": torch.tensor([1, 2]), "name": "text"}
    rows = batch_statistics(batch)
    assert rows[0] == {
        "place": "['x'][0]",
        "shape": [2, 2],
        "dtype": "float32",
        "nonfinite": 2,
        "min": 1.0,
        "max": 3.0,
        "mean": 2.0,
    }
    assert rows[1]["dtype"] == "int64"
    assert len(rows) == 2
    assert "min" not in batch_statistics([torch.tensor([math.nan])])[0]


def test_an_exception_is_told_with_its_innermost_frames() -> None:
    try:
        json.loads("{")
    except ValueError as error:
        found = of_exception(error)
    assert found["type"] == "JSONDecodeError"
    assert "raw_decode" in found["where"][-1]


def test_the_report_is_readable_json_and_text(tmp_path: Path) -> None:
    report = {"why": "boom", "losses": [1.0, math.nan], "norms": {"a": torch.tensor(2.0)}, "told": ["one"], "empty": []}
    path = write(report, tmp_path / "deep" / "folder")
    read = json.loads((path.parent / "health.json").read_text())
    assert read["losses"] == [1.0, "nan"]
    assert read["norms"] == {"a": 2.0}
    text = path.read_text()
    assert text.startswith("Training ended: boom\n")
    assert "told:\n  - one" in text
    assert "empty" not in text
    assert not list(path.parent.glob("*.part"))


def test_anything_becomes_plain() -> None:
    assert plain({1: (Path("a"), {2}, None)}) == {"1": ["a", [2], None]}
    assert "rows:\n  - a 1" in as_text({"why": "x", "rows": [{"a": 1}]})
