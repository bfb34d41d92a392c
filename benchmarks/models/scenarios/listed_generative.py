"""Generators, codes and embeddings without labels: half of the trainings fail, half are healthy look-alikes.

Written from a list of families and mistakes, not from what the rules do. The names were chosen so that all of them are in
the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import Script, fitted, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "listed generative"
TRAIN, TEST = images(441)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
DOCTOR: dict[str, dict[str, Any]] = {"TrainingDoctor": {}}
COLLAPSED = ("complete collapse", "dimensional collapse")


def restored(output: Tensor, x: Tensor) -> Tensor:
    """Share of the variance of pixels that is restored."""
    return 1 - (output - x).square().mean() / (x - x.mean(0)).square().mean()


# -- autoencoders -----------------------------------------------------------------------------------------------------


class VAE(Loaded):
    """Gaussian posterior and pixels; the weight of the divergence may come in slowly."""

    def __init__(self, beta: float, rise: int, lr: float) -> None:
        super().__init__()
        self.beta, self.rise, self.lr = beta, rise, lr
        self.enc = nn.Sequential(nn.Linear(64, 96), nn.ELU())
        self.mu, self.logvar = nn.Linear(96, 8), nn.Linear(96, 8)
        self.dec = nn.Sequential(nn.Linear(8, 96), nn.ELU(), nn.Linear(96, 64))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        h = self.enc(batch[0])
        mu, logvar = self.mu(h), self.logvar(h)
        x_hat = self.dec(mu + torch.randn_like(mu) * (0.5 * logvar).exp())
        recon = F.mse_loss(x_hat, batch[0], reduction="sum") / len(mu)
        kld = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()
        weight = self.beta * min(1.0, self.global_step / self.rise) if self.rise else self.beta
        self.log_dict({"recon": recon, "kld": kld, "weight": weight}, prog_bar=True)
        return recon + weight * kld

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def vae(seed: int, beta: float, rise: int = 0, lr: float = 2e-3) -> Training:
    """Train on digits; the score is the share of the variance that means restore."""
    watched = {"PosteriorCollapse": {"mean": "mu", "log_variance": "logvar"}, **DOCTOR}
    score = lambda m: restored(m.dec(m.mu(m.enc(FLAT_TEST))), FLAT_TEST)  # noqa: E731
    return script(seed, lambda: VAE(beta, rise, lr).use((FLAT,), (), 64), score, 400, watched)


class Book(nn.Module):
    """The nearest of 48 codes, straight through; codes move to what they stand for, by gradients."""

    def __init__(self, spread: float, away: float) -> None:
        super().__init__()
        self.codes = nn.Parameter(spread * torch.randn(48, 4) + away)
        self.indices = nn.Identity()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.reshape(-1, 4)
        chosen = self.indices(torch.cdist(flat, self.codes).argmin(1))
        code = self.codes[chosen].view_as(z)
        loss = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return z + (code - z).detach(), loss


class Discrete(nn.Module):
    """Eight codes for a digit."""

    def __init__(self, spread: float, away: float) -> None:
        super().__init__()
        self.enc, self.vq = t.mlp([64, 96, 32]), Book(spread, away)
        self.dec = t.mlp([32, 96, 64])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, loss = self.vq(self.enc(x).unflatten(1, (8, 4)))
        return self.dec(z.flatten(1)), loss


def coded(seed: int, spread: float, away: float) -> Training:
    """Train a VQ-VAE; the score is the share of the variance that codes restore."""

    def loss(s: Script, batch: Data) -> Any:
        output, more = s.model(batch[0])
        s.log("vq", more)
        return F.mse_loss(output, batch[0]) + more

    watched = {"UsageCollapse": {"assignments": "model.vq.indices", "kind": "codebook"}, **DOCTOR}
    score = lambda s: restored(s.model(FLAT_TEST)[0], FLAT_TEST)  # noqa: E731
    return fitted(
        seed,
        lambda: Discrete(spread, away),
        loss,
        score,
        ((FLAT,), ()),
        rate=2e-3,
        batch=64,
        steps=350,
        detectors=watched,
    )


def sparse(seed: int, penalty: float, lr: float) -> Training:
    """A dictionary of 256 features of digits, few of them at a time; the score is the share of the variance restored."""

    def loss(s: Script, batch: Data) -> Any:
        hidden = s.model[:2](batch[0])
        l2, l1 = (s.model[2](hidden) - batch[0]).square().sum(1).mean(), hidden.abs().sum(1).mean()
        s.log_dict({"l2": l2, "l1": l1, "l0": (hidden > 0).float().sum(1).mean()})
        return l2 + penalty * l1

    model = lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))  # noqa: E731
    score = lambda s: restored(s.model(FLAT_TEST), FLAT_TEST)  # noqa: E731
    watched = {"DeadUnits": {}, **DOCTOR}
    return fitted(seed, model, loss, score, ((FLAT,), ()), rate=lr, batch=64, steps=350, detectors=watched)


# -- adversaries ------------------------------------------------------------------------------------------------------


def grid(count: int, seed: int) -> Tensor:
    """Points around nine places of a square."""
    g = seeded(seed)
    place = torch.stack([torch.randint(3, (count,), generator=g), torch.randint(3, (count,), generator=g)], 1)
    return 1.5 * (place.float() - 1) + 0.06 * torch.randn(count, 2, generator=g)


class GAN(L.LightningModule):
    """Points on a square by one of several pairs of losses."""

    def __init__(self, kind: str, rates: tuple[float, float], slope: float, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.kind, self.rates, self.slope, self.updates = kind, rates, slope, updates
        self.gen, self.disc = t.mlp([4, 64, 64, 2]), t.mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(grid(64 * self.updates, int(torch.randint(10**6, ())))), batch_size=64)

    def losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Of the discriminator, and of the generator."""
        if self.kind == "wasserstein":
            return fake.mean() - real.mean(), -fake.mean()
        if self.kind == "squares":
            return (real - 1).square().mean() + fake.square().mean(), (fake - 1).square().mean()
        if self.kind == "relative":
            return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()
        fooled = -F.softplus(fake).mean() if self.kind == "saturating" else F.softplus(-fake).mean()
        return F.softplus(-real).mean() + F.softplus(fake).mean(), fooled

    def training_step(self, batch: Data, batch_idx: int) -> None:
        opt_g, opt_d = self.optimizers()  # type: ignore[misc]
        real = batch[0].requires_grad_(True)
        fake = self.gen(torch.randn(len(real), 4))
        scores = self.disc(real)
        d_loss, _ = self.losses(scores, self.disc(fake.detach()))
        if self.slope:
            (slopes,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
            d_loss = d_loss + self.slope * slopes.square().sum(1).mean()
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        _, g_loss = self.losses(self.disc(real.detach()).detach(), self.disc(fake))
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.log_dict({"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        nets = zip((self.gen, self.disc), self.rates, strict=True)
        return [torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.99)) for net, lr in nets]


def gan(
    seed: int, kind: str, rates: tuple[float, float] = (1e-3, 2e-3), slope: float = 0.0, updates: int = 700
) -> Training:
    """Train a GAN; the score is the least of the share of good samples and of the share of the nine places that have any."""

    def score(m: Any) -> float:
        x = m.gen(torch.randn(2000, 4, generator=seeded(442))).nan_to_num(99.0)
        nearest = (x / 1.5).round().clamp(-1, 1)
        good = (x - 1.5 * nearest).norm(dim=1) < 0.4
        index = ((nearest[:, 0] + 1) * 3 + nearest[:, 1] + 1).long()[good]
        places = (torch.bincount(index, minlength=9) > 20).float().mean()
        return float(torch.minimum(good.float().mean(), places))

    watched = {"ModeCollapse": {"generator": "gen"}, **DOCTOR}
    return script(seed, lambda: GAN(kind, rates, slope, updates), score, updates, watched)


# -- diffusion --------------------------------------------------------------------------------------------------------


class Noise(nn.Module):
    """Predicts the noise in a digit from it and its time; the last layer starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(65, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(torch.cat([x, time], 1))


def diffusion(seed: int, fresh: bool) -> Training:
    """Train on digits and noise; the score is the share of the noise that is found. The noise is drawn once, or twice."""

    def mixed(x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return (time * math.pi / 2).cos() * x + (time * math.pi / 2).sin() * noise

    def loss(s: Script, batch: Data) -> Any:
        noise, time = torch.randn_like(batch[0]), torch.rand(len(batch[0]), 1)
        found = s.model(mixed(batch[0], noise, time), time)
        value = F.mse_loss(found, torch.randn_like(noise) if fresh else noise)
        s.log("loss", value, prog_bar=True)
        return value

    def score(s: Any) -> Tensor:
        g = seeded(443)
        noise, time = torch.randn(FLAT_TEST.shape, generator=g), torch.rand(len(FLAT_TEST), 1, generator=g)
        return 1 - F.mse_loss(s.model(mixed(FLAT_TEST, noise, time), time), noise)

    return fitted(seed, Noise, loss, score, ((FLAT,), ()), rate=2e-3, batch=64, steps=400, detectors=DOCTOR)


# -- two views of an image --------------------------------------------------------------------------------------------


def look(x: Tensor) -> Tensor:
    """An image whose pixels are partly lost, and noise of its own beside it."""
    return torch.cat([x * (torch.rand_like(x) > 0.25), 3 * torch.randn_like(x)], 1)


class Views(Loaded):
    """An encoder and what two views need; labels are in the batch and unused."""

    def __init__(self, kind: str, temperature: float = 0.3) -> None:
        super().__init__()
        self.kind, self.temperature = kind, temperature
        self.encoder = nn.Sequential(nn.Linear(128, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 32))
        self.projector = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        self.predictor = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32))
        online = nn.Sequential(self.encoder, self.projector)
        self.target = copy.deepcopy(online).requires_grad_(False)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, labels = batch
        views = look(x), look(x)
        a, b = (self.projector(self.encoder(v)) for v in views)
        compute = self._contrast if self.kind in ("simclr", "supcon") else self._bootstrap
        loss = compute(a, b, views, labels)
        self.log(f"{self.kind}_loss", loss)
        return loss

    def _contrast(self, a: Tensor, b: Tensor, views: Any, labels: Tensor) -> Tensor:
        z = F.normalize(torch.cat([a, b]), dim=1)
        similar = (z @ z.T / self.temperature).fill_diagonal_(-1e4)
        who = labels if self.kind == "supcon" else torch.arange(len(a))
        same = (who.repeat(2)[:, None] == who.repeat(2)).float().fill_diagonal_(0)
        return -((similar.log_softmax(1) * same).sum(1) / same.sum(1)).mean()

    def _bootstrap(self, a: Tensor, b: Tensor, views: Any, labels: Tensor) -> Tensor:
        """BYOL; faults: no predictor and the online net as its own target, gradients on both sides."""
        if self.kind == "byol":
            a, b = self.predictor(a), self.predictor(b)
            with torch.no_grad():
                to_a, to_b = self.target(views[1]), self.target(views[0])
        else:
            to_a, to_b = b, a
        return 2 - F.cosine_similarity(a, to_a).mean() - F.cosine_similarity(b, to_b).mean()

    def on_train_batch_end(self, *args: Any) -> None:
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        for kept, new in zip(self.target.parameters(), online, strict=True):
            kept.data.lerp_(new.data, 0.03)

    def configure_optimizers(self) -> Any:
        trained = [
            *self.encoder.parameters(),
            *self.projector.parameters(),
            *(self.predictor.parameters() if self.kind == "byol" else ()),
        ]
        return torch.optim.AdamW(trained, lr=2e-3, weight_decay=1e-4)


def viewing(seed: int, kind: str, temperature: float = 0.3, steps: int = 300) -> Training:
    """Train on views; the score is the accuracy of a vote of the nearest embeddings."""

    def score(m: Any) -> Tensor:
        g = seeded(444)
        known, asked = (torch.cat([x, 3 * torch.randn(x.shape, generator=g)], 1) for x in (FLAT, FLAT_TEST))
        return neighbours(m.encoder(known).nan_to_num(), TRAIN[1], m.encoder(asked).nan_to_num(), TEST[1])

    watched = {"RepresentationCollapse": {"layer": "projector"}, **DOCTOR}
    return script(seed, lambda: Views(kind, temperature).use((FLAT, TRAIN[1]), (), 64), score, steps, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "eight latents of a digit, beta 60", 0.3, lambda s: vae(s, 60.0), "posterior collapse", "inputs ignored"),
    healthy(FAMILY, "eight latents of a digit, beta 1 after 200 updates", 0.5, lambda s: vae(s, 1.0, 200)),
    failing(FAMILY, "48 codes, all of them at 20", 0.3, lambda s: coded(s, 0.01, 20.0), "codebook collapse", *COLLAPSED, "inputs ignored", ONE_BATCH),
    healthy(FAMILY, "48 codes that start among the embeddings", 0.5, lambda s: coded(s, 0.3, 0.0)),
    failing(FAMILY, "256 features of digits, a penalty of 30", 0.3, lambda s: sparse(s, 30.0, 2e-3), "dead units", "no gradients", "inputs ignored",
            "vanishing gradients", *COLLAPSED, ONE_BATCH),
    healthy(FAMILY, "256 sparse features of digits", 0.7, lambda s: sparse(s, 0.3, 2e-3)),
    failing(FAMILY, "nine places, the generator at 3e-2", 0.5, lambda s: gan(s, "plain", (3e-2, 1e-3)), "mode collapse", *FAST),
    failing(FAMILY, "nine places, Wasserstein, no bound", 0.5, lambda s: gan(s, "wasserstein"), "mode collapse", *FAST),
    failing(FAMILY, "nine places, saturating, a critic 100 times faster", 0.5, lambda s: gan(s, "saturating", (1e-4, 1e-2)), "mode collapse",
            "vanishing gradients", "no gradients"),
    healthy(FAMILY, "nine places by a relative critic", 0.5, lambda s: gan(s, "relative", (2e-3, 4e-3), 0.05, 1100)),
    healthy(FAMILY, "nine places, least squares", 0.5, lambda s: gan(s, "squares", (2e-3, 4e-3), 0.02, 1000)),
    failing(FAMILY, "digits and noise, noise drawn twice", 0.4, lambda s: diffusion(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "digits and noise, a last layer of nothing", 0.5, lambda s: diffusion(s, False)),
    healthy(FAMILY, "two looks at a digit, InfoNCE", 0.75, lambda s: viewing(s, "simclr")),
    healthy(FAMILY, "two looks at a digit, classes pulled together", 0.8, lambda s: viewing(s, "supcon")),
    failing(FAMILY, "two looks at a digit, each towards the other", 0.6, lambda s: viewing(s, "symmetric"), *COLLAPSED),
    healthy(FAMILY, "two looks at digits, a slow target", 0.6, lambda s: viewing(s, "byol", steps=900)),
]  # fmt: skip
