"""What a collapse looks like: spectrum, classes over time, samples, units, generations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from lightning_tricks.publishing.layer_names import short, shorter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[tuple[int, Mapping[str, float]]]

_HEIGHT = 3.1  # inches
_MOST_LINES = 12
_MOST_NAMES = 24
_LONGEST = 24  # characters of a name in a legend or at a tick; two of them fit beside one another
_LONGEST_TITLE = 34
_FEW = 32  # entries that can be told apart on a linear axis
_ORDERED = "viridis"  # the colors of layers, from the first to the last


def _new(*heights: float) -> tuple[Figure, list[Any]]:
    """Return a figure with axes of these heights below one another: legible on a telephone, 400 pixels wide."""
    try:
        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("figures need matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    figure = InlineFigure(figsize=(5.4, sum(heights)), dpi=180, layout="constrained")
    return figure, list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])


def _legend(axes: Any) -> None:
    """Put the legend below the axes, where no curve is, and make the figure higher by as much."""
    from matplotlib.transforms import blended_transform_factory

    count = len(axes.get_legend_handles_labels()[0])
    if count:
        figure = axes.figure
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            # (in the middle of the figure: that of axes with long names at their ticks is further right)
            bbox_transform=blended_transform_factory(figure.transFigure, axes.transAxes),
            borderaxespad=4.4 if axes.get_xlabel() else 2.6,  # letters: the tick labels and the label lie between
            ncols=2,
            fontsize="small",
            frameon=False,
        )
        figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(count / 2))


def _lines(axes: Any, history: History, names: Mapping[str, str] | Sequence[str], title: str, colors: Any = ()) -> None:
    """Draw the values of these names over the steps; a mapping says how each is called in the legend."""
    shown = names if isinstance(names, Mapping) else {name: name.replace("_", " ") for name in names}
    for name, color in zip_longest(shown, colors):
        points = [(step, values[name]) for step, values in history if name in values]
        if points:
            axes.plot(*zip(*points, strict=True), label=shown[name], color=color)
    axes.set(xlabel="step", title=title)
    axes.xaxis.set_major_locator(_whole())
    axes.grid(alpha=0.3)
    _legend(axes)


def _whole() -> Any:
    """Return a locator of few whole numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=7, integer=True)


def _in_order(count: int) -> list[Any]:
    """Return as many colors, which rise with depth."""
    from matplotlib import colormaps

    return [colormaps[_ORDERED](0.92 * i / max(1, count - 1)) for i in range(count)]


def draw_spectrum(eigenvalues: Sequence[float], history: History, layer: str) -> Figure:
    """Return the spectrum of the covariance, and variance and rank over time."""
    figure, (above, below) = _new(_HEIGHT, _HEIGHT)
    top = max([*eigenvalues, 1e-12])
    # (0 has no logarithm)
    above.plot(range(1, len(eigenvalues) + 1), [max(v / top, 1e-9) for v in eigenvalues], color="tab:blue")
    above.set(yscale="log", ylim=(1e-7, 2), xlabel="dimension", ylabel="variance / largest")
    above.xaxis.set_major_locator(_whole())
    above.set_title(f"spectrum of {short(layer, _LONGEST_TITLE)}")
    above.grid(alpha=0.3)
    _lines(below, history, ("sphere_variance", "rank_share", "embedding_std"), "0 is collapsed")
    below.set_ylim(-0.05, 1.1)
    return figure


def draw_depth(layers: Sequence[str], history: History) -> Figure:
    """Return variance and rank of each layer at the last check, and the rank of each over time."""
    every = math.ceil(max(1, len(layers)) / _MOST_NAMES)
    figure, (above, below) = _new(1.4 + 0.2 * len(layers[::every]), _HEIGHT)
    last, called = history[-1][1] if history else {}, shorter(layers, _LONGEST)
    # (depth downwards, as names of layers can be read in lines alone)
    for name in ("sphere_variance", "rank_share"):
        values = [last.get(f"{name}/{n}", math.nan) for n in layers]
        above.plot(values, range(len(layers)), "o-", label=name.replace("_", " "))
    above.set_yticks(range(0, len(layers), every), [called[name] for name in layers[::every]], fontsize="small")
    above.set(ylim=(max(1, len(layers)) - 0.5, -0.5), xlim=(-0.05, 1.1), title="0 is collapsed")
    above.grid(alpha=0.3)
    _legend(above)
    shown = {f"rank_share/{n}": called[n] for n in layers[:_MOST_LINES]}
    _lines(below, history, shown, "share of the possible rank", _in_order(len(shown)))
    return figure


