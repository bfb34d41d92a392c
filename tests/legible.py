"""Whether a picture can be read where it is 400 pixels wide: on a telephone, in a column of a notebook."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

WIDTH = 400  # pixels
SMALLEST = 8.0  # pixels: the height of a letter


def faults(figure: Figure) -> list[str]:
    """Return what cannot be read in the picture that a file of 400 pixels' width holds, in words.

    Letters may be too small; texts may lie over one another or beyond the edge; a legend may lie over what is drawn.
    """
    figure.set_dpi(WIDTH / figure.get_figwidth())
    figure.draw_without_rendering()
    hidden = _beyond_the_limits(figure)
    written = {id(t): t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()}
    texts = [text for number, text in written.items() if number not in hidden]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    sizes = {text.get_text(): text.get_fontsize() * figure.dpi / 72 for text in texts}
    found = [f"{text!r} is {size:.1f} pixels high" for text, size in sizes.items() if size < SMALLEST]
    found += [f"{text!r} is cut off" for text, box in boxes if not _holds(figure.bbox, box)]
    found += [f"{a!r} and {b!r} overlap" for (a, one), (b, two) in combinations(boxes, 2) if _overlap(one, two)]
    for legend in figure.findobj(Legend):
        box = legend.get_window_extent()
        found += [f"a legend lies over {what}" for axes in figure.axes for what in _drawn_in(axes, box)]
    return found


def _beyond_the_limits(figure: Figure) -> set[int]:
    """Return the ids of tick labels that matplotlib keeps and does not draw."""
    found = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        margin = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - margin <= tick.get_loc() <= high + margin or not axis.get_visible() or not axis.axes.axison:
                found |= {id(tick.label1), id(tick.label2)}
    return found


def _holds(outer: Bbox, inner: Bbox) -> bool:
    return bool(
        inner.x0 >= outer.x0 - 1 and inner.x1 <= outer.x1 + 1 and inner.y0 >= outer.y0 - 1 and inner.y1 <= outer.y1 + 1
    )


def _overlap(one: Bbox, two: Bbox) -> bool:
    """Whether they share more than a pixel in both directions; the box of a text has a margin of about that."""
    wide = min(one.x1, two.x1) - max(one.x0, two.x0)
    high = min(one.y1, two.y1) - max(one.y0, two.y0)
    return bool(wide > 1 and high > 1)


def _drawn_in(axes: Axes, place: Bbox) -> list[str]:
    """Return what the axes draw within this box of the picture."""
    found: list[str] = []
    box = Bbox.intersection(axes.bbox, place)  # (what lies beyond the limits is not drawn)
    if box is None or not _overlap(axes.bbox, box):
        return found
    if axes.images:
        found.append("an image")
    for line in axes.lines:
        path = line.get_path().transformed(line.get_transform())
        if len(path.vertices) and path.intersects_bbox(box, filled=False):
            found.append(f"the curve {line.get_label()!r}")
    for patch in axes.patches:
        if _overlap(patch.get_window_extent(), box):
            found.append(f"the bar {patch.get_label()!r}")
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            points: Any = drawn.get_offset_transform().transform(np.asarray(drawn.get_offsets()))
            inside = any(box.contains(x, y) for x, y in points)
        else:
            paths = (path.transformed(drawn.get_transform()) for path in drawn.get_paths())
            inside = any(path.intersects_bbox(box, filled=True) for path in paths)
        if inside:
            found.append(f"the points or area {drawn.get_label()!r}")
    return found
