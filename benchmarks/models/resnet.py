"""ResNets. Reference: He et al., 2015, arXiv:1512.03385."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        self.shortcut = nn.Conv2d(into, out, 1, stride, bias=False) if stride > 1 or into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.norms[0](self.first(x)))
        return relu(self.norms[1](self.second(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, four times as wide at the end."""

    expansion = 4

    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.layers = nn.Sequential(
            *(nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = shortcut if stride > 1 or into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.layers(x) + self.shortcut(x))


def resnet(
    block: type[Block] | type[Bottleneck], depths: tuple[int, ...], width: int, classes: int, large: bool
) -> nn.Module:
    """A ResNet.

    Args:
        block: kind of block.
        depths: blocks per stage.
        width: channels of the first stage.
        classes: outputs.
        large: images of 224 pixels (a 7 x 7 stem with pooling), else of 32.
    """
    stem: list[nn.Module] = [
        nn.Conv2d(3, width, *((7, 2, 3) if large else (3, 1, 1)), bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    ]  # fmt: skip
    if large:
        stem.append(nn.MaxPool2d(3, 2, 1))
    layers, into = stem, width
    for stage, depth in enumerate(depths):
        for i in range(depth):
            layers.append(block(into, width * 2**stage, 2 if stage and i == 0 else 1))
            into = width * 2**stage * block.expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes))


def resnet18(num_batches: int = 2) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """11 M weights, images of 32 x 32 pixels, batch 256."""
    module = resnet(Block, (2, 2, 2, 2), 64, 10, large=False)
    batches = [(torch.randn(256, 3, 32, 32), torch.randint(10, (256,))) for _ in range(num_batches)]
    return module, batches
