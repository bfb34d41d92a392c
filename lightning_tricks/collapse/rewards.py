"""The reward of a policy: found among what a training step returned or logged, and followed from check to check."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.collapse.usage import has_learned, has_unlearned
from lightning_tricks.detection.judge import keep_bounded

_NAMED = re.compile(r"(?:^|[/_.\s])(?:reward|return)s?(?:$|[/_.\s])", re.IGNORECASE)


def reward_in(place: Mapping[Any, Any]) -> Tensor | None:
    """Return the mean of the first tensor with "reward" or "return" in its name, 0-d; None where there is none.

    >>> reward_in({"loss": torch.tensor(3.0), "train/reward": torch.tensor([1.0, 2.0])})
    tensor(1.5000)
    """
    for name, value in place.items():
        # (the loss of a reward model is not a reward)
        named = isinstance(name, str) and _NAMED.search(name) and "loss" not in name.lower()
        if named and isinstance(value, Tensor) and value.numel() and not value.is_complex():
            return value.detach().float().mean()
    return None


class Rewards:
    """Mean rewards before each check, and that of the first batch. ``[2]`` is a sum and a number of rewards."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self.baseline: Tensor | None = None  # sum and number of rewards of the first batch
        self.begun = math.nan  # their mean over all processes

    def of_batch(self, outputs: Any, logged: Mapping[str, Any], device: torch.device, *, first: bool) -> Tensor:
        """Return the reward that a step returned or logged, ``[2]``, on the device; the very first one is a baseline.

        Args:
            outputs: what the training step returned.
            logged: what was logged so far.
            device: of the sums.
            first: whether it is the first batch.
        """
        found = reward_in(outputs) if isinstance(outputs, Mapping) else None
        found = reward_in(logged) if found is None else found
        pair = torch.zeros(2) if found is None else torch.stack([found, torch.ones_like(found)])
        pair = pair.to(device, torch.float32)
        if first:
            self.baseline = pair
        return pair

    def add(self, mean: float, begun: float) -> bool:
        """Add the mean of a check, and that of the first batch; return whether there was a reward."""
        if not math.isfinite(mean):
            return False
        self.begun = begun
        self.means.append(mean)
        keep_bounded(self.means)
        return True

    def learned(self, batches: int) -> bool | None:
        """Return whether rewards have clearly risen; None for too few to tell. Each mean is of so many batches."""
        return has_learned(self.means, self.begun, batches)

    def unlearned(self, batches: int) -> bool:
        """Return whether rewards have clearly fallen below the first ones. Each mean is of so many batches."""
        return has_unlearned(self.means, math.nan, batches)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"rewards": list(self.means), "start": None if self.baseline is None else self.baseline.clone()}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what ``state`` returned.

        Raises:
            ValueError: the first reward has another shape.
        """
        start = state["start"]
        if start is not None and start.shape != (2,):
            raise ValueError("the first reward in the checkpoint is not a sum and a number")
        self.means = list(state["rewards"])
        self.baseline = None if start is None else start.float().to(device)
