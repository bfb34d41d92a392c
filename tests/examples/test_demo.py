from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.forked import run_script

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.examples


def test_the_demo_trains_prints_its_numbers_draws_and_logs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_script(Path("examples/demo.py"), "--epochs", "3", folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    for row in (
        "learning rate found",
        "applied updates",
        "clipped",
        "global gradient norm",
        "layer with the largest norm",
        "suggested threshold",
    ):
        assert row in done.stdout
    accuracy = re.search(r"validation accuracy\s+│\s+([\d.]+)%", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 90
    assert "66 of 66 attempted" in done.stdout
    assert "{" not in done.stdout
    run = tmp_path / "runs" / "demo" / "version_0"
    for picture in ("demo.png", "schedule.png", "lr_finder.png"):
        assert (run / picture).stat().st_size > 10_000, picture
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["diagnosis/training_doctor/figure", "grad/layers", "lr_finder"]
    for tag in (
        "grad/norm",
        "grad/clip_coefficient",
        "grad/group/head",
        "schedule/lr",
        "train/loss",
        "trainer/updates",
    ):
        assert [event.step for event in events.Scalars(tag)] == list(range(66)), tag
