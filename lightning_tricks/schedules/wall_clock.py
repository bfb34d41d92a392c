"""The share of ``max_time`` that is over, equal on all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_AGREE_EVERY = 16  # attempts after which several processes agree on the time: a broadcast in each would cost too much


@dataclass
class WallClock:
    """Reads the time, and remembers the last value that all processes agreed on.

    Args:
        read: share of ``max_time``, as this process sees it; None where time plays no part.
        elapsed: the share at the last look.
    """

    read: Callable[[], float] | None = None
    elapsed: float = 0.0

    def share(self, trainer: Any, attempted: int) -> float:
        """Return the share; on several processes that of rank 0, as of the last attempt in which they agreed."""
        assert self.read is not None
        if trainer.world_size == 1:
            self.elapsed = self.read()
        elif attempted % _AGREE_EVERY == 0:
            self.elapsed = float(trainer.strategy.broadcast(self.read()))
        return self.elapsed
