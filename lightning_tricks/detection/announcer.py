"""How a detector's verdicts reach the loggers: under which keys, as text and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick

Draw = Callable[[], Any]  # returns a figure


def log_prefix(trick: Trick, run: TrainingRun, topic: str, label: str = "") -> str:
    """Return what the log keys of a detector begin with; with its identity where there is more than one of the class.

    >>> from lightning_tricks import DeadUnits
    >>> class Run: tricks = []
    >>> log_prefix(DeadUnits(), Run(), "collapse")
    'collapse/dead_units'
    """
    several = sum(type(other) is type(trick) for other in run.tricks) > 1
    words = _in_words(type(trick).__name__)
    label = label or (str(getattr(trick, trick.identity[0])) if trick.identity else "")
    return f"{topic}/{words}" + (f".{label}" if several and label else "")


@cache  # (asked for at every check)
def _in_words(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).strip("_")


class Announcer:
    """Gives the verdicts and figures of one detector to the loggers.

    Args:
        figure: returns what draws the history; None where there is nothing to draw.
        topic: what log keys begin with.
        label: which one of several detectors of a class it is; by default its first identity argument.
    """

    def __init__(self, trick: Trick, figure: Callable[[], Draw | None], topic: str, label: str = "") -> None:
        self._trick, self._figure, self._topic, self._label = trick, figure, topic, label
        self.listener: Callable[[TrainingRun, Verdict], None] | None = None  # is told of each alarm beside the loggers

    def prefix(self, run: TrainingRun) -> str:
        """Return what log keys begin with."""
        return log_prefix(self._trick, run, self._topic, self._label)

    def announce(self, run: TrainingRun, verdict: Verdict) -> None:
        """Show an alarm: its text, the figure of the history, and whoever listens."""
        run.publisher.log_text(verdict.step, f"{self.prefix(run)}/verdict", str(verdict))
        self.draw(run, verdict.step)
        if self.listener is not None:
            self.listener(run, verdict)

    def draw(self, run: TrainingRun, step: int) -> None:
        """Give the figure of the history to the loggers that draw."""
        if (draw := self._figure()) is not None:
            run.publisher.draw(step, f"{self.prefix(run)}/figure", draw)
