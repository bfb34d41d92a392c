from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from lightning_tricks.gradients.figures import draw_layers
from tests.legible import faults


def test_the_heat_map_holds_log10_of_each_norm_with_a_row_for_each_parameter() -> None:
    axes = draw_layers(["a", "b"], [0, 50, 100], [[1.0, 10.0], [0.1, 1e-3], [100.0, 1.0]]).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown, [[0.0, -1.0, 2.0], [1.0, -3.0, 0.0]], atol=1e-12)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "50", "100"]


def test_norms_without_a_logarithm_stay_empty() -> None:
    axes = draw_layers(["a"], [0, 1, 2, 3], [[0.0], [math.inf], [math.nan], [1.0]]).axes[0]
    shown = np.ma.filled(np.ma.masked_invalid(axes.images[0].get_array()), np.nan)
    assert np.isnan(shown[0, :3]).all() and shown[0, 3] == 0.0


def test_a_network_of_many_parameters_has_names_that_can_be_read() -> None:
    axes = draw_layers([f"layer.{i}" for i in range(400)], [0], [[1.0] * 400]).axes[0]
    assert len(axes.get_yticklabels()) <= 24 and axes.figure.get_size_inches()[1] <= 12.0


@pytest.mark.parametrize(
    ("layers", "steps"),
    [(1, 1), (2, 3), (12, 60), (200, 300), (12, 11)],
    ids=lambda count: str(count),
)
@pytest.mark.parametrize("every", [1, 50, 123_457])
def test_the_heat_map_can_be_read_at_400_pixels(layers: int, steps: int, every: int) -> None:
    names = [f"model.encoder.blocks.{i}.attention.output.{kind}" for i in range(layers) for kind in ("weight", "bias")]
    norms = [[10.0 ** -(i % 5) for i in range(len(names))]] * steps
    assert faults(draw_layers(names, [every * i for i in range(steps)], norms)) == []


def test_names_of_parameters_that_begin_or_end_alike_can_be_told_apart() -> None:
    names = [f"model.encoder.blocks.{i}.attention.output.{kind}" for i in range(12) for kind in ("weight", "bias")]
    shown = [label.get_text() for label in draw_layers(names, [0], [[1.0] * 24]).axes[0].get_yticklabels()]
    assert len(set(shown)) == 24 and max(map(len, shown)) <= 28


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "lightning_tricks.publishing.inline_figure", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'lightning-tricks\[demo\]'"):
        draw_layers(["a"], [0], [[1.0]])
