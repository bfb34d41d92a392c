"""The two commands, as far as they can be tried without a network: what they say and what they remember."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONSTRAINTS = [
    f"requirements/constraints{which}.txt"
    for which in ("", "-oldest", "-strangers", "-notebooks", "-trackers", "-partners")
]


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with its folder moved to an empty one."""
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    (tmp_path / "requirements").mkdir()
    for name in (*CONSTRAINTS, "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(module, "ROOT", str(tmp_path))
    return module


def newest(dev: Any) -> Any:
    return dev.Environment(".venv", [CONSTRAINTS[0]])


class Commands:
    """Stands for subprocess.call: remembers commands, and makes the venv's python."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.seen = failing, []  # type: ignore[var-annotated]

    def __call__(self, command: list[str], cwd: str) -> int:
        self.seen.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        return int(bool(self.failing) and self.failing in command)


def test_the_first_run_installs_with_the_constraints_and_the_second_does_not(dev: Any, monkeypatch: Any) -> None:
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    assert dev.main(["demo", "--epochs", "1"]) == 0
    assert calls.seen[1][:3] == [newest(dev).python, "-m", "pip"]
    assert calls.seen[1][-4:] == ["-c", CONSTRAINTS[0], "-e", ".[demo]"]
    assert calls.seen[2][1:] == ["examples/demo.py", "--epochs", "1"]
    assert dev.main(["demo"]) == 0
    assert len(calls.seen) == 4
    assert dev.main(["test", "-k", "x"]) == 0
    assert calls.seen[4][-1] == ".[demo,test]", "another extra is added, nothing is made anew"
    assert calls.seen[5][-6:] == ["-n", "3", "--dist", "worksteal", "-k", "x"]
    assert not Path(newest(dev).lock).exists()


def test_what_executes_notebooks_is_added_to_the_environment_of_the_tests(dev: Any, monkeypatch: Any) -> None:
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    assert dev.main(["lint"]) == 0 and dev.main(["test", "--notebooks", "-k", "x"]) == 0
    install = next(c for c in calls.seen if c[-1] == ".[notebooks,test]")
    lines = Path(install[install.index("-c") + 1]).read_text().splitlines()
    for name in ("constraints.txt", "constraints-notebooks.txt"):
        wanted = [line for line in (ROOT / "requirements" / name).read_text().splitlines() if "==" in line[:60]]
        assert {line for line in wanted if not line.startswith("#")} <= set(lines)
    assert calls.seen[-1][-2:] == ["-k", "x"] and "--notebooks" not in calls.seen[-1]
    assert sum("venv" in command for command in calls.seen) == 1, "nothing is made anew"


@pytest.mark.parametrize("changed", [CONSTRAINTS[0], "pyproject.toml", "python"])
def test_a_change_of_what_it_depends_on_makes_it_anew(dev: Any, changed: str, monkeypatch: Any) -> None:
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    dev.main(["demo"])
    if changed == "python":
        monkeypatch.setattr(dev.sys, "version", "another")
    else:
        with open(Path(dev.ROOT) / changed, "a") as file:
            file.write("\n# changed\n")
    dev.main(["demo"])
    assert sum("venv" in command for command in calls.seen) == 2


def test_an_install_that_failed_does_not_count_and_is_said_in_one_line(dev: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(dev.subprocess, "call", Commands(failing="pip"))
    with pytest.raises(dev.Plain, match="pip could not install the packages"):
        dev.main(["demo"])
    assert newest(dev).extras() is None
    assert not Path(newest(dev).lock).exists()
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(dev.Plain, match="no space left on the disk"):
        dev.main(["demo"])


def test_lint_runs_every_checker_also_after_one_failed(dev: Any, monkeypatch: Any) -> None:
    calls = Commands(failing="check")
    monkeypatch.setattr(dev.subprocess, "call", calls)
    assert dev.main(["lint"]) == 1
    assert [command[2] for command in calls.seen[2:]] == ["ruff", "ruff", "mypy"]


def test_an_old_python_and_a_misspelt_command_are_said_plainly(dev: Any, monkeypatch: Any) -> None:
    with pytest.raises(dev.Plain, match=r"no command 'tset'\. Did you mean 'test'\?"):
        dev.main(["tset"])
    monkeypatch.setattr(dev.sys, "version_info", (3, 8, 18))
    with pytest.raises(
        dev.Plain, match=r"this is Python 3\.8\.18, but 3\.10 or newer is needed\. Name one: python3\.12"
    ):
        dev.main(["test"])


def test_a_lock_of_a_dead_process_is_taken_over(dev: Any) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    Path(newest(dev).lock).write_text(str(dead.pid))
    dev.acquire(newest(dev).lock)
    assert Path(newest(dev).lock).read_text() != str(dead.pid)


def test_the_stamp_says_what_is_installed(dev: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(dev.subprocess, "call", Commands())
    dev.main(["bench", "list"])
    assert json.loads(Path(newest(dev).stamp).read_text())["extras"] == ["demo"]


def test_the_oldest_versions_have_an_environment_of_their_own_in_which_their_lines_count(
    dev: Any, monkeypatch: Any
) -> None:
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    monkeypatch.setattr(dev.sys, "version_info", (3, 11, 9))
    dev.main(["test", "--oldest", "-k", "x"])
    folder = Path(dev.ROOT) / ".venv-oldest"
    assert calls.seen[0][-1] == str(folder)
    assert calls.seen[1][-4:-1] == ["-c", str(folder / "constraints.txt"), "-e"]
    parallel = ["-n", "3", "--dist", "worksteal"]
    assert calls.seen[2] == [str(folder / "bin" / "python"), "-m", "pytest", "-q", *parallel, "-k", "x"]
    assert newest(dev).extras() is None
    merged = (folder / "constraints.txt").read_text().splitlines()
    names = [line.split("==")[0].lower() for line in merged]
    assert len(names) == len(set(names)), "pip refuses two constraints on one package"
    assert "torch==2.6.0" in merged
    assert any(line.startswith("pytest==") for line in merged)
    old = [line for line in (ROOT / CONSTRAINTS[1]).read_text().splitlines() if not line.startswith("#")]
    assert set(old) <= set(merged)


def test_a_python_without_wheels_of_the_oldest_versions_is_said_plainly(dev: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(dev.sys, "version_info", (3, 12, 1))
    with pytest.raises(dev.Plain, match=r"python3\.11 dev test --oldest"):
        dev.main(["test", "--oldest"])


@pytest.mark.skipif(not (3, 11) <= sys.version_info < (3, 13), reason="the packages of others have no common versions")
def test_packages_of_others_are_trained_in_an_environment_of_their_own(dev: Any, monkeypatch: Any) -> None:
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    assert dev.main(["strangers", "-k", "darts"]) == 0
    assert calls.seen[0][-1].endswith(".venv-strangers")
    assert calls.seen[1][-2:] == ["-e", ".[strangers]"]
    merged = Path(calls.seen[1][calls.seen[1].index("-c") + 1]).read_text()
    assert "torchmetrics==1.8.2" in merged and "torch==2.13.0" in merged, "of two pins the last one counts"
    assert calls.seen[2][-4:] == ["-m", "strangers", "-k", "darts"]


def test_no_packages_of_others_on_a_python_that_they_do_not_share(dev: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(dev.sys, "version_info", (3, 10, 0))
    with pytest.raises(dev.Plain, match="no common versions for this Python"):
        dev.main(["strangers"])


@pytest.mark.parametrize("name", ["trackers", "partners", "ray", "packaging"])
def test_what_needs_packages_of_others_runs_in_an_environment_of_its_own(dev: Any, monkeypatch: Any, name: str) -> None:
    monkeypatch.setattr(dev.sys, "version_info", (3, 12, 1))
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    assert dev.main([name, "-x"]) == 0
    assert calls.seen[0][-1].endswith(".venv-" + name)
    assert calls.seen[1][-2:] == ["-e", ".[" + ",".join(sorted(["test", name])) + "]"]
    assert calls.seen[2][-3:] == ["-m", name, "-x"]


def test_versions_that_are_named_get_an_environment_of_their_own_under_both_names_of_the_trainer(
    dev: Any, monkeypatch: Any
) -> None:
    calls = Commands()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    assert dev.main(["test", "-x", "--with", "lightning==2.5.6", "torch==2.6.0", "-k", "clip"]) == 0
    install = calls.seen[1]
    assert ".venv-with-" in calls.seen[0][-1]
    assert {"lightning==2.5.6", "pytorch-lightning==2.5.6", "torch==2.6.0"} <= set(install)
    merged = Path(install[install.index("-c") + 1]).read_text()
    names = {line.split("==")[0] for line in merged.splitlines()}
    assert not {"torch", "lightning", "pytorch-lightning", "sympy", "torchmetrics"} & names, (
        "a pin of ours would contradict"
    )
    assert "pytest" in names
    assert calls.seen[2][-3:] == ["-x", "-k", "clip"]


def test_with_without_a_version_says_what_to_write(dev: Any) -> None:
    with pytest.raises(dev.Plain, match="--with needs versions"):
        dev.main(["test", "--with", "-x"])
