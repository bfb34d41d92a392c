"""From the TensorBoard logs of a run to one picture: loss, learning rate, and gradient norm before and after the clip."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Scalars = dict[str, list[tuple[int, float]]]


def read_scalars(folder: Path) -> Scalars:
    """Return every scalar of a run as ``{tag: [(step, value), ...]}``."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def draw(scalars: Scalars, path: Path) -> Path:
    """Draw a run into a PNG and return its path."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    loss, rate, norm = figure.subplots(3, 1, sharex=True)
    loss.plot(*columns(scalars, "train/loss"), color="tab:blue", linewidth=1, label="training loss")
    loss.set(yscale="log", ylabel="loss")
    rate.plot(*columns(scalars, "schedule/lr"), color="tab:orange", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    steps, before = columns(scalars, "grad/norm")
    _, coefficients = columns(scalars, "grad/clip_coefficient")
    after = [n * c for n, c in zip(before, coefficients, strict=True)]
    norm.plot(steps, before, color="tab:red", linewidth=1, alpha=0.6, label="global gradient norm before the clip")
    norm.plot(steps, after, color="tab:green", linewidth=1, label="after the clip")
    norm.set(yscale="log", ylabel="norm", xlabel="step")
    for axes, corner in ((loss, "upper right"), (rate, "upper right"), (norm, "lower left")):
        axes.grid(alpha=0.3)
        axes.legend(loc=corner, fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def columns(scalars: Scalars, tag: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one tag."""
    rows = scalars[tag]
    return [step for step, _ in rows], [value for _, value in rows]
