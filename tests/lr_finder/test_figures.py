from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from lightning_tricks.lr_finder.result import Result

RESULT = Result(
    [0.01, 0.1, 1.0], [2.0, 1.0, 3.0], [2.0, 1.5, 2.2], 2.1, {"minimum": 0.01, "valley": 0.03}, 0.01, True, [], True
)


def test_the_picture_shows_both_curves_and_marks_every_suggestion() -> None:
    axes = RESULT.plot().axes[0]
    assert axes.get_xscale() == "log"
    raw, smooth = axes.lines[:2]
    assert list(raw.get_ydata()) == RESULT.losses
    assert list(smooth.get_ydata()) == RESULT.smoothed
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "minimum / 10: 0.01 (suggested)" in labels and "valley 0.03" in labels


def test_low_confidence_and_a_bake_off_are_in_the_picture() -> None:
    doubtful = replace(RESULT, confident=False, reasons=["only 3 points"], suggestion=0.02)
    axes = doubtful.plot().axes[0]
    assert axes.get_title() == "low confidence: only 3 points"
    assert "bake-off 0.02 (suggested)" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lightning_tricks.publishing.inline_figure", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-tricks\[demo\]'"):
        RESULT.plot()
