from __future__ import annotations

import math
from pathlib import Path

from lightning_tricks.report.blocks import Table
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.results import best_of, of_the_user, results

SCALARS = {
    "train/loss": [(0, 3.0), (9, 1.0)],
    "val/accuracy": [(4, 0.5), (9, 0.9), (14, 0.8)],
    "val/loss": [(4, math.nan), (9, 0.4), (14, 0.6)],
    "grad/norm": [(0, 1.0)],
    "epoch": [(0, 0.0)],
}


def test_the_best_value_of_each_validation_measure_comes_first_with_its_step() -> None:
    table = results(Logs(Path("run"), SCALARS))[1]
    assert isinstance(table, Table)
    assert table.rows == (
        ("val/accuracy", "0.9", "9", "0.8"),
        ("val/loss", "0.4", "9", "0.6"),
        ("train/loss", "1", "9", "1"),
    )


def test_a_measure_that_was_never_finite_has_no_best_value() -> None:
    lost = [(0, math.nan), (1, math.inf)]
    assert best_of("val/loss", lost) is None
    table = results(Logs(Path("run"), {"train/acc": [(0, 0.5)], "val/loss": lost}))[1]
    assert isinstance(table, Table)
    assert table.rows == (("val/loss", "NaN or inf at all steps", "", ""), ("train/acc", "0.5", "0", "0.5"))


def test_values_per_step_are_left_out_beside_those_per_epoch() -> None:
    logs = Logs(Path("run"), {"loss_step": [(0, 1.0)], "loss_epoch": [(0, 1.0)], "other_step": [(0, 1.0)]})
    assert list(of_the_user(logs)) == ["loss_epoch", "other_step"]


def test_without_measures_there_is_no_section() -> None:
    assert results(Logs(Path("run"), {"grad/norm": [(0, 1.0)]})) == []
