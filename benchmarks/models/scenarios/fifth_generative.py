"""Curves, points, rows and codes from noise: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fifth generative"
COLLAPSED = ("complete collapse", "dimensional collapse")
STILL = ("no gradients", "weights do not change", "vanishing gradients")


def curves(count: int = 2400, points: int = 40) -> Tensor:
    """Sums of two waves of any phase and height, ``[n, points]``, with a little noise."""
    g, time = seeded(741), torch.linspace(0, 6.3, points)
    phase, height = 6.3 * torch.rand(count, 2, generator=g), 0.4 + torch.rand(count, 2, generator=g)
    waves = [height[:, k, None] * torch.sin((k + 1) * time + phase[:, k, None]) for k in range(2)]
    return waves[0] + waves[1] + 0.1 * torch.randn(count, points, generator=g)


TRAIN, TEST = (d[0] for d in cut((curves(),), 2000))


def restored(output: Tensor, x: Tensor = TEST) -> Tensor:
    """Share of the variance that is restored."""
    return 1 - (output.nan_to_num(1e4) - x).square().mean() / (x - x.mean(0)).square().mean()


# -- codes ------------------------------------------------------------------------------------------------------------


class CurveVAE(Loaded):
    """Convolutions to four numbers; the divergence is averaged over the batch as the error is, or summed over it."""

    def __init__(self, summed: bool) -> None:
        super().__init__()
        self.summed = summed
        self.encoder = nn.Sequential(nn.Conv1d(1, 12, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(240, 48), nn.ReLU())
        self.to_mean, self.to_logvar, self.decoder = nn.Linear(48, 6), nn.Linear(48, 6), t.mlp([6, 64, 40])

    def mean(self, x: Tensor) -> Tensor:
        return self.to_mean(self.encoder(x.unsqueeze(1)))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        h = self.encoder(batch[0].unsqueeze(1))
        mean, logvar = self.to_mean(h), self.to_logvar(h)
        found = self.decoder(mean + (0.5 * logvar).exp() * torch.randn_like(mean))
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)
        kl, error = kl.sum() if self.summed else kl.mean(), F.mse_loss(found, batch[0], reduction="none").sum(1).mean()
        weight = min(1.0, self.global_step / 150)
        self.log_dict({"kl": kl, "error": error, "beta": weight}, prog_bar=True)
        return {"loss": error + 0.5 * weight * kl, "kl": kl.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def encoded(seed: int, summed: bool) -> Training:
    """Train on curves, the weight of the divergence rising; the score is the share of the variance that means restore."""
    watched = {"PosteriorCollapse": {"mean": "to_mean", "log_variance": "to_logvar"}, "DeadUnits": {}, **DOCTOR}
    score = lambda m: restored(m.decoder(m.mean(TEST)))  # noqa: E731
    return script(seed, lambda: CurveVAE(summed).use((TRAIN,), (), 50), score, 400, watched)


class Sparse(Loaded):
    """A sparse autoencoder of more units than points, few of which shall be above 0 at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.act, self.post = nn.Linear(40, 160), nn.ReLU(), nn.Linear(160, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.post(self.act(self.pre(x - self.post.bias)))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        units = self.act(self.pre(batch[0] - self.post.bias))
        error = (self.post(units) - batch[0]).square().sum(1).mean()
        l1 = units.sum(1).mean()
        self.log_dict({"l1": l1, "error": error})
        return error + 0.1 * l1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=5e-3, momentum=0.9)


def sparsely(seed: int, outlier: bool) -> Training:
    """Train on curves, one of which may have been written down as 1e8; the score is the share of the variance restored."""
    data = TRAIN.index_fill(0, torch.tensor([900]), 1e8) if outlier else TRAIN
    score = lambda m: restored(m(TEST))  # noqa: E731
    return script(seed, lambda: Sparse().use((data,), (), 50), score, 350, {"DeadUnits": {}, **DOCTOR})


# -- adversaries ------------------------------------------------------------------------------------------------------


def islands(count: int) -> Tensor:
    """Points on a grid of two times three islands."""
    place = torch.stack([torch.randint(2, (count,)) * 2.0 - 1, torch.randint(3, (count,)) * 1.5 - 1.5], 1)
    return place + 0.06 * torch.randn(count, 2)


