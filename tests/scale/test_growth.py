"""A long training: after the bounds are reached, nothing grows but the logs, and those by the same at each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth, scale
from lightning_tricks.detection import judge
from lightning_tricks.diagnosis import course, memory_level, memory_looks
from lightning_tricks.publishing import publish

FEW = 16  # points of a curve, instead of thousands: so the bounds are reached early
# objects that may be more at a later mark: a curve is thinned out by a quarter, with a few objects at each of its points
SLACK = 2_000


def assert_nothing_grows(rows: list[dict[str, Any]], slack: int = SLACK) -> None:
    first, last = rows[0], rows[-1]
    assert last["hooks"] == first["hooks"]
    assert last["tensor_bytes"] <= first["tensor_bytes"]
    assert sum(last["objects"].values()) - sum(first["objects"].values()) < slack
    assert sum(last["states"].values()) < 1.05 * sum(first["states"].values())
    assert last["calls"] < 1.02 * first["calls"]
    assert last["calls_ours"] < 1.02 * first["calls_ours"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("at", "every"), [((600, 900, 1200), 10), pytest.param((1600, 2200, 2800), 25, marks=pytest.mark.slow)], ids=str
)
def test_steps_with_every_callback_grow_by_their_logs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, ...], every: int
) -> None:
    for owner, name in ((judge, "MOST_POINTS"), (course, "MOST_POINTS"), (course, "_MOST_CHECKS"),
                        (publish, "_LONGEST"), (memory_level, "_MOST_POINTS"), (memory_looks, "_MOST_LOOKS")):  # fmt: skip
        monkeypatch.setattr(owner, name, FEW)
    tricks = [t for t in growth.callbacks(every) if type(t).__name__ not in ("LRFinder", "SanityCheck")]  # (before it)
    rows = growth.long_run(tmp_path, at, every=every, epoch=100, tricks=tricks)
    assert_nothing_grows(rows)
    for kind in ("TensorBoard", ".csv"):
        one, two, three = (row["logs"][kind] for row in rows)
        assert two > one and abs((three - two) - (two - one)) < 0.05 * (two - one), kind


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_100_000_steps_with_every_callback_grow_by_their_logs_alone() -> None:
    rows = scale.steps(100_000, 20)
    late = rows[-4:]
    assert late[-1]["hooks"] == late[0]["hooks"]
    assert late[-1]["calls"] < 1.02 * late[0]["calls"]
    assert late[-1]["tensor_bytes"] <= late[0]["tensor_bytes"]
    # (curves of detectors grow until they have 4,096 points: a few objects at a check)
    checks = (late[-1]["batch"] - late[0]["batch"]) / (2 * scale.EVERY)
    assert late[-1]["objects"] - late[0]["objects"] < 25 * checks + SLACK
