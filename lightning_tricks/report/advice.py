"""Logs -> what to change next. Pure: rules on numbers, each with its evidence in the sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median

from lightning_tricks.publishing.events import Series
from lightning_tricks.publishing.log_keys import is_own_loss

_OFTEN_CLIPPED = 0.5  # share of the logged updates
_OFTEN_SKIPPED = 0.05  # share of the updates that were made
_FEWEST = 20  # logged values, fewer of which say nothing about a run
_SETTLED = 0.05  # share of the first loss below which a falling loss is not a reason to train further
BETTER_IS_LESS = re.compile(r"loss|error|perplexity|bits", re.I)


def advice(scalars: Mapping[str, Series], remedies: Sequence[str] = (), *, healthy: bool = True) -> list[str]:
    """Return what to change in the next run, the most urgent first.

    Args:
        scalars: log key -> (step, value).
        remedies: what verdicts and findings of the run advise.
        healthy: whether no alarm and no error ended it or was left; else nothing is said of how a good run gets better.

    Example:
        >>> advice({"grad/clip_coefficient": [(i, 0.5) for i in range(40)]})[0][:51]
        '100% of the logged updates were clipped: that fixes'
    """
    told = [*dict.fromkeys(remedies)]
    # "Lower the learning rate" is in "Lower the learning rate: LRFinder()"
    found = [a for a in told if not any(b != a and b.startswith(a.rstrip(".")) for b in told)]
    improvements = (_clipped, _schedule, _validation, _falling) if healthy else ()
    # a detector that advises to skip such updates knows more of them than their number
    counted = () if any("nonfinite='skip'" in a for a in told) else (_nonfinite,)
    for rule in (_skipped, *counted, *improvements):
        found += rule(scalars)
    if found:
        return found
    if not healthy:
        return ["Start with the verdict above: no callback of this run has advice about it."]
    return ["Nothing has to change. A longer run or another learning rate (LRFinder) may still improve the result."]


def _clipped(scalars: Mapping[str, Series]) -> list[str]:
    values = [v for _, v in scalars.get("grad/clip_coefficient", ())]
    if len(values) < _FEWEST or fmean(v < 1 for v in values) <= _OFTEN_CLIPPED:
        return []
    share = fmean(v < 1 for v in values)
    norms = [v for _, v in scalars.get("grad/norm", ()) if math.isfinite(v)]
    usual = f" The median norm was {median(norms):.3g}." if norms else ""
    return [
        f"{share:.0%} of the logged updates were clipped: that fixes the length of the gradient, so the threshold "
        f"acts as a learning rate.{usual} Raise GradientClip's threshold, or choose it by AutoClip."
    ]


def _skipped(scalars: Mapping[str, Series]) -> list[str]:
    skipped, updates = scalars.get("amp/skipped_steps", ()), scalars.get("trainer/updates", ())
    if not skipped or not updates or skipped[-1][1] <= max(3, _OFTEN_SKIPPED * updates[-1][1]):
        return []
    return [
        f"{skipped[-1][1]:.0f} updates were skipped beside {updates[-1][1]:.0f} that were made. PrecisionDoctor names "
        "the module that overflows; FP32Islands keeps it in float32; bf16-mixed has no loss scale."
    ]


def _nonfinite(scalars: Mapping[str, Series]) -> list[str]:
    attempts = sum(v for _, v in scalars.get("grad/nonfinite", ()) if math.isfinite(v))
    # (a GradScaler finds its scale by overflowing)
    if not attempts or "amp/scale" in scalars:
        return []
    return [
        f"{attempts:.0f} attempts had NaN or inf in a gradient. GradientClip(nonfinite='skip') leaves them out; "
        "TrainingDoctor names where they come from."
    ]


def _schedule(scalars: Mapping[str, Series]) -> list[str]:
    rates = [v for _, v in scalars.get("schedule/lr", ())]
    # (at 99.9 % of the peak the rate is constant on purpose, and no decay was cut short)
    if len(rates) < _FEWEST or not rates[-1] > 0.3 * max(rates) or rates[-1] >= 0.999 * max(rates):
        return []
    return [
        f"Training ended while the learning rate was at {rates[-1] / max(rates):.0%} of its peak: the end of the "
        "decay, where the loss falls most, is missing. Give LRSchedule total=, or train to the end."
    ]


def _validation(scalars: Mapping[str, Series]) -> list[str]:
    found = []
    for key, points in scalars.items():
        values = [v for _, v in points]
        if not re.search(r"val", key, re.I) or not BETTER_IS_LESS.search(key) or len(values) < 5:
            continue
        best = min(values)
        worse = max(0.05 * abs(best), 5 * _noise(values))
        risen = min(values[-3:]) > best + worse  # not one validation, and not what few samples make of it
        if math.isfinite(best) and risen and values.index(best) < 0.8 * len(values):
            found.append(
                f"{key} was best ({best:.3g}) at step {points[values.index(best)][0]} and ended at {values[-1]:.3g}: "
                "overfitting. Keep the best checkpoint (ModelCheckpoint), or more regularisation or data."
            )
    return found


def _noise(values: Sequence[float]) -> float:
    """Return by how much values differ from one to the next, beside their trend: one standard deviation of one."""
    changes = [b - a for a, b in pairwise(values) if math.isfinite(b - a)]
    usual = median(changes) if changes else 0.0
    # The median absolute deviation times 1.4826 estimates the standard deviation of normal noise; the difference of two
    # values has twice the variance of one.
    return 1.4826 * median(abs(c - usual) for c in changes) / math.sqrt(2) if changes else 0.0


def _falling(scalars: Mapping[str, Series]) -> list[str]:
    losses = {k: [v for _, v in p if math.isfinite(v)] for k, p in scalars.items() if is_own_loss(k) and "val" not in k}
    values = max(losses.values(), key=len, default=[])
    tenth = len(values) // 10
    if tenth < 10:
        return []
    before, last = fmean(values[-2 * tenth : -tenth]), fmean(values[-tenth:])
    if not _SETTLED * values[0] < last < 0.95 * before:
        return []
    return [f"The training loss still fell by {1 - last / before:.0%} over the last tenth of the run: train longer."]
