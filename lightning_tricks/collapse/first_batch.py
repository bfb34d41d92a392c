"""What was measured of the very first batch of a run: sent to the host with the first check, and kept there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class FirstBatch:
    """A vector on the device until it was sent and read, and from then on values by name."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.highest = 0.0  # loss of the run, which is compared with that of the first batch
        self._measured: Tensor | None = None  # until the host has read it
        self._sent = False

    def note(self, measured: Tensor) -> None:
        """Keep what was measured of the first batch."""
        self._measured = measured

    def appended_to(self, vector: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the vector of a check with what was measured behind it, where it was not read yet."""
        self._sent = self._measured is not None
        return vector if self._measured is None else torch.cat([vector, average(self._measured)])

    def taken_from(self, vector: list[float]) -> tuple[list[float], list[float] | None]:
        """Return the vector of a check, and what was measured of the first batch; None where that was not sent."""
        if not self._sent:
            return vector, None
        # (both were measured in the same way, and are of one length)
        half = len(vector) // 2
        self._measured, self._sent = None, False
        return vector[:half], vector[half:]

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "start": None if self._measured is None else self._measured.detach().clone(),
            "at_start": dict(self.values),
        }

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what ``state`` returned; older versions lack some of it."""
        measured = state.get("start")
        self._measured = None if measured is None else measured.to(device)
        self.values = dict(state.get("at_start", {}))
