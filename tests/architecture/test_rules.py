"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_tricks
from lightning_tricks.lifecycle.trick import Trick
from tools.measure_code import MOST_ATTRIBUTES, MOST_METHODS, measure, read_package

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lightning_tricks"
FILES = sorted(PACKAGE.rglob("*.py"))
FEATURES = {"accumulation", "collapse", "diagnosis", "gradients", "lr_finder", "precision", "resume", "schedules"}
# From the bottom to the top; packages of one layer do not know each other.
LAYERS = [
    {"errors"},
    {"numerics"},
    {"modules"},
    {"optimizer_step", "publishing"},
    {"lifecycle"},
    {"detection", "dry_run"},
    FEATURES,
]
PURE_DRY_RUN = {"generators", "globals", "loaders", "objects", "snapshot", "tensors", "walk"}
BANNED = {"utils", "util", "helpers", "helper", "misc", "common", "tools", "base", "core"}


def parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(parts(p)))
def test_every_file_imports_downwards_only(path: Path) -> None:
    package = parts(path)[0]
    own = {m.group(1) for name in imports(path) if (m := re.match(r"lightning_tricks\.(\w+)", name))} - {package}
    foreign = {name.split(".")[0] for name in imports(path)} - {"lightning_tricks"}
    layer = next((i for i, layer in enumerate(LAYERS) if package in layer), len(LAYERS))
    allowed = set().union(*LAYERS[:layer])
    if layer < len(LAYERS):  # (the entry points above the layers may know one another)
        assert own <= allowed, f"{package} may import {sorted(allowed)} only"
    if package in ("numerics", "modules"):
        assert not foreign & {"lightning", "pytorch_lightning", "logging", "pathlib"}
    if package == "dry_run" and parts(path)[-1] in PURE_DRY_RUN:
        assert not own & {"lifecycle"} and not foreign & {"lightning", "pytorch_lightning"}
    if package in FEATURES and not {"callbacks", "plugins"} & set(parts(path)):
        assert not foreign & {"lightning", "pytorch_lightning"}, "only the callbacks of a package import Lightning"


