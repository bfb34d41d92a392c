"""The picture of a training: what the doctor looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from lightning_tricks.publishing.events import mark_events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_tricks.diagnosis.findings import Finding
    from lightning_tricks.publishing.events import Event

_STYLES = (":", "--", "-.", (0, (1, 4)))  # of the lines of findings
_BELOW: dict[str, Any] = {  # a legend below the axes, where no curve is
    "loc": "upper center",
    "bbox_to_anchor": (0.5, -0.2),
    "ncols": 2,
    "fontsize": "small",
    "frameon": False,
}


def draw_training(
    history: Sequence[tuple[int, Mapping[str, float]]],
    predictions: Sequence[tuple[int, Sequence[float]]],
    validation: Sequence[float],
    findings: Sequence[Finding],
    events: Sequence[Event] = (),
) -> Figure:
    """Return losses with findings and events, predictions on the first batch over time, gradients and updates.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from matplotlib.ticker import MaxNLocator

        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    # below one another: legible on a telephone, 400 pixels wide
    figure = InlineFigure(figsize=(5.4, 9.6), dpi=180, layout="constrained")
    losses, said, sizes = (figure.add_subplot(3, 1, i) for i in (1, 2, 3))
    steps = [step for step, _ in history]
    for name, label in (("loss", "training"), ("fixed_batch_loss", "first batch, eval mode")):
        points = [(s, v[name]) for s, v in history if math.isfinite(v.get(name, math.nan))]
        if points:
            losses.plot(*zip(*points, strict=True), marker=_marker(points), label=label)
    if validation and steps:
        places = [steps[-1] * (i + 1) / len(validation) for i in range(len(validation))]
        held = [(place, value) for place, value in zip(places, validation, strict=True) if math.isfinite(value)]
        if held:
            losses.plot(*zip(*held, strict=True), marker=_marker(held), label="validation")
    for finding, style in zip(findings, cycle(_STYLES), strict=False):
        label = f"{finding.kind} (step {finding.step})"
        losses.axvline(finding.step, color="tab:red", linewidth=1.0, linestyle=style, label=label)
    mark_events(losses, [event for event in events if event.kind != "finding"])
    losses.set(xlabel="step", title="loss")
    if losses.get_legend_handles_labels()[0]:
        losses.legend(**_BELOW)
    rows = [values for _, values in predictions if values]
    if rows:
        image = said.imshow(
            [list(column) for column in zip(*rows, strict=False)], aspect="auto", interpolation="nearest", cmap="tab20"
        )
        classes = all(float(value).is_integer() for values in rows for value in values)
        figure.colorbar(image, ax=said, ticks=MaxNLocator(integer=True) if classes else None)
    for axis in (said.xaxis, said.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    said.set(xlabel="check", ylabel="sample of the first batch", title="predictions on the first batch")
    for name in ("first_gradient", "last_gradient", "update_ratio"):
        points = [(s, v[name]) for s, v in history if v.get(name, 0.0) > 0 and math.isfinite(v[name])]
        if points:
            sizes.plot(*zip(*points, strict=True), marker=_marker(points), label=name.replace("_", " "))
    sizes.axhspan(1e-4, 1e-2, color="tab:green", alpha=0.08)
    sizes.set(xlabel="step", yscale="log", title="gradient norms; update / weight")
    if sizes.lines:
        sizes.legend(**_BELOW)
    return figure


def _marker(points: Sequence[object]) -> str | None:
    """Return a dot where points are few: a line of one point would not be seen."""
    return "." if len(points) < 30 else None
