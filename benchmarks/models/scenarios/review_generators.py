"""Generators, codes and sparse features with the bugs of reviews, and healthy look-alikes.

VAEs, a codebook, two kinds of GANs, a flow, diffusion, training on own drawings, an energy model, and sparse
autoencoders, all of them of scikit-learn's digits. The names were chosen so that all of them are in the develop half:
these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import auc, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, Data, Loaded, neighbours

FAMILY = "reviewed generators"
TRAIN, TEST = images(221)
PIXELS, PIXELS_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
DOCTOR: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}


@lru_cache
def components() -> tuple[Tensor, Tensor]:
    """The first six principal components of digits, each with a spread of one, to train on and to test."""
    centre = PIXELS.mean(0)
    _, _, axes = torch.linalg.svd(PIXELS - centre, full_matrices=False)
    both = [(x - centre) @ axes[:6].T for x in (PIXELS, PIXELS_TEST)]
    width = both[0].std(0)
    return both[0] / width, both[1] / width


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Energy distance of two samples."""
    return 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()


def alike(made: Tensor, real: Tensor) -> Tensor:
    """How alike samples are to real ones: 1 for no energy distance, 0 for that of one point in their middle."""
    return 1 - apart(made, real) / apart(real.mean(0, keepdim=True), real)


def explained(guess: Tensor, x: Tensor) -> Tensor:
    """Share of the variance of rows that is restored."""
    return 1 - (guess - x).square().sum() / (x - x.mean(0)).square().sum()


# -- a VAE whose decoder sees more than the code -----------------------------------------------------------------------


