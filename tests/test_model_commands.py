"""lr-find and advise: a function of the user's makes the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import lightning_tricks.cli as cli
from lightning_tricks.model_commands import advise, find_rate, made

SOURCE = """
import torch
from tests.problems import Classifier, loader
def make(): return Classifier(), loader(480)
class Whole(Classifier):
    def train_dataloader(self): return loader(96)
def batch(): return torch.nn.Linear(8, 4), (torch.randn(16, 8), torch.randint(4, (16,)))
def three(): return 1, 2, 3
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_for_the_command.py").write_text(SOURCE)
    yield tmp_path / "mine_for_the_command.py"
    sys.modules.pop("mine_for_the_command", None)


def test_a_rate_is_printed_and_drawn(mine: Path, capsys: Any) -> None:
    assert cli.main(["lr-find", f"{mine}:make", "--num-steps", "60", "-o", "curve.png"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("learning rate 0.") and "suggestions: minimum" in said
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_rate_that_is_not_to_be_believed_ends_with_1(mine: Path, capsys: Any) -> None:
    assert cli.main(["lr-find", "mine_for_the_command:Whole", "--max-lr", "1e-6"]) == 1
    assert "low confidence: " in capsys.readouterr().out


def test_a_precision_is_recommended(mine: Path, capsys: Any) -> None:
    assert cli.main(["advise", "mine_for_the_command:batch", "--seconds", "0.3"]) == 0
    assert "Trainer(precision=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["lr-find", "mine_for_the_command"], "there is no name behind a colon. Write package.module:name"),
        (["lr-find", "mine_for_the_command:mak"], "has no 'mak'. Did you mean 'make'?"),
        (["lr-find", "mine_for_the_command:qqqqqqqq"], "has no 'qqqqqqqq'. Write package.module:name"),
        (["lr-find", "mine_for_the_command:number"], "number is a int, not a function or a class"),
        (["lr-find", "no_such_module:make"], "No module named 'no_such_module'"),
        (["lr-find", "no_such_file.py:make"], "there is no such file"),
        (["lr-find", "mine_for_the_command:three"], "must return two things, a module and its data, not 3"),
        (["lr-find", "mine_for_the_command:make", "--num-steps", "1"], "num_steps"),
        (["lr-find", "mine_for_the_command:make", "--suggestion", "valey"], "Did you mean 'valley'?"),
        (["advise", "mine_for_the_command:Whole"], "must return (module, batch), not a Whole"),
        (["advise", "mine_for_the_command:batch", "--seconds", "-1"], "seconds"),
    ],
)
def test_every_bad_input_is_one_clear_line(mine: Path, capsys: Any, command: list[str], line: str) -> None:
    assert cli.main(command) == 2
    said = capsys.readouterr().out
    assert line in said and said.count("\n") == 1


def test_a_file_that_is_no_python_is_refused(mine: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.spec_from_file_location", lambda name, path: None)
    with pytest.raises(ValueError, match="it cannot be imported"):
        made(f"{mine}:make")


def test_the_functions_behind_the_commands_return_values(mine: Path) -> None:
    assert find_rate(f"{mine}:make", {"num_steps": 30}).lrs
    assert advise("mine_for_the_command:batch", 0.3).recommended
