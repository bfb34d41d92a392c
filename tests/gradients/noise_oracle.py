"""Gradient noise scale in float64, by the formulas of McCandlish et al. 2018, appendix A.1."""

from __future__ import annotations

import torch
from torch import nn


def noise_scales(
    net: nn.Module, data: torch.utils.data.TensorDataset, batch: int, window: int, decay: float
) -> list[float]:
    net = net.double()
    x, y = data.tensors

    def gradient(start: int, count: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(net(x[start : start + count].double()), y[start : start + count])
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(net.parameters()))])

    signal = noise = weight = 0.0
    out = []
    large = batch * window
    for start in range(0, len(x), large):
        small_square = float(gradient(start, batch).square().sum())
        large_square = float(gradient(start, large).square().sum())
        signal = decay * signal + (1 - decay) * (large * large_square - batch * small_square) / (large - batch)
        noise = decay * noise + (1 - decay) * (small_square - large_square) / (1 / batch - 1 / large)
        weight = decay * weight + 1 - decay
        out.append(noise / signal)
    return out
