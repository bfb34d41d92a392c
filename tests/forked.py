"""Processes forked from a server that has imported everything: to start one costs milliseconds instead of seconds."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOADED = ["lightning_tricks", "lightning.pytorch", "matplotlib.figure", "sklearn.datasets", "rich.table", "tests.faults.children", "tests.frozen"]  # fmt: skip

_SECONDS_TO_END = 20


@functools.cache
def server() -> Any:
    """Return the context whose processes are forked from the server; its imports are over when this returns."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    first = context.Process(target=os.getpid)
    first.start()
    first.join()
    return context


@dataclass(frozen=True)
class Done:
    """What became of a script."""

    returncode: int
    stdout: str
    stderr: str


def run_script(path: Path, *arguments: str, folder: Path, environment: Mapping[str, str], timeout: float = 110) -> Done:
    """Run a script in a folder as ``python -W ignore path arguments`` does."""
    return _run(_as_script, (path, arguments), folder=folder, environment=environment, timeout=timeout)


def run_module(name: str, *arguments: str, folder: Path, environment: Mapping[str, str], timeout: float = 110) -> Done:
    """Run a module in a folder as ``python -W ignore -m name arguments`` does."""
    return _run(_as_module, (name, arguments), folder=folder, environment=environment, timeout=timeout)


def run_torchrun(
    target: str, *arguments: str, folder: Path, environment: Mapping[str, str], processes: int, restarts: int = 0,
    timeout: float = 250,
) -> Done:  # fmt: skip
    """Run a script, or a module by its dotted name, as ``torchrun --standalone`` does.

    It is torchrun's agent that starts, watches and restarts the processes. They are forked from it: an interpreter that
    has to import everything takes ten times as long.
    """
    plan = (target, arguments, processes, restarts)
    return _run(_as_torchrun, plan, folder=folder, environment=environment, timeout=timeout)


def _run(
    function: Callable[..., None],
    given: tuple[Any, ...],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout: float,
) -> Done:
    said = [folder / ".stdout", folder / ".stderr"]
    process = server().Process(target=_child, args=(function, given, folder, dict(environment), said))
    process.start()
    process.join(timeout)
    alive = process.is_alive()
    if alive:
        os.killpg(process.pid, signal.SIGKILL)  # what it has started is in its group
    process.join()
    texts = [file.read_text() for file in said]
    for file in said:
        file.unlink()
    assert not alive, f"{given[0]} still runs after {timeout} s: {texts}"
    return Done(process.exitcode or 0, *texts)


def _child(
    function: Callable[..., None], given: tuple[Any, ...], folder: Path, environment: dict[str, str], said: list[Path]
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), said, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    warnings.simplefilter("ignore")
    code: Any = 0
    try:
        function(*given)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    # (what was forked with the server may wait here for a thread that is not there any more)
    ending = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    ending.start()
    ending.join(_SECONDS_TO_END)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))


def _as_script(path: Path, arguments: tuple[str, ...]) -> None:
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.absolute().parent))
    runpy.run_path(str(path.absolute()), run_name="__main__")


def _as_module(name: str, arguments: tuple[str, ...]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _as_torchrun(target: str, arguments: tuple[str, ...], processes: int, restarts: int) -> None:
    from torch.distributed import run

    def launch(config: Any, entrypoint: str) -> Callable[..., Any]:
        config.start_method = "fork"
        return lambda *_: real(config, _worker)(target, arguments)

    real, run.elastic_launch = run.elastic_launch, launch
    options = ["--standalone", "--nproc_per_node", str(processes), "--max-restarts", str(restarts)]
    run.main([*options, target, *arguments])


def _worker(target: str, arguments: tuple[str, ...]) -> None:
    """One of torchrun's processes; the agent has set its environment."""
    if target.endswith(".py"):
        _as_script(Path(target), arguments)
        return
    _as_module(target, arguments)
