"""What the measures of collapse as ``torchmetrics.Metric`` share: sums in float64, or all samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_tricks.collapse import representation
from lightning_tricks.errors import message, require_count


class Sums(Metric):
    """Adds up what the function of a subclass needs. Values are of all samples since ``reset``."""

    # (for torchmetrics: what is summed has no gradients, and the value of a batch needs no second pass over all)
    is_differentiable = False
    full_state_update = False

    def _add(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _check(self, what: str, tensor: Tensor, width: int) -> None:
        if tensor.shape[-1] != width:
            rule = f"the last dimension must be {width}, as at construction"
            remedy = f"Make it {type(self).__name__}({tensor.shape[-1]}), or pass other {what}"
            raise ValueError(message(type(self).__name__, what, tuple(tensor.shape), rule, remedy))

    def _same(self, what: str, one: Tensor, target: Tensor) -> None:
        if one.shape != target.shape:
            rule = f"{what} have the shape {tuple(one.shape)}, and are not broadcast"
            raise ValueError(message(type(self).__name__, "target", tuple(target.shape), rule, "Give both one shape"))

    def _count_of(self, argument: str, value: int) -> int:
        return require_count(type(self).__name__, argument, value, low=2, remedy="Use the size of the last dimension")


class FeatureSums(Sums):
    """Sums over rows of features. A subclass says how many dimensions of ``num_features`` each has, and its terms."""

    dimensions: ClassVar[dict[str, int]]
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = self._count_of("num_features", num_features)
        for name, number in {**self.dimensions, "count": 0}.items():
            self._add(name, *[num_features] * number)

    def update(self, features: Tensor) -> None:
        """Add features ``[..., num_features]``."""
        self._add_rows("features", features)

    def _add_rows(self, what: str, tensor: Tensor) -> None:
        self._check(what, tensor, self.num_features)
        flat = representation.rows(tensor)
        for name, terms in self._terms(flat).items():
            getattr(self, name).add_(terms)
        self.count += len(flat)

    @abstractmethod
    def _terms(self, rows: Tensor) -> dict[str, Tensor]:
        """Return what rows ``[n, num_features]`` add to each sum but the count."""


class Moments(FeatureSums):
    """Sums of rows and of their squares, counted by dimension."""

    total: Tensor
    squares: Tensor
    dimensions: ClassVar[dict[str, int]] = {"total": 1, "squares": 1}

    def _terms(self, rows: Tensor) -> dict[str, Tensor]:
        return {"total": rows.sum(0), "squares": rows.square().sum(0)}


class Samples(Metric):
    """Keeps samples. They are stored flat, so that a process without any can take part in gathering."""

    is_differentiable = False
    full_state_update = False
    width: Tensor

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self._numbers = 0  # of a sample, on the host: the state is for processes that have none
        for kind in kinds:
            self.add_state(kind, [], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def _keep(self, kind: str, samples: Tensor) -> None:
        flat = samples.detach().reshape(len(samples), -1).to(torch.float32)
        if self._numbers not in (0, flat.shape[1]):
            rule = f"samples have {flat.shape[1]} numbers each, those before had {self._numbers}"
            raise ValueError(
                message(type(self).__name__, kind, tuple(samples.shape), rule, "Pass samples of one shape")
            )
        self._numbers = flat.shape[1]
        self.width = torch.full_like(self.width, self._numbers)
        getattr(self, kind).append(flat.reshape(-1))

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._numbers = 0

    def _kept(self, kind: str, least: int) -> Tensor:
        found = getattr(self, kind)
        # (torchmetrics makes one tensor of a list when it gathers the processes)
        parts = found if isinstance(found, list) else [found]
        width = max(1, int(self.width))
        samples = torch.cat(parts).reshape(-1, width) if parts else torch.zeros(0, width)
        if len(samples) < least:
            rule = f"{len(samples)} {kind} samples were given, at least {least} are needed"
            raise ValueError(message(type(self).__name__, kind, len(samples), rule, "Call update with more samples"))
        return samples


class Features(Samples):
    """Of one kind only."""

    def __init__(self) -> None:
        super().__init__("features")

    def update(self, features: Tensor) -> None:
        """Add features ``[n, ...]``."""
        self._keep("features", features)
