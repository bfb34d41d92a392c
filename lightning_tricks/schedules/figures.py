"""The picture of a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tricks.schedules.phases import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curve(curve: Curve, base_lr: float) -> Figure:
    """Return a figure of the learning rate over updates with its phases shaded.

    It is no pyplot figure: nothing has to be closed, and no window opens. Save it with ``figure.savefig("lr.png")``.

    Args:
        curve: what to draw.
        base_lr: the optimizer's rate, factor of the y axis.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([base_lr * value for value in curve.values()], color="tab:blue", label="learning rate")
    ends = (0, curve.warmup, curve.warmup + curve.hold, curve.total)
    phases = zip(("warm-up", "hold", "decay"), ("tab:orange", "tab:gray", "tab:green"), strict=True)
    for (name, color), left, right in zip(phases, ends[:-1], ends[1:], strict=True):
        if right > left:
            axes.axvspan(left, right, color=color, alpha=0.12, label=name)
    axes.set(xlabel="update", ylabel="learning rate", xlim=(0, curve.total), ylim=(0, None))
    axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    return figure
