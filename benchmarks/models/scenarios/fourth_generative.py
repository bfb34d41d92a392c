"""Generators, densities and codes: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded

FAMILY = "fourth generative"
TRAIN, TEST = images(601)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
COLLAPSED = ("complete collapse", "dimensional collapse")


def restored(output: Tensor, x: Tensor) -> Tensor:
    """Share of the variance of pixels that is restored."""
    return 1 - (output.nan_to_num(1e4) - x).square().mean() / (x - x.mean(0)).square().mean()


# -- autoencoders -----------------------------------------------------------------------------------------------------


class AnnealedVAE(Loaded):
    """The weight of the divergence is a function of the step: it goes up and down, or up without an end."""

    def __init__(self, weight: Callable[[int], float]) -> None:
        super().__init__()
        self.weight = weight
        self.encode = nn.Sequential(nn.Linear(64, 80), nn.SiLU())
        self.fc_mu, self.fc_logvar = nn.Linear(80, 10), nn.Linear(80, 10)
        self.decode = t.mlp([10, 80, 64], nn.SiLU)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        h = self.encode(batch[0])
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        out = self.decode(mu + (logvar / 2).exp() * torch.randn_like(mu))
        error = (out - batch[0]).square().sum(1).mean()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        self.log_dict({"reconstruction": error, "kl": kl})
        return {"loss": error + self.weight(self.global_step) * kl}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def vae(seed: int, weight: Callable[[int], float]) -> Training:
    """Train on digits; the score is the share of the variance that means restore."""
    watched = {"PosteriorCollapse": {"mean": "fc_mu", "log_variance": "fc_logvar"}, **DOCTOR}
    score = lambda m: restored(m.decode(m.fc_mu(m.encode(FLAT_TEST))), FLAT_TEST)  # noqa: E731
    return script(seed, lambda: AnnealedVAE(weight).use((FLAT,), (), 70), score, 400, watched)


class Quantizer(nn.Module):
    """The nearest of 64 codes by moving averages of what they stand for; those that are idle are taken from the batch anew."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen = nn.Identity()
        self.register_buffer("codes", torch.rand(64, 8) / 64)
        self.register_buffer("used", torch.ones(64))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        index = self.chosen(torch.cdist(z, self.codes).argmin(1))
        if self.training:
            with torch.no_grad():
                hot = F.one_hot(index, 64).to(z.dtype)
                self.used.lerp_(hot.sum(0), 0.1)
                mean = hot.T @ z / hot.sum(0).clamp(min=1)[:, None]
                self.codes.lerp_(torch.where(hot.sum(0)[:, None] > 0, mean, self.codes), 0.1)
                idle = (self.used < 0.3).nonzero().squeeze(1)
                if len(idle):
                    rows = torch.randint(len(z), (len(idle),))
                    self.codes[idle], self.used[idle] = z[rows], 1.0
        code = self.codes[index]
        return z + (code - z).detach(), F.mse_loss(z, code.detach())


