"""`./dev sbom`: what an installation with all extras consists of, and under which licences. See docs/supply.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SBOM = ROOT / "build" / "sbom.json"
LICENSES = ROOT / "build" / "licenses.md"
PROJECT = "lightning-tricks"
EXTRAS = ("cli", "demo", "hpo", "docs", "test", "supply")
UNKNOWN = "UNKNOWN"
LONGEST = 100  # longer ones are the text of a licence, not its name


def licence(expression: str | None, field: str | None, classifiers: Iterable[str]) -> str:
    """Return the licence that a distribution's metadata declares: of the three places, the most exact that says it."""
    named = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: ")]
    short = (field or "").strip()
    if "\n" in short or len(short) > LONGEST or short.upper() == UNKNOWN:
        short = ""
    return " ".join((expression or short or ", ".join(named) or UNKNOWN).split())


def closure(name: str, extra: str) -> set[str]:
    """Return the installed distributions that ``name[extra]`` needs, by their normalized names."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(name), extra)]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            requirements = metadata.requires(current[0]) or []
        except metadata.PackageNotFoundError:
            seen.remove(current)
            continue
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": current[1]}):
                todo += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return {found for found, _ in seen} - {canonicalize_name(name)}


def table(rows: Mapping[str, tuple[str, str, str]]) -> str:
    """Return the list as markdown; what has no licence is named above it."""
    unknown = [name for name, (_, _, found) in rows.items() if found == UNKNOWN]
    lines = ["# Licences of the installed dependencies", "", "Made by `./dev sbom` from the packages' metadata.", ""]
    lines += [f"**Licence unknown: {', '.join(unknown)}.**" if unknown else "Every package declares one.", ""]
    lines += ["| package | version | needed by | licence |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {' | '.join(columns)} |" for name, columns in rows.items()]
    return "\n".join(lines) + "\n"


def rows() -> dict[str, tuple[str, str, str]]:
    """Return version, the first extra that needs it ("runtime" for none) and licence of each dependency."""
    needed: dict[str, str] = {}
    for extra in ("", *EXTRAS):
        for name in closure(PROJECT, extra):
            needed.setdefault(name, extra or "runtime")
    result = {}
    for name in sorted(needed):
        data = metadata.metadata(name)
        expression, field = ((data.get_all(key) or [None])[0] for key in ("License-Expression", "License"))
        found = licence(expression, field, data.get_all("Classifier") or [])
        result[name] = (data["Version"], needed[name], found.replace("|", "\\|"))
    return result


def main() -> None:
    """Write both."""
    SBOM.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    # Short PURLs: the long ones hold the address each file came from, which is a path of this machine for local files.
    command += ["--short-PURLs", "--spec-version", "1.6", "--output-format", "JSON", "--output-file", str(SBOM)]
    if subprocess.call([*command, "--mc-type", "library", "--output-reproducible", sys.executable]):
        sys.exit("sbom: cyclonedx-py failed")
    found = rows()
    LICENSES.write_text(table(found))
    unknown = [name for name, (_, _, name_of_licence) in found.items() if name_of_licence == UNKNOWN]
    print(f"wrote build/{SBOM.name} and build/{LICENSES.name}: {len(found)} dependencies")
    if unknown:
        print("licence unknown: " + ", ".join(unknown))


if __name__ == "__main__":
    main()
