"""Generators, flows and embeddings in seldom combined forms: half fail, half are healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "fresh unlabelled"
TRAIN, TEST = images(321)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)


# -- two adversaries --------------------------------------------------------------------------------------------------


@lru_cache
def flowers() -> Tensor:
    """Four standardised numbers of 150 flowers."""
    x = torch.tensor(load_iris().data, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0)


def alike(fake: Tensor, real: Tensor, lines: int = 64) -> float:
    """One less the distance of both along random lines, in units of the distance of one point in the middle."""
    way = F.normalize(torch.randn(real.shape[1], lines, generator=seeded(322)), dim=0)
    levels = torch.linspace(0.02, 0.98, 49)
    a, b, middle = ((x @ way).quantile(levels, 0) for x in (fake, real, real.mean(0, keepdim=True)))
    return 1 - float((a - b).abs().mean() / (middle - b).abs().mean())


class Adversaries(L.LightningModule):
    """A generator and a critic, by hand: least squares, or a sample relative to a real one with a penalty of slopes."""

    def __init__(self, data: Tensor, kind: str, rate: float, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.data, self.kind, self.rate, self.updates = data, kind, rate, updates
        width = data.shape[1]
        self.generator = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, width))
        self.critic = nn.Sequential(
            nn.Linear(width, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1)
        )

    def train_dataloader(self) -> Any:
        chosen = torch.randint(len(self.data), (64 * self.updates,))
        return DataLoader(TensorDataset(self.data[chosen]), batch_size=64)

    def _critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.kind != "relative":
            return (self.critic(real) - 1).square().mean() / 2 + self.critic(fake).square().mean() / 2
        both = torch.cat([real, fake]).requires_grad_(True)
        out = self.critic(both)
        (slopes,) = torch.autograd.grad(out.sum(), both, create_graph=True)
        a, b = out.chunk(2)
        return F.softplus(b - a).mean() + 0.5 * slopes.square().sum(1).mean()

    def _generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.kind == "relative":
            return F.softplus(self.critic(real).detach() - self.critic(fake)).mean()
        return (self.critic(fake) - (0 if self.kind == "squares, zeros for ones" else 1)).square().mean() / 2

    def training_step(self, batch: Data, batch_idx: int) -> None:
        g_opt, c_opt = self.optimizers()  # type: ignore[misc]
        (real,) = batch
        fake = self.generator(torch.randn(len(real), 6))
        c_loss = self._critic_loss(real, fake.detach())
        c_opt.zero_grad()
        self.manual_backward(c_loss)
        c_opt.step()
        g_loss = self._generator_loss(real, fake)
        g_opt.zero_grad()
        self.manual_backward(g_loss)
        g_opt.step()
        self.log_dict({"c_loss": c_loss.detach(), "g_loss": g_loss.detach()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.Adam(self.generator.parameters(), lr=self.rate, betas=(0.0, 0.9)),
            torch.optim.Adam(self.critic.parameters(), lr=self.rate, betas=(0.0, 0.9)),
        )


def adversaries(seed: int, data: Any, kind: str, rate: float = 1e-3, updates: int = 500) -> Training:
    """Train two adversaries; the score says how much alike samples and data are."""
    watched: dict[str, dict[str, Any]] = {
        "ModeCollapse": {"generator": "generator"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    score = lambda m: alike(m.generator(torch.randn(1000, 6, generator=seeded(323))), data())  # noqa: E731
    return script(seed, lambda: Adversaries(data(), kind, rate, updates), score, updates, watched)


# -- embeddings of digits beside noise --------------------------------------------------------------------------------


def beside_noise(x: Tensor, seed: int, scale: float = 3.0) -> Tensor:
    """Add as many columns of noise."""
    return torch.cat([x, scale * torch.randn(x.shape, generator=seeded(seed))], 1)


def view(x: Tensor) -> Tensor:
    """A copy with some pixels lost, other noise beside it."""
    kept = (torch.rand(x.shape) > 0.2).float()
    return torch.cat([x * kept, 3 * torch.randn_like(x)], 1)


def voted(encode: Any) -> Tensor:
    """Accuracy of a vote of the nearest embeddings."""
    with torch.no_grad():
        return neighbours(encode(beside_noise(FLAT, 324)), TRAIN[1], encode(beside_noise(FLAT_TEST, 325)), TEST[1])


class Contrast(Loaded):
    """Two views of each image; the batch is taken apart as it was put together, or in halves."""

    def __init__(self, halved: bool) -> None:
        super().__init__()
        self.halved = halved
        self.encoder = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 32))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(32, 32))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch
        z = F.normalize(self.projector(self.encoder(view(x.repeat_interleave(2, 0)))), dim=1)
        a, b = z.chunk(2) if self.halved else (z[::2], z[1::2])
        similar = torch.cat([a @ b.T, (a @ a.T).fill_diagonal_(-10.0)], 1) / 0.2
        loss = F.cross_entropy(similar, torch.arange(len(a)))
        self.log("nt_xent", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)}


EMBEDDING: dict[str, dict[str, Any]] = {
    "RepresentationCollapse": {"layer": "encoder"},
    "DeadUnits": {},
    "TrainingDoctor": {},
}


def contrasting(seed: int, halved: bool) -> Training:
    """Train on views."""
    return script(
        seed, lambda: Contrast(halved).use((FLAT, TRAIN[1]), (), 64), lambda m: voted(m.encoder), 350, EMBEDDING
    )


class Normed(nn.Module):
    """Embeddings on the sphere."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * F.normalize(x, dim=1)


