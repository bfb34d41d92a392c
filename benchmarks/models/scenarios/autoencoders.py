"""Autoencoders of digits: bottlenecks of several kinds, masked and denoising ones. The score is R² on images held back.

Keeping as many principal components as the bottleneck has numbers reaches about 0.3 with two, 0.67 with eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Task, Training, adam, digits, mlp, rows, sgd, split

FAMILY = "autoencoder"
TOO_HIGH = ("divergence", "learning rate too high", "non-finite values")


def r_squared(guess: Tensor, truth: Tensor) -> float:
    """Share of the variance around each pixel's mean that is explained; -1 where a guess is not finite."""
    if not guess.isfinite().all():
        return -1.0
    return max(-1.0, float(1 - (guess - truth).square().sum() / (truth - truth.mean(0)).square().sum()))


# -- plain ------------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def reconstruct(task: Task, batch: Any, index: int) -> Any:
    """Mean squared error; the labels in the batch are not used."""
    x, _ = batch
    return {"loss": F.mse_loss(task.net(x), x)}


def autoencoder(
    seed: int,
    net: Callable[[], Bottleneck],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int = 500,
    pixels: float = 1.0,
    **more: Any,
) -> Training:
    """Train on images and labels, of which the labels are not used."""
    torch.manual_seed(seed)
    train, (x, y) = split((digits()[0] * pixels, digits()[1]), seed)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        return r_squared(module.net(x), x)

    watched: dict[str, dict[str, Any]] = {
        "RepresentationCollapse": {"layer": "net.encoder"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    task = Task(net(), reconstruct, optimizer, **more)
    return Training(task, Batches(steps, rows(train, 64), seed), steps, watched, [(x, y)], score=score)


def plain(width: int, act: Callable[[], nn.Module] = nn.ReLU) -> Bottleneck:
    """An autoencoder with a linear bottleneck."""
    return Bottleneck(mlp([64, 96, width], act), mlp([width, 96, 64], act))


def rectified(width: int, start: float = 0.0) -> Bottleneck:
    """Codes that are not negative; their biases begin at ``start``."""
    encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, width), nn.ReLU())
    nn.init.constant_(encoder[2].bias, start)  # type: ignore[arg-type]
    return Bottleneck(encoder, mlp([width, 96, 64]))


def deep(act: Callable[[], nn.Module] = nn.Sigmoid) -> Bottleneck:
    """Layers of a saturating activation."""
    encoder = nn.Sequential(nn.Linear(64, 64), act(), nn.Linear(64, 32), act(), nn.Linear(32, 8))
    return Bottleneck(encoder, nn.Sequential(nn.Linear(8, 32), act(), nn.Linear(32, 64)))


# -- masked -----------------------------------------------------------------------------------------------------------


@dataclass
class Images:
    """A batch with names."""

    pixels: Tensor
    label: Tensor


class MaskedAutoencoder(L.LightningModule):
    """Rebuild the hidden patches from the visible ones. Reference: He et al., 2021, arXiv:2111.06377.

    Args:
        ratio: share of the 16 patches that is hidden; a share in per cent hides all of them, a mistake.
    """

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        self.patch = nn.Linear(4, 16)
        self.mask_token, self.position = nn.Parameter(torch.zeros(16)), nn.Parameter(0.1 * torch.randn(16, 16))
        self.encoder, self.decoder = mlp([256, 192, 64]), mlp([64, 128, 64])
        self.ratio = ratio

    def forward(self, patches: Tensor, hidden: Tensor) -> Tensor:
        tokens = torch.where(hidden[..., None], self.mask_token, self.patch(patches)) + self.position
        return self.decoder(self.encoder(tokens.flatten(1))).view(-1, 16, 4)

    def training_step(self, batch: Images, batch_idx: int) -> dict[str, Tensor]:
        patches = patched(batch.pixels)
        hidden = torch.rand(patches.shape[:2]) < self.ratio
        prediction = self(patches, hidden)[hidden]
        loss = F.mse_loss(prediction, patches[hidden])
        self.log("train_mse", loss)
        return {"loss": loss, "prediction": prediction, "target": patches[hidden]}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def patched(x: Tensor) -> Tensor:
    """Cut images into 16 patches of 2 x 2 pixels."""
    return x.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)


