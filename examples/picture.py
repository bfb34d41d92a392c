"""What a run did: a table, and pictures from its TensorBoard logs."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_tricks import GradientClip, LRFinder, LRSchedule

Scalars = dict[str, list[tuple[int, float]]]


def show(
    trainer: L.Trainer, clip: GradientClip, finder: LRFinder | None, schedule: LRSchedule, folder: Path, seconds: float
) -> None:
    """Print the numbers of the run, draw it, and say how to see more."""
    root = Path(__file__).parent.parent
    scalars = read_scalars(folder)
    norms = torch.tensor([value for _, value in scalars["grad/norm"]])
    finite = norms[norms.isfinite()]
    layers = {tag.removeprefix("grad/norm/"): rows for tag, rows in scalars.items() if tag.startswith("grad/norm/")}
    largest = max(layers, key=lambda name: sum(v for _, v in layers[name] if v < float("inf")))
    updates = clip.run.clock.applied_on_host(0)
    table = Table(title=f"Handwritten digits, {seconds:.0f} s on {trainer.strategy.root_device}", show_header=False)
    table.add_row("validation accuracy", f"{float(trainer.callback_metrics['val/accuracy']):.1%}")
    if finder is not None and finder.result is not None:
        others = ", ".join(f"{name} {lr:.2g}" for name, lr in finder.result.suggestions.items())
        table.add_row("learning rate found", f"{finder.result.suggestion:.2g} ({others})")
    table.add_row("applied updates", f"{updates} of {clip.run.clock.attempted(0)} attempted")
    table.add_row("clipped", f"{clip.clipped_fraction:.1%} of them, to {clip.mean_coefficient:.2f} of their norm")
    shares = [f"{float(finite.quantile(q)):.2f}" for q in (0.5, 0.99)] + [f"{float(finite.max()):.2f}"]
    table.add_row("global gradient norm", f"median {shares[0]}, p99 {shares[1]}, max {shares[2]}")
    table.add_row("layer with the largest norm", largest)
    table.add_row("suggested threshold", f"{clip.suggested_threshold:.2f} (would clip one update in ten)")
    console = Console()
    console.print(table)
    pictures = [draw(scalars, folder / "demo.png"), folder / "schedule.png"]
    schedule.plot(updates, base_lr=max(value for _, value in scalars["schedule/lr"])).savefig(pictures[1], dpi=180)
    if finder is not None and finder.result is not None:
        pictures.append(folder / "lr_finder.png")
        finder.result.plot().savefig(pictures[-1], dpi=180)
    for picture in pictures:
        console.print(f"picture  {picture.relative_to(root)}", soft_wrap=True, highlight=False)
    console.print(
        f"more     {Path(sys.executable).with_name('tensorboard')} --logdir {root / 'runs'}",
        soft_wrap=True,
        highlight=False,
    )
    console.print("         and then open http://localhost:6006", highlight=False)


def read_scalars(folder: Path) -> Scalars:
    """Return every scalar of a run as ``{tag: [(step, value), ...]}``."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def draw(scalars: Scalars, path: Path) -> Path:
    """Draw loss, learning rate, and gradient norm before and after the clip into a PNG; return its path."""
    figure = Figure(figsize=(5.4, 7.2), layout="constrained")  # legible on a telephone, 400 pixels wide
    loss, rate, norm = figure.subplots(3, 1, sharex=True)
    loss.plot(*columns(scalars, "train/loss"), color="tab:blue", linewidth=1, label="training loss")
    loss.set(yscale="log", ylabel="loss")
    rate.plot(*columns(scalars, "schedule/lr"), color="tab:orange", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    steps, before = columns(scalars, "grad/norm")
    _, coefficients = columns(scalars, "grad/clip_coefficient")
    after = [n * c for n, c in zip(before, coefficients, strict=True)]
    norm.plot(steps, before, color="tab:red", linewidth=1, alpha=0.6, label="gradient norm before the clip")
    norm.plot(steps, after, color="tab:green", linewidth=1, label="after the clip")
    norm.set(yscale="log", ylabel="norm", xlabel="step")
    for axes in (loss, rate, norm):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small", frameon=False)
    figure.savefig(path, dpi=180)
    return path


def columns(scalars: Scalars, tag: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one tag."""
    rows = scalars[tag]
    return [step for step, _ in rows], [value for _, value in rows]
