"""requirements.lock says what constraints.txt says, with hashes; the bill of materials and the list of licences come out."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import lock, sbom

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
PYTHONS = ("3.10.0", "3.11.5", "3.12.0", "3.13.0", "3.14.0")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
}


def environment(python: str, platform: str = "linux") -> dict[str, str]:
    return {"python_version": python.rpartition(".")[0], "python_full_version": python, **PLATFORMS[platform]}


def pins(path: Path) -> list[Requirement]:
    lines = path.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked() -> Iterator[tuple[Requirement, list[str]]]:
    """Read the lock line by line, as pip does: a requirement goes on while its lines end in a backslash."""
    text = (REQUIREMENTS / "requirements.lock").read_text()
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.startswith("#"):
            continue
        requirement, *options = re.split(r"\s--", line)
        yield Requirement(requirement), options


LOCKED = list(locked())


def applying(python: str, platform: str = "linux") -> dict[str, str]:
    """Return name -> version of the lock's lines for a Python and a platform."""
    found: dict[str, str] = {}
    for requirement, _ in LOCKED:
        if requirement.marker is None or requirement.marker.evaluate(environment(python, platform)):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} has two versions for Python {python}"
            found[name] = str(requirement.specifier).removeprefix("==")
    return found


# -- the lock -------------------------------------------------------------------------------------------------------------


def test_every_line_of_the_lock_is_one_version_with_hashes_that_a_file_can_have() -> None:
    assert len(LOCKED) > 100
    seen: set[str] = set()
    for requirement, options in LOCKED:
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), f"{requirement} is not one version"
        assert requirement.url is None
        assert options, f"{requirement} has no hash"
        for option in options:
            assert re.fullmatch(r"hash=sha256:[0-9a-f]{64}\s*", option), f"{requirement}: {option}"
        hashes = {option.strip() for option in options}
        assert len(hashes) == len(options) and not hashes & seen, f"{requirement}: a hash that another line has"
        seen |= hashes


def test_the_lock_names_no_place() -> None:
    lines = (REQUIREMENTS / "requirements.lock").read_text().splitlines()
    for line in lines:
        if not line.startswith("#"):
            assert not re.search(r"://|^-|@|(^|\s)[./~]|[A-Z]:\\", line), line


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_lock_has_each_package_of_the_constraints_in_the_same_version(python: str, platform: str) -> None:
    found, context = applying(python, platform), environment(python, platform)
    for pin in pins(REQUIREMENTS / "constraints.txt"):
        name, pinned = canonicalize_name(pin.name), pin.marker is None or pin.marker.evaluate(context)
        if name in found and pinned:
            assert found[name] == str(pin.specifier).removeprefix("=="), f"{name}: run ./dev lock"
    everywhere = {canonicalize_name(r.name) for r, _ in LOCKED}
    assert {canonicalize_name(pin.name) for pin in pins(REQUIREMENTS / "constraints.txt")} <= everywhere, (
        "run ./dev lock"
    )


@pytest.mark.skipif(tomllib is None, reason="tomllib is there from Python 3.11 on")
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_what_the_project_declares(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = applying(python)
    own = (
        "notebooks",
        "packaging",
        "partners",
        "ray",
        "strangers",
        "trackers",
    )  # (installed elsewhere, with constraints-<name>.txt)
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name not in own}
    for text in [*project["dependencies"], *(t for texts in extras.values() for t in texts)]:
        wanted = Requirement(text)
        if canonicalize_name(wanted.name) != "lightning-tricks":
            assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), text


def test_only_linux_gets_the_libraries_of_cuda() -> None:
    for platform in ("macos", "windows"):
        assert not [name for name in applying("3.12.0", platform) if name.startswith(("nvidia", "cuda", "triton"))]
    assert {"nvidia-cudnn-cu13", "triton"} <= set(applying("3.12.0")), "the build of PyPI does not start without"


