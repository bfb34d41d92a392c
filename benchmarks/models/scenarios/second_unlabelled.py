"""Autoencoders, adversaries, flows, diffusion and embeddings as users of forums train them: half fail, half are healthy look-alikes.

Nobody had tuned anything on them when they were written. The names were chosen so that all of them are in the develop half:
these scenarios are for development and verify nothing.
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
from benchmarks.models.scripts import Script, fitted, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "second unlabelled"
TRAIN, TEST = images(471)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
UNITS: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
COLLAPSE = ("complete collapse", "dimensional collapse")


def restored(guess: Tensor, x: Tensor) -> Tensor:
    """R squared of images against the mean image."""
    return 1 - (guess - x).square().mean() / (x - x.mean(0)).square().mean()


# -- autoencoders -----------------------------------------------------------------------------------------------------


def sigmoids(seed: int, standardised: bool) -> Training:
    """Cross entropy of pixels behind a sigmoid; pixels are from 0 to 1, or standardised."""
    train, new = (x if standardised else (x * 0.38 + 0.3).clamp(0, 1) for x in (FLAT, FLAT_TEST))
    loss = lambda s, b: F.binary_cross_entropy_with_logits(s.model(b[0]), b[0])  # noqa: E731
    score = lambda m: restored(m.model(new).sigmoid(), new)  # noqa: E731
    make = lambda: t.mlp([64, 48, 12, 48, 64])  # noqa: E731
    return fitted(seed, make, loss, score, ((train,), (new,)), rate=5e-3, detectors=UNITS, steps=450)


class Variational(nn.Module):
    """An encoder with mean and logarithm of the variance, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.mu, self.log_var = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))


class Annealed(Loaded):
    """A VAE with a weight of its divergence that depends on the update."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight, self.model = weight, Variational()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        h = self.model.encode(batch[0])
        mu, log_var = self.model.mu(h), self.model.log_var(h)
        out = self.model.decode(mu + torch.randn_like(mu) * (log_var / 2).exp())
        error = (out - batch[0]).square().sum(1).mean()
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        self.log_dict({"error": error, "kl": kl})
        return error + self.weight(self.global_step) * kl

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def variational(seed: int, weight: Any) -> Training:
    """Train a VAE; the score is R squared of new digits through the means of their codes."""
    score = lambda m: restored(m.model.decode(m.model.mu(m.model.encode(FLAT_TEST))), FLAT_TEST)  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PosteriorCollapse": {"mean": "model.mu", "log_variance": "model.log_var"},
        **UNITS,
    }
    return script(seed, lambda: Annealed(weight).use((FLAT,), (), 64), score, 400, watched)


class Codes(nn.Module):
    """Two codes of thirty-two in a book, whose gradient is that of the encoder's output, or nothing."""

    def __init__(self, straight: bool, spread: float) -> None:
        super().__init__()
        self.straight, self.encoder, self.decoder = straight, t.mlp([64, 64, 16]), t.mlp([16, 64, 64])
        self.distances, self.book = nn.Identity(), nn.Embedding(32, 8)
        nn.init.normal_(self.book.weight, std=spread)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).view(-1, 2, 8)
        near = self.distances(-torch.cdist(z, self.book.weight.expand(len(x), -1, -1)))
        code = self.book(near.argmax(2))
        lost = (z.detach() - code).square().mean() + 0.25 * (z - code.detach()).square().mean()
        return self.decoder((z + (code - z).detach() if self.straight else code.detach()).flatten(1)), lost


def coded(seed: int, straight: bool, spread: float) -> Training:
    """Train codes; the score is R squared of new digits."""

    def loss(s: Script, batch: Data) -> Tensor:
        out, lost = s.model(batch[0])
        return F.mse_loss(out, batch[0]) + lost

    score = lambda m: restored(m.model(FLAT_TEST)[0], FLAT_TEST)  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "model.distances", "kind": "codebook"},
        **UNITS,
    }
    return fitted(
        seed, lambda: Codes(straight, spread), loss, score, ((FLAT,), (FLAT_TEST,)), detectors=watched, steps=450
    )


