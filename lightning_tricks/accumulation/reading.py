"""What a batch weighs and how many samples it holds, read in the same way in the whole run."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_tricks.accumulation.spec import AccumulationSpec
from lightning_tricks.accumulation.split import split_samples
from lightning_tricks.accumulation.weights import WEIGHTS, Weight, as_weight, read_samples
from lightning_tricks.errors import TrickError

_CONTAINERS = (list, tuple, dict)


class BatchReader:
    """Weighs, counts and splits batches. One that can be read in two ways is read like those before it."""

    def __init__(self, spec: AccumulationSpec) -> None:
        self.spec = spec
        self._records: bool | None = None
        self._last: tuple[Any, int] | None = None  # the form of the last batch that has one, and its samples

    def read(self, batch: Any) -> int:
        """Return the samples of a batch."""
        form = form_of(batch)
        if form is not None and self._last is not None and form == self._last[0]:
            return self._last[1]
        found = read_samples(batch, self._records)
        self._records = self._records if found.records is None else found.records
        self._last = None if form is None else (form, found.count)
        return found.count

    def weigh(self, batch: Any) -> Weight:
        """Return what a batch weighs: the number over which its mean loss was taken.

        Raises:
            TrickError: it is not known, or a function of the user's returns no number >= 0.
        """
        weight = self.spec.weight
        if weight == "samples":
            return self.read(batch)
        return as_weight(weight(batch) if callable(weight) else WEIGHTS[weight](batch))

    def samples(self, batch: Any, weight: Weight) -> Weight:
        """Return what a batch adds to the effective batch size: its samples, or what a function says that it weighs."""
        if self.spec.weight == "samples" or callable(self.spec.weight):
            return weight
        try:
            return self.read(batch)
        except TrickError:  # the number is only logged, so a batch that hides it does not end a run
            return weight

    def count(self, batch: Any) -> int:
        """Return the samples of a batch that is to be split; 1 where the user's function splits what cannot be counted.

        Raises:
            TrickError: they are not known, and ``split_fn`` was not given.
        """
        try:
            return self.read(batch)
        except TrickError:
            if self.spec.split_fn is None:
                raise
            return 1

    def split(self, batch: Any, parts: int) -> list[Any]:
        """Return parts of a batch, by the user's function where there is one."""
        own = self.spec.split_fn
        return split_samples(batch, parts, self._records) if own is None else own(batch, parts)

    def weigh_part(self, part: Any) -> Weight:
        """Weigh a part of a batch: where all batches weigh the same, their parts still differ in size.

        Parts that the user's function made may be parts of anything: they weigh the same unless tokens are counted.
        """
        if self.spec.weight not in ("samples", "equal"):
            return self.weigh(part)
        return self.read(part) if self.spec.split_fn is None else 1


def form_of(batch: Any) -> Any:
    """Return what two batches have in common that are read alike: kinds, shapes and dtypes; None for most batches.

    Only a tensor, and a flat list, tuple or dict of tensors, are told by that; whoever makes others may have made them
    say how many samples they hold.

    >>> import torch
    >>> form_of(torch.zeros(3, 5)) == form_of(torch.ones(3, 5)), form_of([torch.zeros(3), "name"])
    (True, None)
    """
    kind = type(batch)
    tensors = [batch] if kind not in _CONTAINERS else batch.values() if kind is dict else batch
    if any(type(tensor) is not Tensor for tensor in tensors):
        return None
    return kind, [(tensor.shape, tensor.dtype) for tensor in tensors]
