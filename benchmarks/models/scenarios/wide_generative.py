"""Generative models: VAEs, VQ-VAEs, five kinds of GANs, flows, diffusion, training on own samples.

Written as ``wide_classification.py`` is, with names in the develop half: these scenarios are for development and verify
nothing.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, Data, Loaded, cut

FAMILY = "wide generative"
TRAIN, TEST = (tuple([x.flatten(1) * 0.38 + 0.3, y]) for x, y in images(8))


def kept(again: Tensor, x: Tensor) -> Tensor:
    """R squared of a reconstruction against the mean image."""
    return 1 - (again - x).square().sum() / (x - x.mean(0)).square().sum()


# -- autoencoders -----------------------------------------------------------------------------------------------------


class Variational(Loaded):
    """A VAE of digits whose weight of the KL divergence is a function of the update; labels are in the batch, unused."""

    def __init__(self, weight: Any, lr: float = 2e-3, latent: int = 8) -> None:
        super().__init__()
        self.weight, self.lr = weight, lr
        self.body = nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96), nn.SiLU())
        self.mu, self.logvar = nn.Linear(96, latent), nn.Linear(96, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 96), nn.SiLU(), nn.Linear(96, 64))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch
        hidden = self.body(x)
        mean, log_variance = self.mu(hidden), self.logvar(hidden)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        reconstruction = 10 * F.mse_loss(self.decoder(z), x, reduction="none").sum(1).mean()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        self.log_dict({"rec": reconstruction, "kl": divergence})
        return reconstruction + self.weight(self.global_step) * divergence

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def variational(seed: int, weight: Any, steps: int = 400) -> Training:
    """Train a VAE; the score is how well the mean of the code reconstructs."""
    watched = {**DOCTOR, "PosteriorCollapse": {"mean": "mu", "log_variance": "logvar"}}
    score = lambda m: kept(m.decoder(m.mu(m.body(TEST[0]))), TEST[0])  # noqa: E731
    return script(seed, lambda: Variational(weight).use(TRAIN, batch=50), score, steps, watched)


class Quantizer(nn.Module):
    """Nearest codes with a straight-through gradient; moving averages and fresh codes for unused ones, or plain gradients."""

    def __init__(self, codes: int, width: int, start: float, moving: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(start + 0.02 * torch.randn(codes, width), requires_grad=not moving)
        self.moving, self.indices = moving, nn.Identity()
        self.register_buffer("count", torch.ones(codes))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.indices(torch.cdist(z, self.table).argmin(1))
        code = self.table[chosen]
        loss = 0.25 * F.mse_loss(z, code.detach())
        if not self.moving:
            loss = loss + F.mse_loss(code, z.detach())
        elif self.training:
            self.renew(z.detach(), chosen)
        return z + (code - z).detach(), loss

    @torch.no_grad()
    def renew(self, z: Tensor, chosen: Tensor) -> None:
        one_hot = F.one_hot(chosen, len(self.table)).float()
        n = one_hot.sum(0)
        self.count.mul_(0.9).add_(n, alpha=0.1)
        used = n > 0
        means = (one_hot.T @ z)[used] / n[used, None]
        self.table[used] += 0.2 * (means - self.table[used])
        idle = self.count < 0.1
        self.table[idle] = z[torch.randint(len(z), (int(idle.sum()),))]
        self.count[idle] = 1.0


class Quantized(Loaded):
    """A VQ-VAE: four codes for an image."""

    def __init__(self, start: float, moving: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))
        self.quantizer = Quantizer(32, 8, start, moving)
        self.decoder = nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes, loss = self.quantizer(self.encoder(x).view(-1, 8))
        return self.decoder(codes.view(-1, 32)), loss

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        again, commitment = self(batch[0])
        reconstruction = F.mse_loss(again, batch[0])
        self.log("rec_loss", reconstruction)
        return {"loss": reconstruction + commitment, "reconstruction": reconstruction.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)


def quantized(seed: int, start: float, moving: bool) -> Training:
    """Train a VQ-VAE; the score is how well codes reconstruct."""
    watched = {**DOCTOR, "UsageCollapse": {"assignments": "quantizer.indices", "kind": "codebook"}}
    score = lambda m: kept(m(TEST[0])[0], TEST[0])  # noqa: E731
    return script(seed, lambda: Quantized(start, moving).use(TRAIN, batch=64), score, 400, watched)


# -- adversaries ------------------------------------------------------------------------------------------------------

PLACES = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0], [0.0, 0.0]])


def corners(count: int) -> Tensor:
    """Points near five places."""
    g = seeded(81)
    return PLACES[torch.randint(5, (count,), generator=g)] + 0.1 * torch.randn(count, 2, generator=g)


def losses(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of the discriminator and of the generator."""
    if kind == "least squares":
        return (real - 1).square().mean() + fake.square().mean(), (fake - 1).square().mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()
    if kind == "wasserstein":
        return fake.mean() - real.mean(), -fake.mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()


