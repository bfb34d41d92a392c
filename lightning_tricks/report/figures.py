"""The pictures of a report, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_tricks.gradients.figures import draw_layers
from lightning_tricks.publishing.events import Event, Series, mark_events
from lightning_tricks.publishing.layer_names import shorter

_MOST_LINES = 8
_LONGEST_NAME = 26
_MOST_LAYERS = 120
_MOST_COLUMNS = 256


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=180)
    return held.getvalue()


def draw_lines(
    series: Mapping[str, Series],
    label: str,
    marked: Sequence[Event] = (),
    *,
    smooth: bool = False,
    linear: bool = False,
) -> Figure:
    """Return lines over steps, with events marked; a logarithmic axis where the values span two decades.

    Args:
        series: name -> (step, value); at most eight are drawn.
        smooth: draw a running mean over the values.
        linear: never a logarithmic axis.
    """
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    ax = figure.subplots()
    seen: list[float] = []
    shown = list(series)[:_MOST_LINES]
    for name, written in shorter(shown, _LONGEST_NAME).items():
        points = series[name]
        finite = [(s, v) for s, v in points if math.isfinite(v)]
        if not finite:
            continue
        steps, values = zip(*finite, strict=True)
        seen += values
        few = len(values) < 30
        # (a running mean over few values would hide them)
        noisy = smooth and not few
        (line,) = ax.plot(steps, values, marker="." if few else None, alpha=0.3 if noisy else 1.0, linewidth=1)
        line.set_label(None if noisy else written)
        if noisy:
            ax.plot(steps, _running_mean(values), color=line.get_color(), linewidth=1.6, label=written)
    if not linear and seen and min(seen) > 0 and max(seen) > 100 * min(seen):
        ax.set_yscale("log")
    mark_events(ax, marked)
    ax.set(xlabel="step", ylabel=label)
    ax.grid(alpha=0.3)
    lines = math.ceil(len(ax.get_legend_handles_labels()[0]) / 2)
    if lines:
        # below the axes: beside them it would take half of a narrow page
        figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
        figure.set_figheight(figure.get_figheight() + 0.17 * lines)
    return figure


def draw_layer_norms(series: Mapping[str, Series]) -> Figure:
    """Return the heat map of gradient norms from their log keys ``grad/norm/<parameter>``."""
    layers = dict(list(series.items())[:_MOST_LAYERS])
    steps = sorted({s for points in layers.values() for s, _ in points})
    steps = steps[:: max(1, math.ceil(len(steps) / _MOST_COLUMNS))]
    columns = {name: dict(points) for name, points in layers.items()}
    norms = [[columns[name].get(step, math.nan) for name in layers] for step in steps]
    return draw_layers([name.removeprefix("grad/norm/") for name in layers], steps, norms)


def _running_mean(values: Sequence[float]) -> list[float]:
    # (the usual weight of an exponential mean, for a window of a tenth of the values)
    weight = 2.0 / (1 + max(5, len(values) // 10))
    mean, found = values[0], []
    for value in values:
        mean += weight * (value - mean)
        found.append(mean)
    return found