def test_the_environment_agrees_with_the_constraints_where_it_was_made_from_them() -> None:
    stamp = Path(sys.prefix) / "dev-stamp.json"
    if not stamp.exists() or Path(sys.prefix).name != ".venv":
        pytest.skip("this environment was not made by ./dev")
    for pin in pins(REQUIREMENTS / "constraints.txt"):
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            version = Version(metadata.version(pin.name))
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not there
        assert pin.specifier.contains(version), f"{pin.name} {version}"


# -- its tool -------------------------------------------------------------------------------------------------------------

SMALL = """\
# about
aaa==1.0 \\
    --hash=sha256:01 \\
    --hash=sha256:02
nvidia-x==3 ; sys_platform == 'linux' \\
    --hash=sha256:03
torch==2.13.0 \\
    --hash=sha256:04
torchmetrics==1 \\
    --hash=sha256:05
triton==1 ; sys_platform == 'linux' \\
    --hash=sha256:06
"""


def test_a_lock_is_resolved_without_the_hashes_of_the_old_one(monkeypatch: Any) -> None:
    given: list[str] = []

    def call(command: list[str], **options: Any) -> int:
        output = Path(command[command.index("--output-file") + 1])
        given.append(output.read_text())
        assert {"--universal", "--generate-hashes", "--no-config"} <= set(command)
        output.write_text("aaa==1.0 \\\n    --hash=sha256:99\n")
        return 0

    monkeypatch.setattr(lock.subprocess, "call", call)
    new = lock.resolved(SMALL)
    assert new == lock.HEADER + "aaa==1.0 \\\n    --hash=sha256:99\n"
    assert given == [
        "aaa==1.0\nnvidia-x==3 ; sys_platform == 'linux'\ntorch==2.13.0\ntorchmetrics==1\n"
        "triton==1 ; sys_platform == 'linux'\n"
    ]


def test_the_lock_for_a_cpu_has_the_hash_of_the_file_that_pip_fetched(monkeypatch: Any) -> None:
    def call(command: list[str], **options: Any) -> int:
        assert command[-1] == "torch==2.13.0+cpu"
        (Path(command[command.index("--dest") + 1]) / "torch.whl").write_bytes(b"abc")
        return 0

    monkeypatch.setattr(lock.subprocess, "call", call)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2, appendix B.1
    assert lock.for_cpu(SMALL).removeprefix(lock.CPU_HEADER) == (
        "aaa==1.0 \\\n    --hash=sha256:01 \\\n    --hash=sha256:02\n"
        f"torch==2.13.0+cpu \\\n    --hash=sha256:{abc}\n"
        "torchmetrics==1 \\\n    --hash=sha256:05\n"
    )


def test_a_check_changes_nothing_and_names_what_is_wrong(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text(SMALL)
    monkeypatch.setattr(lock, "LOCK", path)
    monkeypatch.setattr(sys, "argv", ["lock", "--check"])
    for index, fault in (
        (SMALL.replace("sha256:01", "sha256:77"), r"aaa: PyPI has no file with sha256:01"),
        (SMALL.replace("torchmetrics==1", "torchmetrics==2"), r"torchmetrics==1 is not wanted"),
        (SMALL + "new==1 \\\n    --hash=sha256:08\n", r"new==1 is missing"),
    ):
        monkeypatch.setattr(lock, "resolved", lambda old, index=index: index)
        with pytest.raises(SystemExit, match=fault):
            lock.main()
    more = SMALL.replace("    --hash=sha256:05\n", "    --hash=sha256:05 \\\n    --hash=sha256:09\n")
    for index, words in ((SMALL, "as PyPI has them"), (more, "new files of torchmetrics")):
        monkeypatch.setattr(lock, "resolved", lambda old, index=index: index)
        lock.main()
        assert words in capsys.readouterr().out
    assert path.read_text() == SMALL


# -- bill of materials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "field", "classifiers", "found"),
    [
        ("MIT", "BSD", ["License :: OSI Approved :: Apache Software License"], "MIT"),
        (None, "3-Clause BSD License", [], "3-Clause BSD License"),
        (None, "BSD-3-Clause", ["License :: OSI Approved :: BSD License"], "BSD-3-Clause"),
        (None, "Copyright (c)\nall of it", ["License :: OSI Approved :: BSD License"], "BSD License"),
        (None, "x" * 101, [], sbom.UNKNOWN),
        (None, "UNKNOWN", ["Topic :: Software Development"], sbom.UNKNOWN),
        (None, None, [], sbom.UNKNOWN),
        (None, "", ["License :: A", "License :: B"], "A, B"),
    ],
)
def test_a_licence_is_read_where_it_is_said_most_exactly(
    expression: str | None, field: str | None, classifiers: list[str], found: str
) -> None:
    assert sbom.licence(expression, field, classifiers) == found


