from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.measure import Lane, interleave, median_interval
from benchmarks.overhead import markdown


@pytest.mark.filterwarnings("ignore")
def test_the_overhead_table_runs_and_is_made_from_its_json(tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    assert (
        main(
            ["run", "overhead", "--quick", "--profile", "cpu", "--only", "GradientMonitor,clip_val", "--out", str(out)]
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == markdown(result)
    assert result["complete"]
    assert not result["failures"]
    assert {"table", "command", "date", "environment", "method", "rows", "gates", "memory", "host_reads"} <= set(result)
    assert len(result["rows"][0]["seconds"]) == result["rounds"] == 5
    assert result["memory"]["a"]["all_allocations"] < 0.2 * result["memory"]["a"]["gradient_bytes"]
    assert all(reads == 0 for by_row in result["host_reads"].values() for reads in by_row.values())
    assert main(["compare", str(out), str(out)]) == 0


def test_lanes_take_turns_and_give_every_round() -> None:
    log: list[str] = []

    def train(name: str):  # type: ignore[no-untyped-def]
        return lambda batches: [log.append(name) for _ in batches]

    lanes = [Lane(name, train(name), [0], 1) for name in "ab"]
    seconds = interleave(lanes, rounds=4, steps=3, warmup=2)
    for lane in lanes:
        lane.stop()
    assert [len(v) for v in seconds.values()] == [4, 4]
    assert sorted(log) == ["a"] * 14 + ["b"] * 14


def test_a_lane_that_fails_says_so() -> None:
    def train(batches: Lane) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        Lane("x", train, [0], 1).block(1)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    draw, covered = random.Random(0), 0
    for i in range(100):
        estimate = median_interval([draw.gauss(1.0, 0.1) for _ in range(25)], seed=i, resamples=300)
        covered += estimate.low <= 1.0 <= estimate.high
    assert covered >= 88
    assert estimate.value == pytest.approx(statistics.median([estimate.value]))
