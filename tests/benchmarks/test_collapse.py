from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from benchmarks import collapse, peers
from benchmarks import collapse_report as report
from benchmarks.models.scenario import HALVES, Scenario
from benchmarks.models.scenarios import SCENARIOS, of_half
from benchmarks.peers import Look, Recorder
from lightning_tricks import PredictionCollapse, Rollback

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("hits", "total"), [(0, 54), (54, 54), (1, 24), (26, 26), (7, 20)])
def test_intervals_are_those_of_scipy(hits: int, total: int) -> None:
    wanted = binomtest(hits, total).proportion_ci(0.95, "exact")
    assert report.interval(hits, total) == pytest.approx((wanted.low, wanted.high))


def test_there_are_scenarios_enough_in_both_halves_and_in_each_family() -> None:
    names = [s.name for s in SCENARIOS]
    assert len(set(names)) == len(names) >= 196
    for half in HALVES:
        some = of_half(half)
        assert len(some) >= 60
        assert 0.4 <= sum(s.failing for s in some) / len(some) <= 0.6
    families = {s.family for s in SCENARIOS}
    for family in families:
        assert {s.failing for s in SCENARIOS if s.family == family} == {True, False}, family
    assert {s.rescuable for s in SCENARIOS if s.rescuable} <= set(names)
    assert set(collapse.QUICK) <= set(names)


def test_the_half_depends_on_the_name_alone() -> None:
    make = SCENARIOS[0].make
    halves = [Scenario(f"scenario {i}", make).half for i in range(400)]
    assert 160 < halves.count("develop") < 240
    assert halves == [Scenario(f"scenario {i}", make, frozenset({"divergence"})).half for i in range(400)]


FAST = ("SGD, rate 3", "inputs times 0", "SimSiam, no stop-gradient, no BatchNorm", "batch 2", "breast cancer")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [FAST, pytest.param(collapse.QUICK, marks=pytest.mark.slow)], ids=["half", "whole"])
def test_a_changed_threshold_shows_in_the_quick_form(
    names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(names) <= set(collapse.QUICK)
    monkeypatch.setattr(collapse, "QUICK", names)
    if names is FAST:  # half a minute goes to the checks of predictions in the training that is rescued
        real = collapse.detectors

        def detectors(training: Any, action: Any, every: int | None = None) -> list[Any]:
            made = real(training, action, every)
            rescues = isinstance(action, Rollback)
            return [d for d in made if not (rescues and isinstance(d, PredictionCollapse))]

        monkeypatch.setattr(collapse, "detectors", detectors)
    assert collapse.main(["--quick", "--out", str(tmp_path / "quick.json")]) == 0
    printed = capsys.readouterr().out
    assert f"0 of {len(collapse.QUICK)} runs judged wrongly" in printed
    result = json.loads((tmp_path / "quick.json").read_text())
    assert [r["scenario"] for r in result["rescues"]] == ["SGD, rate 3"]
    assert [report.rescued(r) for r in result["rescues"]] == [True] or names is FAST, "without that detector"
    assert all(r["alarms"] for r in result["runs"] if r["failing"])


def row(**changed: Any) -> dict[str, Any]:
    base = {"failing": True, "onset": 100.0, "steps": 400, "alarms": [], "peers": {}, "half": "x", "scenario": "s"}
    more = {"sanity_failed": [], "findings": [], "causes": [], "score": None, "passes": None, "family": "f"}
    return {**base, **more, **changed}


def test_an_alarm_before_the_onset_is_a_miss_and_any_in_a_healthy_run_is_false() -> None:
    alarm = ["DeadUnits", 0, "dead units", True]
    early, late = row(alarms=[[*alarm[:1], 50, *alarm[2:]]]), row(alarms=[[*alarm[:1], 175, *alarm[2:]]])
    assert [report.alarm_found(r) for r in (early, late, row())] == [False, True, False]
    assert [report.delay(r) for r in (early, late, row())] == [None, 0.25, None]
    healthy = row(failing=False, alarms=[alarm])
    assert report.judged_wrongly(healthy) and not report.judged_wrongly(row(failing=False))
    assert report.judged_wrongly(row(failing=False, sanity_failed=["initial loss"]))


def test_a_row_of_the_sanity_check_counts_where_the_failure_is_there_from_the_start() -> None:
    failed = {"sanity_failed": ["initial loss"], "causes": ["sanity:initial loss"]}
    assert report.noticed(row(onset=0.0, **failed)) and report.cause_right(row(onset=0.0, **failed))
    assert not report.noticed(row(**failed)), "before it is broken, nothing can be seen"
    assert not report.cause_right(row(onset=0.0, sanity_failed=["units are alive"], causes=["sanity:initial loss"]))


def test_the_cause_is_that_of_the_first_alarms() -> None:
    assert not report.cause_right(row(alarms=[["a", 5, "x", False], ["b", 9, "y", True]]))
    assert report.cause_right(row(alarms=[["a", 5, "x", False], ["b", 5, "y", True]]))


def test_shares_count_scenarios_and_a_run_that_its_score_denies_counts_nowhere() -> None:
    alarm = [["DeadUnits", 200, "dead units", True]]
    runs = [row(alarms=alarm, seed=0), row(seed=1), row(scenario="t", alarms=alarm)]
    assert report.shares(runs, report.noticed, all) == f"{report.shown(1, 2)}; runs 2/3"
    assert report.shares(runs, report.noticed, any) == f"{report.shown(2, 2)}; runs 2/3"
    denied = row(score=0.9, passes=0.5)
    bad, good = report.parted([*runs, denied, row(failing=False, score=0.9, passes=0.5)])
    assert len(bad) == 3 and len(good) == 1


def test_advice_contradicts_itself_where_the_rate_shall_go_both_ways() -> None:
    assert report.contradicts(row(findings=["plateau", "small updates"]))
    assert not report.contradicts(row(findings=["plateau", "oscillation"]))
    assert report.in_peace(row(failing=False)) and not report.in_peace(row(failing=False, findings=["plateau"]))


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


def test_numbers_of_the_page_come_from_the_half_that_nothing_was_tuned_on() -> None:
    page = ROOT / "docs/benchmarks/failing_trainings.md"
    result = (ROOT / "benchmarks/results/collapse-verify.md").read_text()
    block = re.search(r"<!-- collapse.*?<!-- /collapse -->", page.read_text(), re.S)
    assert block is not None
    shown = [line for line in block[0].splitlines() if line.startswith("| ")]
    parts = result.split("## verify: ")
    tables = [line for part in parts[1:2] for line in part.split("### ")[0].splitlines() if line.startswith("| ")]
    beside = result.split("### verify: beside the rules of other tools")[1].split("### ")[0]
    tables += [line for line in beside.splitlines() if line.startswith("| ")]
    assert shown == tables
    assert "develop" not in "".join(tables)
