"""Clip rules that learn their threshold from the run: AutoClip, ZClip, AdaGC.

Their state is a dict of float32 tensors on the device, also in a float64 run. A norm that is NaN, inf (in float32) or 0
never enters it: under 16-mixed the first norms *are* inf, and one of them would otherwise switch the rule off for the
rest of the run. The host reads nothing. No rule knows an absolute size: gradients of 1e-20 are clipped as those of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_tricks.errors import require_count, require_number
from lightning_tricks.gradients.rules import ClipRule, State, clip_coefficients
from lightning_tricks.numerics.norms import total_norm
from lightning_tricks.numerics.running import Percentile, Welford, counts, shape


@dataclass(frozen=True)
class AutoClip(ClipRule):
    """Clip to a percentile of the norms seen so far: ``threshold_t = percentile_p(norm_1 .. norm_t)``.

    The current norm counts, as in the paper, so the first update is never clipped. Only the last ``window`` norms are
    kept, where the paper keeps all: memory stays bounded, and the threshold follows the run.

    Args:
        percentile: p in (0, 100]; 10 is the paper's.
        window: norms that are kept, >= 1.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: it is out of range.

    Reference: Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: Adaptive Gradient Clipping for Source Separation
    Networks", 2020, arXiv:2007.14469.

    Example:
        >>> rule = AutoClip(percentile=50.0)
        >>> state = rule.init(1, torch.device("cpu"))
        >>> for norm in (1.0, 2.0, 6.0):
        ...     coefficient, state = rule.update(torch.tensor([norm]), state)
        >>> coefficient  # median 2 over norm 6
        tensor([0.3333])
    """

    percentile: float = 10.0
    window: int = 1000

    def __post_init__(self) -> None:
        owner, remedy = "AutoClip", "Use e.g. 10.0"
        require_number(owner, "percentile", self.percentile, high=100.0, high_included=True, remedy=remedy)
        require_count(owner, "window", self.window, remedy="Use e.g. 1000")

    def init(self, size: int | None, device: torch.device) -> State:
        """Return an empty memory."""
        return Percentile(self.window).init(size, device)

    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """Remember ``norms`` and clip to the percentile."""
        memory, norms = Percentile(self.window), norms.float()
        state = memory.update(norms, state)
        threshold = memory.percentile(self.percentile, state)
        # (eps=0: an absolute eps would count for more than gradients of 1e-20)
        coefficients = clip_coefficients(norms, threshold, eps=0.0)
        return torch.where(torch.isnan(threshold), torch.ones_like(coefficients), coefficients), state


@dataclass(frozen=True)
class ZClip(ClipRule):
    """Clip spikes only: norms more than ``z`` standard deviations above their moving average.

    ``s = (norm - mean) / (std + 1e-6 * mean)``; when ``s > z`` the threshold is ``mean + z * std / (s / z)``. Then,
    with ``n`` the clipped norm, ``mean <- alpha*mean + (1-alpha)*n`` and
    ``std^2 <- alpha*std^2 + (1-alpha)*(n-mean)^2``. The first ``warmup`` norms set mean and ``std`` and are clipped by
    ``max_norm`` only. (The reference code adds an absolute 1e-6 to ``std``: gradients of that size are never clipped.)

    Args:
        alpha: smoothing of mean and variance, in (0, 1).
        z: z-score above which a norm is a spike, > 0.
        warmup: norms from which mean and variance start, >= 2.
        max_norm: a fixed threshold on top, > 0, or None for none. (The reference code's default of 1 is always on and
            leaves the z-score little to do.)

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: it is out of range.

    Reference: Kumar, Owen, Chowdhury, Güra, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025,
    arXiv:2504.02507.

    Example:
        >>> rule = ZClip(warmup=4)
        >>> state = rule.init(1, torch.device("cpu"))
        >>> for norm in (1.0, 1.1, 0.9, 1.0, 50.0):
        ...     coefficient, state = rule.update(torch.tensor([norm]), state)
        >>> bool(coefficient < 0.03)
        True
    """

    alpha: float = 0.97
    z: float = 2.5
    warmup: int = 25
    max_norm: float | None = None

    def __post_init__(self) -> None:
        owner = "ZClip"
        require_number(owner, "alpha", self.alpha, high=1.0, remedy="Use e.g. 0.97")
        require_number(owner, "z", self.z, remedy="Use e.g. 2.5")
        require_count(owner, "warmup", self.warmup, low=2, remedy="Use e.g. 25")
        if self.max_norm is not None:
            require_number(owner, "max_norm", self.max_norm, remedy="Use e.g. 1.0, or None for no fixed threshold")

    def init(self, size: int | None, device: torch.device) -> State:
        """Return the state before the first norm."""
        return Welford().init(size, device) | {"version": 2}

    def upgraded(self, state: State) -> State:
        """Return a state with a standard deviation; version 1 held the variance."""
        if state.get("version") != 1:
            return state
        return {"version": 2, "count": state["count"], "mean": state["mean"], "std": state["var"].sqrt()}

    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """Clip spikes among ``norms`` and learn from what is left of them."""
        seen, mean, std, norms = state["count"], state["mean"], state["std"], norms.float()
        ready = seen >= self.warmup
        # The paper adds an absolute 1e-6, beside which small gradients would have no spikes.
        score = (norms - mean) / (std + 1e-6 * mean)
        spike = ready & (score > self.z)
        # The further out a spike is, the nearer to the mean it is clipped (the paper's adaptive threshold).
        threshold = torch.where(spike, mean + self.z * std / (score / self.z), torch.full_like(norms, torch.inf))
        learnt = torch.minimum(norms, threshold)
        if self.max_norm is not None:
            threshold = threshold.clamp(max=self.max_norm)
        warming = Welford().update(norms, state)
        moved = self.alpha * mean + (1 - self.alpha) * learnt
        # The paper's average of the variance, as a standard deviation: squares would leave the range of float32.
        spread = torch.hypot(math.sqrt(self.alpha) * std, math.sqrt(1 - self.alpha) * (learnt - moved))
        use = ready & counts(norms)
        new = {
            "version": 2,
            "count": torch.where(ready, seen, warming["count"]),
            "mean": torch.where(use, moved, torch.where(ready, mean, warming["mean"])),
            "std": torch.where(use, spread, torch.where(ready, std, warming["std"])),
        }
        return clip_coefficients(norms, threshold, eps=0.0), new


@dataclass(frozen=True)
class AdaGC(ClipRule):
    """Clip each tensor against the moving average of its own clipped norms.

    After the warm-up, for tensor i: ``h_i = min(1, relative * gamma_i / norm_i)`` and
    ``gamma_i <- beta*gamma_i + (1-beta)*h_i*norm_i``. During the first ``warmup`` updates all tensors share
    ``h = min(1, absolute / total norm)``, and ``gamma_i`` is the smallest clipped norm so far.
    It always works per parameter tensor, as in the paper.

    Args:
        beta: smoothing of gamma, in (0, 1).
        relative: allowed ratio of a norm to its average, > 0.
        absolute: threshold of the total norm during warm-up, > 0.
        warmup: updates of warm-up, >= 1.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: it is out of range.

    Reference: Wang et al., "AdaGC: Enhancing LLM Pretraining Stability via Adaptive Gradient Clipping", 2025,
    arXiv:2502.11034, algorithm 1.

    Example:
        >>> rule = AdaGC(warmup=1, absolute=10.0, relative=1.0)
        >>> state = rule.init(2, torch.device("cpu"))
        >>> _, state = rule.update(torch.tensor([1.0, 2.0]), state)
        >>> rule.update(torch.tensor([4.0, 2.0]), state)[0]
        tensor([0.2500, 1.0000])
    """

    granularity: ClassVar[str | None] = "layer"
    beta: float = 0.98
    relative: float = 1.05
    absolute: float = 1.0
    warmup: int = 100

    def __post_init__(self) -> None:
        owner = "AdaGC"
        require_number(owner, "beta", self.beta, high=1.0, remedy="Use e.g. 0.98")
        require_number(owner, "relative", self.relative, remedy="Use e.g. 1.05")
        require_number(owner, "absolute", self.absolute, remedy="Use e.g. 1.0")
        require_count(owner, "warmup", self.warmup, remedy="Use e.g. 100")

    def init(self, size: int | None, device: torch.device) -> State:
        """Return the state before the first norm; gamma is inf until a tensor had a gradient."""
        return {
            "version": 1,
            "count": torch.zeros((), dtype=torch.int64, device=device),
            "gamma": torch.full(shape(size), torch.inf, dtype=torch.float32, device=device),
        }

    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """Clip each of ``norms`` ``[P]`` by its own average."""
        gamma: Tensor = state["gamma"]
        norms = norms.float()
        warming = state["count"] < self.warmup
        total = total_norm(norms)
        shared = clip_coefficients(total, self.absolute, eps=0.0)
        known = torch.isfinite(gamma)
        own = torch.where(known, clip_coefficients(norms, self.relative * gamma, eps=0.0), shared)
        moving = counts(total)
        usable = counts(norms) & moving
        coefficients = torch.where(usable, torch.where(warming, shared, own), torch.ones_like(norms))
        clipped = coefficients * norms
        # (the smallest: a moving average would start from the large first norms)
        average = self.beta * gamma + (1 - self.beta) * clipped
        smallest = torch.minimum(gamma, clipped)
        moved = torch.where(warming | ~known, smallest, average)
        new = {
            "version": 1,
            "count": state["count"] + moving,
            "gamma": torch.where(usable, moved, gamma),
        }
        return coefficients, new
