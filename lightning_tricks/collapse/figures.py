"""What a collapse looks like: spectrum, classes over time, samples, units, generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[tuple[int, Mapping[str, float]]]


def _new(columns: int) -> tuple[Figure, list[Any]]:
    try:
        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("figures need matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    figure = InlineFigure(figsize=(4.2 * columns, 3.4), layout="constrained")
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _lines(axes: Any, history: History, names: Sequence[str], title: str) -> None:
    for name in names:
        points = [(step, values[name]) for step, values in history if name in values]
        if points:
            axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    axes.set(xlabel="step", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def draw_spectrum(eigenvalues: Sequence[float], history: History, layer: str) -> Figure:
    """Return the spectrum of the covariance, and variance and rank over time."""
    figure, (left, right) = _new(2)
    top = max([*eigenvalues, 1e-12])
    # (0 has no logarithm)
    left.plot(range(1, len(eigenvalues) + 1), [max(v / top, 1e-9) for v in eigenvalues], color="tab:blue")
    left.set(yscale="log", ylim=(1e-7, 2), xlabel="dimension", ylabel="variance / largest")
    left.set_title(f"spectrum of {layer}", fontsize="medium")
    left.grid(alpha=0.3)
    _lines(right, history, ("sphere_variance", "rank_share", "embedding_std"), "0 is collapsed")
    right.set_ylim(-0.05, 1.1)
    return figure


def draw_depth(layers: Sequence[str], history: History) -> Figure:
    """Return variance and rank of each layer at the last check, and the rank of each over time."""
    figure, (left, right) = _new(2)
    last = history[-1][1] if history else {}
    for name in ("sphere_variance", "rank_share"):
        left.plot(range(len(layers)), [last.get(f"{name}/{n}", float("nan")) for n in layers], "o-", label=name)
    left.set(xticks=range(len(layers)), xlabel="depth", title="0 is collapsed", ylim=(-0.05, 1.1))
    left.set_xticklabels(layers, rotation=30, fontsize="x-small")
    left.grid(alpha=0.3)
    left.legend(fontsize="small")
    _lines(right, history, [f"rank_share/{n}" for n in layers][:12], "share of the possible rank")
    return figure


def draw_classes(shares: Sequence[tuple[int, Sequence[float]]], labels: Sequence[float], history: History) -> Figure:
    """Return shares of predicted classes over time beside those of the labels, and the skill."""
    figure, (left, right) = _new(2)
    steps = [step for step, _ in shares]
    left.stackplot(steps, *zip(*(row for _, row in shares), strict=True), alpha=0.85)
    position, low = steps[-1] * 1.02 + 1, 0.0
    for i, share in enumerate(labels):
        left.bar(position, share, bottom=low, width=max(1.0, 0.05 * steps[-1]), align="edge", color=f"C{i % 10}")
        low += share
    left.set(xlabel="step", ylim=(0, 1))
    left.set_title("predicted classes (bar: labels)", fontsize="medium")
    _lines(right, history, ("skill", "macro_f1"), "1 is best, 0 is chance")
    right.set_ylim(-0.3, 1.05)
    return figure


def draw_skill(history: History) -> Figure:
    """Return the skill of predictions that are not classes, and the evidence for it, over time."""
    figure, (left, right) = _new(2)
    _lines(left, history, ("skill", "r_squared", "correlation"), "1 is best, 0 is chance")
    left.set_ylim(-1.05, 1.05)
    _lines(right, history, ("association",), "association with the target (z)")
    right.axhline(2.0, color="tab:gray", linestyle=":")
    return figure


def draw_samples(generated: Sequence[Sequence[float]], real: Sequence[Sequence[float]], history: History) -> Figure:
    """Return generated samples over real ones in the first two dimensions, and the measures over time."""
    figure, (left, right) = _new(2)
    for rows, color, name in ((real, "tab:gray", "real"), (generated, "tab:red", "generated")):
        # (the last number, so that samples of a single one can be drawn too)
        left.scatter([r[0] for r in rows], [r[-1] for r in rows], s=6, alpha=0.5, color=color, label=name)
    left.set_title("samples", fontsize="medium")
    left.legend(fontsize="small")
    _lines(right, history, ("recall", "coverage", "precision", "pairwise_distance_ratio"), "generated against real")
    return figure


def draw_units(history: History) -> Figure:
    """Return the shares of stopped units by layer over time."""
    figure, (axes,) = _new(1)
    names = sorted({name for _, values in history for name in values if "/" in name})
    _lines(axes, history, names[:12], "share of stopped units")
    axes.set_ylim(-0.05, 1.05)
    return figure


def draw_generations(history: History) -> Figure:
    """Return diversity and the loss on real data, generation by generation."""
    figure, (axes,) = _new(1)
    names = ("diversity", "variance_ratio", "tail_mass", "repetition", "real_loss_ratio")
    _lines(axes, history, names, "generation by generation")
    return figure


def draw_usage(shares: Sequence[float], history: History, module: str) -> Figure:
    """Return the shares of the entries in falling order beside equal ones, and the measures over time."""
    figure, (left, right) = _new(2)
    entries = history[-1][1]["entries"] if history else float(len(shares))
    places = [1 + i * (entries - 1) / max(1, len(shares) - 1) for i in range(len(shares))]
    left.fill_between(places, shares, step="mid", alpha=0.6)
    left.axhline(1 / max(1.0, entries), color="tab:gray", linestyle="--", label="all equally often")
    left.set(xlabel="entry, most used first", ylabel="share", ylim=(0, None))
    left.set_title(f"usage of {module}", fontsize="medium")
    left.legend(fontsize="small")
    _lines(
        right,
        history,
        ("usage", "capacity", "balance", "perplexity_share", "unused_share", "top_share"),
        "in use over time",
    )
    right.set_ylim(-0.05, 1.05)
    return figure


def draw_posterior(kl: Sequence[float], history: History, module: str) -> Figure:
    """Return the KL divergence of each dimension in falling order, and the measures over time."""
    figure, (left, right) = _new(2)
    left.bar(range(1, len(kl) + 1), kl)
    left.set(xlabel="dimension, largest first", ylabel="KL divergence [nats]")
    left.set_title(f"posterior of {module}", fontsize="medium")
    _lines(right, history, ("kl", "active_units", "largest_mean_variance"), "0 carries nothing")
    # (symlog: 0 is what matters here)
    right.set_yscale("symlog", linthresh=0.1)
    return figure
