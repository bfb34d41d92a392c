"""What the optimizers of a run were seen to do: it tells the length of runs where the Trainer's settings cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_tricks.lifecycle.horizon import unknown_horizon
from lightning_tricks.numerics import form

PACE = form.record(
    {
        "batches": form.count,
        "in_epoch": form.count,
        "look_at": form.count,
        "per_epoch": form.none_or(form.count),
        "updates_per_epoch": form.list_of(form.count),
        "at_epoch": form.list_of(form.count),
        "steppings": form.list_of(
            form.record(
                {
                    "first": form.none_or(form.count),
                    "last": form.count,
                    "before": form.count,
                    "attempts": form.count,
                    "unseen": form.count,
                    "start": form.list_of(form.count, 2),
                    "mark": form.list_of(form.count, 2),
                }
            )
        ),
    }
)


@dataclass
class Stepping:
    """What one optimizer of manual optimization was seen to do, counted in batches from the first of the run.

    How often it steps is measured over the later half of what was seen, about: runs may begin in another way.

    Args:
        first: the batch in which it made its first attempt; None before it.
        last: the latest one in which it made one.
        before: its attempts before that batch.
        attempts: all of them, when a batch began last.
        unseen: those that were made before anybody looked.
        start: a batch with an attempt, from which on the rate is measured, and the attempts before it.
        mark: the next such batch, and the attempts before it.
    """

    first: int | None = None
    last: int = 0
    before: int = 0
    attempts: int = 0
    unseen: int = 0
    start: tuple[int, int] = (0, 0)
    mark: tuple[int, int] = (0, 0)

    def see(self, batch: int, attempts: int) -> None:
        """Take in the attempts when ``batch`` begins."""
        if attempts > self.attempts:
            self.last, self.before = batch - 1, self.attempts
            if self.first is None:
                self.first, self.start, self.mark = self.last, (self.last, self.before), (self.last, self.before)
            elif self.last - self.first >= 2 * max(1, self.mark[0] - self.first):
                self.start, self.mark = self.mark, (self.last, self.before)
        self.attempts = attempts

    @property
    def settled(self) -> bool:
        """Whether it has stepped in two batches: from then on it is known how far apart these are."""
        return self.first is not None and self.last > self.first

    def rate(self, batch: int) -> float:
        """Return its attempts per batch, as known when ``batch`` begins; 1 before the first.

        Counted from one batch with an attempt to another, so that a step in every fifth batch gives a fifth.

        >>> seen = Stepping()
        >>> for batch, attempts in enumerate([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2]):
        ...     seen.see(batch, attempts)
        >>> seen.rate(10)
        0.2
        """
        if self.first is None:
            return 1.0
        if self.settled:
            return (self.before - self.start[1]) / (self.last - self.start[0])
        return (self.attempts - self.unseen) / max(1, batch - self.first)

    def at(self, end: float, batch: int) -> int:
        """Return the attempts when the run ends before batch ``end``, if it goes on like this.

        >>> Stepping(first=4, last=9, before=1, attempts=2, start=(4, 0)).at(16, 10)  # in the batches 4, 9 and 14
        3
        """
        if self.first is None:
            return self.attempts + math.ceil(end - batch)
        # (an error of rounding must not add a whole step)
        return max(self.attempts, math.ceil(self.before + (end - self.last) * self.rate(batch) - 1e-9))


@dataclass
class Pace:
    """What the optimizers of a run were seen to do: it makes forecasts where the Trainer's settings cannot.

    Args:
        batches: that have begun since the first of the run.
        in_epoch: those among them that this epoch had.
        look_at: how many will have begun when it is time for the next look.
        per_epoch: batches in the last whole epoch; None in the first.
        updates_per_epoch: attempts of each optimizer in it.
        at_epoch: attempts of each when the epoch began.
        steppings: of each.
    """

    batches: int = 0
    in_epoch: int = 0
    look_at: int = 1
    per_epoch: int | None = None
    updates_per_epoch: list[int] = field(default_factory=list)
    at_epoch: list[int] = field(default_factory=list)
    steppings: list[Stepping] = field(default_factory=list)

    def begin_batch(self, batch_idx: int, attempted: Sequence[int]) -> bool:
        """A batch begins; return whether it is time for a new forecast: often at first, less often later."""
        for attempts in attempted[len(self.steppings) :]:
            self.steppings.append(Stepping(attempts=attempts, unseen=attempts))
            self.at_epoch.append(attempts)
        for stepping, attempts in zip(self.steppings, attempted, strict=False):
            stepping.see(self.batches, attempts)
        begins = batch_idx == 0
        if begins:
            if self.in_epoch:
                self.per_epoch = self.in_epoch
                self.updates_per_epoch = [a - b for a, b in zip(attempted, self.at_epoch, strict=False)]
            self.in_epoch, self.at_epoch = 0, list(attempted)
        self.batches += 1
        self.in_epoch += 1
        looks = begins or self.batches >= self.look_at
        if looks:
            # At each of the first batches, then at distances that grow with the run: forecasts get better ever more
            # slowly.
            self.look_at = self.batches + max(1, (self.batches - 64) // 4)
        return looks

    def settled(self, index: int) -> bool:
        """Whether it is known how often an optimizer steps."""
        return index < len(self.steppings) and self.steppings[index].settled

    def rate(self, index: int) -> float:
        """Return the attempts of an optimizer per batch, as known so far; 1 before its first."""
        return self.steppings[index].rate(self.batches - 1) if index < len(self.steppings) else 1.0

    def ends(self, trainer: Any) -> list[int]:
        """Return the attempts of every optimizer at the end of a run with manual optimization.

        Raises:
            UnknownHorizonError: nothing bounds the run, or it is in the first epoch of data without a length.
        """
        batch = max(0, self.batches - 1)  # the one that begins now
        bounds = []
        attempts = sum(stepping.attempts - stepping.unseen for stepping in self.steppings)
        if trainer.max_steps is not None and trainer.max_steps >= 0:
            per_batch = attempts / batch if batch and attempts else max(1, len(trainer.optimizers))
            bounds.append(batch + max(0, trainer.max_steps - trainer.global_step) / per_batch)
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            length = trainer.num_training_batches
            length = length if math.isfinite(length) else self.per_epoch
            if length is not None:
                later = max(0, trainer.max_epochs - trainer.current_epoch - 1)
                bounds.append(batch + max(0, length - max(0, self.in_epoch - 1)) + later * length)
        if not bounds:
            raise unknown_horizon(trainer)
        steppings = self.steppings or [Stepping() for _ in trainer.optimizers]
        return [stepping.at(min(bounds), batch) for stepping in steppings]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        steppings = [
            {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(stepping).items()}
            for stepping in self.steppings
        ]
        return {**asdict(self), "steppings": steppings}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Pace:
        """Return what ``state_dict`` gave."""
        fields: list[dict[str, Any]] = [
            {name: tuple(x) if isinstance(x, list) else x for name, x in numbers.items()}
            for numbers in state["steppings"]
        ]
        steppings = [Stepping(**numbers) for numbers in fields]
        return cls(**{**state, "steppings": steppings})
