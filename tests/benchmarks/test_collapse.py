from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from benchmarks import collapse, peers
from benchmarks.models import failures, failures_held_out
from benchmarks.peers import Look, Recorder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("hits", "total"), [(0, 54), (54, 54), (1, 24), (26, 26), (7, 20)])
def test_intervals_are_those_of_scipy(hits: int, total: int) -> None:
    wanted = binomtest(hits, total).proportion_ci(0.95, "exact")
    assert collapse.interval(hits, total) == pytest.approx((wanted.low, wanted.high))


def test_there_are_scenarios_enough_and_the_held_out_ones_are_others() -> None:
    own, other = failures.SCENARIOS, failures_held_out.SCENARIOS
    assert len(own) >= 36
    assert len(other) >= 24
    for some in (own, other):
        share = sum(s.failing for s in some) / len(some)
        assert 0.4 <= share <= 0.6
    names = [s.name for s in (*own, *other)]
    assert len(set(names)) == len(names)
    assert {s.rescuable for s in own if s.rescuable} <= set(names)
    assert set(collapse.QUICK) <= set(names)


@pytest.mark.filterwarnings("ignore")
def test_a_changed_threshold_shows_in_the_quick_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collapse.main(["--quick", "--out", str(tmp_path / "quick.json")]) == 0
    printed = capsys.readouterr().out
    assert f"0 of {len(collapse.QUICK)} runs judged wrongly" in printed
    result = json.loads((tmp_path / "quick.json").read_text())
    assert [r["healthy"] - r["rescued"] < 0.02 for r in result["rescues"]] == [True]
    assert all(r["alarms"] for r in result["runs"] if r["failing"])


def row(**changed: Any) -> dict[str, Any]:
    base = {"failing": True, "onset": 100.0, "steps": 400, "alarms": [], "peers": {}, "set": "x", "scenario": "s"}
    return {**base, **changed}


def test_an_alarm_before_the_onset_is_a_miss_and_any_in_a_healthy_run_is_false() -> None:
    alarm = ["DeadUnits", 0, "dead units", True]
    early, late = row(alarms=[[*alarm[:1], 50, *alarm[2:]]]), row(alarms=[[*alarm[:1], 175, *alarm[2:]]])
    healthy = [row(failing=False), row(failing=False, alarms=[alarm])]
    found = collapse.judged([early, late, row(), *healthy], collapse.OURS)
    assert found == {"found": 1, "failing": 3, "false": 1, "healthy": 2, "delay": 0.25}
    assert collapse.causes([late, row(alarms=[["a", 5, "x", False], ["b", 9, "y", True]])]) == (1, 2)
    assert collapse.causes([row(alarms=[["a", 5, "x", False], ["b", 5, "y", True]])]) == (1, 1)


def recorded(losses: list[float], looks: list[Look] | None = None) -> Recorder:
    recorder = Recorder()
    recorder.losses, recorder.looks = losses, looks or []
    return recorder


def test_the_rules_of_others_do_as_their_documentation_says() -> None:
    calm = [1.0] * 200
    assert [rule(recorded(calm)) for rule in peers.PEERS.values()] == [None] * 4
    assert peers.spike_detection(recorded([*calm[:50], 3.1, *calm])) == 50
    assert peers.spike_detection(recorded([*calm[:50], 2.9, *calm])) is None
    assert peers.spike_detection(recorded([1.0, math.nan])) == 1
    assert peers.kill_loss_spike(recorded([*calm, *[4.0] * 4, *calm])) is None
    assert peers.kill_loss_spike(recorded([*calm, *[4.0] * 5, *calm])) == 204
    dead = Look(24, dead=[0.6])
    assert peers.sagemaker(recorded(calm, [Look(0, dead=[0.4]), dead])) == 24
    slow = [Look(25 * i, accuracy=0.1, first_gradient=1.0, last_gradient=1.0) for i in range(8)]
    assert peers.autotrainer(recorded(calm, slow)) == 75
    good = [Look(25 * i, accuracy=0.9, zero_gradients=1.0) for i in range(8)]
    assert peers.autotrainer(recorded(calm, good)) is None, "a run that is accurate has no problem"


def test_numbers_in_the_readme_and_the_card_come_from_the_results() -> None:
    result = (ROOT / "benchmarks/results/collapse-cpu.md").read_text()
    long = (ROOT / "benchmarks/results/collapse-long.md").read_text()
    block = re.search(r"<!-- collapse.*?<!-- /collapse -->", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    lines = [line for line in block[0].splitlines() if line.startswith("| ")]
    assert len(lines) == 7
    held_out = result.split("## Scenarios held out: all runs")[1].split("## ")[0]
    assert lines == [line for line in held_out.splitlines() if line.startswith("| ")]
    rescued = re.search(r"Within 2 points of the healthy twin: (\d+)/(\d+)", result)
    assert rescued is not None
    assert f"{rescued[1]} of {rescued[2]} " in block[0]
    healthy = re.search(r"\| lightning_tricks \| - \| (\d+)/(\d+) \[0.000, ([\d.]+)\]", long)
    assert healthy is not None
    assert f"{healthy[1]} of {healthy[2]} " in block[0]
