"""Detector: what all callbacks show that have a ``Watch``: verdict, alarms and history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.judge import worst
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch
from lightning_tricks.lifecycle.training_run import TrainingRun


class Detector:
    """Mixed into a ``Trick`` that has a ``Watch`` among its parts; it holds nothing of its own.

    The callback keeps the arguments that all detectors share as attributes of their names (``take``).
    """

    # names that ``dir`` does not show
    _internal: ClassVar[tuple[str, ...]] = ("figure", "observer", "probe", "settings", "take", "watch")

    observer = True
    parts: Any
    every_n_steps: int | None
    action: Any
    patience: int
    grace: int | str

    def take(self, settings: WatchSettings) -> None:
        """Keep the arguments that all detectors share."""
        self.every_n_steps, self.action = settings.every_n_steps, settings.action
        self.patience, self.grace = settings.patience, settings.grace

    @property
    def settings(self) -> WatchSettings:
        """The arguments that all detectors share."""
        return WatchSettings(type(self).__name__, self.every_n_steps, self.action, self.patience, self.grace)

    @property
    def watch(self) -> Watch:
        """The part that looks, judges and acts."""
        found: Watch = next(part for part in self.parts if isinstance(part, Watch))
        return found

    @property
    def verdict(self) -> Verdict:
        """The verdict of the worst alarm of the run, also when it is over; without an alarm that of the last check.

        The worst is the one with the most severe cause (``Cause.severity``), among equal ones the one that was on at
        the most checks, and among those the first.
        """
        judge = self.watch.judge
        return worst(judge.raised) or judge.verdict

    @property
    def alarms(self) -> list[Verdict]:
        """The verdicts of all alarms of the run, in the order in which they were raised."""
        return [raised.verdict for raised in self.watch.judge.raised]

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        """Step and values of the checks of this run, since its last resume: all, or fewer old ones of a long run."""
        return list(self.watch.judge.history)

    def figure(self) -> Callable[[], Any] | None:
        """Return a function that draws what was seen; None where there is nothing to see."""
        return self.watch.probe.figure(self.history)

    def _settled(self, run: TrainingRun) -> bool:
        """Whether it has looked at a first batch: only there it is seen whether an argument names what there is."""
        return run.attempts.began and not self.watch.sampler.first
