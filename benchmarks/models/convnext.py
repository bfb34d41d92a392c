"""ConvNeXt. Reference: Liu et al., 2022, arXiv:2201.03545."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A 7 x 7 convolution of each channel, two linear layers over the channels, and a scale, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.layers = nn.Sequential(
            nn.LayerNorm(width, 1e-6), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.scale * self.layers(self.mix(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Four stages with a convolution that halves the images between them."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], 1e-6)]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                parts += [ChannelNorm(widths[stage - 1], 1e-6), nn.Conv2d(widths[stage - 1], width, 2, 2)]
            parts += itertools.chain(ConvNeXtBlock(width) for _ in range(depth))
        self.features = nn.Sequential(*parts)
        self.head = nn.Sequential(nn.LayerNorm(widths[-1], 1e-6), nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))
