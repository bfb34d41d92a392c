"""Towers of linear layers: (a) so small that launching kernels is all the work, (b) so large that arithmetic is.

And (c), one layer: hardly more than the Trainer's own loop, to see microseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Workload = tuple[nn.Module, list[tuple[Tensor, Tensor]]]


def launch_bound(num_batches: int = 4) -> Workload:
    """50 x (Linear(64, 64), LayerNorm) and a head: 202 tensors, 0.21 M weights, batch 32."""
    return _tower(50, 64, 32, num_batches)


def compute_bound(num_batches: int = 4) -> Workload:
    """12 x (Linear(512, 512), LayerNorm) and a head: 50 tensors, 3.2 M weights, batch 128."""
    return _tower(12, 512, 128, num_batches)


def gpu_bound(num_batches: int = 4) -> Workload:
    """8 x (Linear(4096, 4096), LayerNorm) and a head: 0.13 G weights, batch 4096: arithmetic limits an H100 here."""
    return _tower(8, 4096, 4096, num_batches)


def loop_bound(num_batches: int = 4) -> Workload:
    """(Linear(8, 8), LayerNorm) and a head: 6 tensors, batch 4."""
    return _tower(1, 8, 4, num_batches)


def _tower(depth: int, width: int, batch: int, num_batches: int) -> Workload:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(depth)]
        module = nn.Sequential(*layers, nn.Linear(width, 10))
    inputs = [torch.randn(batch, width, generator=generator) for _ in range(num_batches)]
    return module, [(x, torch.randint(10, (batch,), generator=generator)) for x in inputs]
