"""The picture of a sweep."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = {
    "minimum": "tab:red",
    "slide": "tab:purple",
    "valley": "tab:green",
    "steepest": "tab:orange",
    "center": "tab:brown",
}

_LONGEST_LINE = 64  # characters of a title
_LABELS = {"minimum": "minimum / 10:"}  # the line is not where the minimum is


def draw_sweep(
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    *,
    first_loss: float,
    suggestions: Mapping[str, float],
    suggestion: float | None,
    title: str = "",
) -> Figure:
    """Return a figure of losses over learning rates.

    Args:
        lrs: rising.
        losses: after the update with each of them.
        smoothed: the same, smoothed.
        first_loss: before the first update; a dotted line.
        suggestions: name of a rule -> rate; each is a vertical line.
        suggestion: the rate that was chosen; a solid line. None for none.
        title: above the axes, e.g. why the result is not to be trusted.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    # legible on a telephone, 400 pixels wide
    figure = InlineFigure(figsize=(5.4, 4.2), dpi=180, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(lrs, losses, color="tab:blue", alpha=0.35, linewidth=1, label="loss")
    axes.plot(lrs, smoothed, color="tab:blue", label="smoothed")
    axes.axhline(first_loss, color="tab:gray", linewidth=0.8, linestyle=":", label="before the first update")
    for name, lr in suggestions.items():
        chosen = lr == suggestion
        style = "-" if chosen else "--"
        label = f"{_LABELS.get(name, name)} {lr:.2g}" + (" (suggested)" if chosen else "")
        axes.axvline(lr, color=_COLORS[name], linestyle=style, linewidth=1.8 if chosen else 1.0, label=label)
    if suggestion is not None and suggestion not in suggestions.values():
        axes.axvline(suggestion, color="black", label=f"bake-off {suggestion:.2g} (suggested)")
    finite = [*smoothed, first_loss]
    # (the highest tenth is the divergence, beside which the fall would look flat)
    low, high = min(finite + list(losses)), max(first_loss, sorted(finite)[int(0.9 * (len(finite) - 1))])
    margin = 0.1 * (high - low) + 1e-12
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - margin, high + 3 * margin))
    axes.set_title(textwrap.fill(title, _LONGEST_LINE), fontsize="small")
    # below the axes: it would lie over a curve that falls late or rises early
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize="small", frameon=False)
    axes.grid(alpha=0.3)
    return figure
