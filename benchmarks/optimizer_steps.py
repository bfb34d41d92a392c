"""How long one step of Adam or SGD takes as a loop, with foreach and fused kernels."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.ceilings import synchronize
from benchmarks.measure import median_interval

KINDS = {"forloop": {"foreach": False, "fused": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": lambda p, **k: torch.optim.Adam(p, lr=1e-3, **k),
    "SGD, momentum": lambda p, **k: torch.optim.SGD(p, lr=1e-3, momentum=0.9, **k),
}
SHAPES = {"cpu": ((100, 4096), (20, 100_000), (8, 1_000_000)), "gpu": ((300, 4096), (200, 1_000_000), (20, 16_000_000))}


def measure(
    device: torch.device, quick: bool = False, tick: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Return one row per optimizer and shape: milliseconds of each kind in interleaved rounds, ratios to the loop."""
    shapes = SHAPES["gpu" if device.type == "cuda" else "cpu"]
    rows = []
    for name, make in OPTIMIZERS.items():
        for count, size in shapes[:1] if quick else shapes:
            tick(f"{name}, {count} x {size}")
            rows.append(_row(name, make, count, size, device, 3 if quick else 9))
    return rows


def _row(
    name: str, make: Callable[..., torch.optim.Optimizer], count: int, size: int, device: torch.device, rounds: int
) -> dict[str, Any]:
    lanes = {}
    for kind, options in KINDS.items():
        weights = [torch.randn(size, device=device, requires_grad=True) for _ in range(count)]
        for w in weights:
            w.grad = torch.randn_like(w)
        lanes[kind] = make(weights, **options)
        for _ in range(3):
            lanes[kind].step()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    order = random.Random(0)
    for _ in range(rounds):
        for kind in order.sample(list(lanes), len(lanes)):
            synchronize(device)
            start = time.perf_counter()
            for _ in range(3):
                lanes[kind].step()
            synchronize(device)
            times[kind].append((time.perf_counter() - start) / 3)
    row: dict[str, Any] = {"optimizer": name, "tensors": count, "elements": size}
    for kind, found in times.items():
        row[kind] = {
            "milliseconds": 1e3 * statistics.median(found),
            "over_forloop": vars(median_interval([a / b for a, b in zip(found, times["forloop"], strict=True)])),
        }
    return row
