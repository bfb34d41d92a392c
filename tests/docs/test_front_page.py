"""The README: short, with a picture, and with figures that are those of the committed results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lightning_tricks
from lightning_tricks import metrics
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.schedules.phases import DECAYS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def result(name: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the tables below a heading of a committed result: first cell -> the others of its first row."""
    text = (ROOT / "benchmarks/results" / name).read_text(encoding="utf-8").partition(heading)[2]
    rows: dict[str, list[str]] = {}
    for line in re.findall(r"^\| (.*) \|$", text, re.M):
        first, *others = line.split(" | ")
        rows.setdefault(first, others)
    assert rows, f"{name}: nothing below {heading}"
    return rows


def proof(start: str) -> list[str]:
    """Return the cells of a row of the README's table of what was measured."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_it_is_read_in_a_minute_and_begins_with_a_picture() -> None:
    assert len(README.splitlines()) <= 120
    picture = re.search(r"!\[(.+)\]\((.+\.png)\)", README)
    assert picture is not None and (ROOT / picture[2]).exists()
    assert README.index(picture[0]) < README.index("## Install") < README.index("## Six lines")


def test_the_code_is_six_lines() -> None:
    block = re.search(r"^```python\n(.*?)^```", README, re.S | re.M)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line]) == 6


def test_the_figures_of_the_finder_are_measured() -> None:
    rows = result("lr_finder-cpu.md", "## Held out")
    shown = proof("loss after training at the suggested rate")
    assert f"median of {rows['LRFinder'][0]} runs" in shown[0]
    assert shown[1].startswith(f"{rows['LRFinder'][1]} with")
    assert shown[2].startswith(rows["Lightning's Tuner.lr_find"][1] + " with")


@pytest.mark.parametrize(("start", "column"), [("small failing trainings found", 0), ("false alarms", 1)])
def test_the_figures_of_the_detectors_are_of_the_half_that_nothing_was_tuned_on(start: str, column: int) -> None:
    rows = result("collapse-verify.md", "### verify: beside the rules of other tools")
    counted = {
        name: rows[name][column].split()[0].split("/")
        for name in ("lightning_tricks", "SageMaker Debugger", "Lightning SpikeDetection")
    }
    what, ours, others = proof(start)
    assert re.search(rf"\b{counted['lightning_tricks'][1]}\b", what)
    assert ours.startswith(counted["lightning_tricks"][0] + " ")
    interval = re.search(r"\[(.+), (.+)\]", rows["lightning_tricks"][column])
    assert interval is not None
    low, high = (round(100 * float(end)) for end in interval.groups())
    assert f"(95 % interval: {low} to {high} %)" in ours
    assert re.findall(r"\b\d+\b", others) == [counted["SageMaker Debugger"][0], counted["Lightning SpikeDetection"][0]]


def test_it_names_every_callback_and_counts_right() -> None:
    callbacks = {
        name
        for name in lightning_tricks.__all__
        if isinstance(thing := getattr(lightning_tricks, name), type) and issubclass(thing, Trick)
    }
    table = README.partition("## The callbacks")[2].partition("\n## ")[0]
    assert callbacks - set(re.findall(r"`(\w+)`", table)) == set()
    assert f"{len(metrics.__all__)} torchmetrics" in table
    assert f"{len(DECAYS)} decays" in table


def test_goals_of_maintainers_and_tables_of_benchmarks_have_no_place_in_it() -> None:
    assert not re.search(r"\bgoal\b|to reach", README)
    assert "95 %]" not in README
