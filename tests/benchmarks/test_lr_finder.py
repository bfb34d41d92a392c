from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import lr_finder
from benchmarks.__main__ import main
from benchmarks.lr_finder import (
    DEVELOPED,
    GRID,
    GRID_FILE,
    HELD,
    OURS,
    gates,
    judged,
    markdown,
    on_grid,
    pairs,
    spread_of,
)
from benchmarks.models import task_families
from benchmarks.models.small_tasks import OPTIMIZERS, TASKS, trained_loss
from benchmarks.models.task_families import DEVELOPMENT, FAMILIES, HELD_OUT, optimizers_of


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_the_finders_run_against_the_committed_grid(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first tasks and optimizers of the quick form, and all of it."""
    monkeypatch.setattr(lr_finder, "pairs", lambda names, quick=False: pairs(names, quick)[:count])
    out = tmp_path / "lr_finder.json"
    assert main(["run", "lr_finder", "--quick", "--out", str(out)]) == 0
    result = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert out.with_suffix(".md").read_text() == markdown(result)
    assert len(result["rows"]) == count
    ours = next(s for s in result["summary"] if s["finder"] == OURS)
    assert ours["median_loss_ratio"] < 1.5
    assert main(["compare", str(out), str(out)]) == 0


def test_the_committed_grid_is_what_training_gives() -> None:
    grid = json.loads(GRID_FILE.read_text())
    assert grid["rates"] == pytest.approx(GRID)
    row = next(r for r in grid["rows"] if (r["task"], r["optimizer"], r["seed"]) == ("breast cancer MLP", "AdamW", 0))
    at = GRID.index(pytest.approx(1e-3))
    measured = trained_loss(TASKS["breast cancer MLP"](), "AdamW", GRID[at], 0)
    assert measured == pytest.approx(row["losses"][at], rel=0.05), "other processors round differently"


def test_losses_between_rates_of_the_grid_are_interpolated() -> None:
    losses = [float(2**i) for i in range(15)]
    assert on_grid(losses, GRID[3]) == pytest.approx(8.0)
    assert on_grid(losses, math.sqrt(GRID[3] * GRID[4])) == pytest.approx(8.0 * math.sqrt(2))
    assert on_grid([*losses[:14], math.inf], 9.0) == math.inf


@pytest.mark.parametrize(("task", "half"), [("digits CNN", DEVELOPED), (HELD_OUT[0], HELD)])
def test_a_gate_that_is_missed_is_told(task: str, half: str) -> None:
    grid = {"rows": [{"task": task, "optimizer": "o", "seed": 0, "losses": [None, 2.0, 1.0, *[4.0] * 12]}]}

    def row(lr: float, loss: float, confident: bool = True, spread: float = 2.0) -> dict[str, Any]:
        found = {"lr": lr, "loss": loss, "confident": confident, "rules": {"center": lr}}
        orders = [found, {**found, "lr": lr * spread}]
        return {"task": task, "optimizer": "o", "seed": 0, OURS: found, "time_ratio": 1.2, "orders": orders}

    good, bad = judged([row(GRID[2], 1.04)], grid), judged([row(1.0, math.inf, False)], grid)
    wide = judged([row(GRID[2], 3.1, spread=100.0)], grid)
    assert {s["half"] for s in (*good, *bad, *wide)} == {half}
    assert [g["passed"] for g in gates(good)] == [True] * 6
    assert good[0]["median_log10_lr_ratio"] == pytest.approx(0.0)
    assert good[0]["median_spread"] == pytest.approx(math.log10(2.0))
    assert bad[0]["median_loss_ratio"] is None, "inf"
    assert (bad[0]["refused"], bad[0]["refused_bad"], bad[0]["believed"]) == (1, 1, 0)
    assert [g["passed"] for g in gates(bad)] == [False, False, True, False, False, True]
    assert (wide[0]["believed_bad"], wide[0]["believed_good"]) == (1, 0)
    assert [g["passed"] for g in gates(wide)] == [False, False, False, False, False, True]


def test_the_spread_is_that_of_orders_with_confidence() -> None:
    def order(lr: float | None, confident: bool = True) -> dict[str, Any]:
        return {"lr": lr, "confident": confident}

    assert spread_of([order(1e-3), order(1e-1), order(1e-2), order(1e5, False), order(None)]) == pytest.approx(2.0)
    assert spread_of([order(1e-3), order(1.0, False)]) is None


# -- the families -----------------------------------------------------------------------------------------------------


def test_the_halves_follow_from_the_hashes_of_the_names() -> None:
    ordered = sorted(FAMILIES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert [*DEVELOPMENT, *HELD_OUT] == ordered
    assert abs(len(DEVELOPMENT) - len(HELD_OUT)) <= 1
    assert not set(FAMILIES) & set(TASKS)
    assert {optimizer for name in FAMILIES for optimizer in optimizers_of(name)} == set(OPTIMIZERS)


def test_the_grid_has_every_task_optimizer_and_seed() -> None:
    rows = json.loads(GRID_FILE.read_text())["rows"]
    assert [(r["task"], r["optimizer"], r["seed"]) for r in rows] == pairs([*TASKS, *FAMILIES])
    assert all(len(r["losses"]) == len(GRID) for r in rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_from_the_weights_of_its_seed_and_is_judged_alike(name: str) -> None:
    task = FAMILIES[name]()
    module, again = task.module(0), task.module(0)
    assert all((a == b).all() for a, b in zip(module.parameters(), again.parameters(), strict=True))
    assert any((a != b).any() for a, b in zip(module.parameters(), task.module(1).parameters(), strict=True))
    untrained = task.judged(module)
    assert untrained == task.judged(again) > 0.0, "the same views, nothing dropped"
    assert {len(inputs) for inputs, _ in task.loader(0)} == {task.batch}
    trained = trained_loss(task, "AdamW", 1e-3, 0, updates=40)
    assert trained == trained_loss(task, "AdamW", 1e-3, 0, updates=40)
    assert trained < untrained


def test_families_of_text_take_the_source_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_families, "source_text", lambda: b"x = 1\n" * 101)
    assert task_families._text(25, 9_000).shape == (24, 25)
