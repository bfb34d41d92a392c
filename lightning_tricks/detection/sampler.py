"""When a detector looks: which batches it watches, and after which updates there is a check. Plain numbers."""

from __future__ import annotations

import math

from lightning_tricks.publishing.publish import Cadence


class Sampler:
    """Watches the last batches before a check, and the very first one, to see that there is something to see.

    Args:
        every: updates between two checks.
        samples: wanted for a check.
    """

    def __init__(self, every: int, samples: int) -> None:
        self.every, self.wanted = every, samples
        self.first = True  # no batch has had a sample yet
        self.armed = False  # whether hooks act
        self.watched = False  # (Lightning announces no batch that is None, but its end)
        self.samples = 0  # gathered since the last check
        self.waited = 0  # checks that were due since then
        self.span = 1  # updates before a check whose batches are watched
        self.stepped: int | None = None  # step of the update in this batch, on the loggers' axis
        self.number = 0  # of the last update, in attempts
        self.last = 0  # update of the last check
        self._cadence = Cadence(every, 0)

    def start(self, every: int, attempted: int) -> None:
        """Begin a fit; counted in attempts, since Lightning's own count is one behind after a resume in mid-epoch."""
        self.every = every
        self._cadence = Cadence(every, attempted)

    def begin_batch(self, attempted: int) -> None:
        """Decide whether this batch is watched."""
        self.stepped = None
        left = self.every - attempted % self.every
        self.armed = self.watched = self.first or left <= self.span

    def update_comes(self, step: int, attempt: int) -> None:
        """Note an update of the first optimizer."""
        self.stepped, self.number = step, attempt

    def due(self) -> bool:
        """Whether the present update is one after which there is a check."""
        return self._cadence.due(self.number - 1)

    def gathered(self, count: int, attempted: int) -> bool:
        """Count the samples of a watched batch; return whether they are to be forgotten.

        The first batch is watched to see that there is something; where the check is far, it belongs to none.
        """
        self.samples += count
        if not self.first or not count:
            return False
        self.first = False
        self.span = min(self.every, math.ceil(self.wanted / count))
        if attempted + self.span < self.every:
            self.samples = 0
            return True
        return False

    def checked(self) -> int:
        """A check was made: return how many updates there were since the last one."""
        elapsed, self.last = self.number - self.last, self.number
        self.samples = self.waited = 0
        return elapsed

    def rolled_back(self) -> None:
        """Begin to gather again."""
        self.samples = self.waited = 0
        self.last = self.number
