from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from lightning_tricks.collapse import figures

HISTORY = [
    (25 * i, {"sphere_variance": 0.9, "rank_share": 0.5 - 0.01 * i, "skill": 0.1 * i, "recall": 0.9, "dead/net.1": 0.2})
    for i in range(1, 5)
]


def test_every_figure_shows_what_was_seen() -> None:
    spectrum = figures.draw_spectrum([1.0, 0.5, 0.0], HISTORY, "net.2")
    assert spectrum.axes[0].get_title() == "spectrum of net.2"
    assert [line.get_label() for line in spectrum.axes[1].lines] == ["sphere variance", "rank share"]
    shares = [(25, [0.5, 0.5]), (50, [0.9, 0.1])]
    classes = figures.draw_classes(shares, [0.6, 0.4], HISTORY)
    assert len(classes.axes[0].patches) == 2, "one bar per label"
    samples = figures.draw_samples([[0.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]], HISTORY)
    assert [len(c.get_offsets()) for c in samples.axes[0].collections] == [2, 1]
    assert [line.get_label() for line in figures.draw_units(HISTORY).axes[0].lines] == ["dead/net.1"]
    generations = figures.draw_generations([(40, {"diversity": 1.0}), (80, {"diversity": 0.4})])
    assert list(generations.axes[0].lines[0].get_ydata()) == [1.0, 0.4]


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "lightning_tricks.publishing.inline_figure", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'lightning-tricks\[demo\]'"):
        figures.draw_units(HISTORY)


def test_figures_of_latent_variables_show_what_was_seen() -> None:
    history = [(25, {"entries": 300.0, "usage": 0.5, "top_share": 0.1, "kl": 3.0, "active_units": 2.0})]
    left, right = figures.draw_usage([0.5, 0.3, 0.2], history, "quantizer").axes
    assert left.get_lines()[0].get_ydata()[0] == pytest.approx(1 / 300), "as many entries as there are"
    assert [line.get_label() for line in right.lines] == ["usage", "top share"]
    left, right = figures.draw_posterior([2.0, 0.5, 0.0], history, "mu").axes
    assert [bar.get_height() for bar in left.patches] == [2.0, 0.5, 0.0]
    assert [line.get_label() for line in right.lines] == ["kl", "active units"]
