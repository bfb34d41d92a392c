from __future__ import annotations

import sys

import pytest

from lightning_tricks import LRSchedule


def test_the_plot_shows_the_curve() -> None:
    figure = LRSchedule(warmup=5, hold=5).plot(50, base_lr=0.3)
    axes = figure.axes[0]
    drawn = axes.lines[0].get_ydata()
    assert list(drawn) == pytest.approx([0.3 * v for v in LRSchedule(warmup=5, hold=5).values(50)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["learning rate", "warm-up", "hold", "decay"]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-tricks\[demo\]'"):
        LRSchedule().plot(10)
