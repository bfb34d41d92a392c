from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from lightning_tricks.collapse import figures
from tests.legible import faults

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


LAYERS = [f"model.encoder.blocks.{i}.attention.output_projection" for i in range(30)]
EVERYWHERE = (  # curves that reach every corner of the axes, so that nothing may lie there
    *("sphere_variance", "rank_share", "embedding_std", "skill", "macro_f1", "r_squared", "correlation", "association"),
    *("recall", "coverage", "precision", "pairwise_distance_ratio", "diversity", "variance_ratio", "tail_mass"),
    *("repetition", "real_loss_ratio", "usage", "capacity", "balance", "perplexity_share", "unused_share"),
    *("top_share", "kl", "active_units", "largest_mean_variance"),
    *(f"{kind}/{layer}" for kind in ("sphere_variance", "rank_share") for layer in LAYERS),
)
UNITS = [f"{kind}/{layer}" for kind in ("dead", "saturated", "dormant") for layer in LAYERS]


def crossing(names: Sequence[str]) -> list[tuple[int, dict[str, float]]]:
    """Half of the curves rise from 0 to 1, the others fall; over so many steps that their numbers are long."""
    return [
        (2500 * k, {"entries": 8192.0} | {name: k / 20 if i % 2 else 1 - k / 20 for i, name in enumerate(names)})
        for k in range(21)
    ]


def made_of(history: list[tuple[int, dict[str, float]]], classes: int, dimensions: int) -> dict[str, Any]:
    falling = [0.5**i for i in range(dimensions)]
    shares = [(step, [1 / classes] * classes) for step, _ in history]
    points = [[i / 10, (i * 7 % 10) / 10] for i in range(11)]
    return {
        "spectrum": figures.draw_spectrum(falling, history, LAYERS[0]),
        "depth": figures.draw_depth(LAYERS, history),
        "few layers": figures.draw_depth(LAYERS[:2], history),
        "classes": figures.draw_classes(shares, [1 / classes] * classes, history),
        "skill": figures.draw_skill(history),
        "samples": figures.draw_samples(points, points[::-1], history),
        "generations": figures.draw_generations(history),
        "usage": figures.draw_usage(falling, history, LAYERS[0]),
        "posterior": figures.draw_posterior(falling, history, LAYERS[0]),
    }


def test_every_figure_can_be_read_at_400_pixels() -> None:
    drawn = made_of(crossing(EVERYWHERE), classes=32, dimensions=128)
    drawn["one check"] = figures.draw_spectrum([1.0, 0.5], crossing(EVERYWHERE)[:1], "net")
    drawn["tiny"] = figures.draw_posterior([2e-5, 1e-5], [(10, {"kl": 0.07}), (20, {"kl": 1e-4})], "mu")
    drawn["units"] = figures.draw_units(crossing(UNITS))
    drawn["no units"] = figures.draw_units([])
    drawn["no layers"] = figures.draw_depth([], [])
    assert {name: found for name, figure in drawn.items() if (found := faults(figure))} == {}


def test_of_many_layers_those_with_the_most_stopped_units_are_drawn() -> None:
    history = [(10, {f"dead/net.{i}": (i * 7 % 20) / 20 for i in range(20)})]
    labels = [str(line.get_label()) for line in figures.draw_units(history).axes[0].lines]
    most = [i for i in range(20) if i * 7 % 20 >= 8]
    assert labels == [f"dead/net.{i}" for i in most], "in the order of the network"


def test_names_of_layers_are_alike_in_both_axes() -> None:
    above, below = figures.draw_depth(LAYERS[-2:], crossing([f"rank_share/{layer}" for layer in LAYERS[-2:]])).axes
    labels = [label.get_text() for label in above.get_yticklabels()]
    assert labels == [str(line.get_label()) for line in below.lines] == ["…blocks.28…", "…blocks.29…"]


def test_units_are_called_by_what_they_are_and_where() -> None:
    labels = [str(line.get_label()) for line in figures.draw_units(crossing(UNITS[-2:])).axes[0].lines]
    assert labels == ["dormant/…blocks.28…", "dormant/…blocks.29…"]


def test_the_head_of_a_large_codebook_is_wide_enough_to_be_seen() -> None:
    large, small = ([(10, {"entries": entries})] for entries in (8192.0, 8.0))
    assert figures.draw_usage([0.9, 0.1], large, "vq").axes[0].get_xscale() == "log"
    assert figures.draw_usage([0.9, 0.1], small, "router").axes[0].get_xscale() == "linear"