# -- adversaries ------------------------------------------------------------------------------------------------------


def rings(count: int, seed: int) -> Tensor:
    """Eight small clouds on a circle."""
    g = seeded(seed)
    angle = torch.randint(8, (count,), generator=g) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2, generator=g)


class Adversaries(L.LightningModule):
    """A generator and a critic of clouds.

    Args:
        kind: ``"slopes"``: Wasserstein's distance with a penalty of gradients; ``"saturating"``: the generator lowers the
            logarithm that the critic raises.
        rate: of the critic.
        critics: updates of the critic for one of the generator.
    """

    def __init__(self, kind: str, rate: float, critics: int, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.kind, self.rate, self.critics, self.updates = kind, rate, critics, updates
        self.generator, self.critic = t.mlp([4, 64, 64, 2]), t.mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(rings(64 * self.updates, 473)), batch_size=64)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        a, b = self.critic(real), self.critic(fake)
        if self.kind != "slopes":
            return F.softplus(-a).mean() + F.softplus(b).mean()
        mixed = torch.lerp(real, fake.detach(), torch.rand(len(real), 1)).requires_grad_(True)
        (slope,) = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
        return b.mean() - a.mean() + (slope.norm(dim=1) - 1).square().mean()

    def training_step(self, batch: Data, batch_idx: int) -> None:
        (real,), (first, second) = batch, self.optimizers()  # type: ignore[misc]
        fake = self.generator(torch.randn(64, 4))
        for _ in range(self.critics):
            loss = self.critic_loss(real, fake.detach())
            second.zero_grad()
            self.manual_backward(loss)
            second.step()
        answer = self.critic(fake)
        made = -answer.mean() if self.kind == "slopes" else -F.softplus(answer).mean()
        first.zero_grad()
        self.manual_backward(made)
        first.step()
        self.log_dict({"d_loss": loss.detach(), "g_loss": made.detach()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        betas = (0.5, 0.9)
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=betas),
            torch.optim.Adam(self.critic.parameters(), lr=self.rate, betas=betas),
        )


def covered(points: Tensor) -> float:
    """Share of eight clouds with two in a hundred points near their middles, times the share of points near one of them."""
    angle = torch.arange(8) * math.pi / 4
    near = torch.cdist(points, torch.stack([angle.cos(), angle.sin()], 1)) < 0.3
    return float((near.float().mean(0) > 0.02).float().mean() * near.any(1).float().mean())


def adversaries(seed: int, kind: str, rate: float, critics: int, updates: int) -> Training:
    """Train two adversaries; the score is how many clouds samples cover."""
    watched: dict[str, dict[str, Any]] = {"ModeCollapse": {"generator": "generator"}, **UNITS}
    score = lambda m: covered(m.generator(torch.randn(1000, 4, generator=seeded(474))))  # noqa: E731
    return script(seed, lambda: Adversaries(kind, rate, critics, updates), score, updates, watched)


# -- noise ------------------------------------------------------------------------------------------------------------


def diffused(seed: int, product: bool) -> Training:
    """Find the noise in digits; what is left of a digit is the product of all steps before, or that of one step. Score: R squared."""
    steps = 1 - torch.linspace(0.002, 0.2, 50)
    kept = {True: steps.cumprod(0), False: steps}

    def noised(x: Tensor, noise: Tensor, step: Tensor, product: bool) -> Tensor:
        share = kept[product][step].unsqueeze(1)
        return torch.cat([share.sqrt() * x + (1 - share).sqrt() * noise, step.unsqueeze(1) / 25 - 1], 1)

    def loss(s: Script, batch: Data) -> Tensor:
        noise, step = torch.randn_like(batch[0]), torch.randint(50, (len(batch[0]),))
        return F.mse_loss(s.model(noised(batch[0], noise, step, product)), noise)

    def score(m: Any) -> Tensor:
        g = seeded(477)
        noise, step = torch.randn(FLAT_TEST.shape, generator=g), torch.randint(50, (len(FLAT_TEST),), generator=g)
        return 1 - (m.model(noised(FLAT_TEST, noise, step, True)) - noise).square().mean()

    return fitted(
        seed, lambda: t.mlp([65, 192, 192, 64], nn.SiLU), loss, score, ((FLAT,),), batch=64, detectors=UNITS, steps=400
    )


