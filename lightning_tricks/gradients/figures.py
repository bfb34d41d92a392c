"""The picture of gradient norms: every layer over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_tricks.publishing.layer_names import shorter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMES = 24
_LONGEST_NAME = 28
_MOST_DIGITS = 26  # in all numbers of steps together


def draw_layers(names: Sequence[str], steps: Sequence[int], norms: Sequence[Sequence[float]]) -> Figure:
    """Return a heat map of log10 of the gradient norms: a row for each parameter, a column for each logged step.

    Zero (no gradient) and non-finite norms are left white.

    Args:
        names: of the P parameters, from the input to the output.
        steps: of the T logged steps.
        norms: ``[T, P]``.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from lightning_tricks.publishing.inline_figure import InlineFigure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib. Install it with: pip install 'lightning-tricks[demo]'.") from error
    # legible on a telephone: 400 pixels wide, a letter is about 9 pixels high
    size = (5.4, min(9.0, 2.2 + 0.24 * min(len(names), _MOST_NAMES)))
    figure = InlineFigure(figsize=size, dpi=180, layout="constrained")
    ax = figure.subplots()
    rows = [[math.log10(v) if 0 < v < math.inf else math.nan for v in row] for row in zip(*norms, strict=True)]
    image = ax.imshow(rows or [[math.nan]], aspect="auto", interpolation="nearest", cmap="viridis")
    every, called = max(1, math.ceil(len(names) / _MOST_NAMES)), shorter(names, _LONGEST_NAME)
    ax.set_yticks(range(0, len(names), every), [called[name] for name in names[::every]], fontsize=9)
    most = max(2, min(5, _MOST_DIGITS // len(str(steps[-1])))) if steps else 1
    columns = range(0, len(steps), max(1, math.ceil(len(steps) / most)))
    ax.set_xticks(list(columns), [str(steps[i]) for i in columns])
    ax.set_xlabel("step")
    # (the middle of the axes is too far right for it, where the names are long)
    figure.suptitle("gradient norm of each parameter", fontsize=12)
    figure.colorbar(image, ax=ax, location="bottom", aspect=30, pad=0.15 / size[1], label="log10 of the norm")
    return figure
