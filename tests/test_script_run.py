"""A script that runs as it is, with observers in every Trainer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import lightning_tricks.cli as cli
from lightning_tricks.script_run import OBSERVERS, VARIABLE, run_script

SCRIPT = """
import sys
import lightning.pytorch as L
from lightning.pytorch.loggers import CSVLogger
from tests.problems import Classifier, loader
import beside

class Noting(Classifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

if __name__ == "__main__":
    print("arguments", sys.argv[1:], beside.VALUE)
    logger = CSVLogger("own", name="", version=0) if "own" in sys.argv else False
    trainer = L.Trainer(max_epochs=1, logger=logger, enable_progress_bar=False, enable_checkpointing=False,
                        enable_model_summary=False, accelerator="cpu", log_every_n_steps=2,
                        fast_dev_run="fast" in sys.argv)
    trainer.fit(Noting(), loader(96))
    print("callbacks", [type(c).__name__ for c in trainer.callbacks])
    if "exit" in sys.argv:
        sys.exit(3)
    if "fail" in sys.argv:
        raise ValueError("the end of the script")
    if "interrupt" in sys.argv:
        raise KeyboardInterrupt
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("lightning_tricks.script_run.OBSERVERS", "GradientMonitor,TrainingDoctor")
    (tmp_path / "beside.py").write_text("VALUE = 'found'")
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    yield path
    sys.modules.pop("beside", None)


def test_the_script_sees_its_arguments_and_its_trainer_the_observers(script: Path, tmp_path: Path, capsys: Any) -> None:
    argv, path = list(sys.argv), list(sys.path)
    code, folders = run_script(script, ["--epochs", "3"], tmp_path / "logs")
    said = capsys.readouterr().out
    assert code == 0 and folders == [tmp_path / "logs" / "version_0"]
    assert "arguments ['--epochs', '3'] found" in said and "'GradientMonitor', 'TrainingDoctor'" in said
    assert "grad/norm" in (folders[0] / "metrics.csv").read_text()
    assert sys.argv == argv and sys.path == path and VARIABLE not in os.environ


def test_a_logger_of_the_script_is_used_and_no_other_is_added(script: Path, tmp_path: Path) -> None:
    code, folders = run_script(script, ["own"], tmp_path / "logs")
    assert (code, [str(f) for f in folders]) == (0, ["own/version_0"]) and not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("fail", 1), ("interrupt", 130)])
def test_the_exit_code_is_that_of_the_script(script: Path, tmp_path: Path, capsys: Any, how: str, code: int) -> None:
    found, folders = run_script(script, [how], tmp_path / "logs")
    assert found == code and len(folders) == 1
    assert ("the end of the script" in capsys.readouterr().err) is (how == "fail")


def test_what_the_variable_names_already_is_kept(script: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, "DeadUnits,Nonsense")
        run_script(script, [], tmp_path / "logs")
        assert os.environ[VARIABLE] == "DeadUnits,Nonsense"
    said = capsys.readouterr()
    assert "'DeadUnits', 'GradientMonitor'" in said.out and "there is no 'Nonsense'" in said.err


def test_a_trial_of_the_loop_has_no_page(script: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["doctor", str(script), "fast"]) == 0
    assert "fast_dev_run keeps no logs" in capsys.readouterr().out


def test_the_command_ends_in_a_page(script: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["doctor", "--folder", "logs", str(script), "exit"]) == 3
    page = capsys.readouterr().out.strip().splitlines()[-1]
    assert page == "logs/version_0/report.html" and "GradientMonitor" in Path(page).read_text()


def test_a_page_that_cannot_be_written_is_told(script: Path, capsys: Any, monkeypatch: Any) -> None:
    def refuse(folder: Path) -> Any:
        raise ValueError("nothing was logged")

    monkeypatch.setattr("lightning_tricks.report.page.write_report", refuse)
    assert cli.main(["doctor", "--folder", "logs", str(script)]) == 0
    assert "logs/version_0: no page could be written: nothing was logged" in capsys.readouterr().out


def test_a_script_that_is_not_there_is_told(capsys: Any) -> None:
    assert cli.main(["doctor", "nowhere.py"]) == 2
    assert capsys.readouterr().out == "nowhere.py: there is no such file. Pass the script that trains.\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("plain.py", "print('hello')", "plain.py: no Trainer.fit of Lightning was seen"),
        ("data.txt", "x", "data.txt: not a Python file. Pass the script that trains, e.g. train.py."),
    ],
)
def test_what_does_not_train_is_told_in_one_line(
    tmp_path: Path, monkeypatch: Any, capsys: Any, name: str, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    assert cli.main(["doctor", name]) == 2
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(words)


def test_all_that_watch_are_observers_of_this_package() -> None:
    from lightning_tricks.recipe_choices import tricks

    assert all(tricks()[name].observer for name in OBSERVERS.split(","))
