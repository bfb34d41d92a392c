"""The examples with Ray, on a cluster of this machine: where ray is installed, as with ``pip install -e '.[ray]'``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.problems import run

pytest.importorskip("ray")
pytestmark = [pytest.mark.examples, pytest.mark.ray, pytest.mark.timeout(600)]


def test_after_a_worker_was_killed_the_weights_are_the_same(tmp_path: Path) -> None:
    printed = run("ray_train", tmp_path, "--epochs", "2", "--kill-at", "15", timeout=500)  # three runs and a new worker
    assert "(nobody was killed)" not in printed
    assert "the same weights, bit for bit" in printed


def test_a_trial_that_a_detector_ended_is_reported_with_its_cause(tmp_path: Path) -> None:
    printed = run("ray_tune", tmp_path, "--trials", "4", "--epochs", "3", timeout=500)
    assert re.search(r"lr 100: .* ended by TrainingDoctor at step \d+: \w+", printed), printed
    assert "best: lr 0.1" in printed
