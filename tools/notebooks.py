"""`./dev notebooks`: execute the notebooks of examples/ in place, so that what is committed shows what they print.

Needs the extra ``notebooks``. Times and paths are left out of the files, so that a second run changes numbers only.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "notebooks"
LONGEST = 120  # seconds that one cell may take on a busy machine


def executed(path: Path) -> Any:
    """Return a notebook with the outputs of this machine.

    Args:
        path: an ``.ipynb`` file.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    import nbformat
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of the kernel's machinery, not of the cells)
        runner = ExecutePreprocessor(timeout=LONGEST, kernel_name="python3", record_timing=False)
        runner.preprocess(notebook, {"metadata": {"path": str(path.parent)}})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(arguments: list[str] | None = None) -> int:
    """Execute the notebooks that are named, or all; return 1 where one of them raises, 2 where there is none."""
    parser = argparse.ArgumentParser(prog="./dev notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", help="e.g. quickstart; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing: only see that they run")
    options = parser.parse_args(arguments)
    import nbformat
    from nbclient.exceptions import CellExecutionError

    paths = [FOLDER / f"{name}.ipynb" for name in options.names] or sorted(FOLDER.glob("*.ipynb"))
    failed = 0
    for path in paths:
        if not path.is_file():
            print(f"{path.name}: there is no such notebook in {FOLDER.relative_to(ROOT)}.")
            return 2
        try:
            notebook = executed(path)
        except CellExecutionError as error:
            print(f"{path.name}: {error}")
            failed = 1
            continue
        if not options.check:
            nbformat.write(notebook, path)
        print(path.relative_to(ROOT))
    return failed


if __name__ == "__main__":
    sys.exit(main())
