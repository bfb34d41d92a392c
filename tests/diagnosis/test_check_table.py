"""The answers of SanityCheck as one value."""

from __future__ import annotations

from lightning_tricks.diagnosis.check_table import CheckTable
from lightning_tricks.diagnosis.sanity import Check

CHECKS = (
    Check("inputs matter", True, "outputs change"),
    Check("initial loss", False, "4.1; knowing nothing gives 2.3", "drop <one> softmax"),
    Check("data are shuffled", None, "not known"),
)


def test_the_failed_ones_are_known() -> None:
    table = CheckTable(CHECKS)
    assert not table.ok and table.failed == [CHECKS[1]] and list(table) == list(CHECKS) and len(table) == 3
    assert CheckTable(CHECKS[:1]).ok


def test_every_form_holds_all_answers_and_the_remedy_in_full() -> None:
    table = CheckTable(CHECKS)
    assert str(table).splitlines() == [
        "pass  inputs matter      outputs change",
        "FAIL  initial loss       4.1; knowing nothing gives 2.3",
        "      -> drop <one> softmax",
        "?     data are shuffled  not known",
    ]
    assert (
        table.markdown().splitlines()[3]
        == "| initial loss | FAIL | 4.1; knowing nothing gives 2.3 | drop <one> softmax |"
    )
    html = table._repr_html_()
    assert html.count("<tr>") == 4 and "drop &lt;one&gt; softmax" in html


def test_a_table_without_answers_is_empty() -> None:
    assert str(CheckTable(())) == "" and CheckTable(()).ok
