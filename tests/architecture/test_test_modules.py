"""No test module imports another: what tests share is in tests/problems.py, tests/oracles.py, or problems.py of a folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_no_test_module_is_imported() -> None:
    """Such an import runs the other module's parametrisation, and a change of one test breaks another."""
    faults = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found = [name for name in names if re.match(r"tests\..*\btest_\w+$", name)]
            faults += [f"{path.relative_to(ROOT)}:{node.lineno} imports {name}" for name in found]  # type: ignore[attr-defined]
    assert len(FILES) > 200
    assert not faults, "\n".join(["Move what is shared into problems.py of the folder, or tests/problems.py:", *faults])
