"""The picture of a schedule."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from lightning_tricks.schedules.plan import curve_in_shares, whole_curve
from lightning_tricks.schedules.run_curve import Curve
from lightning_tricks.schedules.spec import ScheduleSpec
from lightning_tricks.schedules.written import momentum_at, weight_decay_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Series = list[float]

_COLORS = ("tab:orange", "tab:gray", "tab:green", "tab:purple", "tab:red", "tab:cyan")


def draw_schedule(spec: ScheduleSpec, total: int | None, base_lr: float, weight_decay: float) -> Figure:
    """Return a figure of all that a schedule writes over ``total`` updates.

    Args:
        total: updates of the run; None for the schedule's own number, and without one for shares of the run.
        weight_decay: the optimizer's; drawn when it is scheduled.

    Raises:
        ValueError: the curve cannot be drawn before training.
        ImportError: matplotlib is missing; the message says what to install.
    """
    given = spec.total_of(0)
    if total is None and given is not None and given.unit == "st":
        total = given.updates(None, None)
    curve = curve_in_shares(spec) if total is None else whole_curve(spec, total)
    length = curve.total or 0
    more: dict[str, Series] = {}
    if spec.momentum is not None:
        more |= {"momentum": [momentum_at(spec.momentum, curve.lr_fraction(k)) for k in range(length)]}
    if spec.weight_decay_final is not None:
        last = spec.weight_decay_final
        more |= {"weight decay": [weight_decay_at(weight_decay, last, k / length) for k in range(length)]}
    return draw_curve(curve, base_lr, more, in_shares=total is None)


def draw_curve(
    curve: Curve, base_lr: float, more: dict[str, Series] | None = None, *, in_shares: bool = False
) -> Figure:
    """Return a figure of the learning rate over updates with its phases shaded, and more series below it.

    It is not a pyplot figure: nothing has to be closed, and no window opens. Save it with ``figure.savefig("lr.png")``.

    Args:
        curve: what to draw; its end must be known.
        base_lr: the optimizer's rate, factor of the y axis.
        more: name -> values by update, e.g. the momentum; each gets an axis of its own.
        in_shares: label the x axis in percent of the run instead of updates.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    rows = [("learning rate", [base_lr * value for value in curve.values()]), *(more or {}).items()]
    figure = InlineFigure(figsize=(5.4, 1.7 + 1.6 * len(rows)), dpi=180, layout="constrained")
    all_axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    total = curve.total or 0
    for axes, (name, values) in zip(all_axes, rows, strict=True):
        axes.plot(values, color="tab:blue", label=name)
        left = 0
        for (phase, length), color in zip(curve.parts(), cycle(_COLORS), strict=False):
            if length > 0:
                axes.axvspan(left, left + length, color=color, alpha=0.12, label=phase)
            left += length
        low, high = min(values), max(values)
        axes.set(ylabel=name, xlim=(0, total))
        # (1e-9: matplotlib warns of limits that are equal, as those of a constant would be)
        axes.set_ylim(0 if axes is all_axes[0] else low - 0.1 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
        axes.grid(alpha=0.3)
    # above the axes: a schedule may be anywhere below it
    all_axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize="small", frameon=False)
    all_axes[-1].set_xlabel("share of the run (%)" if in_shares else "update")
    if in_shares:
        shares = range(0, 101, 20)
        all_axes[-1].set_xticks([total * share / 100 for share in shares], [str(share) for share in shares])
    return figure
