"""What clipping did in a run, in numbers for a user and in one line at its end. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

Totals = Mapping[str, float]  # updates, clipped, coefficients: sums over all optimizers and parts


def clipped_fraction(totals: Totals) -> float:
    """Return the share of updates whose gradient was clipped; 0.0 before the first."""
    return totals["clipped"] / totals["updates"] if totals["updates"] else 0.0


def mean_coefficient(totals: Totals) -> float:
    """Return the mean coefficient over the clipped updates; 1.0 when none was clipped."""
    return (totals["coefficients"] / totals["clipped"] if totals["clipped"] else 0.0) or 1.0


def suggested_threshold(percentiles: Mapping[int, Mapping[str, float]]) -> float | dict[str, float] | None:
    """Return thresholds: a number for one model and one optimizer, else by part; None where there are none.

    Args:
        percentiles: of the norms, by index of the optimizer and part.

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
