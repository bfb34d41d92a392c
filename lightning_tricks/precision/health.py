"""How far activations and gradients are from the limits of float16: pure numbers in, findings out. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.precision.findings import Finding, islands_or_bfloat16
from lightning_tricks.precision.watch import LARGEST, picked

_LITTLE_HEADROOM = 2.0  # bits: outputs four times as large would overflow
_MUCH_UNDERFLOW = 0.5  # share of the gradient's elements


def headroom(largest: Tensor) -> Tensor:
    """Return the distance to overflow in bits, ``log2(65504 / largest)``; negative where float16 would overflow.

    Args:
        largest: largest magnitudes ``[n]``; negative for not seen, which gives NaN.

    >>> headroom(torch.tensor([65504.0, 1.0, -1.0]))
    tensor([ 0.0000, 15.9993,     nan])
    """
    # (clamped to the smallest normal float32: the log of 0 is -inf)
    bits = math.log2(LARGEST) - largest.clamp(min=2.0**-126).log2()
    return torch.where(largest < 0, torch.nan, bits)


def underflow(counts: Tensor) -> Tensor:
    """Return the share of gradient elements that are not 0 and below float16's normal range; NaN for none seen.

    Args:
        counts: ``[2, n]``, below it and not 0.

    >>> underflow(torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
    tensor([0.2500,    nan])
    """
    return counts[0] / counts[1]


def shares(
    measured: Tensor, called: Sequence[int], flowed: Sequence[int]
) -> Iterator[tuple[str, Sequence[int], Tensor]]:
    """Yield what is logged of a measured table: ``"headroom"`` and ``"underflow"``, with positions and values.

    Args:
        measured: ``[4, n]``, as ``Watch.collect`` gives it.
        called: positions of the modules whose outputs were seen; the others have no value.
        flowed: positions of the modules whose gradients were seen.
    """
    if called:
        yield "headroom", called, picked(headroom(measured[0]), called)
    if flowed:
        yield "underflow", flowed, picked(underflow(measured[2:]), flowed)


def judge(
    names: Sequence[str],
    dtypes: dict[str, torch.dtype],
    measured: Sequence[Sequence[float]],
    *,
    half: bool,
    step: int,
) -> list[Finding]:
    """Return what a measured table, now on the host, says.

    Args:
        names: of the ``n`` modules.
        dtypes: of their outputs. Under 16-mixed an output in float32 is an island's or a loss's: it cannot overflow.
        measured: ``[4, n]``, as ``Watch.collect`` gives it.
        half: whether the run computes in float16. Else it is said what float16 would do.
    """
    out = []
    for i, name in enumerate(names):
        top, _, small, there = (row[i] for row in measured)
        counted = not half or dtypes.get(name) == torch.float16
        if counted and 0 < top < math.inf and (bits := math.log2(LARGEST / top)) < _LITTLE_HEADROOM:
            text = f"its largest output was {top:.3g}, {bits:.1f} bits below float16's limit"
            if bits < 0:
                text = f"its largest output was {top:.3g}; float16 ends at 65,504"
            out.append(Finding("little headroom", name, text, islands_or_bfloat16(name, half), step))
        if there and small / there > _MUCH_UNDERFLOW and dtypes.get(name) is not None:
            share = f"{small / there:.0%} of its nonzero gradients are below 6.1e-05, where float16 loses bits"
            advice = (
                "Use precision='bf16-mixed', which has the range of float32"
                if half
                else "Stay away from 16-mixed in this model; bf16-mixed has the range of float32"
            )
            out.append(Finding("underflow", name, share, advice, step))
    return out


def readable(names: Sequence[str], measured: Sequence[Sequence[float]], scale: float) -> dict[str, dict[str, float]]:
    """Return the measured table with names; gradients without the loss scale, modules that were not called left out.

    >>> readable(["a"], [[2.0], [8.0], [1.0], [4.0]], scale=4.0)["a"]["largest_gradient"]
    2.0
    """
    out = {}
    for i, name in enumerate(names):
        top, gradient, small, there = (row[i] for row in measured)
        if top >= 0:
            out[name] = {
                "largest_output": top,
                "largest_gradient": gradient / scale if gradient >= 0 else math.nan,
                "headroom": -math.inf if math.isinf(top) else math.log2(LARGEST / top) if top > 0 else math.inf,
                "underflow": small / there if there else math.nan,
            }
    return out


def small_eps(eps: float, step: int) -> Finding:
    """Return the finding of an Adam whose eps is 0 in float16.

    >>> small_eps(1e-8, 0).kind
    'small eps'
    """
    text = f"eps={eps:g} is 0 in float16 (smallest number: 6e-08), so that the first update divides by 0"
    return Finding("small eps", "", text, "Use eps=1e-4, or precision='bf16-true' or '16-mixed'", step)


def small_epses(groups: Iterable[Mapping[str, Any]], step: int) -> list[Finding]:
    """Return the findings of an optimizer's parameter groups whose eps is 0 in float16."""
    adams = [group for group in groups if "betas" in group]
    return [
        small_eps(group["eps"], step)
        for group in adams
        if torch.tensor(group.get("eps", 1.0), dtype=torch.float16) == 0
    ]
