"""What happened in a run and when, read from the values that were logged: clips, skips, alarms, rollbacks, findings.

One reading for the pictures that are drawn while training and for the report that is made from the logs afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Series = Sequence[tuple[int, float]]

KINDS = ("clip", "non-finite", "skip", "finding", "alarm", "rollback")
_ABOVE = {"non-finite": r"grad/nonfinite(/optimizer\d+)?", "finding": r"diagnosis/(?!training_doctor/)[^/]+"}
_GROWING = {"skip": r"amp/skipped_steps", "rollback": r"collapse/rollback/rollbacks"}
_CLIP = re.compile(r"grad/clip_coefficient(/optimizer\d+)?")
_LINES = ("alarm", "rollback")
_COLORS = dict(zip(KINDS, ("tab:gray", "tab:orange", "tab:purple", "tab:brown", "tab:red", "black"), strict=True))
_ALARM = re.compile(r"((?:collapse|diagnosis)/.+)/alarm")


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


def tells_of_events(key: str) -> bool:
    """Whether a log key's values are read by ``events``.

    >>> tells_of_events("grad/clip_coefficient"), tells_of_events("grad/norm")
    (True, False)
    """
    patterns = [*_ABOVE.values(), *_GROWING.values()]
    return any(re.fullmatch(p, key) for p in patterns) or bool(_CLIP.fullmatch(key) or _ALARM.fullmatch(key))


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
        alarm = _ALARM.fullmatch(key)
        if _CLIP.fullmatch(key):
            found += [Event(s, "clip", f"to {v:.2f} of the norm") for s, v in points if v < 1]
        elif alarm:
            name = alarm[1].split("/", 1)[1].replace("_", " ")
            rising = zip([(0, 0.0), *points], points, strict=False)
            found += [Event(s, "alarm", name) for (_, before), (s, v) in rising if v > 0 >= before]
        for kind, pattern in _ABOVE.items():
            if re.fullmatch(pattern, key) and not alarm:
                name = key.split("/", 1)[1].replace("_", " ")
                texts = ((s, f"{v:.0f} attempts" if kind == "non-finite" else name) for s, v in points if v > 0)
                found += [Event(s, kind, text) for s, text in texts]
        for kind, pattern in _GROWING.items():
            if re.fullmatch(pattern, key):
                pairs = zip([(0, 0.0), *points], points, strict=False)
                word = "updates" if kind == "skip" else "back to an earlier state"
                for (_, before), (step, value) in pairs:
                    if value > before:
                        found.append(Event(step, kind, f"{value - before:.0f} {word}" if kind == "skip" else word))
    return sorted(found, key=lambda event: (event.step, KINDS.index(event.kind)))


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
