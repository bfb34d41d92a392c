"""Variational autoencoders and quantised ones, on digits: latents that carry the digit, and latents that are ignored.

The score of a VAE is the accuracy of five nearest neighbours on samples of the posterior: what the latent tells of the
digit. Chance is 0.1. That of a quantised one is R² of held-out images over R² of K-means with as many centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios.autoencoders import r_squared
from benchmarks.models.trainings import Batches, Training, digits, mlp, rows, split

FAMILY = "variational"


# -- decoders ---------------------------------------------------------------------------------------------------------


class PlainDecoder(nn.Module):
    """Pixels are independent given the latent."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = mlp([latent, 128, 64])

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.layers(z)


class SkipDecoder(nn.Module):
    """Sees features of the image besides the latent, as in a U-Net."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.skip, self.layers = nn.Sequential(nn.Linear(64, 48), nn.ReLU()), mlp([latent + 48, 128, 64])

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.layers(torch.cat([z, self.skip(x)], dim=1))


class MaskedLinear(nn.Linear):
    """Each output sees the inputs that its mask allows."""

    def __init__(self, inputs: Tensor, outputs: Tensor, strict: bool) -> None:
        super().__init__(len(inputs), len(outputs))
        later = outputs[:, None] > inputs[None, :] if strict else outputs[:, None] >= inputs[None, :]
        self.register_buffer("mask", later.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class AutoregressiveDecoder(nn.Module):
    """Each pixel sees the ones before it, besides the latent. Reference: Germain et al., 2015, arXiv:1502.03509."""

    def __init__(self, latent: int, width: int = 256) -> None:
        super().__init__()
        order, hidden = torch.arange(64), torch.arange(width) % 63
        self.first = MaskedLinear(order, hidden, strict=False)
        self.second = MaskedLinear(hidden, order, strict=True)
        self.from_latent = nn.Linear(latent, width)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x) + self.from_latent(z)))


# -- VAE --------------------------------------------------------------------------------------------------------------


class VAE(L.LightningModule):
    """Reconstruction plus a weighted KL divergence. Reference: Kingma and Welling, 2013, arXiv:1312.6114.

    Args:
        decoder: latent size -> decoder.
        weight: step -> weight of the KL divergence.
        free_bits: nats of each dimension that cost nothing.
        blank: share of the pixels that the decoder does not see while training ("word dropout").
    """

    def __init__(
        self,
        decoder: Callable[[int], nn.Module] = PlainDecoder,
        weight: Callable[[int], float] = lambda step: 1.0,
        free_bits: float = 0.0,
        blank: float = 0.0,
        latent: int = 8,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.fc_mu, self.fc_log_var = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = decoder(latent)
        self.weight, self.free_bits, self.blank, self.lr = weight, free_bits, blank, lr

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.fc_mu(h), self.fc_log_var(h)

    def elbo(self, x: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
        seen = x * (torch.rand_like(x) >= self.blank) if self.training and self.blank else x
        nll = F.binary_cross_entropy_with_logits(self.decoder(z, seen), x, reduction="none").sum(dim=1).mean()
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).mean(dim=0)
        return nll + weight * kl.clamp_min(self.free_bits).sum(), nll, kl.sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        weight = self.weight(self.global_step)
        loss, nll, kl = self.elbo(x, weight)
        self.log_dict({"loss": loss, "nll": nll, "kl": kl, "kl_weight": weight})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.elbo(batch[0], 1.0)[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def neighbours(encode: Callable[[Any], Callable[[Tensor], tuple[Tensor, Tensor]]], seed: int) -> Callable[[Any], float]:
    """Return the score: accuracy of the five nearest neighbours on samples of the posterior."""
    (stored, names), (held, labels) = split(digits(), seed)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        generator = torch.Generator().manual_seed(31)
        sampled = []
        for x in (held, stored):
            mu, log_var = encode(module)(x)
            sampled.append(mu + torch.randn(mu.shape, generator=generator) * torch.exp(0.5 * log_var))
        nearest = torch.cdist(*sampled).topk(5, dim=1, largest=False).indices
        return float((names[nearest].mode(dim=1).values == labels).float().mean())

    return score


def vae(seed: int, steps: int = 500, **arguments: Any) -> Training:
    """Train a VAE on images; the labels in the batch are not used."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    watched: dict[str, dict[str, Any]] = {
        "PosteriorCollapse": {"mean": "fc_mu", "log_variance": "fc_log_var"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    score = neighbours(lambda m: m.encode, seed)
    return Training(
        VAE(**arguments), Batches(steps, rows(train, 64), seed), steps, watched, [held], every=100, score=score
    )


class JointVAE(L.LightningModule):
    """An encoder whose one output is the mean and the logarithm of the variance, side by side; squared errors.

    Args:
        beta: weight of the KL divergence. Reference: Higgins et al., 2017.
        noise: standard deviation of the pixels.
    """

    def __init__(self, beta: float = 1.0, noise: float = 0.2) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp([64, 128, 12]), mlp([6, 128, 64])
        self.beta, self.noise = beta, noise

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x = batch["image"]
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        posterior = torch.distributions.Normal(mu, (log_var / 2).exp())
        reconstruction = torch.distributions.Normal(self.decoder(posterior.rsample()), self.noise)
        log_likelihood = reconstruction.log_prob(x).sum(dim=1).mean()  # a density: it may be above 0
        prior = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
        divergence = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
        return {"loss": self.beta * divergence - log_likelihood, "kl": divergence.detach()}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def joint(seed: int, steps: int = 500, **arguments: Any) -> Training:
    """Train on batches that are dicts."""
    torch.manual_seed(seed)
    (x, _), _ = split(digits(), seed)

    def draw(generator: torch.Generator, index: int) -> Any:
        return {"image": x[torch.randint(len(x), (64,), generator=generator)]}

    watched: dict[str, dict[str, Any]] = {
        "PosteriorCollapse": {"mean": "encoder", "log_variance": "encoder"},
        "RepresentationCollapse": {"layer": "encoder"},
        "TrainingDoctor": {},
    }
    score = neighbours(lambda m: lambda x: m.encoder(x).chunk(2, dim=1), seed)
    return Training(JointVAE(**arguments), Batches(steps, draw, seed), steps, watched, score=score)


# -- quantised --------------------------------------------------------------------------------------------------------


class NearestCode(nn.Module):
    """Which entry of the codebook is the nearest."""

    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        return torch.cdist(z, codes).argmin(dim=1)


class VQVAE(L.LightningModule):
    """One code for each image. Reference: van den Oord et al., 2017, arXiv:1711.00937.

    Args:
        averaged: whether codes follow the encoder as moving averages, and unused ones are replaced; else by gradients.
        spread: standard deviation of the random codes; 0 for outputs of the encoder for the first batch.
    """

    def __init__(self, averaged: bool = True, spread: float = 0.0, size: int = 64, lr: float = 2e-3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(mlp([64, 128, 16]))
        self.decoder = mlp([16, 128, 64])
        self.nearest = NearestCode()
        self.codes = nn.Parameter(spread * torch.randn(size, 16), requires_grad=not averaged)
        self.register_buffer("counts", torch.ones(size))
        self.averaged, self.spread, self.lr = averaged, spread, lr

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.encoder(x)
        index = self.nearest(z, self.codes)
        return z, index, self.codes[index]

    @torch.no_grad()
    def _follow(self, z: Tensor, index: Tensor) -> None:
        hits = F.one_hot(index, len(self.codes)).float()
        self.counts.lerp_(hits.sum(dim=0), 0.05)
        means = hits.T @ z / hits.sum(dim=0).clamp_min(1)[:, None]
        used = hits.sum(dim=0) > 0
        self.codes[used] = self.codes[used].lerp(means[used], 0.2)
        unused = (self.counts < 0.1).nonzero().flatten()
        self.codes[unused] = z[torch.randint(len(z), (len(unused),))]
        self.counts[unused] = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, _ = batch
        if batch_idx == 0 and not self.spread:
            with torch.no_grad():
                self.codes.copy_(self.encoder(x)[: len(self.codes)])
        z, index, quantised = self(x)
        commitment = F.mse_loss(z, quantised.detach())
        codebook = 0.0 if self.averaged else F.mse_loss(quantised, z.detach())
        reconstruction = self.decoder(z + (quantised - z).detach())
        if self.averaged:
            self._follow(z.detach(), index)
        return {"loss": F.mse_loss(reconstruction, x) + codebook + 0.25 * commitment}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)


def quantised(seed: int, steps: int = 600, **arguments: Any) -> Training:
    """Train a VQ-VAE; its score is relative to K-means with as many centres."""
    torch.manual_seed(seed)
    train, (held, _) = split(digits(), seed)
    module = VQVAE(**arguments)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        means = KMeans(len(module.codes), n_init=1, random_state=0).fit(train[0].double().numpy())
        centres = torch.tensor(means.cluster_centers_)[torch.tensor(means.predict(held.double().numpy())).long()]
        return r_squared(module.decoder(module(held)[2]), held) / r_squared(centres.float(), held)

    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "nearest", "kind": "codebook"},
        "RepresentationCollapse": {"layer": "encoder"},
        "TrainingDoctor": {},
    }
    return Training(module, Batches(steps, rows(train, 64), seed), steps, watched, score=score)


