"""Wordings that readers of the field stumbled over stay out of package, docs, README and examples.

The list is short on purpose: it holds what went wrong more than once. Where there still are some of them is named below.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# a pattern -> what to write instead
BANNED = {
    r"\banew\b": "again, from scratch, or replaced",
    r"\bunheard\b": "without notifying its callbacks",
    r"\bturns? (off|out) the light\b": "closes",
    r"\bgives? way\b": "yields",
    r"\bno news\b": "ignored",
    r"\bparcels?\b": "transfer",
    r"\b(at|of|from) the begin\b": "at the beginning",
    r"(?<!there )\b(is|are) no (?!longer\b|more\b)": "is not a",
    r"\bno valid\b": "invalid",
    r"\ba text\b(?! file)|\btexts as keys\b": "a string",
    r"\bin silence\b": "silently",
    r"\bour goal\b": "leave goals of maintainers out",
    r"\b(this|every|each|our) (room|house|roof)\b|\bhouse's\b": "package",
    r"\b(died|dies)\b": "fails, failed, or is killed",
    r"\bknows? nothing\b": "has no skill, or is no better than chance",
    r"\btells? apart\b": "distinguishes",
    r"\bheard\b": "received",
}
# Where there still are some, and how many at most. Numbers only get smaller; what is clean is taken out.
TEXTS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "mkdocs.yml")),
    *(
        path
        for folder in ("lightning_tricks", "docs", "examples")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".md", ".txt", ".yaml")
    ),
)


def found(text: str) -> list[str]:
    """Return what is banned in a text, each with its line and what to write instead.

    A line break counts as a space, so that a wording is found that is broken over two lines.
    """
    lines = [re.sub(r"^[ #>*]+", "", line).rstrip() for line in text.splitlines()]
    starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    return [
        f"line {bisect.bisect_right(starts, match.start())}: {match[0]!r}: write {instead!r}"
        for pattern, instead in BANNED.items()
        for match in re.finditer(pattern, " ".join(lines), re.I)
    ]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def faults(paths: Iterable[Path]) -> list[str]:
    return [f"{name(path)}, {fault}" for path in paths for fault in found(path.read_text(encoding="utf-8"))]


def test_no_file_has_a_banned_wording() -> None:
    assert len(TEXTS) > 200
    assert not (wrong := faults(TEXTS)), "\n".join(wrong)


def test_every_banned_wording_is_found_also_over_two_lines() -> None:
    examples = ("made anew", "died unheard", "turns off\n    # the light", "gives\nway", "is no news", "a parcel")
    examples += ("at the begin of", "a list is\n  no tensor", "is no valid name", "as a text.", "skipped in silence")
    examples += ("our goal", "this room", "it dies", "it knows nothing", "tells apart", "was heard")
    seen = set()
    for example in examples:
        assert found(example), example
        seen |= {instead for instead in BANNED.values() if any(repr(instead) in fault for fault in found(example))}
    assert seen == set(BANNED.values())
    for fine in (
        "at the beginning",
        "there is no optimizer",
        "is no longer used",
        "a text file",
        "the text",
        "no value",
    ):
        assert not found(fine), fine
