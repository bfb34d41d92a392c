"""Small pieces of HTML for notebooks."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

import lightning_tricks as lt
from lightning_tricks.detection.causes import Cause
from lightning_tricks.precision.advice import PrecisionAdvice
from lightning_tricks.precision.recommendation import PrecisionRow
from lightning_tricks.publishing.html import note, table, with_picture


def test_a_table_escapes_what_it_shows_and_colours_words() -> None:
    found = table(["a & b"], [["<script>"], ["FAIL"]], {"FAIL": "#f00"})
    assert "a &amp; b" in found and "&lt;script&gt;" in found and found.count("color:#f00") == 1
    assert found.count("<tr>") == 3


def test_a_picture_is_inside_of_the_page() -> None:
    found = with_picture("<curve>", lambda: lt.LRSchedule().plot(10))
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', found)
    assert len(data) == 1 and base64.b64decode(data[0]).startswith(b"\x89PNG") and "<curve>" not in found


def test_without_matplotlib_the_text_is_there() -> None:
    def missing() -> Any:
        raise ImportError("plot() needs matplotlib")

    assert with_picture("text", missing) == note("text") == with_picture("text", None)


def test_a_recipe_shows_its_reasons_and_what_it_leaves_out() -> None:
    found = lt.recipe("cnn", LRFinder=lt.LRFinder(num_steps=20))._repr_html_()
    for text in (
        "SGD(lr=0.1",
        "LRSchedule",
        "arXiv:1608.03983",
        "left out; pass output= to have it",
        "LRFinder(num_steps=20)",
    ):
        assert text in found, text


@pytest.mark.parametrize("alarmed", [False, True])
def test_a_verdict_has_the_colour_of_its_answer(alarmed: bool) -> None:
    verdict = lt.Verdict("DeadUnits", alarmed, 5, 4, Cause.DEAD_UNITS, ("96 % < 97 %",), {}, ("lower lr",))
    found = verdict._repr_html_()
    assert ("#b42318" in found) is alarmed and ("#1a7f37" in found) is not alarmed
    assert ("96 % &lt; 97 %" in found) is alarmed


def test_advice_shows_what_was_measured_and_the_choice() -> None:
    rows = {"ieee-fp32": PrecisionRow("ieee-fp32", [1.0] * 3, 100, 1.0, 0.0)}
    found = PrecisionAdvice("32-true", ["it is fast"], rows, "cpu")._repr_html_()
    assert "On cpu: Trainer(precision=&#x27;32-true&#x27;). it is fast." in found and "1000.00" in found
