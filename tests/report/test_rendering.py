from __future__ import annotations

from pathlib import Path

import pytest

from lightning_tricks.report.blocks import Bullets, Conclusion, Heading, Level, Paragraph, Picture, Table
from lightning_tricks.report.rendering import as_html, as_markdown
from tests.report.problems import Page


def test_nothing_that_was_logged_becomes_markup_or_a_path(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    blocks = [
        Heading(evil),
        Paragraph(evil),
        Bullets((evil,)),
        Table((evil,), ((f"|{evil}|",),)),
        Picture("../../x/" + evil, evil, b"\x89PNG"),
    ]
    page = Page(as_html(evil, blocks))
    assert "".join(page.words).count(evil) == 8
    markdown = as_markdown(evil, blocks[1:], tmp_path / "r.md")
    assert "<script>" not in markdown.replace(r"\<script>", "")
    assert [p.parent.name for p in tmp_path.rglob("*.png")] == ["r_files"]


@pytest.mark.parametrize("level", ["good", "running", "unknown", "warning", "bad"])
def test_a_conclusion_has_words_beside_its_colour(level: Level) -> None:
    text = as_html("run", [Conclusion(level, "The run <failed>", "After 3 steps.")])
    page = Page(text)
    assert page.words[-2:] != [] and "The run <failed>" in page.words and "After 3 steps." in page.words
    assert 'style="color: #' in text
    assert as_markdown("run", [Conclusion(level, "Failed", "After 3.")], Path("r.md")).endswith("**Failed** After 3.\n")


def test_a_table_without_a_header_has_none() -> None:
    assert "<th>" not in as_html("run", [Table(("", ""), (("a", "b"),))])
    assert "<th>a</th>" in as_html("run", [Table(("a", "b"), (("c", "d"),))])


def test_only_a_page_that_is_to_be_renewed_says_so() -> None:
    assert "refresh" not in as_html("run", []) and 'http-equiv="refresh" content="30"' in as_html("run", [], renew=30)
