from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.lr_finder import GRID, GRID_FILE, OURS, gates, judged, markdown, on_grid
from benchmarks.models.small_tasks import TASKS, trained_loss


@pytest.mark.filterwarnings("ignore")
def test_the_finders_run_against_the_committed_grid(tmp_path: Path) -> None:
    out = tmp_path / "lr_finder.json"
    assert main(["run", "lr_finder", "--quick", "--out", str(out)]) == 0
    result = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert out.with_suffix(".md").read_text() == markdown(result)
    assert len(result["rows"]) == 6
    ours = next(s for s in result["summary"] if s["finder"] == OURS)
    assert ours["median_loss_ratio"] < 1.5
    assert main(["compare", str(out), str(out)]) == 0


def test_the_committed_grid_is_what_training_gives() -> None:
    grid = json.loads(GRID_FILE.read_text())
    assert grid["rates"] == pytest.approx(GRID)
    row = next(r for r in grid["rows"] if (r["task"], r["optimizer"], r["seed"]) == ("breast cancer MLP", "AdamW", 0))
    at = 4  # 1e-3
    measured = trained_loss(TASKS["breast cancer MLP"](), "AdamW", GRID[at], 0)
    assert measured == pytest.approx(row["losses"][at], rel=0.05), "other processors round differently"


def test_losses_between_rates_of_the_grid_are_interpolated() -> None:
    losses = [float(2**i) for i in range(12)]
    assert on_grid(losses, GRID[3]) == pytest.approx(8.0)
    assert on_grid(losses, math.sqrt(GRID[3] * GRID[4])) == pytest.approx(8.0 * math.sqrt(2))
    assert on_grid([*losses[:11], math.inf], 3.0) == math.inf


def test_a_gate_that_is_missed_is_told() -> None:
    grid = {"rows": [{"task": "t", "optimizer": "o", "seed": 0, "losses": [None, 2.0, 1.0, *[4.0] * 9]}]}

    def row(lr: float, loss: float, confident: bool = True) -> dict[str, Any]:
        found = {"lr": lr, "loss": loss, "confident": confident, "rules": {}}
        return {"task": "t", "optimizer": "o", "seed": 0, OURS: found, "time_ratio": 1.2}

    good, bad = judged([row(GRID[2], 1.1)], grid), judged([row(1.0, math.inf, False)], grid)
    assert [g["passed"] for g in gates(good)] == [True, True, True]
    assert good[0]["median_log10_lr_ratio"] == pytest.approx(0.0)
    assert bad[0]["median_loss_ratio"] is None, "inf"
    assert [g["passed"] for g in gates(bad)] == [False, False, True]
