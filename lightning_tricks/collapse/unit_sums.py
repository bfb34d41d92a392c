"""What ``DeadUnits`` gathers of each layer between two checks, and what it makes of it. torch only, no host read."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.measure import units

Sums = dict[str, Tensor]


def add_units(sums: Sums, name: str, output: Tensor, low: float, high: float) -> None:
    """Add the outputs of a layer: largest and mean magnitude of each unit, and how many lie at the ends of their range.

    Args:
        sums: written in place.
        name: of the layer.
        output: ``[n, d]``, ``[n, tokens, d]`` or ``[n, d, ...]``.
        low, high: ends of its range, infinite where it has none.
    """
    rows = output.movedim(1, -1) if output.ndim > 3 else output
    rows = rows.reshape(-1, rows.shape[-1]).float()
    edge = 0.05 * (high - low)
    ends = torch.zeros((), device=rows.device)
    if edge < float("inf"):
        ends = ((rows < low + edge) | (rows > high - edge)).float().mean()
    keys = [f"{kind}/{name}/{rows.shape[1]}" for kind in ("largest", "magnitude", "ends", "calls")]
    new = (rows.amax(0), rows.abs().mean(0), ends, torch.ones((), device=rows.device))
    for key, value in zip(keys, new, strict=True):
        if key not in sums:
            sums[key] = value
        elif key.startswith("largest"):
            sums[key] = torch.maximum(sums[key], value)
        else:
            sums[key] = sums[key] + value


UNITS = ("dead", "dormant", "saturated")


def measured_units(sums: Sums) -> tuple[list[str], Tensor]:
    """Return the layers, and for each the shares of ``UNITS`` ``[layers * 3]``."""
    layers = [key.split("/", 1)[1] for key in sums if key.startswith("largest/")]
    rows = [
        torch.stack(
            [
                units.dead_share(sums[f"largest/{layer}"]),
                units.dormant_share(sums[f"magnitude/{layer}"]),
                sums[f"ends/{layer}"] / sums[f"calls/{layer}"],
            ]
        )
        for layer in layers
    ]
    return layers, torch.cat(rows)
