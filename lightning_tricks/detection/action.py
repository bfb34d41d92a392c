"""What a detector does about an alarm: warn, stop the run, raise, or roll back. The same on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.errors import RunEndsError, message, nearest, require_count, require_number
from lightning_tricks.lifecycle.guard import FROM_USER
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun

WORDS = ("log", "warn", "stop", "raise", "rollback")


class AlarmError(RunEndsError):
    """A detector raised an alarm, and the run must not go on.

    Args:
        verdict: what the detector found.
        text: what led here, where it is more than the alarm.
    """

    def __init__(self, verdict: Verdict, text: str = "") -> None:
        super().__init__(f"{verdict}{text}")
        self.verdict = verdict


@dataclass(frozen=True)
class Rollback:
    """Go back to a healthy state in memory, change what probably led to the alarm, and train on.

    Copies of weights, their averages, buffers, optimizer state and loss scale are taken at healthy checks. After an
    alarm the oldest is put back, since a collapse precedes its alarm; the data go on where they are, so the batches of
    the collapse are not seen again. Then the remedy, the first time what fits the cause: nothing more for bad batches,
    a lower rate for all else, with a larger effective batch through accumulation for predictions that collapsed; after
    that, always both. A run that was never healthy goes back to its start: the factor is applied twice at once there,
    though not below 0.04 unless it is smaller itself, and the batch grows only where the cause asks for it. The factor
    holds for torch's schedulers as well. Where a script or a scheduler of another kind writes the rates, groups hold
    its own between updates, and the factor is multiplied in while the optimizer steps.

    Args:
        keep: states in the host's memory, >= 1. Each has the size of the model and of its optimizer's state.
        lr_factor: what rates are multiplied by, in (0, 1].
        accumulate_factor: what the accumulation window is multiplied by, >= 1. Needs automatic optimization; with
            manual optimization the rate is lowered instead.
        max_times: rollbacks in a run, >= 1. One more alarm ends it with an ``AlarmError``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> Rollback(lr_factor=0.5).accumulate_factor
        8
    """

    keep: int = 3
    lr_factor: float = 0.2
    accumulate_factor: int = 8
    max_times: int = 3

    def __post_init__(self) -> None:
        require_count("Rollback", "keep", self.keep, remedy="Use e.g. 3")
        remedy = "Use e.g. 0.2, or 1.0 to leave the rates alone"
        require_number("Rollback", "lr_factor", self.lr_factor, high=1.0, high_included=True, remedy=remedy)
        remedy = "Use e.g. 8, or 1 to leave the window alone"
        require_count("Rollback", "accumulate_factor", self.accumulate_factor, remedy=remedy)
        require_count("Rollback", "max_times", self.max_times, remedy="Use e.g. 3")


Action = Literal["log", "warn", "stop", "raise", "rollback"] | Rollback | Callable[[Verdict], None]


def as_action(owner: str, action: object) -> str | Rollback | Callable[[Verdict], None]:
    """Return the action that an argument means: ``"rollback"`` is ``Rollback()``.

    Raises:
        TypeError: it is neither a word nor a ``Rollback`` nor callable.
        ValueError: it is an unknown word.
    """
    rule = f"action must be one of {', '.join(WORDS)}, a Rollback, or a function that takes the verdict"
    if isinstance(action, str):
        if action not in WORDS:
            near = nearest(action, WORDS)
            remedy = f"Did you mean {near!r}?" if near else "Use e.g. 'warn'"
            raise ValueError(message(owner, "action", action, rule, remedy))
        return Rollback() if action == "rollback" else action
    if isinstance(action, Rollback):
        return action
    if not callable(action) or isinstance(action, type):
        raise TypeError(message(owner, "action", action, rule, "Use e.g. 'warn'"))
    return action


def carry_out(
    run: TrainingRun,
    action: str | Rollback | Callable[[Verdict], None],
    verdict: Verdict,
    roll_back: Callable[[TrainingRun, Verdict], str] | None = None,
) -> None:
    """Do to the run what is to be done about a verdict. All ranks call, with verdicts that are equal.

    Args:
        action: as ``as_action`` returned it.
        roll_back: puts an earlier state back and returns what it did, in words; needed for a ``Rollback``.

    Raises:
        AlarmError: the action is ``"raise"``, or there were as many rollbacks as are allowed.
    """
    # (``warn`` puts the detector's name in front of the text itself)
    owner, text = verdict.detector, str(verdict).split(": ", 1)[-1]
    if action == "raise":
        raise AlarmError(verdict)
    if isinstance(action, Rollback):
        assert roll_back is not None
        warn(owner, f"{text} {roll_back(run, verdict)}")
    elif action in ("warn", "stop"):
        if action == "stop":
            run.stop_training()
        warn(owner, text + (" Training stops." if action == "stop" else ""))
    elif callable(action):
        try:
            action(verdict)
        except Exception as error:  # (a hyperparameter search prunes a trial by one)
            setattr(error, FROM_USER, True)
            raise
