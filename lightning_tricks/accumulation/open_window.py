"""The accumulation window that is open, and by what its gradient has to be multiplied. Pure: values in, values out.

With weights ``w_i`` and gradients ``g_i`` of the micro-batches' mean losses, the gradient of the one big batch is
``sum_i w_i g_i / sum_i w_i``. The sum is not known before the window closes, so each loss is weighted by
``w_i / (reference * planned)`` first, and the accumulated gradient is corrected by ``reference * planned / sum_i w_i``
before anything reads it. For equal full windows both are what Lightning does, and the correction is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_tricks.accumulation.weights import Weight
from lightning_tricks.numerics import form

OPEN_WINDOW = form.record(
    {
        "planned": form.count,
        "batches": form.count,
        "size": form.least_zero,
        "backwards": form.count,
        "weight": form.least_zero,
        "samples": form.least_zero,
    }
)


class MicroBatch(NamedTuple):
    """The micro-batch under way.

    Args:
        weight: what its mean loss was taken over.
        samples: what it adds to the effective batch size.
        whole: its weight over all processes; 0 where the window does not depend on it.
    """

    weight: Weight
    samples: Weight
    whole: float


@dataclass(frozen=True)
class Units:
    """What weights are measured in; taken from the first micro-batch of the run, so that gradients keep their size.

    Args:
        reference: the weight of an ordinary micro-batch; None before the first.
        micro_size: the same over all processes, to plan windows of a target size.
    """

    reference: float | None = None
    micro_size: float | None = None

    def known(self) -> float:
        """Return the reference, once a micro-batch has begun."""
        assert self.reference is not None
        return self.reference

    def taken_from(self, first: float, whole: float, world: int) -> Units:
        """Return the units after the first micro-batch.

        Args:
            first: its weight on rank 0, which holds for all processes.
            whole: its weight over all processes, where the window depends on it; else 0.

        >>> Units().taken_from(8.0, 0.0, world=2), Units().taken_from(0.0, 0.0, world=1)
        (Units(reference=8.0, micro_size=16.0), Units(reference=1.0, micro_size=1.0))
        """
        reference = first if first > 0 else 1.0
        return Units(reference, whole or reference * world)


# Made several times in each step. A frozen dataclass takes four times as long to make, and so does ``_replace``.
class OpenWindow(NamedTuple):
    """What is in the window so far.

    Args:
        planned: micro-batches that it will take.
        batches: that have begun.
        size: of them over all processes, where the window depends on it.
        backwards: micro-batches that went backward since gradients were cleared.
        weight: sum of their weights.
        samples: sum of their samples.
        over: the optimizer has stepped, or an epoch has ended: the next micro-batch begins another window.

    Example:
        >>> window = OpenWindow(planned=2).joined_by(MicroBatch(8, 8, 0.0)).after_backward(MicroBatch(8, 8, 0.0))
        >>> window.batches, window.weight, window.correction(reference=8.0)
        (1, 8, 2.0)
    """

    planned: int = 1
    batches: int = 0
    size: float = 0.0
    backwards: int = 0
    weight: Weight = 0
    samples: float | Tensor = 0.0
    over: bool = False

    def joined_by(self, micro_batch: MicroBatch) -> OpenWindow:
        """Return the window when one more micro-batch has begun."""
        planned, batches, size, backwards, weight, samples, over = self
        return OpenWindow(planned, batches + 1, size + micro_batch.whole, backwards, weight, samples, over)

    def after_backward(self, micro_batch: MicroBatch) -> OpenWindow:
        """Return the window when the loss of a micro-batch goes backward."""
        planned, batches, size, backwards, weight, samples, over = self
        return OpenWindow(
            planned, batches, size, backwards + 1, weight + micro_batch.weight, samples + micro_batch.samples, over
        )

    def cleared(self) -> OpenWindow:
        """Return the window when its gradients were set to zero: its micro-batches stay, but count for nothing."""
        return OpenWindow(self.planned, self.batches, self.size, over=self.over)

    def closed(self) -> OpenWindow:
        """Return the window when the optimizer has stepped."""
        planned, batches, size, backwards, weight, samples, _ = self
        return OpenWindow(planned, batches, size, backwards, weight, samples, over=True)

    def loss_factor(self, weight: Weight, reference: float) -> float | Tensor:
        """Return the factor on the loss of a micro-batch: ``weight / (reference * planned)``."""
        return weight / (reference * self.planned)

    def correction(self, reference: float, *, world: int = 1, weight: Weight | None = None) -> float | Tensor:
        """Return the factor on the accumulated gradient that makes it the exact mean.

        Args:
            world: processes; DDP has divided the sum of their gradients by it.
            weight: sum over all processes; None for that of this one.
        """
        value, weight = world * reference * self.planned, self.weight if weight is None else weight
        # Where nothing in the window counted, its gradient is 0 already, and would become NaN.
        if isinstance(weight, Tensor):
            return torch.where(weight != 0, value / weight, 1.0)
        return value / weight if weight else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; weights of a device are read on the host."""
        sums = {"size": float(self.size), "weight": float(self.weight), "samples": float(self.samples)}
        return {"planned": self.planned, "batches": self.batches, "backwards": self.backwards, **sums}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> OpenWindow:
        """Return what ``state_dict`` gave."""
        return cls(**state)
