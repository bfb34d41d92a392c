"""Figures that a notebook shows without a magic."""

from __future__ import annotations

from typing import Any

import pytest

import lightning_tricks as lt
from lightning_tricks.publishing.inline_figure import InlineFigure
from tests.legible import faults
from tests.problems import Classifier, fit


def figures() -> list[Any]:
    callbacks = lt.LRFinder(num_steps=20), lt.GradientMonitor(per_layer=True), lt.TrainingDoctor(every_n_steps=2)
    fit(Classifier(), callbacks, max_epochs=4)
    return [*(callback.plot() for callback in callbacks), lt.LRSchedule().plot(100)]


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_every_figure_of_the_pack_shows_itself() -> None:
    for figure in figures():
        assert isinstance(figure, InlineFigure)
        assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_every_figure_of_the_pack_can_be_read_at_400_pixels() -> None:
    assert [faults(figure) for figure in figures()] == [[], [], [], []]


def test_a_result_shows_its_numbers_in_one_line_and_its_picture() -> None:
    finder = lt.LRFinder(num_steps=60, apply=False)
    fit(Classifier(), [finder], n=480)
    result = finder.result
    assert result is not None
    assert len(repr(result)) < 300 and f"learning rate {result.suggestion:.3g}" in repr(result)
    assert "data:image/png;base64," in result._repr_html_()
