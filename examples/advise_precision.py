"""Ask which precision pays for a model on this machine: your own, or one of three that show different answers.

What you have: nothing but this checkout. Run: ./dev advise, or ./dev advise --model package.module:make
where make() returns a module (or LightningModule) and a batch. What you get: the table, one recommended precision= with its
reasons, and runs/advise_precision.png.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from torch import nn

from lightning_tricks import PrecisionAdvice, advise_precision

RUNS = Path(__file__).parent.parent / "runs"
Made = tuple[nn.Module, Any]


def wide() -> Made:
    """Large matrix products: what 16 bit is for."""
    layers = (x for _ in range(4) for x in (nn.Linear(1024, 1024), nn.GELU()))
    return nn.Sequential(*layers, nn.Linear(1024, 16)), (torch.randn(256, 1024), torch.randint(16, (256,)))


def tiny() -> Made:
    """Many small operations: launching them is the work."""
    layers = (x for _ in range(20) for x in (nn.Linear(20, 20), nn.LayerNorm(20), nn.ReLU()))
    return nn.Sequential(*layers, nn.Linear(20, 10)), (torch.randn(16, 20), torch.randint(10, (16,)))


def images() -> Made:
    """Convolutions with BatchNorm."""
    layers = [
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
    ]
    net = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return net, (torch.randn(64, 3, 32, 32), torch.randint(10, (64,)))


MODELS: dict[str, Callable[[], Made]] = {"wide": wide, "tiny": tiny, "images": images}


def made_by(path: str) -> Made:
    """Import ``package.module:function`` from the current folder and call it."""
    module, _, function = path.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(
            f"--model {path}: {error}. Use package.module:function, which returns (module, batch)."
        ) from error
    found: Made = make()
    return found


def draw(found: dict[str, PrecisionAdvice], path: Path) -> None:
    """Time and memory of every precision over ieee-fp32."""
    figure = Figure(figsize=(5.4, 1.8 + 1.2 * len(found)), layout="constrained")
    for i, (name, advice) in enumerate(found.items()):
        rows = [r for r in advice.rows.values() if r.seconds]
        base = rows[0]
        axes = figure.add_subplot(len(found), 1, i + 1)
        places = range(len(rows))
        times = [statistics.median(r.seconds) / statistics.median(base.seconds) for r in rows]
        axes.barh([p - 0.2 for p in places], times, 0.35, label="time", color="#2a7f9e")
        axes.barh(
            [p + 0.2 for p in places],
            [r.peak_bytes / base.peak_bytes for r in rows],
            0.35,
            label="memory",
            color="#c46a2f",
        )
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_yticks(places, [r.precision for r in rows])
        axes.invert_yaxis()
        axes.set_title(f"{name}: precision={advice.recommended!r}", fontsize=10, loc="left")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize="small", frameon=False
    )
    figure.axes[-1].set_xlabel(f"share of ieee-fp32, on {advice.device}")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=180)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="package.module:function that returns (module, batch); default: three examples")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to spend on each model")
    options = parser.parse_args()
    makers = MODELS if options.model is None else {options.model: lambda: made_by(options.model)}
    found, console = {}, Console()
    for name, make in makers.items():
        module, batch = make()
        found[name] = advise_precision(module, batch, seconds=options.seconds)
        console.rule(name)
        console.print(Markdown(str(found[name])))
    draw(found, RUNS / "advise_precision.png")
    console.print(f"picture  {RUNS / 'advise_precision.png'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