class Vae(Loaded):
    """A VAE of digits; the decoder gets the code, or the code beside the hidden layer of the encoder."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.SiLU())
        self.to_mean, self.to_log_variance = nn.Linear(96, 8), nn.Linear(96, 8)
        self.decoder = t.mlp([104 if skip else 8, 96, 64], nn.SiLU)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.to_mean(h), self.to_log_variance(h)
        return h, mean, log_variance

    def code(self, x: Tensor) -> Tensor:
        _, mean, log_variance = self.encode(x)
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x = batch[0]
        h, mean, log_variance = self.encode(x)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        restored = self.decoder(torch.cat([z, h], 1) if self.skip else z)
        distortion = 2 * (restored - x).square().sum(1).mean()
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        self.log_dict({"distortion": distortion, "rate": rate})
        return distortion + min(1.0, (1 + self.global_step) / 100) * rate

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def vae(seed: int, skip: bool) -> Training:
    """Train a VAE; the score is the accuracy of a vote of neighbours among sampled codes."""
    score = lambda m: neighbours(m.code(PIXELS), TRAIN[1], m.code(PIXELS_TEST), TEST[1])  # noqa: E731
    watched = {"PosteriorCollapse": {"mean": "to_mean", "log_variance": "to_log_variance"}, **DOCTOR}
    return script(seed, lambda: Vae(skip).use((PIXELS,), (), 64), score, 300, watched)


# -- a codebook -------------------------------------------------------------------------------------------------------


class Quantiser(nn.Module):
    """32 codes; the one for a vector is the nearest, or the farthest."""

    def __init__(self, farthest: bool) -> None:
        super().__init__()
        self.farthest = farthest
        self.codes = nn.Embedding(32, 6)
        nn.init.normal_(self.codes.weight, std=0.3)
        self.chosen = nn.Identity()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        distance = torch.cdist(z.flatten(0, 1), self.codes.weight)
        index = self.chosen(distance.argmax(1) if self.farthest else distance.argmin(1))
        q = self.codes(index).view_as(z)
        return z + (q - z).detach(), F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())


class VqVae(Loaded):
    """Six codes for each digit."""

    def __init__(self, farthest: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = t.mlp([64, 96, 36], nn.GELU), t.mlp([36, 96, 64], nn.GELU)
        self.quantiser = Quantiser(farthest)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, loss = self.quantiser(self.encoder(x).unflatten(1, (6, 6)))
        return self.decoder(q.flatten(1)), loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        restored, extra = self(batch["pixels"])
        error = F.mse_loss(restored, batch["pixels"])
        return {"loss": error + extra, "error": error.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch["pixels"])[0], batch["pixels"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def codebook(seed: int, farthest: bool) -> Training:
    """Train on digits; the score is the share of the variance of new ones that is restored."""
    make = lambda: VqVae(farthest).use((PIXELS,), (PIXELS_TEST,), 64, keys=("pixels",))  # noqa: E731
    watched = {"UsageCollapse": {"assignments": "quantiser.chosen", "kind": "codebook"}, **DOCTOR}
    return script(seed, make, lambda m: explained(m(PIXELS_TEST)[0], PIXELS_TEST), 300, watched)


# -- adversaries ------------------------------------------------------------------------------------------------------


class Wasserstein(L.LightningModule):
    """Four updates of a critic for one of the generator; the slope of the critic is part of the graph, or not."""

    def __init__(self, graph: bool, lr: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.graph, self.lr = graph, lr
        self.generator, self.critic = t.mlp([6, 48, 48, 6]), t.mlp([6, 48, 48, 1], lambda: nn.LeakyReLU(0.2))

    def penalty(self, real: Tensor, made: Tensor) -> Tensor:
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=self.graph)
        return (slope.norm(dim=1) - 1).square().mean()

    def training_step(self, batch: Data, batch_idx: int) -> None:
        (real,) = batch
        by_generator, by_critic = self.optimizers()  # type: ignore[misc]
        if batch_idx % 5 < 4:
            made = self.generator(torch.randn(len(real), 6)).detach()
            loss = self.critic(made).mean() - self.critic(real).mean() + self.penalty(real, made)
            optimizer, name = by_critic, "critic"
        else:
            loss = -self.critic(self.generator(torch.randn(len(real), 6))).mean()
            optimizer, name = by_generator, "generator"
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.log(name, loss)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(components()[0].repeat(40, 1)), batch_size=70, shuffle=True)

    def configure_optimizers(self) -> Any:
        parts = (self.generator, self.critic)
        return [torch.optim.Adam(part.parameters(), lr=self.lr, betas=(0.5, 0.9)) for part in parts]


def wasserstein(seed: int, graph: bool, lr: float = 2e-3) -> Training:
    """Train on components of digits; the score is how alike samples are to new digits."""
    noise = torch.randn(400, 6, generator=seeded(222))
    score = lambda m: alike(m.generator(noise), components()[1])  # noqa: E731
    watched = {"ModeCollapse": {"generator": "generator"}, "TrainingDoctor": {}}
    return script(seed, lambda: Wasserstein(graph, lr), score, 800, watched)


class Conditional(L.LightningModule):
    """A hinge GAN that is told which digit; the discriminator learns which one is real, or the other way round."""

    def __init__(self, exchanged: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.exchanged = exchanged
        self.digit = nn.Embedding(10, 8)
        self.generator = t.mlp([14, 64, 64, 6])
        self.discriminator = t.mlp([14, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def draw(self, digit: Tensor, noise: Tensor) -> Tensor:
        return self.generator(torch.cat([noise, self.digit(digit).detach()], 1))

    def judge(self, x: Tensor, digit: Tensor) -> Tensor:
        return self.discriminator(torch.cat([x, self.digit(digit).detach()], 1))

    def training_step(self, batch: Data, batch_idx: int) -> None:
        real, digit = batch
        g, d = self.optimizers()  # type: ignore[misc]
        made = self.draw(digit, torch.randn(len(real), 6))
        on_real, on_made = self.judge(real, digit), self.judge(made.detach(), digit)
        if self.exchanged:
            on_real, on_made = on_made, on_real
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_made).mean()
        d.zero_grad()
        self.manual_backward(loss)
        d.step()
        fooled = -self.judge(made, digit).mean()
        g.zero_grad()
        self.manual_backward(fooled)
        g.step()
        self.log_dict({"d": loss, "g": fooled})

    def train_dataloader(self) -> Any:
        data = TensorDataset(components()[0].repeat(20, 1), TRAIN[1].repeat(20))
        return DataLoader(data, batch_size=70, shuffle=True)

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.Adam(self.generator.parameters(), lr=2e-3, betas=(0.0, 0.9)),
            torch.optim.Adam(self.discriminator.parameters(), lr=2e-3, betas=(0.0, 0.9)),
        )


def conditional(seed: int, exchanged: bool) -> Training:
    """Train on components and labels; the score is how alike samples of the digits are to new digits."""
    noise = torch.randn(len(TEST[1]), 6, generator=seeded(223))
    score = lambda m: alike(m.draw(TEST[1], noise), components()[1])  # noqa: E731
    watched = {"ModeCollapse": {"generator": "generator"}, "TrainingDoctor": {}}
    return script(seed, lambda: Conditional(exchanged), score, 400, watched)


# -- a flow -----------------------------------------------------------------------------------------------------------


class Coupling(nn.Module):
    """One half of the numbers scales and moves the other half; it starts as the identity."""

    def __init__(self, even: bool) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(64) % 2 == int(even))
        self.net = t.mlp([64, 64, 128])
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.net(x * self.kept).masked_fill(self.kept.repeat(2), 0).chunk(2, 1)
        return x * log_scale.exp() + shift, log_scale.sum(1)


class Flow(Loaded):
    """Couplings of digits of 17 shades; noise makes the shades continuous, or does not."""

    def __init__(self, noise: bool) -> None:
        super().__init__()
        self.noise = noise
        self.couplings = nn.ModuleList(Coupling(i % 2 == 0) for i in range(4))

    def log_density(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for coupling in self.couplings:
            x, change = coupling(x)
            total = total + change
        return (total - 0.5 * x.square().sum(1)) / 64 - 0.919

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        shades = batch[0]
        noise = torch.rand_like(shades) if self.noise else 0.5
        loss = -self.log_density((shades + noise - 8.5) / 5).mean()
        self.log("nats_per_pixel", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def flow(seed: int, noise: bool) -> Training:
    """Train on shades; the score is the gain in nats per pixel over a normal density of each pixel, on new digits."""
    shades, new = ((16 * (0.38 * x + 0.3)).round() for x in (PIXELS, PIXELS_TEST))
    continuous = lambda x: (x + torch.rand(x.shape, generator=seeded(224)) - 8.5) / 5  # noqa: E731
    known, asked = continuous(shades), continuous(new)
    base = torch.distributions.Normal(known.mean(0), known.std(0)).log_prob(asked).mean()
    make = lambda: Flow(noise).use((shades,), (new,), 64)  # noqa: E731
    return script(seed, make, lambda m: m.log_density(asked).mean() - base, 350, DOCTOR, gradient_clip_val=10.0)


# -- diffusion --------------------------------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """The noise in six numbers, from them and the time; its last layer starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", 0.5 * torch.arange(1, 9))
        self.net = t.mlp([22, 96, 96, 6], nn.SiLU)
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angle = time[:, None] * self.waves * 3.1416
        return self.net(torch.cat([x, angle.sin(), angle.cos()], 1))


