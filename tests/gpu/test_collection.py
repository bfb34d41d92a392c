from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.missing import ROOT, imported, installed, missing

# what a machine with torch, lightning, torchmetrics, tensorboard, rich, scikit-learn, scipy and matplotlib has not
ABSENT = (
    "hypothesis",
    "optuna",
    "optuna_integration",
    "jsonargparse",
    "torchdata",
    "mkdocs",
    "transformers",
    "docutils",
)


def test_imports_of_a_module_are_those_that_run_when_it_is_imported() -> None:
    text = "import a.b\nfrom c import d\nfrom . import e\ndef f():\n    import g\ntry:\n    import h\nexcept ImportError:\n    pass"
    assert list(imported(text)) == ["a.b", "c", "c.d"]


def test_a_file_needs_what_the_files_need_that_it_imports(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text("import torch\nimport no_such_package.part\n")
    assert missing(path) == "no_such_package"
    assert not installed("no_such_package")
    path = tmp_path / "test_y.py"
    path.write_text("import torch\nfrom tests.gpu.devices import context\n")
    assert missing(path) is None


@pytest.mark.timeout(110)
@pytest.mark.parametrize(
    "where",
    [("tests/gpu", "tests/laws", "tests/accumulation"), pytest.param((), marks=pytest.mark.slow)],
    ids=["some folders", "everything"],
)
def test_gpu_tests_are_collected_where_few_packages_are_installed(where: tuple[str, ...]) -> None:
    """In a process in which importing the others fails."""
    options = [
        "--collect-only",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_timeout",
        "-p",
        "xdist.plugin",
    ]
    code = (
        # (torchmetrics imports what it finds: it is imported before that cannot be any more)
        f"import sys, lightning.pytorch\nfor name in {ABSENT!r}:\n    sys.modules[name] = None\n"
        f"import pytest\nsys.exit(pytest.main({[*options, *where]!r}))\n"
    )
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert sum("::" in line for line in done.stdout.splitlines()) >= 40
    assert "left out, since hypothesis is not installed" in done.stdout
