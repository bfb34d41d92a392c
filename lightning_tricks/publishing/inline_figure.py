"""A figure of matplotlib that a notebook shows without a magic. Importing this needs matplotlib."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class InlineFigure(Figure):
    r"""A figure that belongs to no window and no pyplot, and that a notebook shows where a cell returns it.

    Example:
        >>> InlineFigure()._repr_png_()[:4]
        b'\x89PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()