class Codes(Loaded):
    """Four codes of eight numbers for a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.vq, self.dec = t.mlp([64, 96, 32]), Quantizer(), t.mlp([32, 96, 64])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, commitment = self.vq(self.enc(x).view(-1, 8))
        return self.dec(z.view(-1, 32)), commitment

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        out, commitment = self(batch[0])
        self.log("commitment", commitment)
        return F.mse_loss(out, batch[0]) + 0.25 * commitment

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([*self.enc.parameters(), *self.dec.parameters()], lr=2e-3)


def coded(seed: int) -> Training:
    """Train on digits; the score is the share of the variance that codes restore."""
    watched = {"UsageCollapse": {"assignments": "vq.chosen", "kind": "codebook"}, **DOCTOR}
    score = lambda m: restored(m(FLAT_TEST)[0], FLAT_TEST)  # noqa: E731
    return script(seed, lambda: Codes().use((FLAT,), (), 70), score, 400, watched)


class Dictionary(Loaded):
    """A sparse autoencoder; something may be subtracted before its units, as where a bias is applied with a wrong scale."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.encoder, self.act, self.decoder = nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.act(self.encoder(x) - self.shift))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        h = self.act(self.encoder(batch[0]) - self.shift)
        loss = (self.decoder(h) - batch[0]).square().sum(1).mean() + 0.2 * h.sum(1).mean()
        self.log("l0", (h > 0).float().sum(1).mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def sparse(seed: int, shift: float) -> Training:
    """Train on digits; the score is the share of the variance that is restored."""
    make = lambda: Dictionary(shift).use((FLAT,), (), 70)  # noqa: E731
    return script(seed, make, lambda m: restored(m(FLAT_TEST), FLAT_TEST), 350, {"DeadUnits": {}, **DOCTOR})


# -- adversaries ------------------------------------------------------------------------------------------------------


def ring(count: int) -> Tensor:
    """Points around six places."""
    angle = torch.randint(6, (count,)) * math.pi / 3
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.08 * torch.randn(count, 2)


class Pair(L.LightningModule):
    """A generator and a critic of one of several kinds."""

    def __init__(self, kind: str, rates: tuple[float, float], updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.kind, self.rates, self.updates = kind, rates, updates
        self.netG, self.netD = t.mlp([6, 64, 64, 2]), t.mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(ring(64 * self.updates)), batch_size=64)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        g_opt, d_opt = self.optimizers()  # type: ignore[misc]
        real = batch[0].requires_grad_(True)
        fake = self.netG(torch.randn(len(real), 6))
        on_real, on_fake = self.netD(real), self.netD(fake.detach())
        if self.kind == "hinge":
            d_loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        elif self.kind in ("penalty", "clipped"):
            d_loss = on_fake.mean() - on_real.mean()
        else:
            d_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if self.kind in ("penalty", "hinge"):
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            weight, wanted = (1.0, 1.0) if self.kind == "penalty" else (0.1, 0.0)
            d_loss = d_loss + weight * ((slope.square().sum(1) + 1e-8).sqrt() - wanted).square().mean()
        d_opt.zero_grad()
        self.manual_backward(d_loss)
        d_opt.step()
        if self.kind == "clipped":
            with torch.no_grad():
                for p in self.netD.parameters():
                    p.clamp_(-1e-3, 1e-3)
        out = self.netD(fake)
        # "labels": the fakes are labelled as fakes also where the generator is updated
        g_loss = -out.mean() if self.kind != "labels" else F.softplus(out).mean()
        g_opt.zero_grad()
        self.manual_backward(g_loss)
        g_opt.step()
        self.log_dict({"errD": d_loss.detach(), "errG": g_loss.detach()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        nets = zip((self.netG, self.netD), self.rates, strict=True)
        return [torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.9)) for net, lr in nets]


def pair(seed: int, kind: str, rates: tuple[float, float] = (1e-3, 2e-3), updates: int = 900) -> Training:
    """Train a GAN; the score is the lesser of the share of good samples and of the share of places that have any."""

    def score(m: Any) -> Tensor:
        x = m.netG(torch.randn(1500, 6, generator=seeded(602))).nan_to_num(99.0)
        angles = torch.arange(6) * math.pi / 3
        distance, place = torch.cdist(x, 2 * torch.stack([angles.cos(), angles.sin()], 1)).min(1)
        good = distance < 0.5
        return torch.minimum(good.float().mean(), (torch.bincount(place[good], minlength=6) > 25).float().mean())

    watched = {"ModeCollapse": {"generator": "netG"}, **DOCTOR}
    return script(seed, lambda: Pair(kind, rates, updates), score, updates, watched)


# -- diffusion, flows -------------------------------------------------------------------------------------------------


class Denoiser(Loaded):
    """DDPM on digits; the share of the image that is left is a product of 1 - beta, or what a sum leaves; zero last layer."""

    def __init__(self, left: Tensor) -> None:
        super().__init__()
        self.register_buffer("left", left)
        self.time = nn.Embedding(len(left), 32)
        self.first, self.mid, self.final = nn.Linear(64, 128), nn.Linear(128 + 32, 128), nn.Linear(128, 64)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)

    def noised(self, x: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Images in noise."""
        share = self.left[step][:, None]
        return share.sqrt() * x + (1 - share).sqrt() * noise

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        h = F.silu(self.first(x))
        return self.final(F.silu(self.mid(torch.cat([h, self.time(step)], 1))))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        noise, step = torch.randn_like(batch[0]), torch.randint(len(self.left), (len(batch[0]),))
        loss = F.mse_loss(self(self.noised(batch[0], step, noise), step), noise)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def denoising(seed: int, left: Callable[[Tensor], Tensor]) -> Training:
    """Train on digits; the score is the share of the noise that is found, by the right schedule."""
    betas = torch.linspace(1e-3, 0.1, 60)
    right = (1 - betas).cumprod(0)

    def score(m: Any) -> Tensor:
        g = seeded(603)
        noise, step = torch.randn(FLAT_TEST.shape, generator=g), torch.randint(60, (len(FLAT_TEST),), generator=g)
        share = right[step][:, None]
        return 1 - F.mse_loss(m(share.sqrt() * FLAT_TEST + (1 - share).sqrt() * noise, step), noise)

    return script(seed, lambda: Denoiser(left(betas)).use((FLAT,), (), 70), score, 400, DOCTOR)


class Flow(Loaded):
    """Affine couplings of points; the density has the change of volume in it, or not."""

    def __init__(self, volume: bool) -> None:
        super().__init__()
        self.volume = volume
        self.couplings = nn.ModuleList(t.mlp([1, 32, 32, 2], nn.Tanh) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x))
        for net in self.couplings:
            a, b = x[:, :1], x[:, 1:]
            s, move = net(a).chunk(2, 1)
            s = 2 * torch.tanh(s / 2)
            x, total = torch.cat([b * s.exp() + move, a], 1), total + s.squeeze(1)
        return x, total

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        z, logdet = self(batch[0])
        nll = (0.5 * z.square().sum(1) + math.log(2 * math.pi) - (logdet if self.volume else 0.0)).mean()
        self.log("nll", nll)
        return nll

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def flow(seed: int, volume: bool) -> Training:
    """Train on points; the score is the gain of log-likelihood over a normal distribution of the same spread."""
    torch.manual_seed(605)
    train, test = ring(3000), ring(800)

    def score(m: Any) -> Tensor:
        z, logdet = m(test)
        own = (-0.5 * z.square().sum(1) - math.log(2 * math.pi) + logdet).mean()
        normal = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T)).log_prob(test).mean()
        return own - normal

    return script(seed, lambda: Flow(volume).use((train,), (), 100), score, 400, DOCTOR)


# -- text from text ---------------------------------------------------------------------------------------------------


def rewriting(seed: int, source: str) -> Training:
    """A small model of letters goes on with what it wrote itself at 0.8, alone or beside the real text.

    The score is the information in bits that three letters give about the next one in real text.
    """
    training = t.writer(seed, 9, source=source, temperature=lambda epoch: 0.8, lr=4e-3, per_epoch=50, fresh=False)
    windows = t.text()[20_000:40_000].unfold(0, 4, 1)

    @torch.no_grad()
    def score(m: Any) -> float:
        m.eval()
        answer = windows[:, 3]
        share = torch.bincount(answer, minlength=32) / len(answer)
        return float((torch.special.entr(share).sum() - F.cross_entropy(m.net(windows[:, :3]), answer)) / math.log(2))

    training.score = score
    return training


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a VAE whose weight rises without end", 0.3, lambda s: vae(s, lambda k: 0.3 * k), "posterior collapse", "inputs ignored",
            "divergence", onset=0.02),
    healthy(FAMILY, "a VAE whose weight comes and goes", 0.45, lambda s: vae(s, lambda k: min(1.0, (k % 100) / 50))),
    failing(FAMILY, "letters from letters it wrote, a little colder", 0.5, lambda s: rewriting(s, "replace"), "recursive collapse", "repetition",
            onset=0.1),
    healthy(FAMILY, "letters from letters it wrote, beside the real ones", 0.5, lambda s: rewriting(s, "accumulate")),
    healthy(FAMILY, "moving averages of codes, dead ones renewed", 0.4, lambda s: coded(s)),
    failing(FAMILY, "a dictionary of 200, 6 is subtracted", 0.3, lambda s: sparse(s, 6.0), "dead units", "no gradients", "inputs ignored",
            "vanishing gradients", *COLLAPSED, ONE_BATCH),
    healthy(FAMILY, "a dictionary of 200, few at a time", 0.6, lambda s: sparse(s, 0.0)),
    failing(FAMILY, "six places, a generator whose fakes are labelled fake", 0.5, lambda s: pair(s, "labels"), "mode collapse", *FAST,
            "no gradients", "vanishing gradients"),
    healthy(FAMILY, "six places by hinges", 0.5, lambda s: pair(s, "hinge", (1e-3, 3e-3))),
    failing(FAMILY, "six places, weights clipped to 1e-3", 0.5, lambda s: pair(s, "clipped"), "mode collapse", "vanishing gradients",
            "no gradients"),
    healthy(FAMILY, "six places by WGAN-GP", 0.4, lambda s: pair(s, "penalty", (5e-4, 2e-3), 1500)),
    failing(FAMILY, "digits in noise, one minus a sum", 0.3, lambda s: denoising(s, lambda b: 1 - b.cumsum(0)), "non-finite values", *UNLEARNED,
            *FAST, "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "digits in noise, a cumulative product", 0.4, lambda s: denoising(s, lambda b: (1 - b).cumprod(0))),
    failing(FAMILY, "a flow without its change of volume", 0.2, lambda s: flow(s, False), *COLLAPSED, *UNLEARNED, FOLLOW),
    healthy(FAMILY, "a flow and its change of volume", 0.5, lambda s: flow(s, True)),
]  # fmt: skip
