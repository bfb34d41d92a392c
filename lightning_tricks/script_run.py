"""``lightning-tricks doctor train.py``: runs a script as it is, with observers in every Trainer, and ends in a page."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_tricks.activation import callbacks_of
from lightning_tricks.lifecycle.namespaces import lightning_pytorch, pytorch_lightning

VARIABLE = "LIGHTNING_TRICKS"
OBSERVERS = "SanityCheck,GradientMonitor,PrecisionDoctor,MemoryDoctor,TrainingDoctor"


class LogFolders(lightning_pytorch.Callback, pytorch_lightning.Callback):  # type: ignore[misc]  # (as ``Trick``)
    """Notes where the runs of a script are logged; a run that no report can be made of gets a CSVLogger beside its own.

    Args:
        folder: where such a logger writes.
        seen: the folders of all runs so far, None for one that keeps no logs; extended in place.
    """

    def __init__(self, folder: Path, seen: list[Path | None]) -> None:
        self._folder, self._seen = folder, seen

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A fit begins."""
        if stage != "fit":
            return
        if trainer.fast_dev_run:
            print("fast_dev_run keeps no logs, so that there is nothing to write about.")
            self._seen.append(None)
            return
        readable = [logger for logger in trainer.loggers if _is_readable(logger)]
        if not readable:
            package = lightning_pytorch if isinstance(trainer, lightning_pytorch.Trainer) else pytorch_lightning
            readable = [package.loggers.CSVLogger(self._folder, name="")]
            trainer.loggers = [*trainer.loggers, *readable]
        path = Path(readable[0].log_dir)
        if path not in self._seen:
            self._seen.append(path)


def run_script(script: Path, arguments: Sequence[str], folder: Path) -> tuple[int, list[Path]]:
    """Run a script as ``python script arguments`` would, with observers in every Trainer that it makes.

    Args:
        folder: for logs of runs that have no logger of their own.

    Returns:
        The exit code of the script, and the folders in which its runs were logged.

    Raises:
        ValueError: there is no such file, it is not a Python file, or it came to its end without a ``Trainer.fit``.
    """
    if not script.is_file():
        raise ValueError(f"{script}: there is no such file. Pass the script that trains.")
    if script.suffix not in (".py", ""):
        raise ValueError(f"{script}: not a Python file. Pass the script that trains, e.g. train.py.")
    seen: list[Path | None] = []
    with _as_started(script, arguments), _observed(folder, seen):
        code = _executed(script)
    if not seen and code == 0:
        raise ValueError(f"{script}: no Trainer.fit of Lightning was seen, so that there is nothing to write about.")
    return code, [path for path in seen if path is not None and path.is_dir()]


def _executed(script: Path) -> int:
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        # (Python ends with 1 where ``sys.exit`` was given a string)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        # (128 + SIGINT, as shells count)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _as_started(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Let the script see its own name, arguments and folder, while it runs."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        # (the list itself is filled again, since other modules hold it)
        sys.argv, sys.path[:] = argv, path


@contextmanager
def _observed(folder: Path, seen: list[Path | None]) -> Iterator[None]:
    """Let every Trainer have the observers; also those of processes that the script starts, by the variable."""
    entry_point: Any = importlib.import_module("lightning_tricks_from_environment")
    given, real = os.environ.get(VARIABLE), entry_point.callbacks
    text = ",".join(part for part in (given, OBSERVERS) if part)

    def callbacks() -> list[Any]:
        found, problems = callbacks_of(text)
        for problem in problems:
            print(f"{VARIABLE}: {problem}", file=sys.stderr)
        return [LogFolders(folder, seen), *found]

    os.environ[VARIABLE], entry_point.callbacks = text, callbacks
    try:
        yield
    finally:
        entry_point.callbacks = real
        if given is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = given


def _is_readable(logger: Any) -> bool:
    """Whether a report can be made of what a logger writes: CSV files and TensorBoard's."""
    # (by name: each of Lightning's two namespaces has these)
    names = {cls.__name__ for cls in type(logger).__mro__}
    return bool(names & {"CSVLogger", "TensorBoardLogger"}) and getattr(logger, "log_dir", None) is not None
