from __future__ import annotations

import math
from pathlib import Path

from lightning_tricks.report.blocks import Picture
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.pictures import pictures


def names(logs: Logs) -> list[str]:
    return [block.name for block in pictures(logs, []) if isinstance(block, Picture)]


def test_there_are_pictures_of_what_was_logged_and_of_nothing_else() -> None:
    curve = [(i, 1.0 / (i + 1)) for i in range(50)]
    logs = Logs(Path("run"), {"train/loss": curve, "val/accuracy": curve, "collapse/dead_units/dead": curve})
    assert names(logs) == ["loss", "metrics", "dead_units"]
    assert pictures(Logs(Path("run")), []) == []


def test_there_is_no_picture_of_values_that_are_all_nan() -> None:
    lost = [(i, math.nan) for i in range(50)]
    curves = {"train/loss": lost, "grad/norm": lost, "grad/norm/a": lost, "val/accuracy": [(9, 0.1)]}
    assert names(Logs(Path("run"), curves, images={"grad/layers": b"white"})) == ["metrics"]


def test_the_heat_map_that_the_run_drew_comes_before_one_of_the_few_curves() -> None:
    curves = {"grad/norm/a": [(0, 1.0), (1, math.nan)]}
    logs = Logs(Path("run"), curves, images={"grad/layers": b"of every parameter", "lr_finder": b"range test"})
    made = {block.name: block for block in pictures(logs, []) if isinstance(block, Picture)}
    assert made["layers"].png == b"of every parameter" and "range test" in made["lr_finder"].caption
    without = next(b for b in pictures(Logs(Path("run"), curves), []) if isinstance(b, Picture))
    assert without.name == "layers" and without.png.startswith(b"\x89PNG")
