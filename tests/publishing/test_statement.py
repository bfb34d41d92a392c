"""Every kind of finding, answer and verdict is told in one form, on a terminal, in Markdown and in a notebook."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.causes import Cause, Hint
from lightning_tricks.diagnosis.findings import Finding as CourseFinding
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.precision.findings import Finding as PrecisionFinding
from lightning_tricks.publishing.statement import (
    Outcome,
    Stated,
    Statement,
    as_console_table,
    as_html,
    as_table,
    as_text,
)
from lightning_tricks.resume.findings import Finding as ResumeFinding

EXAMPLES: list[tuple[Stated, Statement]] = [
    (
        Verdict("DeadUnits", True, 75, 25, Cause.DEAD_UNITS, ("96 % of net.1 are dead", "more"), {}, ("lower lr",)),
        Statement(Outcome.BAD, "DeadUnits: dead units", "96 % of net.1 are dead; more", "lower lr", 25),
    ),
    (Verdict("DeadUnits", step=75), Statement(Outcome.GOOD, "DeadUnits", "no alarm", "", 75)),
    (
        CourseFinding(Hint.PLATEAU, "the loss fell by 0.1%", 0.7, "lower the rate", 900),
        Statement(Outcome.WARNING, "plateau", "the loss fell by 0.1%", "lower the rate", 900),
    ),
    (
        CourseFinding(Cause.DIVERGENCE, "the loss rose", 0.9, "lower the rate", 3),
        Statement(Outcome.BAD, "divergence", "the loss rose", "lower the rate", 3),
    ),
    (
        PrecisionFinding("forward overflow", "mlp", "its output reached inf", "Use FP32Islands(['mlp'])", 7),
        Statement(Outcome.BAD, "forward overflow in mlp", "its output reached inf", "Use FP32Islands(['mlp'])", 7),
    ),
    (
        PrecisionFinding("underflow", "head", "60 % of its gradients", "Use bf16-mixed", 2),
        Statement(Outcome.WARNING, "underflow in head", "60 % of its gradients", "Use bf16-mixed", 2),
    ),
    (
        PrecisionFinding("loss scale too large", "", "beyond 65,504", "Nothing to do", 1),
        Statement(Outcome.GOOD, "loss scale too large", "beyond 65,504", "Nothing to do", 1),
    ),
    (
        ResumeFinding("no checkpoint is written", "Add ModelCheckpoint()"),
        Statement(Outcome.WARNING, "no checkpoint is written", "", "Add ModelCheckpoint()"),
    ),
    (Check("inputs matter", True, "0.3"), Statement(Outcome.GOOD, "inputs matter", "0.3")),
    (
        Check("inputs matter", False, "by <0>", "follow | the [input]"),
        Statement(Outcome.BAD, "inputs matter", "by <0>", "follow | the [input]"),
    ),
    (Check("shuffled", None, "not known"), Statement(Outcome.UNKNOWN, "shuffled", "not known")),
]
ALL = [stated for stated, _ in EXAMPLES]


@pytest.mark.parametrize(("stated", "statement"), EXAMPLES, ids=lambda x: type(x).__name__)
def test_each_kind_says_what_it_has_in_common_with_the_others(stated: Stated, statement: Statement) -> None:
    assert stated.statement == statement


@pytest.mark.parametrize("stated", ALL, ids=lambda x: type(x).__name__)
def test_a_notebook_shows_each_as_its_line_of_text_in_the_colour_of_its_outcome(stated: Stated) -> None:
    found = stated._repr_html_()
    assert stated.statement.outcome.color in found
    shown = re.sub(r"<[^>]*>", "", found)
    for escaped, sign in (("&lt;", "<"), ("&gt;", ">"), ("&#x27;", "'"), ("&amp;", "&")):
        shown = shown.replace(escaped, sign)
    assert shown == str(stated)


def test_all_forms_of_a_table_have_each_statement_with_its_remedy_in_full() -> None:
    console = Console(width=60, file=io.StringIO(), record=True)
    console.print(as_console_table("Everything", ALL))
    # (columns of a narrow table are broken into several lines, so that only their letters can be compared)
    columns = zip(
        *(re.split("[│┃]", line) for line in console.export_text().splitlines() if line[:1] in "│┃"), strict=True
    )
    on_console = ["".join("".join(column).split()) for column in columns]
    text, markdown, html = as_text(ALL), as_table(ALL).markdown(), as_html(ALL)
    assert len(markdown.splitlines()) == len(ALL) + 2 and html.count("<tr>") == len(ALL) + 1
    for stated in ALL:
        for cell in stated.statement.cells:
            assert cell in text
            assert cell.replace("|", "\\|") in markdown
            assert any("".join(cell.split()) in column for column in on_console), cell
            assert cell.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;") in html


def test_lines_on_a_terminal_are_aligned_and_nothing_is_shown_of_nothing() -> None:
    assert as_text([Check("a", True, "x"), Check("long", False, "y", "z")]).splitlines() == [
        "pass  a     x",
        "FAIL  long  y",
        "      -> z",
    ]
    assert as_text([]) == "" and as_table([]).rows == []


def test_outcomes_differ_in_mark_and_colour() -> None:
    assert len({outcome.mark for outcome in Outcome}) == len({outcome.color for outcome in Outcome}) == len(Outcome)
