"""What several tests of examples train or compare: modules, data and functions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.forked import run_script

ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in a copy of its folder and return what it printed."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = run_script(Path("examples") / f"{name}.py", *arguments, folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