def test_unknown_licences_are_named() -> None:
    rows = {"good": ("1", "runtime", "MIT"), "dark": ("2", "demo", sbom.UNKNOWN), "odd": ("3", "test", sbom.UNKNOWN)}
    assert "**Licence unknown: dark, odd.**" in sbom.table(rows)
    assert "unknown" not in sbom.table({"good": ("1", "runtime", "MIT")}).lower()


def test_the_list_has_what_is_needed_and_says_by_whom() -> None:
    rows = sbom.rows()
    by = {name: row[1] for name, row in rows.items()}
    assert {by[name] for name in ("torch", "lightning", "numpy", "rich")} == {"runtime"}
    assert by["matplotlib"] == "demo" and by["pytest"] == "test" and by["alembic"] == "hpo"
    assert "pip" not in by and "lightning-tricks" not in by
    for name, (version, _, found) in rows.items():
        assert version == metadata.version(name) and found, name


def holds_something(name: str) -> bool:
    """Whether a package is more than its metadata; ``cuda-toolkit``, which CUDA builds of torch ask for, is not."""
    return any(".dist-info/" not in str(file) for file in metadata.files(name) or ())


def test_what_runs_at_the_user_is_all_under_known_licences() -> None:
    unknown = [name for name, row in sbom.rows().items() if row[1] == "runtime" and row[2] == sbom.UNKNOWN]
    assert not [name for name in unknown if holds_something(name)]
    assert holds_something("torch")


@pytest.mark.skipif(importlib.util.find_spec("cyclonedx_py") is None, reason="the extra supply is not installed")
def test_both_come_out_for_this_environment(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sbom, "SBOM", tmp_path / "build" / "sbom.json")
    monkeypatch.setattr(sbom, "LICENSES", tmp_path / "build" / "licenses.md")
    sbom.main()
    bill = json.loads(sbom.SBOM.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    assert set(sbom.rows()) <= set(parts)
    assert all(installed[name] == version for name, version in parts.items())
    assert bill["metadata"]["component"]["name"] == "lightning-tricks"
    text = sbom.SBOM.read_text()
    assert "file:" not in text and str(ROOT) not in text, "a bill that is published names no place of this machine"
    assert sbom.LICENSES.read_text() == sbom.table(sbom.rows())


# -- the oldest versions --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(tomllib is None, reason="tomllib is there from Python 3.11 on")
def test_the_oldest_constraints_are_the_floors_of_what_users_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [
        Requirement(t) for t in [*project["dependencies"], *(t for e in ("cli", "demo", "hpo") for t in extras[e])]
    ]
    old = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins(REQUIREMENTS / "constraints-oldest.txt")
    }
    for requirement in declared:
        (floor,) = (s.version for s in requirement.specifier if s.operator == ">=")
        version = old[canonicalize_name(requirement.name)]
        assert Version(version) == Version(floor), f"{requirement}: constraints-oldest.txt has {version}"


def test_markers_of_the_constraints_mean_the_same_as_those_of_the_lock() -> None:
    """A pin whose package has no release for Python 3.10 says so; else pip finds nothing there."""
    for pin in pins(REQUIREMENTS / "constraints.txt"):
        if pin.marker is None:
            versions = {str(r.specifier) for r, _ in LOCKED if canonicalize_name(r.name) == canonicalize_name(pin.name)}
            assert versions == {str(pin.specifier)}, pin
        else:
            assert not pin.marker.evaluate(environment("3.10.0"))
