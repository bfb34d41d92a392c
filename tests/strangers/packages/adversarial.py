"""A generative adversarial network, after Lightning's published example: two optimizers, optimized by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.stranger import QUIET, Stranger


def _layers(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2)]
    return layers


class Adversaries(L.LightningModule):
    """A generator of small images, and a discriminator."""

    def __init__(self, latent_dim: int = 8, lr: float = 0.0002, b1: float = 0.5, b2: float = 0.999) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(*_layers(latent_dim, 16, 32), nn.Linear(32, 64), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.validation_z = torch.randn(8, latent_dim)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)  # type: ignore[no-any-return]

    def adversarial_loss(self, images: Tensor, real: bool) -> Tensor:
        logits = self.discriminator(images)
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def training_step(self, batch: Any) -> None:
        images = batch[0]
        optimizer_g, optimizer_d = self.optimizers()  # type: ignore[misc]
        z = torch.randn(len(images), self.hparams.latent_dim).type_as(images)  # type: ignore[attr-defined]

        self.toggle_optimizer(optimizer_g)
        self.generated_imgs = self(z)  # (an attribute that is not there before the first step)
        g_loss = self.adversarial_loss(self.generated_imgs, real=True)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        self.toggle_optimizer(optimizer_d)
        d_loss = (self.adversarial_loss(images, True) + self.adversarial_loss(self(z).detach(), False)) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

    def on_train_epoch_end(self) -> None:
        self.sample_imgs = self(self.validation_z.type_as(self.generator[0].weight))

    def configure_optimizers(self) -> Any:
        arguments = {"lr": self.hparams.lr, "betas": (self.hparams.b1, self.hparams.b2)}  # type: ignore[attr-defined]
        networks = (self.generator, self.discriminator)
        return [torch.optim.Adam(network.parameters(), **arguments) for network in networks], []


def adversaries(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    L.seed_everything(0, verbose=False)
    loader = DataLoader(TensorDataset(torch.rand(48, 64) * 2 - 1), 8, shuffle=True)
    trainer = L.Trainer(callbacks=callbacks, **{**QUIET, "max_epochs": 2, **arguments})
    trainer.fit(Adversaries(), loader, ckpt_path=checkpoint)


STRANGERS = (
    Stranger(
        "Lightning's GAN example",
        adversaries,
        refused={
            "LRFinder": "manual optimization",
            "GradientAccumulation": "manual optimization",
        },
        saved_at=10,
    ),
)
