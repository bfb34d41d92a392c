"""Private names of torch and Lightning stand in the files that look them up, and the page about versions lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools import versions_page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lightning_tricks"
OF_NAMEDTUPLES = {"_replace", "_asdict", "_fields", "_make"}
LISTED = {i.path.rsplit(".", 1)[1] for _, internals in versions_page.SOURCES.values() for i in internals}
# (our own objects have attributes of these names too)
FOREIGN = LISTED - {"_mode", "_version", "_scale", "_values"}
AT_ATTRIBUTES = {"getattr", "setattr", "hasattr", "delattr"}


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def of_itself(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in ("self", "cls")) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )


def asked(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the private names that are asked of other objects, with their line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not of_itself(node.value):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in AT_ATTRIBUTES:
            if isinstance(node.args[1], ast.Constant) and is_private(node.args[1].value):
                yield str(node.args[1].value), node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("torch", "lightning.", "pytorch_")):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((name, node.lineno) for name in names if is_private(name))


def own(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_private_names_of_others_are_asked_in_the_files_that_look_them_up() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    ours = {name for tree in trees.values() for name in own(tree)} | OF_NAMEDTUPLES
    allowed = {ROOT / path for path, _ in versions_page.SOURCES.values()}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in trees.items()
        if path not in allowed
        for name, line in asked(tree)
        if name in FOREIGN or name not in ours
    ]
    # the iterator of a CombinedLoader, whose part of the same name is asked for with a default
    assert [line for line in found if not re.search(r"resume/replay\.py:\d+: _(iterator|idx)", line)] == []


def test_the_scan_sees_attributes_strings_and_imports() -> None:
    code = "from torch._x import y\nloop._secret\ngetattr(loop, '_other')\nself._own\nsuper()._base()\na.__len__"
    assert list(asked(ast.parse(code))) == [("_x", 1), ("_secret", 2), ("_other", 3)] or sorted(
        asked(ast.parse(code))
    ) == [("_other", 3), ("_secret", 2), ("_x", 1)]


def test_the_page_lists_what_the_code_has() -> None:
    text = versions_page.PAGE.read_text(encoding="utf-8")
    assert text == versions_page.with_tables(text), "run python -m tools.versions_page"
    for name in LISTED:
        assert f"{name}`" in text


def test_the_range_of_the_page_is_that_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in ("lightning", "pytorch-lightning"):
        assert f'"{package}>=2.5.6,<2.8,!=2.6.2,!=2.6.3"' in project
    page = versions_page.PAGE.read_text(encoding="utf-8")
    assert "lightning 2.5.6 to 2.7" in page and "torch 2.6 or newer" in page
    assert "lightning 2.5.6 to 2.7" in (ROOT / "README.md").read_text(encoding="utf-8")
