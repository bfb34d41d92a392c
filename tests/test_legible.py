"""What is wrong with a picture is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.legible import faults


def drawn(change: Callable[[Any], object], width: float = 5.4) -> list[str]:
    figure = Figure(figsize=(width, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0.0, 1.0, 0.5], label="loss")
    change(axes)
    return faults(figure)


def outside(axes: Any) -> object:
    return axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")


@pytest.mark.parametrize(
    "change",
    [
        lambda axes: axes.set(xlabel="step", ylabel="loss", title="a title"),
        outside,
        lambda axes: axes.legend(loc="lower right"),
        lambda axes: axes.set_xlim(0.0, 0.5),
        lambda axes: (axes.set_ylim(0.7, 0.8), outside(axes)),
        lambda axes: axes.set_axis_off(),
    ],
    ids=["plain", "legend outside", "legend at a free place", "ticks beyond", "curve beyond", "without an axis"],
)
def test_a_legible_picture_has_no_fault(change: Callable[[Any], object]) -> None:
    assert drawn(change) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda axes: axes.set_title("small", fontsize=7), "'small' is 7.2 pixels high"),
        (lambda axes: axes.set_title("a long title " * 9), "is cut off"),
        (lambda axes: axes.set_xticks([1.0, 1.05], ["100000", "105000"]), "'100000' and '105000' overlap"),
        (lambda axes: axes.legend(loc="upper center"), "a legend lies over the curve 'loss'"),
        (lambda axes: (axes.bar([0.2], [1.0], label="of"), axes.legend(loc="upper left")), "over the bar"),
        (
            lambda axes: (axes.scatter([1.9], [0.95], label="x"), axes.legend(loc="upper right")),
            "over the points or area",
        ),
        (lambda axes: (axes.axhspan(0.8, 1.0, label="x"), axes.legend(loc="upper right")), "over the bar 'x'"),
        (
            lambda axes: (axes.fill_between([0, 2], 1.0, label="x"), axes.legend(loc="lower right")),
            "points or area 'x'",
        ),
        (lambda axes: (axes.imshow([[1.0]], label="x"), axes.legend(loc="upper right")), "over an image"),
    ],
    ids=["small", "cut off", "ticks", "curve", "bar", "points", "span", "area", "image"],
)
def test_each_fault_is_named(change: Callable[[Any], object], fault: str) -> None:
    assert any(fault in found for found in drawn(change)), drawn(change)


def test_letters_are_measured_at_400_pixels_whatever_the_width() -> None:
    assert drawn(lambda axes: None) == []
    assert any("pixels high" in found for found in drawn(lambda axes: None, width=9.0))