def masked(seed: int, ratio: float = 0.5, steps: int = 450) -> Training:
    """Train a masked autoencoder."""
    torch.manual_seed(seed)
    train, (x, _) = split(digits(), seed)
    draw = rows(train, 64)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        hidden = torch.rand(len(x), 16, generator=torch.Generator().manual_seed(7)) < 0.5
        patches = patched(x)
        guess, means = module(patches, hidden)[hidden], patches.mean(0).expand_as(patches)[hidden]
        error = (guess - patches[hidden]).square().sum() / (means - patches[hidden]).square().sum()
        return float(1 - error)

    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "prediction", "target": "target"},
        "RepresentationCollapse": {"layer": "encoder"},
        "TrainingDoctor": {},
    }
    data = Batches(steps, lambda generator, index: Images(*draw(generator, index)), seed)
    return Training(MaskedAutoencoder(ratio), data, steps, watched, score=score)


# -- denoising --------------------------------------------------------------------------------------------------------


class Denoiser(L.LightningModule):
    """Predict the noise on an image. Reference: Vincent et al., 2010.

    Args:
        lr: rate of SGD.
        reduction: of the squared errors.
    """

    def __init__(self, lr: float, reduction: str = "mean") -> None:
        super().__init__()
        self.net = mlp([64, 192, 192, 64])
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.criterion = nn.MSELoss(reduction=reduction)
        self.lr = lr

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy - self.net(noisy)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.criterion(self(batch["noisy"]), batch["clean"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch["noisy"]), batch["clean"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def denoising(seed: int, lr: float = 0.5, steps: int = 500, **arguments: Any) -> Training:
    """Train a denoiser whose last layer starts at 0; the score is R² of the clean image."""
    torch.manual_seed(seed)
    (x, _), (held, _) = split(digits(), seed)

    def pair(clean: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"noisy": clean + 0.5 * torch.randn(clean.shape, generator=generator), "clean": clean}

    def draw(generator: torch.Generator, index: int) -> Any:
        return pair(x[torch.randint(len(x), (64,), generator=generator)], generator)

    validation = pair(held, torch.Generator().manual_seed(11))

    @torch.no_grad()
    def score(module: Any) -> float:
        return r_squared(module(validation["noisy"]), held)

    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    module = Denoiser(lr, **arguments)
    return Training(module, Batches(steps, draw, seed), steps, watched, [validation], score=score)


SCENARIOS: list[Scenario] = [
    # -- failing
    failing(
        FAMILY,
        "autoencoder, non-negative codes that start far below 0",
        0.4,
        lambda s: autoencoder(s, lambda: rectified(12, -4.0), adam(1e-3)),
        "dead units",
        "complete collapse",
        "no gradients",
        "sanity:units are alive",
    ),
    failing(
        FAMILY,
        "autoencoder, Adam 0.2",
        0.4,
        lambda s: autoencoder(s, lambda: rectified(12, 1.0), adam(0.2)),
        *TOO_HIGH,
        "dead units",
        twin="autoencoder, non-negative codes",
    ),
    failing(
        FAMILY,
        "autoencoder, weight decay 30",
        0.6,
        lambda s: autoencoder(s, lambda: plain(8), adam(3e-3, weight_decay=30.0)),
        "shrinking weights",
        "complete collapse",
        "dead units",
        twin="autoencoder, eight numbers",
    ),
    failing(
        FAMILY,
        "autoencoder, pixels from 0 to 25500 into sigmoids",
        0.4,
        lambda s: autoencoder(s, deep, adam(1e-3), pixels=25500.0),
        "saturated units",
        "sanity:initial loss",
    ),
    failing(
        FAMILY,
        "masked autoencoder, 75 instead of 0.75",
        0.25,
        lambda s: masked(s, 75.0),
        "inputs ignored",
        "prediction collapse",
        "complete collapse",
        "sanity:inputs matter",
    ),
    failing(
        FAMILY,
        "denoiser, sum of squares at the rate of a mean",
        0.2,
        lambda s: denoising(s, reduction="sum"),
        *TOO_HIGH,
        "dead units",
        twin="denoiser, last layer starts at 0",
    ),
    # -- healthy
    healthy(FAMILY, "autoencoder, eight numbers", 0.6, lambda s: autoencoder(s, lambda: plain(8), adam(5e-3))),
    healthy(FAMILY, "autoencoder, two numbers", 0.2, lambda s: autoencoder(s, lambda: plain(2, nn.Tanh), adam(5e-3))),
    healthy(
        FAMILY,
        "autoencoder, non-negative codes",
        0.4,
        lambda s: autoencoder(s, lambda: rectified(12, 1.0), adam(3e-3), steps=600),
    ),
    healthy(
        FAMILY,
        "autoencoder, SGD with restarts",
        0.4,
        lambda s: autoencoder(s, lambda: plain(8), sgd(1.0), steps=600, schedule=lambda i: 1.0 - 0.9 * (i % 200) / 200),
    ),
    healthy(FAMILY, "masked autoencoder", 0.25, masked),
    healthy(FAMILY, "denoiser, last layer starts at 0", 0.2, denoising),
]
