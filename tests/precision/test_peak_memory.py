from __future__ import annotations

import torch
from torch import nn

from lightning_tricks.precision.peak_memory import peak_bytes

CPU = torch.device("cpu")


def test_peak_memory_is_what_is_alive_at_once() -> None:
    def three() -> None:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b + 1
        c.add_(1)
        c[:10].add_(1)

    assert peak_bytes(three, CPU) == 8000

    net = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(4)])
    x = torch.randn(64, 32)

    def step() -> None:
        net(x).square().sum().backward()

    top = peak_bytes(step, CPU)
    activations, gradients = 4 * 64 * 32 * 4, 4 * 32 * 32 * 4
    assert activations + gradients / 4 < top < 2 * (activations + gradients)
    assert peak_bytes(lambda: x.view(-1), CPU) == 0
