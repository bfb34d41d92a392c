from __future__ import annotations

import math
from itertools import pairwise

import pytest

from lightning_tricks import GradientMonitor, TrickError
from lightning_tricks.gradients.figures import draw_layers
from lightning_tricks.gradients.layer_history import LayerHistory
from lightning_tricks.publishing.events import KINDS, Event
from lightning_tricks.report.figures import draw_layer_norms, draw_lines, png
from tests.legible import faults
from tests.problems import Classifier, Memory, fit


def test_the_heat_map_holds_log10_of_each_norm_and_leaves_out_what_has_none() -> None:
    figure = draw_layers(["a", "b"], [0, 5, 9], [[1.0, 100.0], [0.0, math.inf], [0.01, 10.0]])
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    assert image.filled(7.0).tolist() == [[0.0, 7.0, -2.0], [2.0, 7.0, 1.0]]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_the_monitors_picture_is_what_it_logged() -> None:
    memory, monitor = Memory(), GradientMonitor()
    with pytest.raises(TrickError, match="no norm of a parameter was logged yet"):
        monitor.plot()
    fit(Classifier(), [monitor], n=64, logger=memory)
    image = monitor.plot().axes[0].images[0].get_array()
    assert image is not None and image.shape == (8, 8)
    assert image[0].tolist() == pytest.approx([math.log10(v) for v in memory.series("grad/norm/net.0.weight").values()])


def test_a_long_run_is_thinned_out_evenly() -> None:
    history = LayerHistory()
    for step in range(3000):
        history = history.after(["a"], step, [1.0])
    steps = [step for step, _ in history.columns]
    assert 128 <= len(steps) <= 257 and steps[0] == 0 and steps[-1] > 2900
    gaps = {b - a for a, b in pairwise(steps)}
    assert max(gaps) <= 3 * min(gaps)


def test_lines_are_smoothed_scaled_and_marked() -> None:
    points = [(i, 10.0 ** (-i / 20)) for i in range(100)]
    figure = draw_lines({"loss": points, "gone": [(0, math.nan)]}, "loss", [Event(3, "alarm", "x")], smooth=True)
    ax = figure.axes[0]
    assert ax.get_yscale() == "log" and ax.get_legend_handles_labels()[1] == ["loss", "alarm (1)"]
    assert draw_lines({"lr": points}, "lr", linear=True).axes[0].get_yscale() == "linear"
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("layer", ["", "/model.encoder.blocks.{}.attention.output"], ids=["short", "long"])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_lines_can_be_read_at_400_pixels(count: int, layer: str) -> None:
    series = {f"measure_{i}{layer.format(i)}": [(10_000 * k, 1.0 + i * k) for k in range(40)] for i in range(count)}
    marked = [Event(10_000 * i, kind, "x") for i, kind in enumerate(KINDS)]
    figure = draw_lines(series, "value", marked, smooth=True)
    assert faults(figure) == []
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels)) == min(count, 8) + len(KINDS)


def test_missing_steps_of_a_layer_are_left_white() -> None:
    figure = draw_layer_norms({"grad/norm/a": [(0, 1.0), (1, 10.0)], "grad/norm/b": [(1, 100.0)]})
    image = figure.axes[0].images[0].get_array()
    assert image is not None and image.filled(-7.0).tolist() == [[0.0, 1.0], [-7.0, 2.0]]
