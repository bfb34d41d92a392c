from __future__ import annotations

import json
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.dry_run import MODELS, markdown, summary


def test_the_table_of_snapshots_runs_and_is_made_from_its_json(tmp_path: Path) -> None:
    out = tmp_path / "dry_run.json"
    assert main(["run", "dry_run", "--rounds", "1", "--only", "linear", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == markdown(result)
    (row,) = result["rows"]
    assert row["held_to_look"] == row["parameter_bytes"], "small tensors are copied at once"
    assert len(row["seconds"]["take, to look"]) == 1
    assert len(MODELS) == 3


def test_the_page_shows_what_was_measured() -> None:
    root = Path(__file__).parents[2]
    result = json.loads((root / "benchmarks/results/dry_run-cpu.json").read_text())
    assert summary(result) in (root / "docs/no_trace.md").read_text()
    assert markdown(result) == (root / "benchmarks/results/dry_run-cpu.md").read_text()
