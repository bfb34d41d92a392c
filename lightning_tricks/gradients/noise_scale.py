"""Gradient noise scale: how large a batch is worth its cost.

Two norms of the same gradient, one from a small and one from a large batch, tell signal from noise. Under gradient
accumulation both are there for free: the first micro-batch's gradient, and the whole window's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.numerics.running import Ema
from lightning_tricks.numerics.state import fitting, moved

State = dict[str, Any]


def signal_and_noise(small_norm: Tensor, large_norm: Tensor, small: float, large: float) -> tuple[Tensor, Tensor]:
    """Return unbiased estimates of the true gradient's squared norm and of the trace of its covariance.

    ``signal = (B |G_B|^2 - b |G_b|^2) / (B - b)``, ``noise = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)``.

    Args:
        small_norm: 0-d, norm of the mean gradient over ``small`` samples.
        large_norm: 0-d, norm of the mean gradient over ``large`` samples.
        small: b, samples.
        large: B > b, samples.

    Raises:
        ValueError: ``large`` is not above ``small``.

    Reference: McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", 2018,
    arXiv:1812.06162, appendix A.1.

    Example:
        >>> signal_and_noise(torch.tensor(3.0), torch.tensor(2.0), small=1, large=4)
        (tensor(2.3333), tensor(6.6667))
    """
    if large <= small:
        raise ValueError(f"signal_and_noise(large={large!r}): large must be above small={small!r}. Swap them.")
    small_square, large_square = small_norm.square(), large_norm.square()
    signal = (large * large_square - small * small_square) / (large - small)
    noise = (small_square - large_square) / (1.0 / small - 1.0 / large)
    return signal, noise


@dataclass(frozen=True)
class NoiseScale:
    """Simple noise scale ``B = mean(noise) / mean(signal)``, in samples: about the largest batch still worth its cost.

    Numerator and denominator are averaged apart: single estimates of either are noisy and may be negative.

    Args:
        decay: of both moving averages.

    Example:
        >>> rule = NoiseScale(decay=0.5)
        >>> state = rule.init(torch.device("cpu"))
        >>> state = rule.update(torch.tensor(2.0), torch.tensor(64.0), state)
        >>> rule.value(state)
        tensor(32.)
    """

    decay: float = 0.95

    def init(self, device: torch.device) -> State:
        """Return the state before the first estimate."""
        return Ema(self.decay).init(2, device)

    def update(self, signal: Tensor, noise: Tensor, state: State) -> State:
        """Take in one pair of estimates."""
        return Ema(self.decay).update(torch.stack([signal, noise]), state)

    def value(self, state: State) -> Tensor:
        """Return the noise scale, 0-d; NaN before the first estimate."""
        means = Ema(self.decay).mean(state)
        return means[1] / means[0]


class NoiseWindow:
    """The micro-batches of one accumulation window so far: how many, how large, and the first one's true norm."""

    def __init__(self) -> None:
        self.next_size = 0
        self.begin()

    def begin(self) -> None:
        """A window begins."""
        self.batches = self.samples = self.first_size = 0
        self.first_norm: Tensor | None = None

    def add(self) -> None:
        """A micro-batch of ``next_size`` samples went backward."""
        self.batches += 1
        self.samples += self.next_size
        self.first_size = self.first_size or self.next_size

    def estimate(self, norm: Tensor, world: int, *, synced: bool) -> tuple[Tensor, Tensor] | None:
        """Return signal and noise, or None when this window was not measured or had one micro-batch only.

        Args:
            norm: 0-d, of the mean gradient of the window.
            world: processes that share a window.
            synced: whether a single micro-batch's gradient is that of all processes (sharded models), not of this one.
        """
        if self.first_norm is None or self.batches < 2:
            return None
        # under DDP the first micro-batch was not synchronised: its gradient is that of this process alone
        small = self.first_size * (world if synced else 1)
        return signal_and_noise(self.first_norm, norm, small, self.samples * world)


def batch_size(noise_scale: float) -> int | None:
    """Return the noise scale as a number of samples; None where it is not a positive number.

    >>> batch_size(37.4), batch_size(0.2), batch_size(-3.0), batch_size(float("nan"))
    (37, 1, None, None)
    """
    return max(1, round(noise_scale)) if 0 < noise_scale < float("inf") else None


class NoiseMeter:
    """Measures the noise scale window by window."""

    def __init__(self) -> None:
        self.window = NoiseWindow()
        self._rule = NoiseScale()
        self._state: State | None = None

    @property
    def measures(self) -> bool:
        """Whether it was started."""
        return self._state is not None

    @property
    def batch_size(self) -> int | None:
        """The noise scale in samples, by one host read; None before it was measured."""
        return None if self._state is None else batch_size(float(self._rule.value(self._state)))

    def start(self, saved: State | None, device: torch.device) -> None:
        """Begin a fit with what a checkpoint holds, with what is known already, or from scratch.

        Raises:
            TrickError: the checkpoint's state is not one of this rule.
        """
        fresh, saved = self._rule.init(device), saved or self._state
        self._state = fresh if saved is None else fitting("GradientMonitor", moved(saved, device), fresh)

    def measure(self, norm: Tensor, world: int, *, synced: bool) -> Tensor | None:
        """Take in a window whose gradient has this norm, 0-d; return the noise scale, None where it shows nothing."""
        pair = self.window.estimate(norm, world, synced=synced)
        if pair is None or self._state is None:
            return None
        self._state = self._rule.update(*pair, self._state)
        return self._rule.value(self._state)

    def state(self) -> State | None:
        """Return a copy of the averages, on the CPU."""
        return None if self._state is None else moved(self._state, torch.device("cpu"))