class Gan(L.LightningModule):
    """Two networks, two optimizers, manual optimization with toggles; penalty at real points or between the two."""

    def __init__(
        self, kind: str, rates: tuple[float, float], penalty: float, updates: int, batch: int, critics: int = 1
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(4, 64), nn.LeakyReLU(0.1), nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, 2)
        )
        self.discriminator = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.1), nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, 1)
        )

    def train_dataloader(self) -> Any:
        points = corners(self.hparams.updates * self.hparams.batch)
        return DataLoader(points, batch_size=self.hparams.batch, shuffle=True)

    def slope(self, real: Tensor, fake: Tensor) -> Tensor:
        """Penalty of the critic's gradient."""
        if self.hparams.kind == "wasserstein":
            share = torch.rand(len(real), 1)
            point = (share * real + (1 - share) * fake).requires_grad_(True)
        else:
            point = real.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.discriminator(point).sum(), point, create_graph=True)
        if self.hparams.kind == "wasserstein":
            return (gradient.norm(dim=1) - 1).square().mean()
        return gradient.square().sum(1).mean()

    def training_step(self, real: Tensor, batch_idx: int) -> None:
        opt_g, opt_d = self.optimizers()  # type: ignore[misc]
        fake = self.generator(torch.randn(len(real), 4))
        self.toggle_optimizer(opt_d)
        loss, _ = losses(self.hparams.kind, self.discriminator(real), self.discriminator(fake.detach()))
        if self.hparams.penalty:
            loss = loss + self.hparams.penalty * self.slope(real, fake.detach())
        opt_d.zero_grad()
        self.manual_backward(loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.log("d_loss", loss, prog_bar=True)
        if batch_idx % self.hparams.critics == 0:
            self.toggle_optimizer(opt_g)
            _, loss = losses(
                self.hparams.kind,
                self.discriminator(real),
                self.discriminator(self.generator(torch.randn(len(real), 4))),
            )
            opt_g.zero_grad()
            self.manual_backward(loss)
            opt_g.step()
            self.untoggle_optimizer(opt_g)
            self.log("g_loss", loss, prog_bar=True)

    def configure_optimizers(self) -> Any:
        g, d = self.hparams.rates
        return [
            torch.optim.Adam(self.generator.parameters(), lr=g, betas=(0.5, 0.9)),
            torch.optim.Adam(self.discriminator.parameters(), lr=d, betas=(0.5, 0.9)),
        ]


def gan(
    seed: int,
    kind: str,
    rates: tuple[float, float],
    penalty: float = 0.0,
    updates: int = 500,
    batch: int = 64,
    **more: Any,
) -> Training:
    """Train a GAN; the score is the share of the five places that more than 3 % of the samples are near to."""

    def reached(m: Any) -> Tensor:
        near = torch.cdist(m.generator(torch.randn(1000, 4, generator=seeded(5))), PLACES) < 0.8
        return (near.float().mean(0) > 0.03).float().mean()

    watched = {**DOCTOR, "ModeCollapse": {"generator": "generator"}}
    return script(seed, lambda: Gan(kind, rates, penalty, updates, batch, **more), reached, updates, watched)


# -- flows and diffusion ----------------------------------------------------------------------------------------------


def moons() -> Data:
    """Two small moons: a density above 1."""
    x, _ = make_moons(4000, noise=0.05, random_state=3)
    return ((torch.tensor(x, dtype=torch.float32) - torch.tensor([0.5, 0.25])) * 0.3,)


class Flow(Loaded):
    """Affine couplings of two numbers, by turns; option: the sign of the change of volume."""

    def __init__(self, volume: float, lr: float, depth: int = 6) -> None:
        super().__init__()
        self.volume, self.lr = volume, lr
        make = lambda: nn.Sequential(nn.Linear(1, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2))  # noqa: E731
        self.couplings = nn.ModuleList(make() for _ in range(depth))

    def density(self, x: Tensor, volume: float = 1.0) -> Tensor:
        """Log-density."""
        x, total = x / 0.3, x.new_tensor(1.2039727 * 2 * volume)
        for index, net in enumerate(self.couplings):
            fixed, moved = x[:, index % 2, None], x[:, 1 - index % 2, None]
            scale, shift = net(fixed).chunk(2, 1)
            scale = 1.5 * scale.tanh()
            moved = moved * scale.exp() + shift
            total = total + volume * scale.squeeze(1)
            x = torch.cat([fixed, moved] if index % 2 == 0 else [moved, fixed], 1)
        return total + torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        nll = -self.density(batch[0], self.volume).mean()
        self.log("train_nll", nll)
        return nll

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", -self.density(batch[0], self.volume).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adamax(self.parameters(), lr=self.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995), "interval": "step"},
        }


def flow(seed: int, volume: float, lr: float = 0.01) -> Training:
    """Train a flow; the score is the true log-density of new points, which a Gaussian takes to about 0.4."""
    train, test = cut(moons(), 3200)
    return script(
        seed, lambda: Flow(volume, lr).use(train, test, 128), lambda m: m.density(test[0]).mean(), 300, DOCTOR
    )


class Denoiser(Loaded):
    """Predicts noise in digits; the last layer starts with zeros; a moving average of the weights is kept."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.time = nn.Sequential(nn.Linear(16, 64), nn.SiLU())
        self.enter, self.middle, self.leave = nn.Linear(64, 128), nn.Linear(128 + 64, 128), nn.Linear(128, 64)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.ema = torch.optim.swa_utils.AveragedModel(
            self.leave, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.arange(1, 9) * 1.5
        h = torch.cat([F.silu(self.enter(x)), self.time(torch.cat([angles.sin(), angles.cos()], 1))], 1)
        return self.leave(F.silu(self.middle(h)))

    def loss(self, x: Tensor) -> Tensor:
        x, time = (x - 0.3) / 0.38, torch.rand(len(x))
        noise = torch.randn_like(x)
        signal = (time * 1.5).cos()[:, None]
        return F.mse_loss(self(signal * x + (1 - signal.square()).sqrt() * noise, time), noise)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self.loss(batch[0])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch[0]))

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update_parameters(self.leave)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for n, p in self.named_parameters() if not n.startswith("ema")], lr=self.lr)


def denoised(seed: int, lr: float, batch: int = 100) -> Training:
    """Train a denoiser; the score is the share of the noise's variance that is found at all times."""

    def found(m: Any) -> Tensor:
        torch.manual_seed(4)
        return 1 - m.loss(TEST[0].repeat(4, 1))

    return script(seed, lambda: Denoiser(lr).use(TRAIN, TEST, batch), found, 300, {**DOCTOR})


# -- own samples ------------------------------------------------------------------------------------------------------


