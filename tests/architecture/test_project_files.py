"""What services around the repository read: citation, issue forms, workflow, pre-commit hooks. Each is valid and up to date."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_tricks

ROOT = Path(__file__).parents[2]
FORMS = sorted(p for p in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config")
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CITATION.cff", ".pre-commit-config.yaml")
ADDRESSES = {  # all that these files may name
    "https://www.contributor-covenant.org/version/2/1/code_of_conduct/",
    "https://download.pytorch.org/whl/cpu",
}


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def project() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_citation_has_what_version_1_2_of_its_format_requires() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    known = {"cff-version", "message", "type", "title", "authors", "version", "license", "keywords", "abstract"}
    assert set(citation) <= known
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == lightning_tricks.__version__
    assert f'license = "{citation["license"]}"' in project()
    assert citation["authors"] and all("name" in author or "family-names" in author for author in citation["authors"])
    assert all(isinstance(citation[key], str) for key in ("message", "title", "version", "abstract"))


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_an_issue_form_has_questions_with_labels_and_unique_ids(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    assert len({question["id"] for question in form["body"]}) == len(form["body"]) > 0
    for question in form["body"]:
        assert question["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert set(question) <= {"type", "id", "attributes", "validations"}
        assert isinstance(question["attributes"]["label"], str)
        if question["type"] == "dropdown":
            options = question["attributes"]["options"]
            assert len(options) == len(set(options)) > 1 and all(isinstance(option, str) for option in options)
    assert any(question.get("validations", {}).get("required") for question in form["body"])


def test_there_are_three_issue_forms() -> None:
    assert len(FORMS) == 3


def test_the_workflow_runs_what_a_developer_runs_on_every_python_and_system() -> None:
    workflow = read(".github/workflows/ci.yml")
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert {row["os"] for row in matrix["include"]} == {"macos-latest", "windows-latest"}
    assert f'requires-python = ">={matrix["python"][0]}"' in project()
    commands = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in workflow["jobs"].items()}
    assert commands["test"] == commands["thorough"] == [".ci/run"]
    assert "pipx run twine check --strict dist/*" in commands["packaging"]
    assert any(command.startswith("./dev packaging") for command in commands["packaging"])
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.name == "nt" or os.access(ROOT / ".ci" / "run", os.X_OK)
    for name in workflow["jobs"]["thorough"]["steps"][-1]["env"]:
        assert name in script


def test_the_hooks_before_a_commit_are_local_and_do_what_lint_does() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    lint = re.search(r'"lint": \(.*?\n    \),', (ROOT / "dev").read_text(encoding="utf-8"), re.S)
    assert lint is not None
    for words in ("ruff check", "ruff format", "mypy lightning_tricks tools"):
        assert any(words in entry for entry in entries)
        assert ", ".join(f'"{word}"' for word in words.split()) in lint[0]
    assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_no_address_is_named_that_does_not_exist() -> None:
    files = [*(ROOT / name for name in PAGES), *(p for p in (ROOT / ".github").rglob("*") if p.is_file())]
    named = {address for path in files for address in re.findall(r"https?://[^\s)>\"]+", path.read_text("utf-8"))}
    assert named <= ADDRESSES
    assert not any(re.search(r"[\w.]+@[\w-]+\.\w+", path.read_text("utf-8")) for path in files)
    assert "[project.urls]" not in project(), "there is no address yet"


def test_what_a_source_distribution_holds_exists() -> None:
    found = re.search(r"\[tool\.hatch\.build\.targets\.sdist\]\ninclude = \[(.*?)\]", project())
    assert found is not None
    assert all((ROOT / name).exists() for name in re.findall(r'"([^"]+)"', found[1]))
