"""What ``DeadUnits`` gathers of each layer between two checks, and what it makes of it. torch only, no host read."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.numerics import units

Sums = dict[str, Tensor]


SPARSE_CHECKS = 8  # over which a unit of a sparse code must have fired
_SURE = 10.0  # firings that a usual unit must have in a check, so that one without any is known to be dead


def add_units(sums: Sums, name: str, output: Tensor, low: float, high: float) -> None:
    """Add the outputs of a layer: largest and mean magnitude of each unit, how often it fired, how many lie at the
    ends.

    Args:
        sums: written in place.
        output: ``[n, d]``, ``[n, tokens, d]`` or ``[n, d, ...]``.
        low, high: ends of its range, infinite where it has none.
    """
    rows = output.movedim(1, -1) if output.ndim > 3 else output
    rows = rows.reshape(-1, rows.shape[-1]).float()
    edge = 0.05 * (high - low)
    ends = torch.zeros((), device=rows.device)
    if edge < float("inf"):
        ends = ((rows < low + edge) | (rows > high - edge)).float().mean()
    keys = [f"{kind}/{name}/{rows.shape[1]}" for kind in ("largest", "fired", "magnitude", "ends", "calls")]
    new = (rows.amax(0), (rows > 0).float().sum(0), rows.abs().mean(0), ends, torch.ones((), device=rows.device))
    for key, value in zip(keys, new, strict=True):
        if key not in sums:
            sums[key] = value
        elif key.startswith("largest"):
            sums[key] = torch.maximum(sums[key], value)
        else:
            sums[key] = sums[key] + value


def silent_checks(silent: Sums, sums: Sums) -> Sums:
    """Return for how many checks in a row each unit of each layer has not fired, ``[d]`` by layer, this one included.

    Args:
        silent: what this function returned at the last check; empty at the first one.
        sums: of ``add_units``, the largest output over all processes.
    """
    new = {}
    for key in [key for key in sums if key.startswith("largest/")]:
        layer = key.split("/", 1)[1]
        before = silent.get(layer, torch.zeros_like(sums[key]))
        new[layer] = torch.where(sums[key] > 0, 0.0, before + 1).clamp(max=float(SPARSE_CHECKS))
    return {**silent, **new}


UNITS = ("dead", "dormant", "saturated")


def measured_units(sums: Sums, silent: Sums) -> tuple[list[str], Tensor]:
    """Return the layers, and for each the shares of ``UNITS`` ``[layers * 3]``.

    A unit is dead when it did not fire in this check; where those that fire do so too rarely for that to say anything,
    as in a sparse code, when it did not fire in the last eight checks.

    Args:
        sums: of ``add_units``; the largest outputs and the numbers of firings over all processes.
        silent: of ``silent_checks``.
    """
    layers = [key.split("/", 1)[1] for key in sums if key.startswith("largest/")]
    rows = []
    for layer in layers:
        now = units.dead_share(sums[f"largest/{layer}"])
        long = (silent[layer] >= SPARSE_CHECKS).to(now).mean()
        fired = sums[f"fired/{layer}"]
        usual = torch.where(fired > 0, fired, torch.nan).nanmedian()  # NaN where none fired: all are dead
        shares = [
            torch.where(usual < _SURE, long, now),
            units.dormant_share(sums[f"magnitude/{layer}"]),
            sums[f"ends/{layer}"] / sums[f"calls/{layer}"],
        ]
        rows.append(torch.stack(shares))
    return layers, torch.cat(rows)
