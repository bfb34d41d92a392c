"""Public examples that generate, restore and embed, told again in small: half fail, half are healthy look-alikes.

Written by somebody who has not seen the rules. The names were chosen so that all of them are in the develop half: these
scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.retold import COLLAPSE, UNITS, Detectors, Example, embedding, pixels, restored, trained
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, neighbours

FAMILY = "third unlabelled"
(TRAIN, LABELS), (TEST, ANSWERS) = pixels()


# -- pytorch/examples: vae --------------------------------------------------------------------------------------------


class VAE(Example):
    """The example: cross entropy of pixels, summed, or by its default their mean, and the divergence, summed."""

    rate = 3e-3

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction
        self.fc1, self.fc21, self.fc22 = nn.Linear(64, 64), nn.Linear(64, 8), nn.Linear(64, 8)
        self.fc3, self.fc4 = nn.Linear(8, 64), nn.Linear(64, 64)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        mu, logvar = self.encode(batch[0])
        recon = self.decode(mu + torch.randn_like(mu) * torch.exp(0.5 * logvar))
        bce = F.binary_cross_entropy(recon, batch[0], reduction=self.reduction)
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        self.log_dict({"bce": bce, "kld": kld})
        return bce + kld


def variational(seed: int, reduction: str) -> Training:
    """Train the example; the score is R squared of new digits through the means of their codes."""
    score = lambda m: restored(m.decode(m.encode(TEST)[0]), TEST)  # noqa: E731
    watched: Detectors = {"PosteriorCollapse": {"mean": "fc21", "log_variance": "fc22"}, **UNITS}
    return trained(seed, lambda: VAE(reduction).use((TRAIN,), (), 64), score, watched, 400)


# -- pytorch/examples: dcgan ------------------------------------------------------------------------------------------


def rings(count: int, seed: int) -> Tensor:
    """Six clouds on a circle."""
    g = seeded(seed)
    angle = torch.randint(6, (count,), generator=g) * math.pi / 3
    return 1.5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(count, 2, generator=g)


class Adversaries(L.LightningModule):
    """Real and made-up points with labels 1 and 0; the second optimizer has the weights of the discriminator, or those of the generator."""

    def __init__(self, forgotten: bool, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.forgotten, self.updates, self.criterion = forgotten, updates, nn.BCEWithLogitsLoss()
        self.netG = t.mlp([8, 64, 64, 2])
        self.netD = t.mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(rings(128 * self.updates, 521)), batch_size=128)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        (real,), (optimizer_g, optimizer_d) = batch, self.optimizers()  # type: ignore[misc]
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = self.netG(torch.randn(len(real), 8))
        err_d = self.criterion(self.netD(real), ones) + self.criterion(self.netD(fake.detach()), zeros)
        optimizer_d.zero_grad()
        self.manual_backward(err_d)
        optimizer_d.step()
        err_g = self.criterion(self.netD(fake), ones)
        optimizer_g.zero_grad()
        self.manual_backward(err_g)
        optimizer_g.step()
        self.log_dict({"Loss_D": err_d, "Loss_G": err_g}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        parts = (self.netG, 1e-3), (self.netG if self.forgotten else self.netD, 2e-3)
        return [torch.optim.Adam(m.parameters(), lr=rate, betas=(0.5, 0.999)) for m, rate in parts]


def covered(points: Tensor) -> float:
    """Share of the clouds with four in a hundred points near them, times the share of points near one of them."""
    angle = torch.arange(6) * math.pi / 3
    near = torch.cdist(points, 1.5 * torch.stack([angle.cos(), angle.sin()], 1)) < 0.45
    return float((near.float().mean(0) > 0.04).float().mean() * near.any(1).float().mean())


def adversaries(seed: int, forgotten: bool, updates: int = 800) -> Training:
    """Train two adversaries; the score is how many clouds samples cover."""
    watched: Detectors = {"ModeCollapse": {"generator": "netG"}, **UNITS}
    score = lambda m: covered(m.netG(torch.randn(1000, 8, generator=seeded(522))))  # noqa: E731
    return trained(seed, lambda: Adversaries(forgotten, updates), score, watched, 2 * updates)


# -- embeddings of two views ------------------------------------------------------------------------------------------


def view(x: Tensor) -> Tensor:
    """A copy with pixels lost, beside noise."""
    return torch.cat([x * (torch.rand(x.shape) > 0.25) + 0.1 * torch.randn_like(x), torch.randn_like(x)], 1)


def voted(m: Any) -> Tensor:
    """Accuracy of a vote of the nearest embeddings."""
    one, two = (torch.cat([x, torch.randn(x.shape, generator=seeded(523))], 1) for x in (TRAIN, TEST))
    return neighbours(m.encoder(one), LABELS, m.encoder(two), ANSWERS)


class SimCLR(Example):
    """InfoNCE of two views at a temperature of 0.2; both are of one image, or each is from a loader with an order of its own."""

    rate = 2e-3

    def __init__(self, together: bool) -> None:
        super().__init__()
        self.together = together
        self.encoder = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 48))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(48, 24))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        (x,) = batch
        other = x if self.together else self.train_set[torch.randint(len(self.train_set), (len(x),))][0]
        z = F.normalize(self.projector(self.encoder(torch.cat([view(x), view(other)]))), dim=1)
        similar = (z @ z.T / 0.2).fill_diagonal_(-1e9)
        loss = F.cross_entropy(similar, torch.arange(len(z)).roll(len(x)))
        self.log("nt_xent", loss, prog_bar=True)
        return loss


def contrasted(seed: int, together: bool) -> Training:
    """Train SimCLR."""
    return trained(seed, lambda: SimCLR(together).use((TRAIN,), (), 64), voted, embedding("encoder"), 350)


class BYOL(Example):
    """Predicts what a slow copy makes of another view; or what the same network makes of it, as ``deepcopy`` and ``no_grad`` are missing."""

    rate = 2e-3

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.copied = copied
        self.encoder = nn.Sequential(nn.Linear(128, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 48))
        self.predictor = nn.Sequential(nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48))
        self.target = deepcopy(self.encoder).requires_grad_(False) if copied else self.encoder

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        one, two = view(batch[0]), view(batch[0])
        with torch.set_grad_enabled(not self.copied):
            target_one, target_two = self.target(one), self.target(two)
        pairs = ((self.predictor(self.encoder(one)), target_two), (self.predictor(self.encoder(two)), target_one))
        loss = sum(2 - 2 * F.cosine_similarity(p, z).mean() for p, z in pairs) / 2
        self.log("byol", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.copied:
            with torch.no_grad():
                for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.02)


def bootstrapped(seed: int, copied: bool) -> Training:
    """Train BYOL."""
    return trained(seed, lambda: BYOL(copied).use((TRAIN,), (), 128), voted, embedding("encoder"), 400)


# -- masked autoencoders ----------------------------------------------------------------------------------------------


def patched(x: Tensor) -> Tensor:
    """Sixteen patches of 2x2 pixels: ``[n, 16, 4]``."""
    return x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)


class MAE(Example):
    """Six of sixteen patches are hidden; the loss is of these, or of the others."""

    rate = 5e-3

    def __init__(self, of_hidden: bool) -> None:
        super().__init__()
        self.of_hidden = of_hidden
        self.embed, self.mask_token = nn.Linear(4, 32), nn.Parameter(torch.zeros(32))
        self.places = nn.Parameter(0.1 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.decoder_pred = nn.Linear(32, 4)

    def forward(self, patches: Tensor, hidden: Tensor) -> Tensor:
        h = torch.where(hidden.unsqueeze(2), self.mask_token, self.embed(patches)) + self.places
        return self.decoder_pred(self.encoder(h))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        patches = patched(batch[0])
        hidden = torch.rand(patches.shape[:2]).argsort(1) < 6
        error = (self(patches, hidden) - patches).square().mean(2)
        mask = (hidden if self.of_hidden else ~hidden).float()
        loss = (error * mask).sum() / mask.sum()
        self.log("loss", loss)
        return loss


def masked(seed: int, of_hidden: bool) -> Training:
    """Train on patches; the score is R squared of those that are hidden, of new digits."""
    patches = patched(TEST)
    hidden = torch.rand(patches.shape[:2], generator=seeded(524)).argsort(1) < 6

    def score(m: Any) -> Tensor:
        error, spread = (m(patches, hidden) - patches)[hidden], (patches - patches.mean(0))[hidden]
        return 1 - error.square().sum() / spread.square().sum()

    return trained(seed, lambda: MAE(of_hidden).use((TRAIN,), (), 64), score, UNITS, 450)


# -- diffusion and flows on two moons ---------------------------------------------------------------------------------


def moons(count: int, seed: int) -> Tensor:
    """Two moons, standardised."""
    x = torch.tensor(make_moons(count, noise=0.06, random_state=seed)[0]).float()
    return (x - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])


class DDPM(Example):
    """Finds the noise that was added to points; or, as it is drawn twice, another."""

    rate = 2e-3

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once, self.model = once, t.mlp([10, 96, 96, 2], nn.SiLU)
        self.register_buffer("alpha_bar", (1 - torch.linspace(1e-3, 0.15, 50)).cumprod(0))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        phase = step.unsqueeze(1) / 50 * math.pi * torch.arange(1, 5)
        return self.model(torch.cat([x, phase.sin(), phase.cos()], 1))

    def q_sample(self, x: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        kept = self.alpha_bar[step].unsqueeze(1)
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        (x,) = batch
        step, noise = torch.randint(50, (len(x),)), torch.randn_like(x)
        noisy = self.q_sample(x, step, noise if self.once else torch.randn_like(x))
        loss = F.mse_loss(self(noisy, step), noise)
        self.log("loss", loss, prog_bar=True)
        return loss


def diffused(seed: int, once: bool) -> Training:
    """Train on moons; the score is R squared of the noise in new ones."""
    new, g = moons(1000, 525), seeded(526)
    step, noise = torch.randint(50, (1000,), generator=g), torch.randn(1000, 2, generator=g)
    score = lambda m: 1 - (m(m.q_sample(new, step, noise), step) - noise).square().mean()  # noqa: E731
    return trained(seed, lambda: DDPM(once).use((moons(8000, 527),), (), 128), score, UNITS, 400)


class RealNVP(Example):
    """Six couplings; the logarithm of their volume is added, or subtracted."""

    rate = 3e-3

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.nets = nn.ModuleList(t.mlp([1, 48, 48, 2]) for _ in range(6))

    def log_prob(self, x: Tensor, sign: float = 1.0) -> Tensor:
        volume = torch.zeros(len(x))
        for k, net in enumerate(self.nets):
            fixed, moved = x[:, k % 2, None], x[:, 1 - k % 2, None]
            scale, shift = net(fixed).chunk(2, 1)
            scale = 2 * torch.tanh(scale / 2)
            moved, volume = moved * scale.exp() + shift, volume + scale.squeeze(1)
            x = torch.cat([fixed, moved] if k % 2 == 0 else [moved, fixed], 1)
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi) + sign * volume

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = -self.log_prob(batch[0], self.sign).mean()
        self.log("nll", loss, prog_bar=True)
        return loss


def flowing(seed: int, sign: float) -> Training:
    """Train a flow on moons; the score is the mean logarithm of the density of new ones."""
    new = moons(1000, 528)
    score = lambda m: m.log_prob(new).mean().nan_to_num(-1e9)  # noqa: E731
    return trained(seed, lambda: RealNVP(sign).use((moons(8000, 529),), (), 128), score, UNITS, 400)


# -- sparse codes -----------------------------------------------------------------------------------------------------


class Sparse(Example):
    """Non-negative codes of 96 numbers for an image, few of them above 0; a weight of their sum."""

    rate = 3e-3

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight, self.act = weight, nn.ReLU()
        self.encoder, self.decoder = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.act(self.encoder(x)))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        codes = self.act(self.encoder(batch[0]))
        error = (self.decoder(codes) - batch[0]).square().sum(1).mean()
        penalty = self.weight * codes.abs().sum(1).mean()
        self.log_dict({"error": error, "penalty": penalty})
        return error + penalty


def sparse(seed: int, weight: float) -> Training:
    """Train sparse codes; the score is R squared of new digits."""
    score = lambda m: restored(m(TEST), TEST)  # noqa: E731
    return trained(seed, lambda: Sparse(weight).use((TRAIN,), (), 64), score, embedding("encoder"), 400)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "the VAE example, pixels averaged", 0.2, lambda s: variational(s, "mean"), "posterior collapse"),
    healthy(FAMILY, "VAE example, two sums", 0.35, lambda s: variational(s, "sum")),
    failing(FAMILY, "two optimizers of one generator", 0.4, lambda s: adversaries(s, True), "mode collapse", "vanishing gradients", "no gradients",
            "sanity:all parameters learn", *FAST),
    healthy(FAMILY, "six clouds of an adversarial pair", 0.4, lambda s: adversaries(s, False)),
    failing(FAMILY, "SimCLR, each view shuffled by its own loader", 0.6, lambda s: contrasted(s, False), *COLLAPSE, *UNLEARNED, ONE_BATCH, FOLLOW),
    healthy(FAMILY, "SimCLR, two views of an image", 0.75, lambda s: contrasted(s, True)),
    failing(FAMILY, "BYOL without a deepcopy", 0.6, lambda s: bootstrapped(s, False), *COLLAPSE),
    healthy(FAMILY, "BYOL, the target is a slow copy", 0.75, lambda s: bootstrapped(s, True)),
    failing(FAMILY, "patches, the loss is of those that are seen", 0.1, lambda s: masked(s, False), *UNLEARNED, "sanity:all parameters learn"),
    healthy(FAMILY, "patches, a loss of hidden ones", 0.1, lambda s: masked(s, True)),
    failing(FAMILY, "moons and two draws of noise", 0.2, lambda s: diffused(s, False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "moons in noise of fifty steps", 0.4, lambda s: diffused(s, True)),
    failing(FAMILY, "moons by a flow, its volume subtracted", -2.4, lambda s: flowing(s, -1.0), *FAST, *UNLEARNED, *COLLAPSE),
    healthy(FAMILY, "two moons by a flow", -2.4, lambda s: flowing(s, 1.0)),
    failing(FAMILY, "sparse codes, a weight of 20", 0.2, lambda s: sparse(s, 20.0), *COLLAPSE, "dead units", "inputs ignored", "vanishing gradients",
            "no gradients"),
    healthy(FAMILY, "sparse codes of digits", 0.6, lambda s: sparse(s, 0.05)),
]  # fmt: skip