class Generations(L.LightningModule):
    """A model of the next sign that begins each epoch with its own texts, alone or beside what people wrote."""

    def __init__(self, real: bool, temperature: float, per_epoch: int = 40) -> None:
        super().__init__()
        self.real, self.temperature, self.per_epoch = real, temperature, per_epoch
        self.net = nn.Sequential(nn.Embedding(32, 12), nn.Flatten(), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 32))
        self.corpus = t.text()[:12000].view(-1, 60)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Write texts that begin with four real signs."""
        out = self.corpus[torch.randint(len(self.corpus), (count,))][:, :4]
        while out.shape[1] < 60:
            chance = (self.net(out[:, -4:]) / self.temperature).softmax(1)
            out = torch.cat([out, torch.multinomial(chance, 1)], 1)
        return out

    def train_dataloader(self) -> Any:
        texts = self.corpus
        if self.current_epoch:
            own = self.sample(200)
            texts = torch.cat([self.corpus, own]) if self.real else own
        chosen = torch.randint(len(texts), (self.per_epoch * 8,))
        return DataLoader(TensorDataset(texts[chosen]), batch_size=8)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        windows = batch[0].unfold(1, 5, 1).flatten(0, 1)
        loss = F.cross_entropy(self.net(windows[:, :4]), windows[:, 4])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), lr=2e-3)


def generations(seed: int, real: bool, temperature: float) -> Training:
    """Train on own texts; the score is the entropy in bits of pairs of signs in new texts."""

    def entropy(m: Any) -> Tensor:
        texts = m.sample(200)[:, 20:]
        share = torch.bincount((texts[:, :-1] * 32 + texts[:, 1:]).flatten(), minlength=1024) / texts[:, 1:].numel()
        return torch.special.entr(share).sum() / 0.6931

    more = {"max_epochs": 12, "reload_dataloaders_every_n_epochs": 1}
    return script(
        seed,
        lambda: Generations(real, temperature),
        entropy,
        480,
        {**DOCTOR, "GenerationDrift": {"num_samples": 128}},
        **more,
    )


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "a VAE, the divergence weighed in over 300 updates", 0.4,
            lambda s: variational(s, lambda step: min(1.0, max(0, step - 100) / 200))),
    failing(FAMILY, "a VAE of digits, a weight of 12 at once", 0.2, lambda s: variational(s, lambda step: 12.0), "posterior collapse"),
    healthy(FAMILY, "32 codes by moving averages, idle ones replaced", 0.3, lambda s: quantized(s, 0.0, True)),
    failing(FAMILY, "32 codes that start at 6", 0.2, lambda s: quantized(s, 6.0, False), "codebook collapse"),
    healthy(FAMILY, "five places by hinge", 0.7, lambda s: gan(s, "hinge", (2e-3, 2e-3), 0.5, updates=600)),
    healthy(FAMILY, "five places, Wasserstein and a penalty", 0.7, lambda s: gan(s, "wasserstein", (1e-3, 3e-3), 1.0, updates=600)),
    failing(FAMILY, "five places, Wasserstein without a penalty", 0.7, lambda s: gan(s, "wasserstein", (0.1, 5e-3)), "mode collapse", *FAST),
    failing(FAMILY, "five places, least squares, discriminator at rest", 0.7,
            lambda s: gan(s, "least squares", (1e-2, 1e-6), batch=32), "mode collapse"),
    failing(FAMILY, "five places, relativistic, rate 0.05", 0.7,
            lambda s: gan(s, "relativistic", (5e-2, 1e-5)), "mode collapse", *FAST),
    healthy(FAMILY, "five places, cross-entropy, batches of 200", 0.7,
            lambda s: gan(s, "logistic", (2e-3, 2e-3), 0.1, batch=200)),
    healthy(FAMILY, "small moons, couplings, a loss below zero", 0.8, lambda s: flow(s, 1.0)),
    failing(FAMILY, "small moons, the volume counted the wrong way", 0.3, lambda s: flow(s, -1.0), "divergence"),
    healthy(FAMILY, "noise in digits, a last layer of zeros", 0.4, lambda s: denoised(s, 2e-3)),
    failing(FAMILY, "noise in digits, rate 0.5", 0.4, lambda s: denoised(s, 0.5), *FAST, twin="noise in digits, a last layer of zeros"),
    healthy(FAMILY, "own texts beside real ones", 6.0, lambda s: generations(s, True, 1.0)),
    failing(FAMILY, "own texts alone, temperature 0.7", 6.0, lambda s: generations(s, False, 0.7), "recursive collapse", "repetition", onset=0.09),
]  # fmt: skip