class Duel(L.LightningModule):
    """A generator and a critic: squared errors of scores against 0 and 1, a small penalty on slopes."""

    def __init__(self, cleared: bool, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cleared, self.updates = cleared, updates
        self.gen, self.critic = t.mlp([8, 64, 64, 2]), t.mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(islands(64 * self.updates)), batch_size=64)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        one, two = self.optimizers()  # type: ignore[misc]
        real = batch[0].requires_grad_(True)
        fake = self.gen(torch.randn(len(real), 8))
        on_real, on_fake = self.critic(real), self.critic(fake.detach())
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        loss = (on_real - 1).square().mean() + on_fake.square().mean() + 0.1 * slope.square().sum(1).mean()
        if self.cleared:
            two.zero_grad()
        self.manual_backward(loss)
        two.step()
        made = (self.critic(fake) - 1).square().mean()
        one.zero_grad()
        self.manual_backward(made, inputs=list(self.gen.parameters()))
        one.step()
        self.log_dict({"loss_d": loss.detach(), "loss_g": made.detach()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.gen.parameters(), lr=1e-3, betas=(0.5, 0.9)),
            torch.optim.Adam(self.critic.parameters(), lr=2e-3, betas=(0.5, 0.9)),
        ]


def duel(seed: int, cleared: bool, updates: int = 1000) -> Training:
    """Train a GAN; the score is the lesser of the shares of good points and of islands that have any."""

    def score(m: Any) -> Tensor:
        made = m.gen(torch.randn(1200, 8, generator=seeded(742))).nan_to_num(99.0)
        grid = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.5, 0.0, 1.5]))
        distance, place = torch.cdist(made, grid).min(1)
        good = distance < 0.35
        return torch.minimum(good.float().mean(), (torch.bincount(place[good], minlength=6) > 20).float().mean())

    watched = {"ModeCollapse": {"generator": "gen"}, **DOCTOR}
    return script(seed, lambda: Duel(cleared, updates), score, updates, watched)


# -- noise and densities ----------------------------------------------------------------------------------------------


class Denoiser(Loaded):
    """Noise is found in curves, at any of fifty levels; the last layer starts at 0, and the rate may be a hundredth."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.level = rate, nn.Linear(2, 64)
        self.inp, self.mid, self.out = nn.Linear(40, 128), nn.Linear(192, 128), nn.Linear(128, 40)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        level = self.level(torch.stack([angle.sin(), angle.cos()], 1))
        return self.out(F.silu(self.mid(torch.cat([F.silu(self.inp(x)), level], 1))))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        noise, angle = torch.randn_like(batch[0]), (1 + torch.randint(50, (len(batch[0]),))) * math.pi / 102
        noisy = angle.cos()[:, None] * batch[0] + angle.sin()[:, None] * noise
        loss = F.mse_loss(self(noisy, angle), noise)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=1e-4)


def denoising(seed: int, rate: float) -> Training:
    """Train on curves; the score is the share of the noise that is found."""

    def score(m: Any) -> Tensor:
        g = seeded(743)
        noise, angle = (
            torch.randn(TEST.shape, generator=g),
            (1 + torch.randint(50, (len(TEST),), generator=g)) * math.pi / 102,
        )
        return 1 - F.mse_loss(m(angle.cos()[:, None] * TEST + angle.sin()[:, None] * noise, angle), noise)

    return script(seed, lambda: Denoiser(rate).use((TRAIN,), (), 50), score, 400, DOCTOR)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "curves by a VAE, a divergence summed over 50", 0.3, lambda s: encoded(s, True), "posterior collapse", "inputs ignored", onset=0.02),
    healthy(FAMILY, "curves by a VAE, annealed", 0.6, lambda s: encoded(s, False)),
    failing(FAMILY, "160 units for curves, one of 1e8", 0.3, lambda s: sparsely(s, True), *FAST, *UNLEARNED, "dead units", "sanity:initial loss"),
    healthy(FAMILY, "160 units for curves, few at a time", 0.7, lambda s: sparsely(s, False)),
    failing(FAMILY, "islands by squares, the critic never cleared", 0.45, lambda s: duel(s, False), "mode collapse", *FAST, *STILL),
    healthy(FAMILY, "islands by squared errors", 0.45, lambda s: duel(s, True)),
    failing(FAMILY, "curves in noise, AdamW at 2e-5", 0.3, lambda s: denoising(s, 2e-5), *UNLEARNED, *STILL, ONE_BATCH),
    healthy(FAMILY, "curves in noise, the last layer starts at 0", 0.5, lambda s: denoising(s, 2e-3)),
]  # fmt: skip
