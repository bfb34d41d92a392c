"""What several tests of examples train or compare: modules, data and functions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.forked import run_script

ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path, *arguments: str, timeout: float = 110) -> str:
    """Run an example in a copy of its folder and return what it printed."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    path = Path("examples") / f"{name}.py"
    done = run_script(path, *arguments, folder=folder, environment=environment, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout
