from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image

from lightning_tricks.publishing.tracker_ways import png


def figure() -> Figure:
    drawn = Figure(figsize=(3, 2), dpi=50)
    drawn.subplots().plot([1, 2])
    return drawn


def test_a_figure_stays_what_it_was() -> None:
    drawn = figure()
    before = drawn.canvas
    assert Image.open(io.BytesIO(png(drawn))).size == (150, 100)
    assert drawn.canvas is before
