"""Which samples of a run have been seen before: in an earlier epoch, or repeated ones. torch only, no host read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.collapse.association import fingerprints
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.trees import tree_leaves

_REMEMBERED = 4096  # samples


def inputs_of(batch: Any) -> Tensor | None:
    """Return the largest tensor of a batch, of floats where there are any, ``[n, ...]``; None where there is none."""
    tensors = [local(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim > 1 and t.numel()]
    return max(tensors, key=lambda t: (t.is_floating_point(), t.numel()), default=None)


class KnownSamples:
    """Counts the samples that are known from an earlier batch, by fingerprints of the last 4,096 samples.

    Example:
        >>> known = KnownSamples()
        >>> for _ in range(2):
        ...     known.see((torch.eye(8), torch.arange(8)), most=512)
        >>> known.take(torch.device("cpu"))
        tensor([ 8., 16.])
    """

    def __init__(self) -> None:
        self._prints: Tensor | None = None  # of samples that were seen, the latest first
        self._counts: Tensor | None = None  # how many samples since the last check were known, of how many

    def see(self, batch: Any, most: int) -> None:
        """Count the samples of a batch, at most so many."""
        inputs = inputs_of(batch)
        if inputs is None:
            return
        prints = fingerprints(inputs[:most])
        before = prints[:0] if self._prints is None else self._prints
        self._prints = torch.cat([prints, before])[:_REMEMBERED]
        new = torch.stack([_among(prints, before).sum().float(), torch.full_like(prints[0], float(len(prints)))])
        self._counts = new if self._counts is None else self._counts + new

    def take(self, device: torch.device) -> Tensor:
        """Return how many samples were known, of how many, ``[2]``, and count from 0 again."""
        counts, self._counts = self._counts, None
        return torch.zeros(2, device=device) if counts is None else counts

    def state(self) -> dict[str, Tensor | None]:
        """Return copies of the tensors that a resumed run needs."""
        held = {"prints": self._prints, "known": self._counts}
        return {name: None if t is None else t.detach().clone() for name, t in held.items()}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what ``state`` returned; older versions have neither key."""
        held = (state.get("prints"), state.get("known"))
        self._prints, self._counts = (None if t is None else t.to(device) for t in held)


def _among(values: Tensor, others: Tensor) -> Tensor:
    """Return which of some numbers are among others, ``[n]``; NaN is not.

    As ``torch.isin``, which sorts both and takes twice as long.
    """
    if not len(others):
        return torch.zeros_like(values, dtype=torch.bool)
    # (a NaN, which is not less than anything, would lead the search astray)
    ordered = others.nan_to_num(torch.finfo(others.dtype).max, torch.inf, -torch.inf).sort().values
    places = torch.searchsorted(ordered, values).clamp(max=len(others) - 1)
    return ordered[places] == values