# -- a flow -----------------------------------------------------------------------------------------------------------


class Flow(nn.Module):
    """Half of the pixels shift and scale the others, four times."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(t.mlp([32, 64, 64]) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of densities, for each number."""
        a, b = x[:, ::2], x[:, 1::2]
        volume = torch.zeros(len(x))
        for part in self.parts:
            scale, shift = part(a).chunk(2, 1)
            a, b, volume = b * (2 * torch.tanh(scale / 2)).exp() + shift, a, volume + 2 * torch.tanh(scale / 2).sum(1)
        return (volume - 0.5 * (a.square() + b.square()).sum(1)) / 64 - 0.92


def flowing(seed: int, rate: float) -> Training:
    """Learn the density of digits with noise that fills the gaps between levels of grey; the score is that of new ones."""
    train, new = (x + 0.1 * torch.randn(x.shape, generator=seeded(478)) for x in (FLAT, FLAT_TEST))
    loss = lambda s, b: -s.model(b[0]).mean()  # noqa: E731
    score = lambda m: m.model(new).mean().nan_to_num(-1e9)  # noqa: E731
    return fitted(seed, Flow, loss, score, ((train,), (new,)), rate=rate, batch=64, detectors=UNITS, steps=350)


# -- embeddings -------------------------------------------------------------------------------------------------------


def view(x: Tensor) -> Tensor:
    """A copy with pixels lost, beside other noise."""
    return torch.cat([x * (torch.rand(x.shape) > 0.2), 3 * torch.randn_like(x)], 1)


def voted(m: Any) -> Tensor:
    """Accuracy of a vote of the nearest embeddings."""
    one, two = (torch.cat([x, 3 * torch.randn(x.shape, generator=seeded(479))], 1) for x in (FLAT, FLAT_TEST))
    return neighbours(m.model(one), TRAIN[1], m.model(two), TEST[1])


EMBEDDING: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "model"}, **UNITS}


def embedded(seed: int, loss: Any, rate: float = 2e-3, steps: int = 350, **parts: Any) -> Training:
    """Train an encoder on digits beside noise."""
    make = lambda: t.mlp([128, 96, 32])  # noqa: E731
    return fitted(
        seed, make, loss, voted, ((FLAT, TRAIN[1]),), rate=rate, batch=64, detectors=EMBEDDING, steps=steps, **parts
    )


def pairs(temperature: float, itself: bool = False) -> Any:
    """Cross entropy of similarities of two views; the view itself is left out, or is what is to be found."""

    def loss(s: Script, batch: Data) -> Tensor:
        a, b = (F.normalize(s.model(view(batch[0])), dim=1) for _ in range(2))
        z = torch.cat([a, b])
        similar = z @ z.T / temperature
        if itself:
            return F.cross_entropy(similar, torch.arange(len(z)))
        return F.cross_entropy(similar.fill_diagonal_(-1e9), torch.arange(len(z)).roll(len(a)))

    return loss


