"""The arguments that all detectors share: checked at construction, and worked out when a run begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning_tricks.detection.action import Action, Rollback, as_action
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.errors import TrickError, message, require_count
from lightning_tricks.lifecycle.horizon import UnknownHorizonError, forecast_updates, updates_per_epoch
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.duration import Duration

LONGEST_GRACE = 1000  # updates; a share of a very long run would silence a detector for days
UNKNOWN_GRACE = 200  # updates, where the length of the run is not known


@dataclass(frozen=True)
class WatchSettings:
    """The four arguments that detectors share, checked. Every detector documents them.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
    """

    owner: str
    every_n_steps: int | None
    action: str | Rollback | Callable[[Verdict], None]
    patience: int
    grace: int | str

    @classmethod
    def checked(
        cls, owner: str, every_n_steps: int | None, action: Action, patience: int, grace: int | str
    ) -> WatchSettings:
        """Return settings of arguments as a user writes them."""
        if every_n_steps is not None:
            require_count(owner, "every_n_steps", every_n_steps, remedy="Use e.g. 25")
        done = as_action(owner, action)
        require_count(owner, "patience", patience, remedy="Use e.g. 3")
        Duration.parse(grace, owner=owner, argument="grace")
        return cls(owner, every_n_steps, done, patience, grace)


def grace_in_updates(run: TrainingRun, settings: WatchSettings) -> float:
    """Return the grace time in updates at the highest learning rate.

    Raises:
        TrickError: it is given in epochs, and the length of an epoch is not known.
    """
    duration = Duration.parse(settings.grace, owner=settings.owner, argument="grace")
    try:
        total = forecast_updates(run.trainer)
    except UnknownHorizonError:
        total = None
    if duration.unit == "%":
        share = UNKNOWN_GRACE if total is None else duration.updates(total)
        return float(min(share, LONGEST_GRACE))
    per_epoch = updates_per_epoch(run.trainer)
    if duration.unit == "ep" and per_epoch is None:
        rule = "the length of an epoch is not known"
        raise TrickError(message(settings.owner, "grace", settings.grace, rule, "Use a number of updates"))
    return float(duration.updates(total, per_epoch))
