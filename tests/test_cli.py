from __future__ import annotations

import runpy
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import lightning_tricks
import lightning_tricks.cli as cli
from lightning_tricks import LRSchedule
from lightning_tricks.schedules.phases import DECAYS


def test_check_says_what_is_wrong_and_ends_with_it(tmp_path: Path, capsys: Any) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("trainer: {callbacks: [{class_path: lightning_tricks.GradientClip}, {class_path: other.Thing}]}")
    bad.write_text("trainer: {max_epoch: 3}")
    assert cli.main(["check", str(good)]) == 0
    said = capsys.readouterr().out
    assert "1 of ours checked, nothing wrong" in said and "other.Thing is not ours: not imported" in said
    assert cli.main(["check", str(good), str(bad)]) == 1
    assert "Did you mean 'max_epochs'?" in capsys.readouterr().out
    assert cli.main(["check", str(tmp_path / "none.yaml"), str(bad)]) == 2


def test_a_schedule_is_drawn_as_the_callback_draws_it(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    drawn: list[Any] = []
    real = LRSchedule.plot
    monkeypatch.setattr(
        LRSchedule, "plot", lambda self, *a, **k: drawn.append((self.values(100), a, k)) or real(self, *a, **k)
    )
    options = [
        "--decay",
        "linear",
        "--warmup",
        "10",
        "--hold",
        "20%",
        "--final",
        "0.1",
        "--updates",
        "100",
        "--lr",
        "0.5",
    ]
    path = tmp_path / "s.png"
    assert cli.main(["schedule", *options, "-o", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and str(path) in capsys.readouterr().out
    assert drawn == [(LRSchedule("linear", warmup=10, hold="20%", final=0.1).values(100), (100,), {"base_lr": 0.5})]
    for wrong, words in (
        (["--decay", "cosin"], "Did you mean 'cosine'"),
        (["--final", "2"], "final"),
        (["--warmup", "x"], "warmup"),
        (["cosin"], "Did you mean 'cosine'"),
        (["linear", "--decay", "sqrt"], "two decays: linear and --decay sqrt"),
        (["linear", "--decay", "cosine"], "two decays: linear and --decay cosine"),
    ):
        assert cli.main(["schedule", *wrong, "-o", str(path)]) == 2
        assert words in capsys.readouterr().out


def test_a_decay_may_be_given_without_its_option(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    assert cli.main(["schedule", "linear", "-o", str(paths[0])]) == 0
    assert cli.main(["schedule", "--decay", "linear", "-o", str(paths[1])]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_report_is_written_and_its_path_is_said(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,2.0\n1,1.0\n")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.html"), str(tmp_path / "report.md")]
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().out


def test_a_report_compares_two_runs_and_a_watched_one_ends_with_the_run(tmp_path: Path, capsys: Any) -> None:
    for name, loss in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(f"step,val/loss\n0,3.0\n1,{loss}\n")
    page = tmp_path / "page.html"
    arguments = ["report", str(tmp_path / "a"), "--compare", str(tmp_path / "b"), "--watch", "-o", str(page)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.split() == [str(page)]
    assert "This run is better in val/loss: 1 here, 2 there." in page.read_text()


def test_demo_and_bench_run_in_a_checkout_and_say_so_elsewhere(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    called: list[Any] = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, cwd: called.append(command) or 0)
    assert cli.main(["bench", "run", "overhead", "--quick"]) == 0
    assert called[0][1:] == ["-m", "benchmarks", "run", "overhead", "--quick"]
    assert cli.main(["demo", "--epochs", "1"]) == 0
    assert called[1][1].endswith("examples/demo.py") and called[1][2:] == ["--epochs", "1"]
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "lightning_tricks" / "cli.py"))
    assert cli.main(["demo"]) == 2
    assert "Get a checkout of the repository" in capsys.readouterr().out


def test_both_ways_to_call_it_show_the_commands(capfd: Any, monkeypatch: Any) -> None:
    (command,) = entry_points(group="console_scripts", name="lightning-tricks")
    assert Path(sys.executable).with_name("lightning-tricks").is_file()
    monkeypatch.setattr(sys, "argv", ["lightning-tricks", "--help"])
    with pytest.raises(SystemExit) as end:  # what that file does
        sys.exit(command.load()())
    assert not end.value.code
    installed = capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["lightning_tricks", "--help"])
    with pytest.raises(SystemExit) as end:  # python -m lightning_tricks
        runpy.run_module("lightning_tricks", run_name="__main__", alter_sys=True)
    assert not end.value.code
    for shown in (installed, capfd.readouterr().out):
        for name in ("check", "schedule", "report", "demo", "bench", "list", "explain", "doctor", "lr-find", "advise"):
            assert name in shown


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["chekc"], "lightning-tricks: there is no command 'chekc'. Did you mean 'check'?"),
        (["qqqqqq"], "lightning-tricks: there is no command 'qqqqqq'. There are: list, explain, doctor, "),
    ],
)
def test_a_command_that_is_not_there_is_answered_with_the_nearest(given: list[str], line: str, capsys: Any) -> None:
    assert cli.main(given) == 2
    said = capsys.readouterr().out
    assert said.startswith(line) and said.count("\n") == 1


@pytest.mark.parametrize(
    "given", [["schedule", "--updates", "x"], ["lr-find"], ["--nonsense"], ["explain"], ["doctor"]]
)
def test_a_bad_argument_is_told_in_one_line(given: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(given)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and "--help shows how." in said and ", arguments" not in said


def test_without_a_command_the_help_is_shown(capsys: Any) -> None:
    assert cli.main([]) == 2
    assert "lightning-tricks doctor train.py" in capsys.readouterr().out


def test_the_version_is_told(capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"lightning-tricks {lightning_tricks.__version__}\n"


def test_the_help_of_schedule_lists_every_decay_that_can_be_drawn(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["schedule", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert cli.DECAY_NAMES.split(", ") == [name for name in DECAYS if name != "plateau"]  # (which a metric decides)
    assert cli.DECAY_NAMES in said
