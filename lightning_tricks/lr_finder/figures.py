"""The picture of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_tricks.lr_finder.suggest import Result

_COLORS = {
    "minimum": "tab:red",
    "slide": "tab:purple",
    "valley": "tab:green",
    "steepest": "tab:orange",
    "center": "tab:brown",
}


def draw_result(result: Result) -> Figure:
    """Return a figure of losses over learning rates.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(result.lrs, result.losses, color="tab:blue", alpha=0.35, linewidth=1, label="loss")
    axes.plot(result.lrs, result.smoothed, color="tab:blue", label="smoothed")
    axes.axhline(result.first_loss, color="tab:gray", linewidth=0.8, linestyle=":", label="before the first update")
    for name, lr in result.suggestions.items():
        chosen = lr == result.suggestion
        style = "-" if chosen else "--"
        label = f"{name} {lr:.2g}" + (" (suggested)" if chosen else "")
        axes.axvline(lr, color=_COLORS[name], linestyle=style, linewidth=1.8 if chosen else 1.0, label=label)
    if result.suggestion is not None and result.suggestion not in result.suggestions.values():
        axes.axvline(result.suggestion, color="black", label=f"bake-off {result.suggestion:.2g} (suggested)")
    finite = [*result.smoothed, result.first_loss]
    low, high = min(finite + result.losses), max(result.first_loss, sorted(finite)[int(0.9 * (len(finite) - 1))])
    margin = 0.1 * (high - low) + 1e-12
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - margin, high + 3 * margin))
    axes.set_title("" if result.confident else "low confidence: " + "; ".join(result.reasons), fontsize="small")
    axes.legend(loc="lower left", fontsize="small")
    axes.grid(alpha=0.3)
    return figure
