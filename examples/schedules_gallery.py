"""Every shape of LRSchedule in one picture, drawn without training.

What you have: nothing but this checkout. Run: .venv/bin/python examples/schedules_gallery.py
What you get: runs/schedules.png.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_tricks import CosineRestarts, InverseTime, LRSchedule, MultiStep, NaturalExponential, Noam, Plateau
from lightning_tricks.decays import Exponential, Join, Phase, Piecewise, Polynomial, Step

RUNS = Path(__file__).parent.parent / "runs"

GALLERY: dict[str, dict[str, Any]] = {
    "constant": {"decay": "constant"},
    "linear": {"decay": "linear"},
    "cosine": {"decay": "cosine", "final": 0.1},
    "cosine after a hold": {"decay": "cosine", "hold": "40%"},
    "cosine_restarts (SGDR)": {"decay": CosineRestarts("15%", t_mul=2, m_mul=0.8)},
    "polynomial (DeepLab, 0.9)": {"decay": Polynomial(0.9)},
    "exponential": {"decay": Exponential(0.01, every="100%")},
    "exponential, staircase": {"decay": Exponential(0.5, every="20%", staircase=True)},
    "natural_exponential": {"decay": NaturalExponential(3.0, every="100%")},
    "inverse_time": {"decay": InverseTime(9.0, every="100%")},
    "inverse_sqrt": {"decay": "inverse_sqrt"},
    "step": {"decay": Step("25%", gamma=0.5)},
    "multistep": {"decay": MultiStep(["50%", "75%"])},
    "piecewise": {"decay": Piecewise(["30%", "60%"], [1.0, 0.4, 0.7])},
    "linear_cosine": {"decay": "linear_cosine"},
    "one_minus_sqrt (stable, decay)": {"decay": "one_minus_sqrt", "hold": "75%"},
    "one_cycle": {"decay": "one_cycle"},
    "noam": {"decay": Noam("15%")},
    "Join of phases": {
        "decay": Join(
            [Phase("linear", "15%", start=0.0, end=1.0), Phase("constant", "35%"), Phase("cosine", "30%", end=0.4),
             Phase(lambda update, length: 0.4 * 0.5 ** (update // 20))]
        )
    },
    "a function of your own": {"decay": lambda update, length: abs(1 - 2 * update / length)},
    "warm-up: cosine": {"decay": "linear", "warmup": "30%", "warmup_shape": "cosine"},
    "warm-up: exponential": {"decay": "linear", "warmup": "30%", "warmup_shape": "exponential", "warmup_start": 0.01},
    "warm-up: constant": {"decay": "linear", "warmup": "30%", "warmup_shape": "constant", "warmup_start": 0.2},
}  # fmt: skip


def plateau(total: int) -> list[float]:
    """What a plateau does with a loss that stalls twice."""
    rule = Plateau("val_loss", factor=0.3, patience=8)
    state, values = rule.init(), []
    for update in range(total):
        values.append(state["multiplier"])
        loss = 1.0 - min(update, 60) / 100 if update < 110 else 0.4 - min(update - 110, 30) / 300
        state = rule.update(loss, state)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total", type=int, default=200, help="updates of the run")
    parser.add_argument("--out", type=Path, default=RUNS / "schedules.png")
    options = parser.parse_args()
    figure = Figure(figsize=(5.4, 11.0), layout="constrained")  # legible on a telephone, 400 pixels wide
    all_axes = figure.subplots(8, 3, sharex=True, sharey=True).flatten()
    curves = {name: LRSchedule(**arguments).values(options.total) for name, arguments in GALLERY.items()}
    curves["plateau, of a loss that stalls"] = plateau(options.total)
    for axes, (name, values) in zip(all_axes, curves.items(), strict=True):
        axes.plot(values, color="tab:blue")
        axes.set_title(textwrap.fill(name, 20), fontsize="small")
        axes.grid(alpha=0.3)
    figure.supxlabel("update")
    figure.supylabel("multiplier of the base learning rate")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)
    print(f"picture  {options.out}")


if __name__ == "__main__":
    main()
