"""LightningCLI as the example uses it: by class path, by short name, with its help and its config."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lightning_tricks.config_check import check_file
from tests.forked import run_script

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.examples


def run(folder: Path, *arguments: str) -> str:
    if not (folder / "examples").exists():
        shutil.copytree(ROOT / "examples", folder / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = run_script(Path("examples/cli/train.py"), "fit", *arguments, folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_training_from_yaml_ends_with_a_report_and_a_picture(tmp_path: Path) -> None:
    printed = run(tmp_path, "--config", "examples/cli/config.yaml", "--trainer.max_epochs=2")
    accuracy = float(printed.split("validation accuracy: ")[1].split("%")[0])
    assert accuracy > 90
    page = (tmp_path / "runs" / "cli" / "version_0" / "report.html").read_text()
    assert "AutoClip(percentile=50.0" in page
    assert (tmp_path / "runs" / "cli.png").stat().st_size > 10_000


def test_short_names_overrides_and_help_work(tmp_path: Path) -> None:
    config = run(
        tmp_path,
        "--config=examples/cli/config.yaml",
        "--trainer.callbacks+=DeadUnits",
        "--trainer.callbacks.patience=7",
        "--model.tricks=cnn",
        "--print_config",
    )
    assert "class_path: lightning_tricks.DeadUnits" in config and "patience: 7" in config
    assert "tricks: cnn" in config and "momentum:\n      - 0.95" in config
    shown = run(tmp_path, "--trainer.callbacks.help=GradientClip")
    assert "what happens when a gradient holds NaN or inf" in shown and "{skip,zero,warn,raise}" in shown


def test_the_config_is_found_good_by_the_check() -> None:
    findings = check_file(ROOT / "examples" / "cli" / "config.yaml")
    assert findings.problems == [] and findings.checked == 6
