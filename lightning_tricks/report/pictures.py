"""The pictures of a report: loss with events, measures, learning rate, gradient norms, what each detector watches."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lightning_tricks.publishing.events import Event
from lightning_tricks.publishing.log_keys import is_own_loss
from lightning_tricks.report import figures
from lightning_tricks.report.blocks import Block, Heading, Picture
from lightning_tricks.report.logs import Logs, Points
from lightning_tricks.report.results import of_the_user

_CAPTIONS = {"lr_finder": "The learning-rate range test before training: the loss at each rate that was tried."}


def pictures(logs: Logs, happened: Sequence[Event]) -> list[Block]:
    """Return the section of pictures, those that the logs have something for."""
    scalars = logs.scalars

    def those(pattern: str) -> dict[str, Points]:
        return {k: p for k, p in scalars.items() if re.fullmatch(pattern, k)}

    losses = {k: p for k, p in scalars.items() if is_own_loss(k)} or those("diagnosis/training_doctor/loss")
    metrics = {k: p for k, p in of_the_user(logs).items() if not is_own_loss(k)}
    # (LearningRateMonitor's, where there is no LRSchedule)
    rates = those(r"schedule(/optimizer\d+)?/lr(/.*)?") or those(r"lr-.*")
    norms = those(r"grad/norm(/optimizer\d+)?")
    # (``grad/norm/optimizer1`` is the norm of all that an optimizer has)
    layers = those(r"grad/norm/(?!optimizer\d+$).*")
    found: list[Block] = [Heading("Pictures")]

    def add(name: str, caption: str, series: dict[str, Points], label: str, **how: bool) -> None:
        marked = happened if name == "loss" else ()
        if _any_finite(series):
            drawn = figures.draw_lines(series, label, marked, **how)
            found.append(Picture(name, caption, figures.png(drawn)))

    caption = "The loss, and what happened: small marks for clips and skips, lines for alarms and rollbacks."
    add("loss", caption, losses, "loss", smooth=True)
    add("metrics", "The other measures of the training script.", metrics, "value")
    add("rate", "The learning rate of each parameter group.", rates, "learning rate", linear=True)
    caption = "The global gradient norm. Single peaks are unusual batches; a steady rise is a warning."
    add("norm", caption, norms, "global gradient norm", smooth=True)
    if _any_finite(layers) or (
        not layers and "grad/layers" in logs.images
    ):  # (the picture has every parameter; there are curves of a few only)
        caption = "The gradient norm of each parameter; dark is small. Dark rows at the top are vanishing gradients."
        drawn = logs.images.get("grad/layers") or figures.png(figures.draw_layer_norms(layers))
        found.append(Picture("layers", caption, drawn))
    add("scale", "The loss scale of 16-bit precision; it halves when an update overflows.", those("amp/scale"), "scale")
    for detector in sorted({k.split("/")[1] for k in those(r"collapse/[^/]+/(?!alarm$).*")} - {"rollback"}):
        prefix = f"collapse/{detector}/"
        measures = {k.removeprefix(prefix): p for k, p in those(rf"{re.escape(prefix)}(?!alarm$).*").items()}
        add(detector, f"What {detector.replace('_', ' ')} watches.", measures, "value")
    for tag, image in logs.images.items():
        if tag != "grad/layers":
            found.append(Picture(tag, _CAPTIONS.get(tag) or f"Drawn while training: {_readable(tag)}.", image))
    return found if len(found) > 1 else []


def _any_finite(series: dict[str, Points]) -> bool:
    return any(math.isfinite(value) for points in series.values() for _, value in points)


def _readable(tag: str) -> str:
    """Return the name of a picture in words.

    >>> _readable("collapse/prediction_collapse/figure")
    'prediction collapse'
    """
    parts = [part for part in tag.split("/") if part not in ("collapse", "diagnosis", "figure")]
    return " ".join(parts).replace("_", " ")