class Diffusion(Loaded):
    """Denoising with an average of the weights that is validated and samples; in place, or by names alone."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.net = Denoiser()
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("kept", (1 - torch.linspace(0.002, 0.25, 40)).cumprod(0))

    def _loss(self, net: nn.Module, x: Tensor) -> Tensor:
        step = torch.randint(40, (len(x),))
        noise, kept = torch.randn_like(x), self.kept[step][:, None]
        return F.mse_loss(net(kept.sqrt() * x + (1 - kept).sqrt() * noise, step / 40), noise)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        loss = self._loss(self.net, batch[0])
        self.log("train_loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(self.average, batch[0]))

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any) -> None:
        for mean, weight in zip(self.average.parameters(), self.net.parameters(), strict=True):
            if self.in_place:
                mean.lerp_(weight, 0.02)
            else:
                mean = 0.98 * mean + 0.02 * weight

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        x = torch.randn(count, 6)
        for i in reversed(range(40)):
            now, before = self.kept[i], self.kept[i - 1] if i else torch.ones(())
            noise = self.average(x, torch.full((count,), i / 40))
            origin = (x - (1 - now).sqrt() * noise) / now.sqrt()
            x = before.sqrt() * origin + (1 - before).sqrt() * noise
        return x

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=3e-3)


def diffusion(seed: int, in_place: bool) -> Training:
    """Train on components; the score is how alike samples are to new digits."""
    train, test = components()
    make = lambda: Diffusion(in_place).use((train,), (test,), 100)  # noqa: E731
    return script(seed, make, lambda m: alike(m.sample(400), test), 450, DOCTOR)


# -- own drawings -----------------------------------------------------------------------------------------------------


class Draughtsman(Loaded):
    """A VAE that learns each epoch from drawings of the one before: instead of the digits, or beside them."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.beside = beside
        self.encoder, self.decoder = t.mlp([64, 96, 12]), t.mlp([6, 96, 64])

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        return self.decoder(torch.randn(count, 6))

    def train_dataloader(self) -> Any:
        drawings = PIXELS
        if self.current_epoch:
            own = self.sample(700)
            drawings = torch.cat([PIXELS, own]) if self.beside else own
        return DataLoader(TensorDataset(drawings), batch_size=50, shuffle=True, drop_last=True)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x = batch[0]
        mean, log_variance = self.encoder(x).chunk(2, 1)
        restored = self.decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return (restored - x).square().sum(1).mean() + divergence

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def drawings(seed: int, beside: bool, epochs: int) -> Training:
    """Train on own drawings; the score is the variance of drawings, as a share of that of new digits."""
    make = lambda: Draughtsman(beside).use((PIXELS,), (), 50)  # noqa: E731
    score = lambda m: m.sample(500).var(0).sum() / PIXELS_TEST.var(0).sum()  # noqa: E731
    length = {"max_steps": -1, "max_epochs": epochs, "reload_dataloaders_every_n_epochs": 1}
    watched: dict[str, dict[str, Any]] = {"GenerationDrift": {"num_samples": 128}}
    steps = 28 + (epochs - 1) * (42 if beside else 14)
    return script(seed, make, score, steps, watched, **length)


