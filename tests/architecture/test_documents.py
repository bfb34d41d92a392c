"""docs/architecture.md and the other pages for contributors say what the code says.

Each failure prints what to write instead. A symbol that was moved is searched for in the whole repository.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_tricks.lifecycle.dispatch import STEP_HOOKS
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lightning_tricks"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    ARCHITECTURE,
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
HOOKS = {name for name in dir(L.Callback) if not name.startswith("_") and name != "state_key"}
AFTER_STEP = "(end of `optimizer.step`)"


# -- links ----------------------------------------------------------------------------------------------------------


def links() -> Iterator[tuple[Path, str, str]]:
    """Yield page, path and symbol of every relative link."""
    for page in PAGES:
        for path, symbol in re.findall(r"\]\(([^)\s#]+)(?:#([\w.-]+))?\)", page.read_text(encoding="utf-8")):
            if not re.match(r"\w+:", path):
                yield page, path, symbol


@cache
def symbols(path: Path) -> frozenset[str]:
    """Return what a file defines at module level and in its classes: ``name`` and ``Class.name``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= set(bound(node))
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for member in node.body for name in bound(member)}
    return frozenset(found)


def bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def places(symbol: str) -> list[str]:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in files if symbol in symbols(path))


def test_every_link_of_the_pages_for_contributors_leads_to_a_file_and_a_symbol_in_it() -> None:
    wrong, count = [], 0
    for page, path, symbol in links():
        where, target = page.relative_to(ROOT), (page.parent / path).resolve()
        count += 1
        if not target.exists():
            elsewhere = f"; {symbol} is in {places(symbol)}" if symbol else ""
            wrong.append(f"{where}: {path} does not exist{elsewhere}")
        elif symbol and target.suffix == ".py" and symbol not in symbols(target):
            wrong.append(f"{where}: {path} does not define {symbol}; it is in {places(symbol) or 'no file'}")
    assert not wrong, "\n".join(wrong)
    assert count > 50


def test_every_question_of_the_quiz_is_answered_by_a_link_that_shows_its_target() -> None:
    quiz = ARCHITECTURE.read_text(encoding="utf-8").partition("## Quiz")[2]
    questions = [line for line in quiz.splitlines() if re.match(r"\d+\. ", line)]
    assert len(questions) >= 10
    for question in questions:
        found = re.search(r"\? \[`([^`]+)`\]\(\.\./([^)]+)\)$", question)
        assert found is not None and found[1] == found[2], question


# -- tables ---------------------------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of docs/architecture.md, without its header."""
    text = ARCHITECTURE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def layers() -> dict[str, int]:
    return {code(row[1])[0]: int(row[0]) for row in rows("Packages")}


def test_the_table_of_packages_has_every_package_and_a_sentence_for_each() -> None:
    here = {p.stem for p in PACKAGE.iterdir() if (p / "__init__.py").exists() or p.suffix == ".py"}
    assert set(layers()) == {name for name in here if not name.startswith("__")}
    for row in rows("Packages"):
        assert re.fullmatch(r"\S.+[^.]\.", row[2]), f"{row[1]}: {row[2]!r} is not a sentence"


def test_packages_import_packages_of_lower_layers_only() -> None:
    layer = layers()
    entry_points = max(layer.values())
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if package.startswith("__") or layer[package] == entry_points:
            continue
        for name in re.findall(r"^\s*from lightning_tricks\.(\w+)", path.read_text(encoding="utf-8"), re.M):
            assert name == package or layer[name] < layer[package], f"{path.relative_to(ROOT)} imports {name}"


def attribute_writes(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Attribute):
                yield target.attr
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield f'["{target.slice.value}"]'


def test_the_table_of_writers_names_the_packages_that_write() -> None:
    writers: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in attribute_writes(path):
            writers.setdefault(name, set()).add(path.relative_to(PACKAGE).parts[0])
    table = rows("Who writes what")
    assert len(table) >= 8
    for row in table:
        written = [re.split(r"\.(?=\w+$)|(?=\[)", name)[-1] for name in code(row[0])]
        by = {package for name in written for package in writers.get(name, ())}
        assert by == set(code(row[1])), f"{row[0]}: written by {', '.join(f'`{p}`' for p in sorted(by))}"


def own_methods() -> list[str]:
    """Return the stages of a run, told by what they receive."""
    found = []
    for name, member in vars(Stages).items():
        if inspect.isfunction(member) and not name.startswith("__") and name not in HOOKS:
            signature = inspect.signature(member)
            received = [*signature.parameters][1:2]
            if signature.return_annotation == "None" and received in ([], ["run"], ["view"]):
                found.append(name)
    return found


