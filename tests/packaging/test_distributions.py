"""Wheel and sdist as users get them: reproducible, complete, typed, and importable with nothing but what they declare."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightning_tricks

ROOT = Path(__file__).parents[2]
TOOLS = {"build": "build", "hatchling": "hatchling", "twine": "twine", "check-wheel-contents": "check_wheel_contents"}
MISSING = [tool for tool, module in TOOLS.items() if importlib.util.find_spec(module) is None]
WHY = f"packaging: {', '.join(MISSING)} not installed (pip install 'lightning-tricks[packaging]')"
pytestmark = [pytest.mark.packaging, pytest.mark.skipif(bool(MISSING), reason=WHY), pytest.mark.timeout(300)]


def ran(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command; return what it printed, and fail with that where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def copied(folder: Path, when: int) -> Path:
    """The sources, as a checkout has them, with other times of all files."""
    ignored = shutil.ignore_patterns(
        ".*_cache", "__pycache__", "build", "dist", "runs", "site", "*.egg-info", ".hypothesis"
    )
    names = [n for n in os.listdir(ROOT) if not n.startswith(".") and n not in ("build", "dist", "runs", "site")]
    folder.mkdir()
    for name in [*names, ".gitignore"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    for path in folder.rglob("*"):
        os.utime(path, (when, when))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    """Two builds from two copies in folders of different names: ``build`` makes the wheel from the sdist."""
    made = []
    for i, when in enumerate((1_000_000_000, 1_500_000_000)):
        folder = copied(tmp_path_factory.mktemp(f"place{i}") / f"sources{i}", when)
        ran(sys.executable, "-m", "build", "--no-isolation", cwd=folder, SOURCE_DATE_EPOCH="1700000000", TZ=f"UTC{i}")
        made.append({path.suffix: path for path in (folder / "dist").iterdir()})
    return made


@pytest.fixture(scope="module")
def wheel(built: list[dict[str, Path]]) -> Path:
    return built[0][".whl"]


def test_two_builds_are_the_same_byte_for_byte(built: list[dict[str, Path]]) -> None:
    first, second = built
    assert set(first) == set(second) == {".whl", ".gz"}
    for kind in first:
        assert first[kind].name == second[kind].name
        assert first[kind].read_bytes() == second[kind].read_bytes(), kind


def test_a_wheel_that_is_built_without_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    folder = copied(tmp_path / "sources", 1_600_000_000)
    ran(sys.executable, "-m", "build", "--no-isolation", "--wheel", cwd=folder, SOURCE_DATE_EPOCH="1700000000")
    assert (folder / "dist" / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_index_would_take_both(built: list[dict[str, Path]], tmp_path: Path) -> None:
    said = ran(sys.executable, "-m", "twine", "check", "--strict", *built[0].values(), cwd=tmp_path)
    assert said.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    said = ran(sys.executable, "-m", "check_wheel_contents", "--config", ROOT / "pyproject.toml", wheel, cwd=ROOT)
    assert said.strip().endswith("OK")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        str(p.relative_to(ROOT)) for p in (ROOT / "lightning_tricks").rglob("*") if p.suffix in (".py", ".typed", ".md")
    }
    assert held == {*ours, "lightning_tricks_from_environment.py"}


def test_the_sdist_can_run_its_tests(built: list[dict[str, Path]]) -> None:
    with tarfile.open(built[0][".gz"]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for folder in ("tests", "benchmarks", "examples", "docs", "tools", "requirements"):
        here = {str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*.py")}
        assert here <= names, folder


def test_the_version_is_that_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == lightning_tricks.__version__
    assert metadata["Requires-Python"] == ">=3.10"


def closure(requirements: list[str]) -> dict[str, Distribution]:
    """The installed distributions that requirements need, and what these need, without extras that nobody asks for."""
    found: dict[str, Distribution] = {}
    asked = [(Requirement(text), "") for text in requirements]
    while asked:
        wanted, extra = asked.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        if name in found and not wanted.extras:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # (of another platform, or a library of CUDA)
            continue
        for text in found[name].requires or ():
            asked += [(Requirement(text), own) for own in ("", *wanted.extras)]
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An empty environment with the wheel, and with links to what it declares, and to nothing else that is here."""
    folder = tmp_path_factory.mktemp("environment")
    ran(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ran(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        declared = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    site = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    linked = set()
    for found in closure([text for text in declared if "extra ==" not in text]).values():
        for file in found.files or ():
            top = file.parts[0]
            source = Path(str(found.locate_file(top)))
            if top in linked or top in ("..", "__pycache__") or not source.exists() or (site / top).exists():
                continue
            linked.add(top)
            (site / top).symlink_to(source, target_is_directory=source.is_dir())
    return {"python": python, "site": site}


# packages of extras that some modules import; these modules are imported where they are used
OF_EXTRAS = {"matplotlib"}


def test_every_module_of_the_wheel_is_imported_with_what_it_declares_alone(
    environment: dict[str, Any], tmp_path: Path
) -> None:
    code = """
import importlib, importlib.util, json, pkgutil, warnings
warnings.simplefilter("ignore")
import lightning_tricks
assert not [name for name in ("pytest", "sklearn", "matplotlib", "jsonargparse") if importlib.util.find_spec(name)]
names = [m.name for m in pkgutil.walk_packages(lightning_tricks.__path__, "lightning_tricks.")]
missing = {}
for name in names:
    if not name.endswith("__main__"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing[name] = error.name
print(json.dumps([len(names), lightning_tricks.__file__, missing]))
"""
    count, place, missing = json.loads(ran(environment["python"], "-c", code, cwd=tmp_path, PYTHONPATH=""))
    assert count > 250
    assert Path(place).is_relative_to(environment["site"])
    assert set(missing.values()) <= OF_EXTRAS, missing


def test_a_training_runs_in_the_empty_environment(environment: dict[str, Any], tmp_path: Path) -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
import lightning.pytorch as L, torch
from lightning.pytorch.demos.boring_classes import BoringModel
import lightning_tricks as lt

class Plain(BoringModel):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
callbacks = [lt.GradientMonitor(), lt.GradientClip(1.0), lt.LRSchedule("cosine")]
t = L.Trainer(callbacks=callbacks, max_steps=8, accelerator="cpu", **quiet)
t.fit(Plain())
print("steps", t.global_step, "rate", t.optimizers[0].param_groups[0]["lr"])
"""
    assert "steps 8 rate 0.0" in ran(environment["python"], "-c", code, cwd=tmp_path, PYTHONPATH="")


def test_the_command_runs_and_knows_its_subcommands(environment: dict[str, Any], tmp_path: Path) -> None:
    command = environment["python"].parent / "lightning-tricks"
    assert re.search(r"\bcheck\b.*\breport\b", ran(command, "--help", cwd=tmp_path, PYTHONPATH=""), re.DOTALL)


CONSUMER = """
import lightning.pytorch as L
from lightning_tricks import AutoClip, GradientClip, LRFinder, LRSchedule, PredictionCollapse, Verdict, recipe
from lightning_tricks.functional import total_norm


def watched(verdict: Verdict) -> None:
    print(verdict.alarmed, verdict.since_step)


clip = GradientClip(AutoClip(10.0), per="layer")
finder = LRFinder(num_steps=50)
callbacks: list[L.Callback] = [clip, finder, LRSchedule("cosine", warmup="5%"), PredictionCollapse(action=watched)]
callbacks += recipe("transformer")
share: float | None = clip.clipped_fraction
"""
# each line is a mistake of a user's that a type checker must see
MISTAKES = {
    'GradientClip(1.0, per="tensor")': "per",
    'LRSchedule("cosine", warmup=[1])': "warmup",
    'GradientClip("1.0")': "rule",
    "LRFinder(num_step=50)": "num_step",
}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_file_is_checked_against_the_types_of_the_wheel(
    checker: str, environment: dict[str, Any], tmp_path: Path
) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"packaging: {checker} is not installed (pip install 'lightning-tricks[packaging]')")
    (tmp_path / "right.py").write_text(CONSUMER)
    imports = "from lightning_tricks import GradientClip, LRFinder, LRSchedule\n"
    (tmp_path / "wrong.py").write_text(imports + "".join(f"{line}\n" for line in MISTAKES))
    python = environment["python"]
    by = {
        "mypy": ["mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache"],
        "pyright": ["pyright", "--pythonpath", python],
    }[checker]
    settings = {"PYTHONPATH": "", "MYPYPATH": ""}
    ran(sys.executable, "-m", *by, "right.py", cwd=tmp_path, **settings)
    words = [str(word) for word in (sys.executable, "-m", *by, "wrong.py")]
    said = subprocess.run(words, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert said.returncode == 1, said.stdout + said.stderr
    lines = {int(n) for n in re.findall(r"wrong\.py:(\d+)", said.stdout)}
    assert lines == {i + 2 for i in range(len(MISTAKES))}, said.stdout
