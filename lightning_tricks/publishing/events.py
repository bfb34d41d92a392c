"""What happened in a run and when, read from the values that were logged: clips, skips, alarms, rollbacks, findings.

One reading for the pictures that are drawn while training and for the report that is made from the logs afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_tricks.publishing.log_keys import LogKeys

Series = Sequence[tuple[int, float]]

KINDS = ("clip", "non-finite", "skip", "finding", "alarm", "rollback")
_LINES = ("alarm", "rollback")
_COLORS = dict(zip(KINDS, ("tab:gray", "tab:orange", "tab:purple", "tab:brown", "tab:red", "black"), strict=True))


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


def events(series: Mapping[str, Series], keys: LogKeys) -> list[Event]:
    """Return what happened, in the order of the steps.

    Args:
        series: log key -> (step, value), in order.
        keys: which of them tell of events.

    Example:
        >>> from lightning_tricks.gradients.keys import CLIP
        >>> events({"grad/clip_coefficient": [(0, 1.0), (1, 0.5)], "loss": [(0, 2.0)]}, LogKeys(CLIP))
        [Event(step=1, kind='clip', text='to 0.50 of the norm')]
    """
    found: list[Event] = []
    for key, points in series.items():
        kind = keys.event_of(key)
        if kind is None:
            continue
        # (counters begin at 0, so that the first value that is logged may already show an event)
        before = 0.0
        for step, value in points:
            if kind.happened(before, value):
                found.append(Event(step, kind.name, kind.in_words(key, before, value)))
            before = value
    return sorted(found, key=lambda event: (event.step, KINDS.index(event.kind)))


def mark_events(axes: Any, marked: Sequence[Event]) -> None:
    """Mark events in a matplotlib axes over steps: small marks at the bottom; lines for alarms and rollbacks."""
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
            # Heights are shares of the axes, so that the marks stay at the bottom whatever the scale of the values is.
            transform = axes.get_xaxis_transform()
            axes.plot(steps, [height] * len(steps), "|", color=_COLORS[kind], transform=transform, label=label)
