"""Running statistics that live on the device and that a NaN never enters.

Each is a frozen rule with ``init(size, device) -> State`` and ``update(values, state) -> State``. A state is a plain
dict of tensors ``[k]`` and numbers with a ``"version"``: it goes into a checkpoint as it is. ``k`` values are followed
independently, one per group or layer; for one of the whole model, ``size=None`` makes them 0-d. No method reads a
tensor on the host.

A value counts when it is finite and > 0: a gradient norm of exactly 0 means that no gradient arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]


def counts(values: Tensor) -> Tensor:
    """Return which values may enter a statistic, ``[k]`` bool.

    >>> counts(torch.tensor([1.0, 0.0, float("nan"), float("inf")]))
    tensor([ True, False, False, False])
    """
    return torch.isfinite(values) & (values > 0)


def shape(size: int | None) -> tuple[int, ...]:
    """Return the shape of a statistic of ``size`` series: ``[size]``, or 0-d for None.

    >>> shape(3), shape(None)
    ((3,), ())
    """
    return () if size is None else (size,)


@dataclass(frozen=True)
class Ema:
    """Exponential moving average with bias correction: ``m <- decay*m + (1-decay)*x``, ``mean = m/(1-decay^n)``.

    Args:
        decay: share of the old value that is kept, in [0, 1).

    Example:
        >>> ema = Ema(decay=0.5)
        >>> state = ema.init(1, torch.device("cpu"))
        >>> for x in (2.0, float("nan"), 4.0):
        ...     state = ema.update(torch.tensor([x]), state)
        >>> ema.mean(state)
        tensor([3.3333])
    """

    decay: float

    def init(self, size: int | None, device: torch.device) -> State:
        """Return the state before the first value."""
        return {
            "version": 1,
            "sum": torch.zeros(shape(size), dtype=torch.float32, device=device),
            "weight": torch.zeros(shape(size), dtype=torch.float32, device=device),
        }

    def update(self, values: Tensor, state: State) -> State:
        """Return the state after ``values`` ``[k]``; negative values count here, non-finite ones do not."""
        usable = torch.isfinite(values)
        kept = torch.where(usable, values, torch.zeros_like(values))
        total = self.decay * state["sum"] + (1 - self.decay) * kept
        weight = self.decay * state["weight"] + (1 - self.decay)
        return {
            "version": 1,
            "sum": torch.where(usable, total, state["sum"]),
            "weight": torch.where(usable, weight, state["weight"]),
        }

    def mean(self, state: State) -> Tensor:
        """Return the corrected average ``[k]``; NaN before the first value."""
        return torch.as_tensor(state["sum"] / state["weight"])


@dataclass(frozen=True)
class Welford:
    """Mean and population standard deviation of all usable values, in one pass without cancellation.

    ``n <- n+1``; ``mean <- mean + d/n`` with ``d = x - mean``; ``std^2 <- std^2 (n-1)/n + d^2 (n-1)/n^2``.
    The variance itself is never formed: in float32, that of values about 1e20 would be inf, and about 1e-25 be 0.
    Reference: Welford, 1962, Technometrics 4(3).

    Example:
        >>> welford = Welford()
        >>> state = welford.init(1, torch.device("cpu"))
        >>> for x in (1.0, float("nan"), 3.0):
        ...     state = welford.update(torch.tensor([x]), state)
        >>> state["mean"], state["std"]
        (tensor([2.]), tensor([1.]))
    """

    def init(self, size: int | None, device: torch.device) -> State:
        """Return the state before the first value."""
        zeros = {name: torch.zeros(shape(size), dtype=torch.float32, device=device) for name in ("mean", "std")}
        return {"version": 1, "count": torch.zeros(shape(size), dtype=torch.int64, device=device), **zeros}

    def update(self, values: Tensor, state: State) -> State:
        """Return the state after ``values`` ``[k]``."""
        usable = counts(values)
        count = state["count"] + usable
        difference = torch.where(usable, values - state["mean"], torch.zeros_like(values))
        # (before the first usable value, this keeps 0 / 0 out of the mean)
        n = count.clamp(min=1)
        mean = state["mean"] + difference / n
        # (hypot neither overflows nor vanishes where the sum of the squares would)
        std = torch.hypot(state["std"] * ((n - 1) / n).sqrt(), difference * ((n - 1).sqrt() / n))
        return {"version": 1, "count": count, "mean": mean, "std": torch.where(usable, std, state["std"])}


@dataclass(frozen=True)
class Percentile:
    """The last ``window`` usable values of each of ``k`` series, and percentiles of them.

    Args:
        window: values kept per series; the oldest is replaced first.

    Example:
        >>> last = Percentile(window=4)
        >>> state = last.init(1, torch.device("cpu"))
        >>> for x in (1.0, 2.0, float("inf"), 3.0):
        ...     state = last.update(torch.tensor([x]), state)
        >>> last.percentile(50.0, state)
        tensor([2.])
    """

    window: int

    def init(self, size: int | None, device: torch.device) -> State:
        """Return the state before the first value: a ring ``[k, window]`` of NaN, and each row's write position."""
        ring = torch.full((*shape(size), self.window), torch.nan, dtype=torch.float32, device=device)
        return {"version": 1, "ring": ring, "seen": torch.zeros(shape(size), dtype=torch.int64, device=device)}

    def update(self, values: Tensor, state: State) -> State:
        """Return the state after ``values`` ``[k]``. The ring is written in place: a copy would cost its size."""
        usable = counts(values)
        position = (state["seen"] % self.window).unsqueeze(-1)
        ring: Tensor = state["ring"]
        # An unusable value writes back what already stands there: whether to write is decided without a host read.
        new = torch.where(usable, values, ring.gather(-1, position).squeeze(-1))
        ring.scatter_(-1, position, new.unsqueeze(-1))
        return {"version": 1, "ring": ring, "seen": state["seen"] + usable}

    def percentile(self, percent: float, state: State) -> Tensor:
        """Return the percentile of each row ``[k]``, linear between ranks as ``numpy.percentile``; NaN when empty."""
        return torch.nanquantile(state["ring"], percent / 100.0, dim=-1)
