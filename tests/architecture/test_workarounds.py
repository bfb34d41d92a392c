"""Workarounds name the version after which they may be unnecessary; when that version is installed, they are looked at again.

The form is ``# until lightning>2.6.6 (#13243)``, with an issue number or ``: `` and words after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDERS = ("lightning_tricks", "tests", "benchmarks", "examples", "docs", "tools")
FORM = re.compile(r"# until (?P<package>[a-z_-]+)>(?P<version>\d+(\.\d+)+)(?P<why> \(#\d+\)|: .+|$)")


def comments() -> Iterator[tuple[str, str]]:
    """Yield place and text of every comment that begins like a workaround's."""
    paths = [ROOT / "pyproject.toml", *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py")))]
    for path in paths:
        if path != Path(__file__):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if found := re.search(r"# until \S*[a-z]\S*[<>=].*", line):
                    yield f"{path.relative_to(ROOT).as_posix()}:{number}", found[0]


def expired(comment: str, installed: str) -> bool:
    """Whether a newer version is installed than that up to which the workaround is known to be needed."""
    found = FORM.match(comment)
    assert found is not None, f"{comment!r} is not of the form '# until lightning>2.6.6 (#13243)'"
    return Version(installed) > Version(found["version"])


WORKAROUNDS = list(comments())


@pytest.mark.parametrize(("place", "comment"), WORKAROUNDS, ids=[place for place, _ in WORKAROUNDS])
def test_a_workaround_is_still_needed_by_the_installed_version(place: str, comment: str) -> None:
    found = FORM.match(comment)
    assert found is not None, f"{place}: {comment!r} is not of the form '# until lightning>2.6.6 (#13243)'"
    installed = metadata.version(found["package"])
    assert not expired(comment, installed), (
        f"{place}: {found['package']} {installed} is installed. Try without this workaround; if it is still needed, "
        f"write the new version into the comment: {comment}"
    )


def test_there_are_workarounds_and_newer_versions_make_them_expire() -> None:
    assert len(WORKAROUNDS) >= 5
    comment = "# until lightning>2.6.6 (#13243)"
    assert [expired(comment, version) for version in ("2.6.6", "2.6.10", "2.7.0.dev1")] == [False, True, True]
    assert expired("# until torch>2.13: then the cache is right", "2.13.1+cpu")
    assert not expired("# until torch>2.13.0: then the cache is right", "2.13.0")
    with pytest.raises(AssertionError, match="is not of the form"):
        expired("# until lightning>2.6.6 comes", "2.6.6")