def test_no_files_import_one_another_in_a_circle() -> None:
    """Also not for types only, and not inside of functions."""
    names = {".".join(("lightning_tricks", *parts(p))).removesuffix(".__init__"): p for p in FILES}
    graph = {
        name: {i for i in imports(path) if i in names and i != name and not name.startswith(f"{i}.")}
        for name, path in names.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [p for p in FILES if parts(p)[-1] in BANNED]


def test_every_file_has_its_test_file_at_the_same_path() -> None:
    """The callbacks of a package may share one file of tests; what needs several processes is in tests/distributed."""

    def tested(path: Path) -> bool:
        *folders, name = parts(path)
        folder, found = ROOT / "tests" / "/".join(folders), f"test_{name}.py"
        places = [folder / found, ROOT / "tests" / "distributed" / found]
        if folders[-1:] == ["callbacks"]:
            places += [folder.parent / found, folder.parent / "test_callbacks.py"]
        return any(place.exists() for place in places)

    # declarations of log keys are tested together, in tests/publishing/test_log_keys.py
    assert not [
        p for p in FILES if not p.stem.startswith("__") and p.stem not in ("keys", "all_keys") and not tested(p)
    ]


@pytest.mark.parametrize("folder", ["lightning_tricks", "benchmarks", "tools", "examples"])
def test_no_class_has_more_than_20_methods_or_15_attributes_of_its_own(folder: str) -> None:
    """A larger one has parts with subjects and names of their own. Members of an enumeration are values, no state."""
    assert (MOST_METHODS, MOST_ATTRIBUTES) == (20, 15)
    modules = read_package(ROOT / folder)
    assert sum(len(module.classes) for module in modules) > 0
    assert measure(modules)["classes_over_limit"] == []


def test_public_names_are_sorted_and_exact() -> None:
    names = lightning_tricks.__all__
    assert names == sorted(names)
    bound = {n for n, v in vars(lightning_tricks).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert bound == set(names)


def public_classes() -> list[type]:
    return [v for n in lightning_tricks.__all__ if inspect.isclass(v := getattr(lightning_tricks, n))]


@pytest.mark.parametrize("cls", [c for c in public_classes() if issubclass(c, Trick)], ids=lambda c: c.__name__)
def test_a_callbacks_docstring_says_what_users_ask(cls: type) -> None:
    text = cls.__doc__ or ""
    for section in ("Args:", "Raises:", "Logs:", "Changes:", "State:", "Cost:", "Example:", "Reference:", ">>>"):
        assert section in text, section
    for name in inspect.signature(cls).parameters:
        assert re.search(rf"^\s+{name}: ", text, re.M), f"{name} is not documented"


@pytest.mark.parametrize("cls", public_classes(), ids=lambda c: c.__name__)
def test_constructors_are_typed_and_take_no_kwargs(cls: type) -> None:
    if issubclass(cls, Exception) or issubclass(cls, Warning) or cls is lightning_tricks.TricksMixin:
        return  # (a mixin hands on what belongs to the classes after it)
    for parameter in inspect.signature(cls).parameters.values():
        assert parameter.kind is not parameter.VAR_KEYWORD
        assert parameter.annotation is not parameter.empty, parameter.name


def attribute_writes(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Attribute):
                yield target.attr, node.lineno
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield f"[{target.slice.value}]", node.lineno


def test_everything_that_changes_has_one_writer() -> None:
    writers = {
        "grad": {
            "optimizer_step/gradient_writer.py",
            "optimizer_step/logbook.py",
            "optimizer_step/loss_scale.py",
            "dry_run/tensors.py",
        },
        "grad_scale": {"optimizer_step/gradient_writer.py", "optimizer_step/loss_scale.py"},
        "found_inf": {"optimizer_step/gradient_writer.py"},
        "[lr]": {"schedules/written.py", "optimizer_step/rates_in_steps.py", "lr_finder/base_rates.py"},
        "[momentum]": {"schedules/written.py"},
        "[betas]": {"schedules/written.py"},
        "[weight_decay]": {"schedules/written.py"},
        "_scale": {"optimizer_step/loss_scale.py"},
        "_init_scale": {"optimizer_step/loss_scale.py"},
        "precision_plugin": {"precision/trainer_precision.py"},
        "allow_tf32": {"precision/fp32_flags.py"},
        "should_stop": {"lifecycle/training_run.py"},
        "accumulate_grad_batches": {"accumulation/lightning_loop.py", "optimizer_step/window_request.py"},
    }
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        for attribute, line in attribute_writes(path):
            assert name in writers.get(attribute, {name}), f"{name}:{line} writes {attribute}"
            assert attribute not in ("log", "log_dict"), f"{name}:{line}: Lightning overwrites {attribute}"


def test_nothing_is_left_for_later() -> None:
    for path in FILES:
        assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", path.read_text()), path


def test_importing_the_package_changes_nothing() -> None:
    """After ``lightning.pytorch``, and after both namespaces; a fork is the process in which the first was imported."""
    code = """
import torch, lightning.pytorch, os
first = os.fork()
if first:
    assert os.waitpid(first, 0)[1] == 0
    import pytorch_lightning
import logging, os, signal, socket, warnings
import lightning_utilities.core.rank_zero as rank_zero
def state():
    flags = (torch.get_default_dtype(), torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
             torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), torch.initial_seed())
    flags += (rank_zero.log.name,)
    # the other namespace shows its own deprecations by a filter of its own
    filters = [f for f in warnings.filters if not f[2].__module__.startswith("lightning_fabric")]
    names = {m: sorted(vars(m)) for m in (torch, lightning.pytorch.Trainer, lightning.pytorch.Callback, torch.optim.Optimizer)}
    return (dict(os.environ), list(logging.root.handlers), filters, signal.getsignal(signal.SIGTERM), flags, names)
before = state()
def refuse(*a, **k): raise SystemExit('opened a socket')
socket.socket.connect = refuse
import lightning_tricks
assert state() == before
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


def test_version_and_changelog_agree() -> None:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found is not None
    version = found[1]
    assert version == lightning_tricks.__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_room_has_a_card_with_all_its_parts() -> None:
    for room in sorted(FEATURES):
        card = (PACKAGE / room / "README.md").read_text()
        for part in ("When to use", "Three lines", "YAML", "Cost", "Limits", "Attribution"):
            assert part in card, f"{room}: {part}"


def code_blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in [
        ROOT / "README.md",
        *PACKAGE.rglob("README.md"),
        *(p for folder in ("detectors", "tricks") for p in (ROOT / "docs" / folder).glob("*.md")),
    ]:
        blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
        found += [(f"{page.relative_to(ROOT)}#{i}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("where", "block"), code_blocks("python"), ids=lambda x: x if "#" in str(x) else "")
@pytest.mark.filterwarnings("ignore")
def test_the_code_in_the_docs_runs(where: str, block: str) -> None:
    exec(compile(block, where, "exec"), {})


@pytest.mark.parametrize(("where", "block"), code_blocks("yaml"), ids=lambda x: x if "#" in str(x) else "")
@pytest.mark.filterwarnings("ignore")
def test_the_yaml_in_the_docs_is_taken_by_lightningcli(where: str, block: str, tmp_path: Path) -> None:
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.demos.boring_classes import BoringModel

    path = tmp_path / "config.yaml"
    path.write_text(block)
    cli: Any = LightningCLI(
        BoringModel, run=False, args=["--config", str(path), "--trainer.logger", "false"], save_config_callback=None
    )
    ours = [c for c in cli.trainer.callbacks if isinstance(c, Trick)]
    plugins = len(yaml.safe_load(block)["trainer"].get("plugins") or [])
    assert len(ours) + plugins == block.count("- class_path: lightning_tricks."), "(rules and decays are no list items)"


def test_numbers_of_what_the_callbacks_cost_come_from_the_results() -> None:
    text = (ROOT / "docs/benchmarks/cost.md").read_text()
    result = (ROOT / "benchmarks/results/overhead-cpu.md").read_text()
    shown = [line for line in text.splitlines() if line.startswith(("| a |", "| b |"))]
    assert len(shown) > 5
    for line in shown:
        assert line in result.splitlines(), line


@pytest.mark.parametrize("page", ["docs/benchmarks/learning_rate.md", "lightning_tricks/lr_finder/README.md"])
def test_numbers_of_the_finder_come_from_the_results(page: str) -> None:
    result = (ROOT / "benchmarks/results/lr_finder-cpu.md").read_text().splitlines()
    shown = [
        line for line in (ROOT / page).read_text().splitlines() if re.match(r"\| (LRFinder|our rule|Lightning's)", line)
    ]
    assert len(shown) >= 3
    for line in shown:
        assert line in result, line


def test_the_support_page_is_that_of_the_matrix() -> None:
    from tests.matrix import support_page

    assert (ROOT / "docs" / "support.md").read_text() == support_page()