USEFUL = 0.35
POSTERIOR = ("posterior collapse",)

SCENARIOS: list[Scenario] = [
    # -- failing
    failing(
        FAMILY,
        "VAE, autoregressive decoder, no annealing",
        USEFUL,
        lambda s: vae(s, decoder=AutoregressiveDecoder),
        *POSTERIOR,
        onset=0.05,
    ),
    failing(
        FAMILY, "VAE, the decoder sees the image", USEFUL, lambda s: vae(s, decoder=SkipDecoder), *POSTERIOR, onset=0.05
    ),
    failing(FAMILY, "beta-VAE, beta 50", USEFUL, lambda s: joint(s, beta=50.0), *POSTERIOR, "complete collapse"),
    failing(
        FAMILY,
        "VQ-VAE, codes far from the encoder's outputs",
        0.75,
        lambda s: quantised(s, averaged=False, spread=3.0),
        "codebook collapse",
        "complete collapse",
    ),
    # -- healthy
    healthy(
        FAMILY,
        "VAE, weight of the KL divergence rises",
        USEFUL,
        lambda s: vae(s, weight=lambda step: min(1.0, step / 250)),
    ),
    healthy(FAMILY, "VAE, free bits", USEFUL, lambda s: vae(s, free_bits=0.5)),
    healthy(
        FAMILY,
        "VAE, autoregressive decoder with free bits and blanked pixels",
        USEFUL,
        lambda s: vae(
            s, decoder=AutoregressiveDecoder, free_bits=0.7, blank=0.6, weight=lambda step: min(1.0, step / 300)
        ),
    ),
    healthy(
        FAMILY,
        "VAE, weight of the KL divergence in cycles",
        USEFUL,
        lambda s: vae(s, weight=lambda step: min(1.0, (step % 150) / 75)),
    ),
    healthy(FAMILY, "VAE, density of pixels above 1", USEFUL, joint),
    healthy(FAMILY, "VQ-VAE, moving averages and reset of codes", 0.75, quantised),
    healthy(
        FAMILY,
        "VQ-VAE, codes from the first batch, by gradients",
        0.75,
        lambda s: quantised(s, averaged=False),
    ),
]
