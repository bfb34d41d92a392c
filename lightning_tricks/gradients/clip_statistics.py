"""Does the threshold do anything? How often it clips, by how much, and which one would clip one update in ten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
Totals = Mapping[str, float]  # updates, clipped, coefficients: sums over all optimizers and parts


@dataclass(frozen=True)
class ClipStatistics:
    """Counts clipped updates and remembers the last ``window`` norms of each of ``k`` parts, on the device.

    Norms that are not finite or 0 count nowhere.

    Args:
        window: norms kept per part, for the percentiles.

    Example:
        >>> rule = ClipStatistics(window=8)
        >>> state = rule.init(1, torch.device("cpu"))
        >>> state = rule.update(torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [0.5]]), state)
        >>> rule.clipped_fraction(state)
        tensor(0.5000)
    """

    window: int = 4096

    def init(self, size: int, device: torch.device) -> State:
        """Return the state before the first update."""
        zeros = {
            name: torch.zeros(size, dtype=torch.float32, device=device)
            for name in ("updates", "clipped", "coefficients")
        }
        ring = torch.full((self.window, size), torch.nan, dtype=torch.float32, device=device)
        return {"version": 1, **zeros, "ring": ring, "position": 0}

    def update(self, norms: Tensor, coefficients: Tensor, state: State) -> State:
        """Take in ``n`` updates at once: ``[n, k]`` norms before the clip and ``[n, k]`` coefficients."""
        usable = torch.isfinite(norms) & (norms > 0)
        clipped = usable & (coefficients < 1)
        # (both may be float64, and this state is float32 in every run; a norm beyond its range is left out of the ring)
        coefficients, norms = coefficients.float(), norms.float()
        n, start = norms.shape[0], state["position"]
        index = torch.arange(start, start + n, device=norms.device) % self.window
        values = torch.where(usable & torch.isfinite(norms), norms, torch.full_like(norms, torch.nan))
        return {
            "version": 1,
            "updates": state["updates"] + usable.sum(dim=0),
            "clipped": state["clipped"] + clipped.sum(dim=0),
            "coefficients": state["coefficients"] + torch.where(clipped, coefficients, 0.0).sum(dim=0),
            # (no more than one round of the ring: two values for one place would be written in any order)
            "ring": state["ring"].index_copy(0, index[-self.window :], values[-self.window :]),
            "position": (start + n) % self.window,
        }

    def clipped_fraction(self, state: State) -> Tensor:
        """Return the share of updates (of all parts) whose coefficient was below 1, 0-d; NaN before the first."""
        return torch.as_tensor(state["clipped"].sum() / state["updates"].sum())

    def percentiles(self, percent: float, state: State) -> Tensor:
        """Return that percentile of the finite norms of each part ``[k]``; NaN for a part without any."""
        return torch.nanquantile(state["ring"], percent / 100.0, dim=0)


def clipped_fraction(totals: Totals) -> float:
    """Return the share of updates whose gradient was clipped; 0.0 before the first."""
    return totals["clipped"] / totals["updates"] if totals["updates"] else 0.0


def mean_coefficient(totals: Totals) -> float:
    """Return the mean coefficient over the clipped updates; 1.0 when none was clipped."""
    return (totals["coefficients"] / totals["clipped"] if totals["clipped"] else 0.0) or 1.0


def suggested_threshold(percentiles: Mapping[int, Mapping[str, float]]) -> float | dict[str, float] | None:
    """Return thresholds: a number for one model and one optimizer, else by part; None where there are none.

    >>> suggested_threshold({0: {"model": 2.0}}), suggested_threshold({0: {"model": 2.0}, 1: {"model": 3.0}})
    (2.0, {'optimizer0.model': 2.0, 'optimizer1.model': 3.0})
    """
    found: dict[str, float] = {}
    for index, parts in percentiles.items():
        prefix = f"optimizer{index}." if len(percentiles) > 1 else ""
        found |= {prefix + name: value for name, value in parts.items()}
    return found["model"] if list(found) == ["model"] else found or None


def summary(rule: object, fraction: float, mean: float, threshold: object) -> str:
    """Return one line that says whether the threshold does anything.

    >>> summary("ClipNorm(1.0)", 0.25, 0.5, 2.0)
    'GradientClip(ClipNorm(1.0)): clipped 25.0% of the updates, to 0.50 of their norm on average. A threshold of 2 \
would clip one in ten.'
    """
    told = f" A threshold of {threshold:.3g} would clip one in ten." if isinstance(threshold, float) else ""
    average = f", to {mean:.2f} of their norm on average" if fraction else ""
    return f"GradientClip({rule}): clipped {fraction:.1%} of the updates{average}.{told}"
