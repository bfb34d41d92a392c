"""A DCGAN: two networks, two optimizers. Reference: Radford et al., 2015, arXiv:1511.06434."""

from __future__ import annotations

from torch import Tensor, nn


def generator(pixels: int, width: int, latent: int, channels: int) -> nn.Module:
    """Noise ``[n, latent, 1, 1]`` -> images of ``pixels`` (a power of two, at least 8)."""
    layers: list[nn.Module] = []
    size, into, out = 4, latent, width * pixels // 8
    layers += [nn.ConvTranspose2d(into, out, 4, 1, 0, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    while size * 2 < pixels:
        size, into, out = size * 2, out, out // 2
        layers += [nn.ConvTranspose2d(into, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(out, channels, 4, 2, 1), nn.Tanh())


class Discriminator(nn.Module):
    """Images of ``pixels`` -> one number each."""

    def __init__(self, pixels: int, width: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        size, into = pixels // 2, width
        while size > 4:
            layers += [nn.Conv2d(into, 2 * into, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * into)]
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            size, into = size // 2, 2 * into
        self.layers = nn.Sequential(*layers, nn.Conv2d(into, 1, 4))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()
