"""How large gradients, weights and updates are at a check."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_tricks.diagnosis.slices import Numbers, Slices
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.norms import tensor_norms
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.subset import bounded_sample
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page

_MATRICES = 16  # whose updates are measured
_ELEMENTS = 4096  # of each


class GradientReading(NamedTuple):
    """What was measured, on the host.

    Args:
        norms: of the gradients of all parameters, in the order of the network.
        ratio: median over matrices of the update's norm over the weights' norm; NaN without any.
        sizes: norms of the weights of the matrices.
        rate: learning rate of the first group.
    """

    norms: list[float]
    ratio: float
    sizes: list[float]
    rate: float

    @property
    def first_and_last(self) -> tuple[float, float]:
        """The norms at both ends of the network: the larger one of the first two and of the last two above 0."""
        there = [n for n in self.norms if n > 0] or [0.0]
        return max(there[:2]), max(there[-2:])


class GradientHealth(Stages):
    """Measures the update before a check: norms of gradients, and how far the weights of matrices go.

    The norms are those that other tricks of this pack use as well. The probe says when a check comes.
    """

    def __init__(self) -> None:
        self.norms: Tensor | None = None
        self._matrices: list[Tensor] = []
        self._before: list[Tensor] = []
        self._ratios: Tensor | None = None
        self._sizes: Tensor | None = None

    def before_check(self, page: Page) -> None:
        """Keep norms of gradients, and weights before the update."""
        self.norms = page.norms().detach()
        self._matrices = [p for p in page.view.parameters if p.ndim > 1 and p.grad is not None][:_MATRICES]
        self._before = _sampled(self._matrices, copy=True)

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """See how far the weights went."""
        if view.index == 0 and self._before:  # (tested before any context is entered: most updates have no check)
            self._measure_move()

    @torch.no_grad()
    def _measure_move(self) -> None:
        after = _sampled(self._matrices)
        moved = tensor_norms([a - b for a, b in zip(after, self._before, strict=True)])
        self._sizes = tensor_norms(self._before)
        self._ratios = moved / self._sizes.clamp(min=1e-12)
        self._before, self._matrices = [], []

    def measure(self, norms: Tensor, rate: float | Tensor | None) -> Slices:
        """Return what was measured since ``before_check``, and forget it.

        Args:
            norms: those of this object.
            rate: the learning rate, which is in the vector where it is a tensor.
        """
        device, nothing = norms.device, torch.zeros(0, device=norms.device)
        slices = Slices(
            (
                norms,
                *(nothing if numbers is None else numbers.to(device) for numbers in (self._ratios, self._sizes)),
                rate.detach().reshape(1).to(device) if isinstance(rate, Tensor) else nothing,
            ),
            known=(float(rate) if isinstance(rate, (int, float)) else math.nan,),
        )
        self.norms, self._ratios, self._sizes = None, None, None
        return slices

    def _rolled_back(self, run: TrainingRun) -> None:
        """Gradients of other weights are of no use."""
        self.norms, self._before, self._ratios, self._sizes = None, [], None, None

    def _cleanup(self, run: TrainingRun) -> None:
        """Let go of what belongs to the fit."""
        self.norms, self._before = None, []


def reading_of(numbers: Numbers) -> GradientReading:
    """Return what ``GradientHealth.measure`` gave.

    >>> reading_of(Numbers(([2.0, 1.0], [0.1, 0.3, 0.2], [5.0], []), known=(0.01,)))
    GradientReading(norms=[2.0, 1.0], ratio=0.2, sizes=[5.0], rate=0.01)
    """
    norms, ratios, sizes, rates = numbers.shared
    ratio = sorted(ratios)[len(ratios) // 2] if ratios else math.nan
    return GradientReading(norms, ratio, sizes, rates[0] if rates else numbers.known[0])


def _sampled(matrices: list[Tensor], *, copy: bool = False) -> list[Tensor]:
    samples = [bounded_sample(local(p), _ELEMENTS) for p in matrices]
    return [sample.clone() for sample in samples] if copy else samples