def current_hook() -> str:
    """Return the hook of Lightning that is being called, read off the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "_call_callback_hooks":
            return str(frame.f_locals["hook_name"])
        frame = frame.f_back  # type: ignore[assignment]
    return AFTER_STEP


class Recorder(L.Callback):
    """Notes the order of Lightning's hooks, and which hooks of a step are callable on each trick."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.receivers: dict[str, list[bool]] = {}
        for name in sorted(HOOKS):
            setattr(self, name, self.noting(name))

    def noting(self, name: str) -> Any:
        def note(trainer: Any = None, *_: Any, **__: Any) -> dict[str, Any]:
            self.order += [name] if name not in self.order else []
            if name == "on_train_batch_end":
                tricks = [c for c in trainer.callbacks if isinstance(c, Trick)]
                self.receivers = {hook: [callable(getattr(t, hook)) for t in tricks] for hook in STEP_HOOKS}
            return {"noted": True} if name == "state_dict" else {}

        return note


def probes(count: int, called: dict[str, list[str]], **more: Any) -> list[Trick]:
    """Return tricks that note at which hook of Lightning each of their own methods is called."""

    def noting(name: str) -> Any:
        def method(self: Trick, *_: Any) -> None:
            at = called.setdefault(current_hook(), [])
            at += [name] if name not in at else []

        return method

    methods = {name: noting(name) for name in own_methods()}
    return [type(f"Probe{i}", (Trick,), {**methods, **more})() for i in range(count)]


def fit(callbacks: list[Any], model: Any = None, **arguments: Any) -> None:
    options = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **{**options, **off})
    trainer.fit(model or BoringModel(), **arguments)


class Breaking(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise RuntimeError("this training fails")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_table_of_hooks_says_when_each_method_is_called_and_in_which_order(tmp_path: Path) -> None:
    called: dict[str, list[str]] = {}
    first = ModelCheckpoint(tmp_path, save_last=True)
    fit([*probes(1, {}), first])
    recorder = Recorder()
    fit([*probes(2, called), recorder, ModelCheckpoint(tmp_path / "again")], ckpt_path=None)
    order = recorder.order
    resumed = Recorder()
    fit([*probes(1, {}), resumed, ModelCheckpoint(tmp_path / "on")], ckpt_path=first.last_model_path)
    failed: dict[str, list[str]] = {}
    with pytest.raises(RuntimeError, match="this training fails"):
        fit([*probes(1, failed), ModelCheckpoint(tmp_path / "not")], Breaking())
    called["on_exception"] = failed["on_exception"]

    table = {
        code(row[0])[0] if row[0] != AFTER_STEP else AFTER_STEP: code(row[2])
        for row in rows("From Lightning's hooks to ours")
    }
    overridden = {name for name in HOOKS if name in vars(Trick)} | set(STEP_HOOKS)
    assert set(table) - {AFTER_STEP} == overridden
    for hook, methods in table.items():
        assert methods == called.get(hook, []), f"{hook} calls {', '.join(f'`{m}`' for m in called.get(hook, []))}"
    shown = [hook for hook in table if hook in order]
    assert shown == [hook for hook in order if hook in table], "rows are in the order of a fit"
    before = resumed.order[: resumed.order.index("on_fit_start")]
    assert [h for h in table if h in before] == [h for h in before if h in table]
    elsewhere = set(own_methods()) - {method for methods in table.values() for method in methods}
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert all(f"`{method}`" in text for method in elsewhere), elsewhere


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("overriding", [False, True], ids=["nobody overrides a hook", "every trick overrides all"])
def test_the_table_of_the_dispatch_says_which_hooks_are_none(tmp_path: Path, overriding: bool) -> None:
    recorder = Recorder()
    more = dict.fromkeys(STEP_HOOKS, lambda self, *_: None) if overriding else {}
    fit([*probes(3, {}, **more), recorder, ModelCheckpoint(tmp_path)])
    table = {code(row[0])[0]: row[1:] for row in rows("The dispatch of a training step")}
    assert list(table) == list(STEP_HOOKS)
    for hook, cells in table.items():
        wanted = [cell == "receives" or (overriding and cell.startswith("receives if")) for cell in cells]
        assert recorder.receivers[hook] == wanted, hook
