"""Nothing leaves the machine: not from importing the package, nor from its command, a training or the demo.

Each runs in a process of its own, in which Python's audit hook notes and refuses every connection and every question
about a name. The hook cannot be removed, sees ``connect`` of every socket class, and child processes have it too.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_tricks
from tests.forked import run_script

ROOT = Path(__file__).parents[1]

BLOCK = """
import os, sys

NETWORK = {"connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo"}

def refuse(event, args):
    if event.startswith("socket.") and event[7:] in NETWORK:
        if getattr(args[0], "family", None) == 1:  # AF_UNIX
            return
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{event} {args!r}\\n")
        raise ConnectionRefusedError(f"refused: {event} {args!r}")

sys.addaudithook(refuse)
"""


def blocked(folder: Path) -> tuple[dict[str, str], Path]:
    """Return an environment in which every Python is behind the block, and the file in which that notes attempts."""
    (folder / "block").mkdir()
    (folder / "block" / "sitecustomize.py").write_text(BLOCK)
    attempts = folder / "attempts.txt"
    attempts.touch()
    changed = {"PYTHONPATH": os.pathsep.join([str(folder / "block"), str(ROOT)]), "ATTEMPTS": str(attempts)}
    return {**os.environ, **changed}, attempts


def run(folder: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python with these arguments behind the block; return how it ended, and what it tried."""
    environment, attempts = blocked(folder)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    return done, attempts.read_text()


def assert_quiet(folder: Path, *command: str) -> str:
    done, attempts = run(folder, *command)
    assert done.returncode == 0, done.stderr
    assert attempts == ""
    return done.stdout


def assert_code_is_quiet(folder: Path, code: str) -> str:
    """The same in a process that is forked from one that has imported everything, which is tested by itself."""
    environment, attempts = blocked(folder)
    (folder / "code.py").write_text(f"{BLOCK}\n{code}")
    done = run_script(Path("code.py"), folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr
    assert attempts.read_text() == ""
    return done.stdout


def test_a_forked_process_is_behind_the_block_too(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="refused: socket.connect"):
        assert_code_is_quiet(tmp_path, "import socket; socket.socket().connect(('192.0.2.1', 80))")
    assert "192.0.2.1" in (tmp_path / "attempts.txt").read_text()


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import socket; socket.socket().connect(('192.0.2.1', 80))", "socket.connect"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "socket.sendto"),
        ("import socket; socket.getaddrinfo('example.com', 80)", "socket.getaddrinfo"),
        ("import socket; socket.gethostbyname('example.com')", "socket.gethostbyname"),
        ("import urllib.request; urllib.request.urlopen('http://example.com')", "socket.getaddrinfo"),
        ("import requests; requests.get('http://192.0.2.1')", "192.0.2.1"),
        ("import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))", "192.0.2.1"),
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', "
            "'import socket; socket.create_connection((chr(49), 80))'], check=True)",
            "socket.getaddrinfo",
        ),
    ],
)
def test_the_block_refuses_and_notes_what_it_is_there_for(code: str, event: str, tmp_path: Path) -> None:
    environment = {name: "" for name in ("http_proxy", "https_proxy", "all_proxy")}
    without_proxy = f"import os; os.environ.update({environment | {n.upper(): '' for n in environment}}); {code}"
    done, attempts = run(tmp_path, "-c", without_proxy)
    assert done.returncode != 0 and event in attempts, (done.stderr, attempts)


def test_the_block_lets_sockets_of_the_machine_through(tmp_path: Path) -> None:
    code = "import socket; a = socket.socket(socket.AF_UNIX); a.bind('s'); a.listen(); "
    assert_quiet(tmp_path, "-c", code + "socket.socket(socket.AF_UNIX).connect('s'); print('through')")


def test_importing_the_package_and_each_of_its_modules_is_quiet(tmp_path: Path) -> None:
    walk = pkgutil.walk_packages(lightning_tricks.__path__, "lightning_tricks.")
    modules = [m.name for m in walk if not m.name.endswith("__main__")]  # that one does a command
    names = ["lightning_tricks", "lightning_tricks_from_environment", *modules]
    assert len(names) > 50
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert assert_quiet(tmp_path, "-c", code) == "all\n"


def test_the_command_is_quiet(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("trainer: {callbacks: [{class_path: lightning_tricks.GradientClip}]}")
    code = (
        "import contextlib, lightning_tricks.cli as cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        f"assert cli.main(['check', {str(config)!r}]) == 0\n"
        "assert cli.main(['schedule', '--updates', '20', '-o', 's.png']) == 0\n"
    )
    said = assert_code_is_quiet(tmp_path, code)
    assert "nothing wrong" in said and (tmp_path / "s.png").stat().st_size > 1000


def test_a_training_with_every_callback_and_logs_is_quiet(tmp_path: Path) -> None:
    """The callbacks are those of tests/together: a new one is here without being asked."""
    code = """
import lightning.pytorch as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tests.problems import Classifier, loader, sgd
from tests.together.problems import CALLBACKS, example
tricks = [example(name) for name in CALLBACKS]
loggers = [TensorBoardLogger("logs"), CSVLogger("csv")]
t = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=tricks, logger=loggers, log_every_n_steps=1,
              enable_progress_bar=False, enable_model_summary=False)
t.fit(Classifier(lambda p: sgd(p, momentum=0.9)), loader(24))
print(len(tricks), t.global_step)
"""
    many, steps = assert_code_is_quiet(tmp_path, code).split()[-2:]
    assert int(many) > 10 and int(steps) > 0


@pytest.mark.examples
def test_the_demo_is_quiet(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = str(tmp_path / "examples" / "demo.py")
    code = (
        f"import runpy; sys.argv = [{script!r}, '--epochs', '1', '--lr', '0.003']\n"
        f"sys.path.insert(0, {str(tmp_path / 'examples')!r}); runpy.run_path({script!r}, run_name='__main__')"
    )
    assert "applied updates" in assert_code_is_quiet(tmp_path, code)
    assert list((tmp_path / "runs").rglob("events.*")), "it has trained and logged"


def test_in_the_suite_itself_connections_and_names_are_refused() -> None:
    with (
        socket.socket() as connection,
        pytest.raises(AssertionError, match=r"tried to connect to \('192\.0\.2\.1', 80\)"),
    ):
        connection.connect(("192.0.2.1", 80))
    with pytest.raises(AssertionError, match=r"the address of 'example\.com'"):
        socket.create_connection(("example.com", 80))
    assert socket.getaddrinfo("localhost", 80)