class Dino(Loaded):
    """A student follows a centred teacher over 48 prototypes; the teacher is sharper than the student, or is not."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.encoder = nn.Sequential(nn.Linear(128, 96), nn.GELU(), nn.Linear(96, 32))
        self.prototypes = nn.Sequential(Normed(), nn.Linear(32, 48, bias=False))
        self.teacher = copy.deepcopy(nn.Sequential(self.encoder, self.prototypes)).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(48))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        one, two = view(batch[0]), view(batch[0])
        guesses = [self.prototypes(self.encoder(x)).div(0.1).log_softmax(1) for x in (one, two)]
        with torch.no_grad():
            told = [self.teacher(x) for x in (two, one)]
            soft = [((x - self.centre) / self.temperature).softmax(1) for x in told]
            self.centre.lerp_(torch.cat(told).mean(0), 0.1)
        loss = -sum((p * q).sum(1).mean() for p, q in zip(soft, guesses, strict=True)) / 2
        self.log("dino", loss)
        return {"loss": loss}

    def on_train_batch_end(self, *args: Any) -> None:
        followed = [*self.encoder.parameters(), *self.prototypes.parameters()]
        for kept, new in zip(self.teacher.parameters(), followed, strict=True):
            kept.lerp_(new.detach(), 0.02)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.encoder.parameters(), *self.prototypes.parameters()], lr=2e-3)


def dino(seed: int, temperature: float) -> Training:
    """Train a student."""
    watched = {**EMBEDDING, "UsageCollapse": {"assignments": "prototypes", "kind": "prototypes"}}
    return script(
        seed, lambda: Dino(temperature).use((FLAT, TRAIN[1]), (), 64), lambda m: voted(m.encoder), 400, watched
    )


class Triplets(Loaded):
    """Hardest triplets of a batch with a margin; what is far and what is near are told apart, or mistaken."""

    def __init__(self, mistaken: bool) -> None:
        super().__init__()
        self.mistaken = mistaken
        self.encoder = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 24))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        z = F.normalize(self.encoder(view(x)), dim=1)
        distance, same = torch.cdist(z, z), y[:, None] == y
        if self.mistaken:
            same = ~same
        near = (distance * same).amax(1)
        far = (distance + 10.0 * same).amin(1)
        loss = F.relu(near - far + 0.2).mean()
        self.log_dict({"triplets": loss, "satisfied": (near + 0.2 < far).float().mean()})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def triplets(seed: int, mistaken: bool) -> Training:
    """Train on triplets."""
    return script(
        seed, lambda: Triplets(mistaken).use((FLAT, TRAIN[1]), (), 64), lambda m: voted(m.encoder), 350, EMBEDDING
    )


# -- a flow -----------------------------------------------------------------------------------------------------------


class Coupling(nn.Module):
    """Half of the numbers shift and scale the others."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.half, self.first = width // 2, first
        self.net = nn.Sequential(nn.Linear(self.half, 32), nn.Tanh(), nn.Linear(32, 2 * self.half))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (x[:, : self.half], x[:, self.half :]) if self.first else (x[:, self.half :], x[:, : self.half])
        scale, shift = self.net(a).chunk(2, 1)
        b = b * scale.exp() + shift
        return torch.cat([a, b] if self.first else [b, a], 1), scale.sum(1)


