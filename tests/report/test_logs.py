from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_tricks import GradientClip, GradientMonitor
from lightning_tricks.report.logs import read_logs
from tests.problems import Classifier, Memory, fit


def test_tensorboards_events_and_csv_give_what_was_logged(tmp_path: Path) -> None:
    memory = Memory()
    loggers = [memory, TensorBoardLogger(tmp_path, "board"), CSVLogger(tmp_path, "table")]
    fit(Classifier(), [GradientMonitor(), GradientClip(0.5)], n=64, logger=loggers)
    truth = memory.series("grad/norm")
    for name in ("board", "table"):
        logs = read_logs(tmp_path / name)
        assert logs.folder == tmp_path / name / "version_0"
        assert dict(logs.scalars["grad/norm"]) == pytest.approx(truth)
        assert logs.steps == 8
        assert logs.hyperparameters["tricks"] == "GradientMonitor, GradientClip"
        assert "GradientClip/per" not in logs.hyperparameters, "it is the default"
        assert logs.facts["outcome"] == "finished" and logs.changed > 0
    assert "grad/layers" in read_logs(tmp_path / "board").images
    assert read_logs(tmp_path / "board").seconds >= 0 and math.isnan(read_logs(tmp_path / "table").seconds)


def test_a_run_that_is_repeated_in_its_folder_counts_as_the_last_one(tmp_path: Path) -> None:
    memory = Memory()
    for n in (64, 32):
        memory.rows.clear()
        fit(Classifier(), [GradientMonitor()], n=n, logger=[memory, TensorBoardLogger(tmp_path, "run", "0")])
    logs = read_logs(tmp_path)
    assert [step for step, _ in logs.scalars["grad/norm"]] == sorted(memory.series("grad/norm")) == [0, 1, 2, 3]


def test_several_runs_none_and_no_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_logs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither TensorBoard events nor metrics.csv"):
        read_logs(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("step,loss\n0,1.5\n")
    with pytest.raises(ValueError, match=r"holds 2 runs \(a, b\). Name one"):
        read_logs(tmp_path)
    assert read_logs(tmp_path / "a").scalars == {"loss": [(0, 1.5)]}


def test_broken_files_beside_the_logs_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,note\n0,0,nan,hello\n0,1,,\n0,2,0.5,\n")
    (tmp_path / "health.json").write_text("{not json")
    (tmp_path / "hparams.yaml").write_text("!!python/object/apply:os.system ['echo no']")
    logs = read_logs(tmp_path)
    assert [s for s, _ in logs.scalars["loss"]] == [0, 2] and math.isnan(logs.scalars["loss"][0][1])
    assert logs.health is None and logs.hyperparameters == {}
    (tmp_path / "health.json").write_text(json.dumps(["a list"]))
    assert read_logs(tmp_path).health is None
