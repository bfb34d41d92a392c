"""What a detector does about its alarms: the action, after the next update, when all ranks know of the alarm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_tricks.detection.action import Rollback, carry_out
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.rollback import RollbackManager
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick


class Response:
    """Carries out the action of one detector."""

    def __init__(self, trick: Trick, settings: WatchSettings, show: Callable[[TrainingRun, Verdict], None]) -> None:
        self._trick, self._action, self._show = trick, settings.action, show
        self.rollbacks: RollbackManager | None = None  # healthy states to go back to, where the action is a rollback
        self.pending: Verdict | None = None  # an alarm that was not acted on yet

    def start(self, run: TrainingRun, distance: int) -> None:
        """A fit begins."""
        action = self._action
        self.rollbacks = (
            RollbackManager.join(run, self._trick, action, distance) if isinstance(action, Rollback) else None
        )

    def begin_batch(self, run: TrainingRun) -> None:
        """Before the first update: keep the state to go back to while nothing was healthy yet."""
        if self.rollbacks is not None:
            self.rollbacks.begin(run)

    def act(self, run: TrainingRun, healthy: bool) -> None:
        """Do what the user wants done about an alarm; keep a state when all is well."""
        # Taken first: the action may raise, and the same alarm must not be acted on once more after a resume.
        verdict, self.pending = self.pending, None
        if verdict is not None:
            self._show(run, verdict)
            carry_out(run, self._action, verdict, None if self.rollbacks is None else self.rollbacks.roll_back)
        elif self.rollbacks is not None:
            self.rollbacks.save_if_healthy(run, self._trick, healthy)

    def finish(self, run: TrainingRun) -> bool:
        """Say what is pending; return whether something was. A run that is over can neither stop nor go back."""
        verdict, self.pending = self.pending, None
        if verdict is None:
            return False
        self._show(run, verdict)
        over = self._action == "stop" or isinstance(self._action, Rollback)
        carry_out(run, "warn" if over else self._action, verdict)
        return True

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors; the states to go back to are in the checkpoint of one detector only."""
        rollbacks = self.rollbacks
        return {
            "pending": None if self.pending is None else self.pending.as_dict(),
            # (the key that earlier versions wrote)
            "rescue": rollbacks.state_dict() if rollbacks is not None and rollbacks.owner is self._trick else None,
        }

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self.pending = None if state["pending"] is None else Verdict.from_dict(state["pending"])
        if self.rollbacks is not None and self.rollbacks.owner is self._trick and state["rescue"] is not None:
            self.rollbacks.load(run, state["rescue"])
