"""Curves that rise again, or that have a warm-up of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lightning_tricks.errors import require_choice, require_count, require_number
from lightning_tricks.schedules.curves import Decay, Length, Span, require_length


@dataclass(frozen=True)
class CosineRestarts(Decay):
    """Cosine from 1 to 0 in cycles; each is ``t_mul`` times as long and ``m_mul`` times as high as the one before.

    Args:
        first: length of the first cycle.
        t_mul: whole number >= 1.
        m_mul: in (0, 1].

    Reference: Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, arXiv:1608.03983.

    >>> [round(CosineRestarts(4, t_mul=2, m_mul=0.5).multiplier(k, 12), 2) for k in (0, 2, 4, 8, 12)]
    [1.0, 0.5, 0.5, 0.25, 0.0]
    """

    first: Length
    t_mul: int = 1
    m_mul: float = 1.0

    needs_length = False

    def __post_init__(self) -> None:
        require_length("CosineRestarts", "first", self.first)
        require_count("CosineRestarts", "t_mul", self.t_mul, remedy="Use 1 or 2")
        require_number("CosineRestarts", "m_mul", self.m_mul, high=1.0, high_included=True, remedy="Use e.g. 1.0")

    def resolve(self, span: Span) -> Decay:
        """Return the curve with its first cycle in updates."""
        return replace(self, first=span.updates("CosineRestarts", "first", self.first))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``; at the end of the run it does not start again."""
        cycle = Span(length=length).updates("CosineRestarts", "first", self.first)
        ended = update == length
        peak = 1.0  # of the cycle that `update` falls into
        if self.t_mul == 1:
            # (the end of the run belongs to the cycle that ends there)
            done = (update - ended) // cycle
            update, peak = update - done * cycle, self.m_mul**done
        while update > cycle or (update == cycle and not ended):
            # whole numbers: floor(log(...)/log(t_mul)) is wrong at some joints
            update, cycle, peak = update - cycle, cycle * self.t_mul, peak * self.m_mul
        return peak * (1.0 + math.cos(math.pi * update / cycle)) / 2.0


@dataclass(frozen=True)
class OneCycle(Decay):
    """Up from ``1/div_factor`` to 1 and down to ``1/(div_factor*final_div_factor)``: torch's OneCycleLR, clamped.

    Args:
        pct_start: share of the run that goes up, in (0, 1).
        div_factor: > 0.
        final_div_factor: > 0.
        anneal: ``"cos"`` or ``"linear"``.

    Reference: Smith, Topin, "Super-Convergence", 2018, arXiv:1708.07120.

    >>> [round(OneCycle().multiplier(k, 11), 3) for k in (0, 2, 10)]
    [0.04, 0.96, 0.0]
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: str = "cos"

    owns_warmup = True
    takes_final = False

    def __post_init__(self) -> None:
        require_number("OneCycle", "pct_start", self.pct_start, high=1.0, remedy="Use e.g. 0.3")
        require_number("OneCycle", "div_factor", self.div_factor, remedy="Use e.g. 25.0")
        require_number("OneCycle", "final_div_factor", self.final_div_factor, remedy="Use e.g. 1e4")
        require_choice("OneCycle", "anneal", self.anneal, ("cos", "linear"))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        bottom = 1.0 / self.div_factor
        rising, share = self._phase(update, length)
        low = bottom if rising else bottom / self.final_div_factor
        return low + (1.0 - low) * share

    def lr_fraction(self, update: int, length: int) -> float:
        """Return the share of the way between the lowest and the highest rate of each half."""
        return self._phase(update, length)[1]

    def _phase(self, update: int, length: int) -> tuple[bool, float]:
        # torch's OneCycleLR counts from 0, and its last update is ``total_steps - 1``.
        peak, end = self.pct_start * length - 1.0, length - 1.0
        if update <= peak:
            return True, self._up(update / peak if peak > 0 else 1.0)
        return False, 1.0 - self._up(min(1.0, (update - peak) / (end - peak)) if end > peak else 1.0)

    def _up(self, x: float) -> float:
        return x if self.anneal == "linear" else (1.0 - math.cos(math.pi * x)) / 2.0


@dataclass(frozen=True)
class Noam(Decay):
    """``d_model^-0.5 * min(k^-0.5, k * warmup^-1.5)`` with ``k = update + 1``.

    Args:
        warmup: length of the rise.
        d_model: width of the model; the optimizer's rate is then usually 1. None: normalised to a peak of 1.

    Reference: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.

    >>> Noam(4).multiplier(3, 100), Noam(4).multiplier(15, 100)
    (1.0, 0.5)
    """

    warmup: Length
    d_model: int | None = None

    owns_warmup = True
    takes_final = False
    needs_length = False

    def __post_init__(self) -> None:
        require_length("Noam", "warmup", self.warmup)
        if self.d_model is not None:
            require_count("Noam", "d_model", self.d_model, remedy="Use the width of the model, e.g. 512")

    def resolve(self, span: Span) -> Decay:
        """Return the curve with its warm-up in updates."""
        return replace(self, warmup=span.updates("Noam", "warmup", self.warmup))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        w, k = Span(length=length).updates("Noam", "warmup", self.warmup), update + 1
        scale = math.sqrt(w) if self.d_model is None else 1.0 / math.sqrt(self.d_model)
        return scale * min(1.0 / math.sqrt(k), k / (w * math.sqrt(w)))

    def lr_fraction(self, update: int, length: int) -> float:
        """Return the multiplier relative to the peak."""
        return replace(self, d_model=None).multiplier(update, length)