# -- an energy --------------------------------------------------------------------------------------------------------


class Energy(Loaded):
    """An energy of six numbers: low for digits, high for where chains of Langevin steps end, or the other way round."""

    def __init__(self, sign: float, pull: float) -> None:
        super().__init__()
        self.sign, self.pull = sign, pull
        self.net = t.mlp([6, 64, 64, 1], nn.SiLU)
        self.register_buffer("chains", 3 * torch.randn(200, 6))

    def walk(self, x: Tensor) -> Tensor:
        for _ in range(8):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(x).sum(), x)
            x = x - 0.2 * slope.clamp(-3, 3) + 0.1 * torch.randn_like(x)
        return x.detach().clamp(-6, 6)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        real = batch[0]
        chosen = torch.randint(200, (len(real),))
        start = torch.where(torch.rand(len(real), 1) < 0.1, 3 * torch.randn_like(real), self.chains[chosen])
        made = self.walk(start)
        self.chains[chosen] = made
        low, high = self.net(real), self.net(made)
        loss = self.sign * (low.mean() - high.mean()) + self.pull * (low.square() + high.square()).mean()
        self.log_dict({"low": low.mean(), "high": high.mean()})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.0, 0.99))


def energy(seed: int, sign: float, pull: float) -> Training:
    """Train on components; the score is the AUC of new digits against noise that is twice as wide."""
    train, test = components()
    noise = 2 * torch.randn(400, 6, generator=seeded(225))
    labels = torch.cat([torch.ones(len(test)), torch.zeros(400)])
    score = lambda m: auc(-m.net(torch.cat([test, noise])).squeeze(1), labels)  # noqa: E731
    watched: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}
    return script(seed, lambda: Energy(sign, pull).use((train,), (), 50), score, 300, watched)


# -- sparse features --------------------------------------------------------------------------------------------------


