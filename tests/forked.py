"""Processes forked from a server that has imported everything: to start one costs milliseconds instead of seconds."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOADED = ["lightning_tricks", "lightning.pytorch", "matplotlib.figure", "sklearn.datasets", "rich.table", "tests.faults.children"]  # fmt: skip


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
    said = [folder / ".stdout", folder / ".stderr"]
    process = server().Process(target=_script, args=(path, arguments, folder, dict(environment), said))
    process.start()
    process.join(timeout)
    alive = process.is_alive()
    process.kill()
    process.join()
    texts = [file.read_text() for file in said]
    for file in said:
        file.unlink()
    assert not alive, f"{path.name} still runs after {timeout} s: {texts}"
    return Done(process.exitcode or 0, *texts)


def _script(
    path: Path, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], said: list[Path]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), said, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str((folder / path).parent))
    warnings.simplefilter("ignore")
    code: Any = 0
    try:
        runpy.run_path(str(folder / path), run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))