class Flow(Loaded):
    """Likelihood of main axes of digits; the volume is added to it, or taken away."""

    def __init__(self, sign: float, width: int) -> None:
        super().__init__()
        self.sign, self.width = sign, width
        self.couplings = nn.ModuleList(Coupling(width, k % 2 == 0) for k in range(6))
        self.latent = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        volume = torch.zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x)
            volume = volume + more
        return self.latent(x), volume

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        z, volume = self(batch[0])
        loss = (0.5 * (z.square() + math.log(2 * math.pi)).sum(1) - self.sign * volume).mean() / self.width
        self.log("nll", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@lru_cache
def curved() -> Data:
    """Points on two thin half circles, with their rotation."""
    g = seeded(326)
    angle, upper = math.pi * torch.rand(3000, generator=g), torch.rand(3000, generator=g) < 0.5
    x = torch.stack([angle.cos() + ~upper * 1.0, torch.where(upper, angle.sin(), 0.5 - angle.sin())], 1)
    x = torch.cat([x, x.flip(1) * 0.8], 1) + 0.1 * torch.randn(3000, 4, generator=g)
    x = (x - x.mean(0)) / x.std(0)
    return x[:2500], x[2500:]


def flowing(seed: int, sign: float) -> Training:
    """Train a flow; the score is the mean log-likelihood of new points for each number."""
    train, test = curved()

    def score(m: Any) -> float:
        z, volume = m(test)
        likely = (-0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + volume).mean() / 4
        return float(likely.nan_to_num(-1e9))

    watched: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "latent"}, "TrainingDoctor": {}}
    return script(seed, lambda: Flow(sign, 4).use((train,), (), 64), score, 400, watched)


# -- noise and latents ------------------------------------------------------------------------------------------------


