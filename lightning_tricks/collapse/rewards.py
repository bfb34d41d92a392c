"""The reward of a policy: found among what a training step returned or logged, and followed from check to check."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.detection.judge import keep_bounded

_NAMED = re.compile(r"(?:^|[/_.\s])(?:reward|return)s?(?:$|[/_.\s])", re.IGNORECASE)

_FEWEST_REWARDS = 3  # after the one at the start; without that twice as many


def reward_in(place: Mapping[Any, Any]) -> Tensor | None:
    """Return the mean of the first tensor with "reward" or "return" in its name, 0-d; None where there is none."""
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
        """Return the reward that a step returned or logged, ``[2]``, on the device; the first one is a baseline."""
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


_FALLEN = 4.0  # standard errors


def has_learned(rewards: Sequence[float], start: float, batches: int) -> bool | None:
    """Return whether rewards, check by check, have clearly risen and are still up; None for too few to tell.

    The mean of the last three checks must exceed the first reward, or the mean of the first three checks, by three
    standard errors, and at least half of the largest rise must be left. The first reward is of one batch, so that it
    may be noisy; the first three checks may lie behind most of the rise. The noise is told from the differences of
    neighbouring checks.

    Args:
        rewards: means over the batches before each check.
        start: the mean of the first batch; NaN where it is not known, for the mean of the first three checks.
        batches: how many a mean is taken over.

    >>> has_learned([1.0, 1.0, 1.0], 0.3, 16), has_learned([0.27, 0.26, 0.28, 0.25], 0.22, 16)
    (True, False)
    >>> has_learned([0.59, 0.75, 0.93, 0.99, 0.98, 0.99], 0.45, 12)
    True
    >>> has_learned([1.0, 1.1, 9.0], math.nan, 16) is None
    True
    """
    starts = {start, math.nan} if math.isfinite(start) else {math.nan}
    known = [found for first in starts if (found := _rise(rewards, first, batches)) is not None]
    if not known:
        return None
    return any(rise > max(3 * error, 1e-6 * abs(first)) and rise >= best / 2 for rise, error, best, first in known)


def has_unlearned(rewards: Sequence[float], start: float, batches: int) -> bool:
    """Return whether rewards have clearly fallen below the start, and lie lower than they have ever been above it.

    The arguments are those of ``has_learned``.

    >>> falls = [0.5, 0.48, 0.5, 0.49, 0.2, 0.21, 0.2, 0.19, 0.2, 0.21]
    >>> has_unlearned(falls, 0.5, 16), has_unlearned([0.27, 0.26, 0.2, 0.25], 0.22, 16)
    (True, False)
    """
    found = _rise(rewards, start, batches)
    if found is None:
        return False
    rise, error, best, first = found
    return -rise > max(_FALLEN * error, 1e-6 * abs(first), best)


def _rise(rewards: Sequence[float], start: float, batches: int) -> tuple[float, float, float, float] | None:
    """Return the rise of the last rewards, its standard error, the largest rise, and the start; None for too few."""
    begun = math.isfinite(start)
    if len(rewards) < _FEWEST_REWARDS * (1 if begun else 2):
        return None
    means = [sum(rewards[i : i + 3]) / 3 for i in range(len(rewards) - 2)]
    first = start if begun else means[0]
    steps = sorted(abs(b - a) for a, b in itertools.pairwise(rewards))
    noise = steps[len(steps) // 2] / (math.sqrt(2) * 0.6745)  # a median: one large rise is not noise
    error = noise * math.sqrt(1 / 3 + (max(1, batches) if begun else 1 / 3))
    return means[-1] - first, error, max(means) - first, first
