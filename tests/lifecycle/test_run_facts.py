from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_tricks import GradientMonitor, LRFinder
from lightning_tricks.lifecycle.run_facts import commit_of
from tests.problems import Classifier, Memory, fit, loader, trainer


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def test_the_facts_of_a_run_lie_beside_the_logs_of_every_logger_that_keeps_files(tmp_path: Path) -> None:
    loggers = [Memory(), TensorBoardLogger(tmp_path, "a", "0"), CSVLogger(tmp_path, "b", "0")]
    fit(Classifier(), [GradientMonitor()], logger=loggers)
    one, two = facts(tmp_path / "a" / "0"), facts(tmp_path / "b" / "0")
    assert one == two
    parameters = sum(p.numel() for p in Classifier().parameters())
    expected = {
        "model": "Classifier",
        "parameters": parameters,
        "trained_parameters": parameters,
        "training_samples": 96,
        "batches_per_epoch": 12,
        "steps": 12,
        "updates": 12,
        "optimizers": ["SGD(lr=0.05)"],
        "precision": "32-true",
        "device": "CPU",
        "outcome": "finished",
    }
    assert {name: one[name] for name in expected} == expected
    assert one["versions"]["torch"] == torch.__version__
    assert one["started"] <= one["ended"]


def test_a_failure_is_told_with_its_words(tmp_path: Path) -> None:
    class Dies(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert facts(tmp_path / "a" / "0")["ended"] is None, "under way"
            if self.seen == 3:
                raise ValueError("boom")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="boom"):
        fit(Dies(), [GradientMonitor()], logger=CSVLogger(tmp_path, "a", "0"))
    found = facts(tmp_path / "a" / "0")
    assert found["outcome"] == "failed: ValueError: boom" and found["updates"] == 3


def test_a_run_that_somebody_stopped_says_so(tmp_path: Path) -> None:
    class Stops(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.trainer.should_stop = self.seen >= 4
            return super().training_step(batch, batch_idx)

    fit(Stops(), [GradientMonitor()], logger=CSVLogger(tmp_path, "a", "0"))
    assert facts(tmp_path / "a" / "0")["outcome"] == "stopped early"


def test_the_rate_that_was_found_is_among_the_facts(tmp_path: Path) -> None:
    finder = LRFinder(num_steps=40, apply=False)
    fit(Classifier(), [finder], logger=CSVLogger(tmp_path, "a", "0"))
    assert finder.result is not None and finder.result.suggestion is not None
    found = facts(tmp_path / "a" / "0")
    assert found["found_rate"] == finder.result.suggestion and found["rate_was_set"] is False


def test_nothing_is_written_without_a_logger_in_a_fast_run_and_where_there_is_no_room(tmp_path: Path) -> None:
    fit(Classifier(), [GradientMonitor()], default_root_dir=tmp_path, logger=Memory())
    t = trainer([GradientMonitor()], fast_dev_run=1, default_root_dir=tmp_path, logger=CSVLogger(tmp_path, "a", "0"))
    t.fit(Classifier(), loader(16))
    assert not [*tmp_path.rglob("run.json")]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").mkdir()  # it cannot be replaced by a file
    fit(Classifier(), [GradientMonitor()], logger=TensorBoardLogger(tmp_path, "b", ""))


def test_a_model_that_answers_no_questions_ends_no_run(tmp_path: Path) -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.ones(64), torch.tensor(1))] * 16)

    t = trainer([GradientMonitor()], logger=CSVLogger(tmp_path, "a", "0"))
    t.fit(Classifier(), torch.utils.data.DataLoader(Endless(), 8))
    found = facts(tmp_path / "a" / "0")
    assert "training_samples" not in found and found["steps"] == 2


def test_the_commit_is_gits(tmp_path: Path) -> None:
    def git(*arguments: str, where: Path = tmp_path) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout.strip()

    assert commit_of(tmp_path) is None
    git("init")
    assert commit_of(tmp_path) is None, "nothing was committed"
    git("commit", "--allow-empty", "-m", "one")
    (tmp_path / "below").mkdir()
    assert commit_of(tmp_path / "below") == git("rev-parse", "HEAD")
    git("worktree", "add", str(tmp_path / "tree"), "-b", "other")
    assert commit_of(tmp_path / "tree") == git("rev-parse", "HEAD")
    git("pack-refs", "--all")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    git("checkout", "--detach")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
