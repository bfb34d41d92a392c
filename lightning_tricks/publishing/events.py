"""What happened in a run and when, read from the values that were logged: clips, skips, alarms, rollbacks, findings.

One reading for the pictures that are drawn while training and for the report that is made from the logs afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Series = Sequence[tuple[int, float]]

KINDS = ("clip", "non-finite", "skip", "finding", "alarm", "rollback")
_LINES = ("alarm", "rollback")
_COLORS = dict(zip(KINDS, ("tab:gray", "tab:orange", "tab:purple", "tab:brown", "tab:red", "black"), strict=True))
_KEYS = {
    "clip": re.compile(r"grad/clip_coefficient(/optimizer\d+)?"),
    "non-finite": re.compile(r"grad/nonfinite(/optimizer\d+)?"),
    "skip": re.compile(r"amp/skipped_steps"),
    "finding": re.compile(r"diagnosis/(?!training_doctor/)[^/]+"),
    "alarm": re.compile(r"(collapse|diagnosis)/.+/alarm"),
    "rollback": re.compile(r"collapse/rollback/rollbacks"),
}


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Args:
        step: when, on the x axis of Lightning's loggers.
        kind: one of ``KINDS``.
        text: what, in words.
    """

    step: int
    kind: str
    text: str


@lru_cache(maxsize=65536)  # asked for every key at every logged step
def _kind(key: str) -> str | None:
    return next((kind for kind, pattern in _KEYS.items() if pattern.fullmatch(key)), None)


def tells_of_events(key: str) -> bool:
    """Whether a log key's values are read by ``events``.

    >>> tells_of_events("grad/clip_coefficient"), tells_of_events("grad/norm")
    (True, False)
    """
    return _kind(key) is not None


def events(series: Mapping[str, Series]) -> list[Event]:
    """Return what happened, in the order of the steps.

    Args:
        series: log key -> (step, value), in order.

    Example:
        >>> events({"grad/clip_coefficient": [(0, 1.0), (1, 0.5)], "amp/skipped_steps": [(0, 0.0), (1, 2.0)]})
        [Event(step=1, kind='clip', text='to 0.50 of the norm'), Event(step=1, kind='skip', text='2 updates')]
    """
    found: list[Event] = []
    for key, points in series.items():
        kind = _kind(key)
        if kind is None:
            continue
        before = 0.0
        for step, value in points:
            if _happened(kind, before, value):
                found.append(Event(step, kind, _in_words(kind, key, before, value)))
            before = value
    return sorted(found, key=lambda event: (event.step, KINDS.index(event.kind)))


def _happened(kind: str, before: float, value: float) -> bool:
    if kind == "clip":
        return value < 1
    if kind == "alarm":
        return value > 0 >= before
    return value > before if kind in ("skip", "rollback") else value > 0


def _in_words(kind: str, key: str, before: float, value: float) -> str:
    name = key.split("/", 1)[1].removesuffix("/alarm").replace("_", " ")
    words = {"clip": f"to {value:.2f} of the norm", "non-finite": f"{value:.0f} attempts"}
    words |= {"skip": f"{value - before:.0f} updates", "rollback": "back to an earlier state"}
    return words.get(kind, name)


def mark_events(axes: Any, marked: Sequence[Event]) -> None:
    """Mark events in a matplotlib axes over steps: small marks at the bottom; lines for alarms and rollbacks.

    Args:
        axes: whose x axis counts steps.
        marked: what to show; each kind gets a line in the legend, with its number.
    """
    for kind in KINDS:
        steps = [event.step for event in marked if event.kind == kind]
        if not steps:
            continue
        label = f"{kind} ({len(steps)})"
        if kind in _LINES:
            for i, step in enumerate(steps):
                axes.axvline(step, color=_COLORS[kind], linewidth=1.0, label=label if i == 0 else None)
        else:
            height = 0.02 + 0.035 * KINDS.index(kind)
            transform = axes.get_xaxis_transform()
            axes.plot(steps, [height] * len(steps), "|", color=_COLORS[kind], transform=transform, label=label)