class Sparse(Loaded):
    """256 features of digits: the largest eight of them, or all with a penalty in front of their ReLU."""

    def __init__(self, largest: int, weight: float) -> None:
        super().__init__()
        self.largest, self.weight = largest, weight
        self.middle = nn.Parameter(PIXELS.mean(0))
        self.encoder, self.relu, self.decoder = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64, bias=False)
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(self.encoder.weight.T, dim=0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = self.encoder(x - self.middle)
        features = self.relu(before)
        if self.largest:
            kept = features.topk(self.largest, 1)
            features = torch.zeros_like(features).scatter(1, kept.indices, kept.values)
        return self.decoder(features) + self.middle, before

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        restored, before = self(batch[0])
        error = (restored - batch[0]).square().sum(1).mean()
        sparsity = before.sum(1).mean()
        self.log_dict({"error": error, "sparsity": sparsity})
        return error + self.weight * sparsity

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            self.decoder.weight.div_(self.decoder.weight.norm(dim=0, keepdim=True))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def sparse(seed: int, largest: int, weight: float) -> Training:
    """Train on digits; the score is the share of the variance of new ones that is restored."""
    make = lambda: Sparse(largest, weight).use((PIXELS,), (), 64)  # noqa: E731
    return script(seed, make, lambda m: explained(m(PIXELS_TEST)[0], PIXELS_TEST), 350, DOCTOR)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a VAE whose decoder sees a layer of the encoder", 0.4, lambda s: vae(s, True), "posterior collapse"),
    healthy(FAMILY, "a VAE of digits, the divergence in within 100 updates", 0.75, lambda s: vae(s, False)),
    failing(FAMILY, "six codes for a digit, the farthest of 32", 0.4, lambda s: codebook(s, True), "codebook collapse", "inputs ignored",
            "dimensional collapse", "complete collapse", ONE_BATCH),
    healthy(FAMILY, "six codes for a digit, the nearest of 32", 0.5, lambda s: codebook(s, False)),
    failing(FAMILY, "a slope of the critic outside the graph", 0.5, lambda s: wasserstein(s, False), *FAST, "mode collapse"),
    healthy(FAMILY, "four updates of a critic, its slope near one", 0.8, lambda s: wasserstein(s, True)),
    failing(FAMILY, "a hinge GAN, real and made exchanged", 0.5, lambda s: conditional(s, True), *FAST, "mode collapse"),
    healthy(FAMILY, "a hinge GAN that is told the digit", 0.8, lambda s: conditional(s, False)),
    failing(FAMILY, "a flow of shades without noise", -0.2, lambda s: flow(s, False), *FAST, "overfitting", "evaluation differs"),
    healthy(FAMILY, "a flow of 17 shades with noise between them", 0.1, lambda s: flow(s, True)),
    failing(FAMILY, "diffusion, averaged weights that stay as they were", 0.6, lambda s: diffusion(s, False), "evaluation differs", "overfitting",
            "weights do not change"),
    healthy(FAMILY, "diffusion sampled from averaged weights", 0.85, lambda s: diffusion(s, True)),
    failing(FAMILY, "digits learnt from own drawings alone", 0.15, lambda s: drawings(s, False, 20), "recursive collapse", "mode collapse",
            "repetition", onset=0.1),
    healthy(FAMILY, "own drawings beside digits", 0.3, lambda s: drawings(s, True, 10)),
    failing(FAMILY, "an energy that is high for digits", 0.6, lambda s: energy(s, -1.0, 0.0), *FAST, FOLLOW),
    healthy(FAMILY, "an energy that is low for digits, long chains", 0.8, lambda s: energy(s, 1.0, 0.05)),
    failing(FAMILY, "sparse digits, the penalty in front of the ReLU", 0.5, lambda s: sparse(s, 0, 1.0), "dead units", *FAST, "no gradients",
            "vanishing gradients", "inputs ignored", ONE_BATCH),
    healthy(FAMILY, "the largest eight of 256 features", 0.7, lambda s: sparse(s, 8, 0.0)),
]  # fmt: skip