def draw_classes(shares: Sequence[tuple[int, Sequence[float]]], labels: Sequence[float], history: History) -> Figure:
    """Return shares of predicted classes over time beside those of the labels, and the skill."""
    figure, (above, below) = _new(_HEIGHT, _HEIGHT)
    steps = [step for step, _ in shares]
    above.stackplot(steps, *zip(*(row for _, row in shares), strict=True), alpha=0.85)
    position, low = steps[-1] * 1.02 + 1, 0.0
    for i, share in enumerate(labels):
        above.bar(position, share, bottom=low, width=max(1.0, 0.05 * steps[-1]), align="edge", color=f"C{i % 10}")
        low += share
    above.set(xlabel="step", ylim=(0, 1), title="predicted classes (bar: labels)")
    above.xaxis.set_major_locator(_whole())
    _lines(below, history, ("skill", "macro_f1"), "1 is best, 0 is chance")
    below.set_ylim(-0.3, 1.05)
    return figure


def draw_skill(history: History) -> Figure:
    """Return the skill of predictions that are not classes, and the evidence for it, over time."""
    figure, (above, below) = _new(_HEIGHT, _HEIGHT)
    _lines(above, history, ("skill", "r_squared", "correlation"), "1 is best, 0 is chance")
    above.set_ylim(-1.05, 1.05)
    _lines(below, history, ("association",), "association with the target (z)")
    below.axhline(2.0, color="tab:gray", linestyle=":")
    # (a constant would fill the axes with steps of a hundredth)
    low, high = below.get_ylim()
    below.set_ylim(min(0.0, low), max(3.0, high))
    return figure


def draw_samples(generated: Sequence[Sequence[float]], real: Sequence[Sequence[float]], history: History) -> Figure:
    """Return generated samples over real ones in the first two dimensions, and the measures over time."""
    figure, (above, below) = _new(_HEIGHT, _HEIGHT)
    for rows, color, name in ((real, "tab:gray", "real"), (generated, "tab:red", "generated")):
        # (the last number, so that samples of a single one can be drawn too)
        above.scatter([r[0] for r in rows], [r[-1] for r in rows], s=6, alpha=0.5, color=color, label=name)
    above.set_title("samples")
    _legend(above)
    _lines(below, history, ("recall", "coverage", "precision", "pairwise_distance_ratio"), "generated against real")
    return figure


def draw_units(history: History) -> Figure:
    """Return the shares of stopped units by layer over time: of many layers those with the most at the last check."""
    figure, (axes,) = _new(_HEIGHT)
    names = list(dict.fromkeys(name for _, values in history for name in values if "/" in name))
    last = history[-1][1] if history else {}
    most = set(sorted(names, key=lambda name: -last.get(name, 0.0))[:_MOST_LINES])
    shown = shorter([name for name in names if name in most], _LONGEST)
    _lines(axes, history, shown, "share of stopped units", _in_order(len(shown)))
    axes.set_ylim(-0.05, 1.05)
    return figure


def draw_generations(history: History) -> Figure:
    """Return diversity and the loss on real data, generation by generation."""
    figure, (axes,) = _new(_HEIGHT)
    names = ("diversity", "variance_ratio", "tail_mass", "repetition", "real_loss_ratio")
    _lines(axes, history, names, "generation by generation")
    return figure


def draw_usage(shares: Sequence[float], history: History, module: str) -> Figure:
    """Return the shares of the entries in falling order beside equal ones, and the measures over time."""
    figure, (above, below) = _new(_HEIGHT, _HEIGHT)
    entries = history[-1][1]["entries"] if history else float(len(shares))
    places = [1 + i * (entries - 1) / max(1, len(shares) - 1) for i in range(len(shares))]
    above.fill_between(places, shares, step="mid", alpha=0.6)
    above.axhline(1 / max(1.0, entries), color="tab:gray", linestyle="--", label="all equally often")
    above.set(xlabel="entry, most used first", ylabel="share", ylim=(0, None))
    above.set_title(f"usage of {short(module, _LONGEST_TITLE)}")
    if entries > _FEW:
        above.set_xscale("log")  # the few that a collapsed codebook still uses would be too narrow to be seen
    else:
        above.xaxis.set_major_locator(_whole())
    _legend(above)
    names = ("usage", "capacity", "balance", "perplexity_share", "unused_share", "top_share")
    _lines(below, history, names, "in use over time")
    below.set_ylim(-0.05, 1.05)
    return figure


def draw_posterior(kl: Sequence[float], history: History, module: str) -> Figure:
    """Return the KL divergence of each dimension in falling order, and the measures over time."""
    figure, (above, below) = _new(_HEIGHT, _HEIGHT)
    above.bar(range(1, len(kl) + 1), kl)
    above.set(xlabel="dimension, largest first", ylabel="KL divergence [nats]")
    above.xaxis.set_major_locator(_whole())
    above.set_title(f"posterior of {short(module, _LONGEST_TITLE)}")
    _lines(below, history, ("kl", "active_units", "largest_mean_variance"), "0 carries nothing")
    # (symlog: 0 is what matters here; up to 1 at least, as ticks between two powers of ten cannot be read)
    below.set_yscale("symlog", linthresh=0.1)
    below.set_ylim(0, max(1.0, 1.5 * below.dataLim.y1 if below.lines else 1.0))
    return figure
