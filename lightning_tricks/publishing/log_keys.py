"""What a log key is: its name, what its values mean, the chart that shows them, and the event that they tell of.

Each package declares its keys once, in its ``keys.py``; dashboard, events and documentation are made of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

SECTIONS = ("gradients", "schedule", "precision", "collapse", "diagnosis")  # in the order in which they are shown
OURS = ("grad/", "schedule/", "amp/", "collapse/", "diagnosis/", "accumulation/", "trainer/")  # how our keys begin
Chart = tuple[str, str]  # section of the dashboard, title of the chart
Occurs = Literal["below 1", "rises above 0", "grows", "above 0"]

_OCCURS: dict[str, Callable[[float, float], bool]] = {
    "below 1": lambda before, value: value < 1,
    "rises above 0": lambda before, value: value > 0 >= before,
    "grows": lambda before, value: value > before,
    "above 0": lambda before, value: value > 0,
}


@dataclass(frozen=True)
class EventKind:
    """What the values of a key tell of.

    Args:
        name: e.g. ``"clip"``; pictures and reports count events by it.
        occurs: which value, after which one before it, tells that it happened.
        text: in words, with ``{value}``, ``{increase}`` (over the value before) and ``{key}`` (its readable last part).
    """

    name: str
    occurs: Occurs
    text: str

    def happened(self, before: float, value: float) -> bool:
        """Whether a value tells of the event, after the value before it."""
        return _OCCURS[self.occurs](before, value)

    def in_words(self, key: str, before: float, value: float) -> str:
        """Return what happened, in words."""
        readable = key.split("/", 1)[1].removesuffix("/alarm").replace("_", " ")
        return self.text.format(value=value, increase=value - before, key=readable)


def _pattern_of(part: str) -> str:
    if not part.startswith("<"):
        return re.escape(part)
    if part == "<.label>":
        return r"(\.[^/]+)?"
    if part == "</optimizer>":
        return r"(/optimizer\d+)?"
    # The last part that marks an optimizer or an alarm belongs to no family: it has a declaration of its own.
    return r"(?!(optimizer\d+|alarm)$)" + (r".+" if part.endswith("...>") else r"[^/]+")


@dataclass(frozen=True)
class LogKey:
    """A key, or a family of keys.

    Args:
        name: with ``<x>`` for what differs between the keys of a family: one part of the key, or with ``<x...>`` the
            rest of it (``"grad/norm/<parameter...>"``); ``<.label>`` and ``</optimizer>`` may be missing.
        meaning: of its values, with the unit.
        chart: of the dashboard; None where it is in no chart.
        event: what its values tell of; None where they only measure.
        optimizers: whether ``/optimizer<index>`` comes behind it where there are several optimizers.
    """

    name: str
    meaning: str
    chart: Chart | None = None
    event: EventKind | None = None
    optimizers: bool = False

    # (it writes into the instance's ``__dict__``, which a frozen dataclass allows)
    @cached_property
    def pattern(self) -> re.Pattern[str]:
        r"""What its keys look like, as a whole.

        >>> LogKey("grad/norm/<parameter...>", "").pattern.match("grad/norm/optimizer1") is None
        True
        """
        made = "".join(_pattern_of(part) for part in re.split(r"(<[^>]*>)", self.name))
        return re.compile(made + (r"(/optimizer\d+)?" if self.optimizers else "") + "$")


class LogKeys:
    """The keys of a run, or of all callbacks.

    Args:
        keys: declared ones; the first one that fits a key is meant.
    """

    def __init__(self, keys: Iterable[LogKey]) -> None:
        self.keys = tuple(dict.fromkeys(keys))
        self._found: dict[str, LogKey | None] = {}

    def of(self, key: str) -> LogKey | None:
        """Return the declaration of a key; None where there is none."""
        if key not in self._found:  # (asked for every key at every logged step)
            self._found[key] = next((k for k in self.keys if k.pattern.match(key)), None)
        return self._found[key]

    def event_of(self, key: str) -> EventKind | None:
        """Return what the values of a key tell of."""
        found = self.of(key)
        return None if found is None else found.event

    def layout(self, logged: Iterable[str] | None = None) -> dict[str, dict[str, list[object]]]:
        """Return the charts of TensorBoard's Custom Scalars page, as ``add_custom_scalars`` takes them.

        Args:
            logged: keys that have a value; charts without any of them are left out. None for all charts.
        """
        filled = None if logged is None else {self.of(key) for key in logged}
        made: dict[str, dict[str, list[str]]] = {section: {} for section in SECTIONS}
        for key in self.keys:
            if key.chart is not None and (filled is None or key in filled):
                section, title = key.chart
                made.setdefault(section, {}).setdefault(title, []).append(key.pattern.pattern)
        return {
            s: {title: ["Multiline", patterns] for title, patterns in charts.items()}
            for s, charts in made.items()
            if charts
        }

    @staticmethod
    def exactly(key: str) -> str:
        """Return the pattern of one key of the user's, for a layout."""
        return re.escape(key) + "$"


def is_own_loss(key: str) -> bool:
    """Whether a log key is a loss that the training script logs.

    >>> is_own_loss("train/loss"), is_own_loss("diagnosis/training_doctor/loss")
    (True, False)
    """
    return "loss" in key.lower() and not key.startswith(OURS)
