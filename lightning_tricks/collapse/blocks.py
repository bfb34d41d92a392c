"""Rows of several batches, batch beside batch: what compares the rows of a batch need not look at pairs of others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Blocks(NamedTuple):
    """Rows in blocks of equal length, so that the rows of a part are all in one block.

    On a CPU each part is a block of its own, unless that is more work. Elsewhere all rows are one block, since the host
    would have to wait for the device to know how long the parts are.

    Args:
        part: which of the parts a row belongs to, ``[blocks, length]``.
        places: positions of the rows, ``[blocks, length]``.
        there: False at the end of a block that is longer than its part; None where all are there, in one block.
    """

    part: Tensor
    places: Tensor
    there: Tensor | None

    @classmethod
    def of(cls, part: Tensor) -> Blocks:
        """Return the blocks of rows that belong to these parts, ``[n]``."""
        rows = len(part)
        if part.is_cpu and rows:
            lengths = part.unique(return_counts=True)[1]  # type: ignore[no-untyped-call]
            longest = max(lengths.tolist())
            if len(lengths) * longest**2 < rows**2:
                there = torch.arange(longest) < lengths[:, None]
                order = part.argsort(stable=True)
                places = torch.zeros(there.shape, dtype=torch.int64).masked_scatter_(there, order)
                return cls(part[places], places, there)
        return cls.whole(part)

    @classmethod
    def whole(cls, part: Tensor) -> Blocks:
        """Return one block of all rows."""
        return cls(part[None], torch.arange(len(part), device=part.device)[None], None)

    def together(self, keep: Tensor) -> Tensor:
        """Return which rows of a block are of one part and count, bool ``[blocks, length, length]``.

        Args:
            keep: rows that count, bool ``[n]``.
        """
        kept = keep[self.places] if self.there is None else keep[self.places] & self.there
        found = self.part[:, :, None] == self.part[:, None]
        found &= kept[:, :, None]
        found &= kept[:, None]
        return found

    def pairs(self, values: Tensor) -> Tensor:
        """Return what ``[n, n]`` holds of pairs within blocks, ``[blocks, length, length]``."""
        if self.there is None:
            return values[None]
        return values.take(self.places[:, :, None] * len(values) + self.places[:, None])
