"""The picture of a training: what the doctor looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_tricks.publishing.events import mark_events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_tricks.diagnosis.findings import Finding
    from lightning_tricks.publishing.events import Event


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
        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    figure = InlineFigure(figsize=(12.5, 3.6), layout="constrained")
    losses, said, sizes = (figure.add_subplot(1, 3, i) for i in (1, 2, 3))
    steps = [step for step, _ in history]
    for name, label in (("loss", "training"), ("fixed_batch_loss", "first batch, eval mode")):
        points = [(s, v[name]) for s, v in history if math.isfinite(v.get(name, math.nan))]
        if points:
            losses.plot(*zip(*points, strict=True), label=label)
    if validation and steps:
        places = [steps[-1] * (i + 1) / len(validation) for i in range(len(validation))]
        losses.plot(places, list(validation), label="validation")
    for finding in findings:
        losses.axvline(finding.step, color="tab:red", linewidth=0.8, linestyle=":")
        losses.annotate(finding.kind, (finding.step, 0.98), xycoords=("data", "axes fraction"), rotation=90, va="top")
    mark_events(losses, [event for event in events if event.kind != "finding"])
    losses.set(xlabel="step", title="loss")
    if losses.get_legend_handles_labels()[0]:
        losses.legend(fontsize="small")
    rows = [values for _, values in predictions if values]
    if rows:
        image = said.imshow(
            [list(column) for column in zip(*rows, strict=False)], aspect="auto", interpolation="nearest", cmap="tab20"
        )
        figure.colorbar(image, ax=said)
    said.set(xlabel="check", ylabel="sample of the first batch", title="predictions on the first batch")
    for name in ("first_gradient", "last_gradient", "update_ratio"):
        points = [(s, v[name]) for s, v in history if v.get(name, 0.0) > 0 and math.isfinite(v[name])]
        if points:
            sizes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    sizes.axhspan(1e-4, 1e-2, color="tab:green", alpha=0.08)
    sizes.set(xlabel="step", yscale="log", title="gradient norms; update / weight")
    if sizes.lines:
        sizes.legend(fontsize="small")
    return figure