class Diffusion(Loaded):
    """Finds the noise that was added to a digit, with a last layer of zeros; the noise is drawn once, or again for the loss."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again
        self.register_buffer("kept", torch.cos(torch.linspace(0.02, 0.98, 50) * math.pi / 2).square())
        self.time = nn.Embedding(50, 32)
        self.enter, self.act, self.middle, self.leave = (
            nn.Linear(96, 192),
            nn.SiLU(),
            nn.Linear(192, 192),
            nn.Linear(192, 64),
        )
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        h = self.act(self.enter(torch.cat([x, self.time(step)], 1)))
        return self.leave(h + self.act(self.middle(h)))

    def noised(self, x: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        kept = self.kept[step].unsqueeze(1)
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        (x,) = batch
        step = torch.randint(50, (len(x),))
        guess = self(self.noised(x, torch.randn_like(x), step), step) if self.again else None
        noise = torch.randn_like(x)
        if guess is None:
            guess = self(self.noised(x, noise, step), step)
        loss = F.mse_loss(guess, noise)
        self.log("train_loss", loss)
        return {"loss": loss, "prediction": guess, "noise": noise}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def diffusing(seed: int, again: bool) -> Training:
    """Train on noise; the score is R squared for the noise in new digits."""

    def score(m: Any) -> Tensor:
        g = seeded(327)
        noise, step = torch.randn(FLAT_TEST.shape, generator=g), torch.randint(50, (len(FLAT_TEST),), generator=g)
        return 1 - (m(m.noised(FLAT_TEST, noise, step), step) - noise).square().mean()

    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "prediction", "target": "noise"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Diffusion(again).use((FLAT,), (), 64), score, 400, watched)


class Autoencoder(Loaded):
    """A VAE of digits: the divergence is summed and the error is a mean, or both are sums and the divergence comes later."""

    def __init__(self, mean: bool, late: int) -> None:
        super().__init__()
        self.mean, self.late = mean, late
        self.encode = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.mu, self.log_var = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, _ = batch
        h = self.encode(x)
        mu, log_var = self.mu(h), self.log_var(h)
        out = self.decode(mu + torch.randn_like(mu) * (0.5 * log_var).exp())
        divergence = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(1).mean()
        error = F.mse_loss(out, x) if self.mean else (out - x).square().sum(1).mean()
        weight = min(1.0, self.global_step / self.late) if self.late else 1.0
        self.log_dict({"kl": divergence, "error": error, "weight": weight})
        return {"loss": error + weight * divergence}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def coding(seed: int, mean: bool, late: int) -> Training:
    """Train a VAE; the score is R squared of new digits through the middle of their codes."""
    spread = (FLAT_TEST - FLAT.mean(0)).square().mean()
    score = lambda m: 1 - (m.decode(m.mu(m.encode(FLAT_TEST))) - FLAT_TEST).square().mean() / spread  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PosteriorCollapse": {"mean": "mu", "log_variance": "log_var"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Autoencoder(mean, late).use((FLAT, TRAIN[1]), (), 64), score, 350, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "least squares, the generator wants zero for one", 0.5, lambda s: adversaries(s, flowers, "squares, zeros for ones"),
            "mode collapse", *FAST, "dead units", "vanishing gradients", "no gradients"),
    healthy(FAMILY, "least squares of flowers, losses stand still", 0.5, lambda s: adversaries(s, flowers, "squares")),
    failing(FAMILY, "relative critics, both at rates of 0.3", 0.5, lambda s: adversaries(s, flowers, "relative", 0.3), "mode collapse", *FAST,
            "dead units", "vanishing gradients", "no gradients", twin="relative critics, both at rates of 0.003"),
    healthy(FAMILY, "relative critics, both at rates of 0.003", 0.5, lambda s: adversaries(s, flowers, "relative", 0.003)),
    failing(FAMILY, "views repeated in turn, taken apart in halves", 0.6, lambda s: contrasting(s, True), "complete collapse", "dimensional collapse",
            *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "views side by side, half of each noise", 0.6, lambda s: contrasting(s, False)),
    failing(FAMILY, "a centred teacher as soft as its student is not", 0.6, lambda s: dino(s, 1.0), "prototype collapse", "complete collapse",
            "dimensional collapse", "vanishing gradients", "no gradients"),
    healthy(FAMILY, "a centred teacher, sharp", 0.6, lambda s: dino(s, 0.04)),
    failing(FAMILY, "hardest triplets, near for far", 0.5, lambda s: triplets(s, True), "complete collapse", "dimensional collapse", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "hardest triplets beside noise", 0.6, lambda s: triplets(s, False)),
    failing(FAMILY, "a flow, its volume taken away", -1.2, lambda s: flowing(s, -1.0), "complete collapse", "dimensional collapse", *FAST,
            "no gradients", "vanishing gradients", "saturated units"),
    healthy(FAMILY, "a flow of half circles, a loss below zero", -1.2, lambda s: flowing(s, 1.0)),
    failing(FAMILY, "the noise is drawn again for the loss", 0.3, lambda s: diffusing(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "the noise of a digit, zeros in the last layer", 0.3, lambda s: diffusing(s, False)),
    failing(FAMILY, "a divergence summed beside a mean error", 0.3, lambda s: coding(s, True, 0), "posterior collapse"),
    healthy(FAMILY, "a divergence that comes slowly", 0.3, lambda s: coding(s, False, 250)),
]  # fmt: skip