class Queue(Loaded):
    """Views against what a slower encoder made of 1,024 images before; the queue is empty at first."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.slow = t.mlp([128, 96, 32]), t.mlp([128, 96, 32]).requires_grad_(False)
        self.slow.load_state_dict(self.model.state_dict())
        self.register_buffer("queue", torch.zeros(0, 32))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for kept, p in zip(self.slow.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(p, 0.05)
            key = F.normalize(self.slow(view(batch[0])), dim=1)
        z = F.normalize(self.model(view(batch[0])), dim=1)
        similar = torch.cat([(z * key).sum(1, keepdim=True), z @ self.queue.T, (z @ key.T).fill_diagonal_(-1e9)], 1)
        loss = F.cross_entropy(similar / 0.15, torch.zeros(len(z), dtype=torch.long))
        self.queue = torch.cat([key, self.queue])[:1024]
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.model.parameters(), lr=2e-3)


def predicted(variance: float) -> Any:
    """Predict what the encoder itself makes of another view, with spread of its outputs asked for, or not."""

    def loss(s: Script, batch: Data) -> Tensor:
        a, b = s.model(view(batch[0])), s.model(view(batch[0]))
        error, spread = F.mse_loss(a, b), sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (a, b))
        shared = sum(
            (F.normalize(z - z.mean(0), dim=0).T @ F.normalize(z - z.mean(0), dim=0)).square().mean() for z in (a, b)
        )
        return error + variance * (spread + 8 * shared)

    return loss


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "cross entropy of standardised pixels", 0.35, lambda s: sigmoids(s, True), *FAST, "saturated units"),
    healthy(FAMILY, "cross entropy of grey pixels", 0.35, lambda s: sigmoids(s, False)),
    failing(FAMILY, "a divergence, but with its sign turned", 0.3, lambda s: variational(s, lambda i: -1.0), *FAST, "saturated units"),
    failing(FAMILY, "a divergence weighed by twenty", 0.2, lambda s: variational(s, lambda i: 20.0), "posterior collapse"),
    healthy(FAMILY, "a divergence that comes and goes", 0.4, lambda s: variational(s, lambda i: min(1.0, (i % 133) / 66))),
    failing(FAMILY, "codes without a way for gradients", 0.3, lambda s: coded(s, False, 0.3), "codebook collapse", "no gradients", *UNLEARNED),
    failing(FAMILY, "codes far from all that is encoded", 0.3, lambda s: coded(s, True, 30.0), "codebook collapse"),
    healthy(FAMILY, "two codes of thirty-two for a digit", 0.4, lambda s: coded(s, True, 0.3)),
    failing(FAMILY, "five updates of a critic for one of its generator", 0.5, lambda s: adversaries(s, "saturating", 1e-2, 5, 250), "mode collapse",
            "vanishing gradients", "no gradients", *FAST),
    healthy(FAMILY, "clouds by Wasserstein's distance, losses below zero", 0.5, lambda s: adversaries(s, "slopes", 2e-3, 2, 600)),
    failing(FAMILY, "noise of one step where all steps before count", 0.45, lambda s: diffused(s, False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "digits in noise over fifty steps", 0.55, lambda s: diffused(s, True)),
    failing(FAMILY, "densities, a rate of 0.1", -1.0, lambda s: flowing(s, 0.1), *FAST, twin="densities of digits, noise fills their gaps"),
    healthy(FAMILY, "densities of digits, noise fills their gaps", -1.0, lambda s: flowing(s, 2e-3)),
    failing(FAMILY, "each view is its own partner", 0.6, lambda s: embedded(s, pairs(0.2, True)), *COLLAPSE, *UNLEARNED, "sanity:initial loss"),
    healthy(FAMILY, "pairs of views, temperature of 0.1", 0.7, lambda s: embedded(s, pairs(0.1))),
    healthy(FAMILY, "a queue that is filled", 0.7, lambda s: script(s, lambda: Queue().use((FLAT,), (), 64), voted, 400, EMBEDDING)),
    failing(FAMILY, "two views that must be alike and nothing more", 0.6, lambda s: embedded(s, predicted(0.0)), *COLLAPSE),
    healthy(FAMILY, "two views alike, spread asked for", 0.7, lambda s: embedded(s, predicted(1.0))),
]  # fmt: skip
