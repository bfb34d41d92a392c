"""Models that generate or restore: failures that combine what is seldom combined, and healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from sklearn.datasets import load_iris
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded

FAMILY = "drawn generative"
TRAIN, TEST = images(91)
INK, INK_TEST = ((x.flatten(1) * 0.38 + 0.3).clamp(0, 1) for x in (TRAIN[0], TEST[0]))


def explained(guess: Tensor, true: Tensor) -> Tensor:
    """Return R squared over all numbers, against the mean image."""
    return 1 - (guess - true).square().mean() / (true - true.mean(0)).square().mean()


# -- variational and quantised autoencoders ---------------------------------------------------------------------------


class Variational(Loaded):
    """A VAE with two linear layers for its posterior; the weight of the divergence goes up and down, or is one."""

    def __init__(self, cycle: int, detached: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.fc_mu, self.fc_log_var = nn.Linear(96, 8), nn.Linear(96, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 64))
        self.cycle, self.detached = cycle, detached

    def beta(self) -> float:
        """Return the weight of the divergence now."""
        return min(1.0, 2 * (self.global_step % self.cycle) / self.cycle) if self.cycle else 1.0

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch
        h = self.encoder(x)
        mu, log_var = self.fc_mu(h), self.fc_log_var(h)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        z = z.detach() if self.detached else z
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        rec = 12 * (self.decoder(z) - x).square().sum(1).mean()
        self.log_dict({"kl": kl, "rec": rec, "beta": self.beta()})
        return rec + self.beta() * kl

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def variational(seed: int, cycle: int = 0, detached: bool = False) -> Training:
    """Train a VAE; the score is how much of new images is restored from the mean of the posterior."""
    watched = {
        "PosteriorCollapse": {"mean": "fc_mu", "log_variance": "fc_log_var"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    make = lambda: Variational(cycle, detached).use((INK, TRAIN[1]), (INK_TEST, TEST[1]), 64)  # noqa: E731
    score = lambda m: explained(m.decoder(m.fc_mu(m.encoder(INK_TEST))), INK_TEST)  # noqa: E731
    return script(seed, make, score, 500, watched)


class Quantiser(nn.Module):
    """Replaces eight numbers by the nearest of 32 rows; the rows follow by a moving average, or wait for a gradient that never comes."""

    def __init__(self, average: bool) -> None:
        super().__init__()
        self.average = average
        self.codebook = nn.Embedding(32, 8)
        nn.init.uniform_(self.codebook.weight, -1 / 32, 1 / 32)
        self.register_buffer("counts", torch.zeros(32))
        self.indices = nn.Identity()
        if average:
            self.codebook.weight.requires_grad_(False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.indices(torch.cdist(z, self.codebook.weight).argmin(1))
        q = self.codebook(chosen)
        if self.average and self.training:
            hot = F.one_hot(chosen, 32).float()
            self.counts.mul_(0.95).add_(hot.sum(0))
            sums = hot.T @ z.detach()
            there = hot.sum(0) > 0
            step = (sums[there] / hot.sum(0)[there, None] - self.codebook.weight.data[there]) * 0.2
            self.codebook.weight.data[there] += step
            unused = self.counts < 0.5
            self.codebook.weight.data[unused] = z.detach()[torch.randint(len(z), (int(unused.sum()),))]
        loss = (z - q.detach()).square().mean()
        return z + (q - z).detach(), loss


class Quantised(Loaded):
    """A VQ-VAE of four codes for an image."""

    def __init__(self, average: bool) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))
        self.vq = Quantiser(average)
        self.dec = nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, loss = self.vq(self.enc(x).view(-1, 8))
        return self.dec(q.view(len(x), 32)), loss

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        out, commitment = self(batch[0])
        return {"loss": F.mse_loss(out, batch[0]) + 0.25 * commitment}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx)["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=2e-3)


def quantised(seed: int, average: bool) -> Training:
    """Train a VQ-VAE; the score is how much of new images is restored."""
    watched = {
        "UsageCollapse": {"assignments": "vq.indices", "kind": "codebook"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    make = lambda: Quantised(average).use((INK,), (INK_TEST,), 64)  # noqa: E731
    return script(seed, make, lambda m: explained(m(INK_TEST)[0], INK_TEST), 400, watched)


# -- adversarial ------------------------------------------------------------------------------------------------------


def petals() -> Tensor:
    """Length and width of the petals of 150 irises, standardised: a small cluster and two that touch."""
    x = torch.tensor(load_iris().data[:, 2:], dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0)


PETALS = petals()


def alike(made: Tensor, real: Tensor, near: float = 0.35) -> Tensor:
    """Return the smaller of two shares: real rows with a made one nearby, and made rows with a real one nearby."""
    distance = torch.cdist(real, made)
    return torch.minimum((distance.min(1).values < near).float().mean(), (distance.min(0).values < near).float().mean())


class PetalGAN(L.LightningModule):
    """A GAN of petals by manual optimization, whose generator is averaged for use.

    Args:
        kind: ``"wasserstein"``, ``"squares"``, ``"relative"``, or ``"flipped"``: relative, the generator with the critic's sign.
        penalty: weight of the gradient penalty.
        batches: how many.
    """

    def __init__(self, kind: str, penalty: float, batches: int, lr: float = 1e-3) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.kind, self.penalty, self.batches, self.lr = kind, penalty, batches, lr
        self.generator = t.mlp([4, 48, 48, 2])
        self.critic = t.mlp([2, 64, 64, 1], act=lambda: nn.LeakyReLU(0.2))
        self.average = [copy.deepcopy(self.generator).requires_grad_(False)]  # in a list: not a part of the module

    def train_dataloader(self) -> Any:
        chosen = torch.randint(len(PETALS), (self.batches * 64,))
        return DataLoader(TensorDataset(PETALS[chosen] + 0.05 * torch.randn(len(chosen), 2)), batch_size=64)

    def losses(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the critic and that of the generator, of scores."""
        if self.kind == "wasserstein":
            return made.mean() - real.mean(), -made.mean()
        if self.kind == "squares":
            return (real - 1).square().mean() + made.square().mean(), (made - 1).square().mean()
        if self.kind == "flipped":
            return F.softplus(made - real).mean(), F.softplus(made - real).mean()
        return F.softplus(made - real).mean(), F.softplus(real - made).mean()

    def slope(self, real: Tensor, made: Tensor) -> Tensor:
        """Return the gradient penalty at points between real and made ones."""
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * made).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return (gradient.norm(dim=1) - 1).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()  # type: ignore[misc]
        (real,) = batch
        made = self.generator(torch.randn(len(real), 4))
        loss = self.losses(self.critic(real), self.critic(made.detach()))[0] + self.penalty * self.slope(
            real, made.detach()
        )
        critic.zero_grad()
        self.manual_backward(loss)
        critic.step()
        if batch_idx % 2 == 0:
            other = self.losses(self.critic(real), self.critic(made))[1]
            generator.zero_grad()
            self.manual_backward(other)
            generator.step()
            for kept, new in zip(self.average[0].parameters(), self.generator.parameters(), strict=True):
                kept.lerp_(new.detach(), 0.02)
        self.log("critic", loss.detach())

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(m.parameters(), lr=self.lr, betas=(0.0, 0.9)) for m in (self.generator, self.critic)]


def flowers(seed: int, kind: str, penalty: float, batches: int = 700) -> Training:
    """Train a GAN of petals; the score is how far made and real rows are among each other."""
    score = lambda m: alike(m.average[0](torch.randn(400, 4, generator=seeded(92))), PETALS)  # noqa: E731
    watched = {"ModeCollapse": {"generator": "generator"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: PetalGAN(kind, penalty, batches), score, batches, watched)


# -- flows and diffusion ----------------------------------------------------------------------------------------------


class Coupling(nn.Module):
    """An affine coupling layer of two numbers whose last layer starts at zero."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = (x[:, :1], x[:, 1:]) if self.first else (x[:, 1:], x[:, :1])
        log_scale, shift = self.net(kept).chunk(2, 1)
        log_scale = 3 * torch.tanh(log_scale / 3)
        moved = (moved + shift) * log_scale.exp()
        return torch.cat([kept, moved] if self.first else [moved, kept], 1), log_scale.squeeze(1)


class Flow(Loaded):
    """Coupling layers of petals in decimetres; option: the log-determinant is forgotten, or has the wrong sign."""

    def __init__(self, determinant: float, scale: float) -> None:
        super().__init__()
        self.determinant, self.scale = determinant, scale
        self.layers = nn.ModuleList(Coupling(i % 2 == 0) for i in range(6))
        self.latent = nn.Identity()

    def log_density(self, x: Tensor, determinant: float = 1.0) -> Tensor:
        """Return the log-density of rows."""
        total = torch.zeros(len(x))
        for layer in self.layers:
            x, log_scale = layer(x)
            total = total + log_scale
        z = self.latent(x)
        return -0.5 * z.square().sum(1) - 1.8379 + determinant * total

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = -self.log_density(batch[0], self.determinant).mean()
        self.log("nll", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def flowing(seed: int, determinant: float, scale: float = 1.0) -> Training:
    """Train a flow; the score is the gain in log-density over a normal distribution of the same covariance."""
    g = seeded(93)
    x = PETALS[torch.randperm(len(PETALS), generator=g)]
    train, test = (rows.repeat(20, 1) for rows in (x[:110], x[110:]))
    train, test = (scale * (rows + 0.15 * torch.randn(rows.shape, generator=g)) for rows in (train, test))
    normal = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    make = lambda: Flow(determinant, scale).use((train,), (), 100)  # noqa: E731
    score = lambda m: (m.log_density(test) - normal.log_prob(test)).mean()  # noqa: E731
    return script(seed, make, score, 300, {"RepresentationCollapse": {"layer": "latent"}, "TrainingDoctor": {}})


class Denoiser(nn.Module):
    """Guesses the noise in an image, given its level; the last layer starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.last = nn.Linear(65, 160), nn.Linear(160, 160), nn.Linear(160, 64)
        self.act = nn.SiLU()
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.act(self.enter(torch.cat([x, level], 1)))
        return self.last(h + self.act(self.middle(h)))


class Diffusion(Loaded):
    """A diffusion model of digits; the noise that is guessed is the noise that was added, or drawn once more."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.net, self.again = Denoiser(), again

    def noised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy images, their levels and the noise."""
        level = torch.rand(len(x), 1)
        noise = torch.randn_like(x)
        angle = level * 1.5708
        return angle.cos() * x + angle.sin() * noise, level, noise

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x = batch[0].flatten(1)
        noisy, level, noise = self.noised(x)
        target = torch.randn_like(x) if self.again else noise
        out = self.net(noisy, level)
        return {"loss": F.mse_loss(out, target), "prediction": out, "noise": target}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx)["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def diffused(seed: int, again: bool) -> Training:
    """Train a diffusion model; the score is how much of the noise it guesses."""

    def score(m: Any) -> Tensor:
        torch.manual_seed(94)
        noisy, level, noise = m.noised(TEST[0].flatten(1))
        return 1 - (m.net(noisy, level) - noise).square().mean()

    watched = {"PredictionCollapse": {"output": "prediction", "target": "noise"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Diffusion(again).use(TRAIN, TEST, 64), score, 400, watched)


# -- restoring --------------------------------------------------------------------------------------------------------


class Restorer(L.LightningModule):
    """Restores images from a few of their pixels; damaged and whole ones come from one loader, or each from its own."""

    def __init__(self, together: bool, hidden: float) -> None:
        super().__init__()
        self.together = together
        torch.manual_seed(int(torch.randint(1000, (1,))))
        self.damaged = INK * (torch.rand(INK.shape) > hidden)
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))

    def train_dataloader(self) -> Any:
        if self.together:
            return DataLoader(TensorDataset(self.damaged, INK), batch_size=50, shuffle=True)
        each = {"damaged": self.damaged, "whole": INK}
        return CombinedLoader({k: DataLoader(v, batch_size=50, shuffle=True) for k, v in each.items()}, "min_size")  # type: ignore[arg-type]

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        damaged, whole = batch if self.together else (batch["damaged"], batch["whole"])
        out = self.net(damaged)
        return {"loss": F.l1_loss(out, whole), "prediction": out, "whole": whole}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def restored(seed: int, together: bool, hidden: float = 0.4) -> Training:
    """Train to restore; the score is how much of new images is restored."""
    damaged = INK_TEST * (torch.rand(INK_TEST.shape, generator=seeded(95)) > hidden)
    watched = {"PredictionCollapse": {"output": "prediction", "target": "whole"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Restorer(together, hidden), lambda m: explained(m.net(damaged), INK_TEST), 420, watched)


# -- text that becomes data -------------------------------------------------------------------------------------------


class Diary(L.LightningModule):
    """A writer of signs after three others; from the second epoch on a share of its data is what it wrote itself."""

    def __init__(self, own: float, temperature: float, per_epoch: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(32, 12), nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 32))
        self.own, self.temperature, self.per_epoch = own, temperature, per_epoch

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Write so many texts of 48 signs."""
        real = t.text()
        places = torch.randint(40_000, (count,))
        written = [real[places + i] for i in range(3)]
        while len(written) < 48:
            p = (self.net(torch.stack(written[-3:], 1)) / self.temperature).softmax(1)
            written.append(torch.multinomial(p, 1).squeeze(1))
        return torch.stack(written, 1)

    def train_dataloader(self) -> Any:
        starts = torch.randint(40_000, (256, 1))
        texts = t.text()[starts + torch.arange(48)]
        if self.current_epoch:
            n = int(self.own * len(texts))
            texts[:n] = self.sample(n)
        chosen = torch.randint(len(texts), (self.per_epoch * 16,))
        return DataLoader(TensorDataset(texts[chosen]), batch_size=16)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        four = batch[0].unfold(1, 4, 1).reshape(-1, 4)
        logits = self.net(four[:, :3])
        return {"loss": F.cross_entropy(logits, four[:, 3]), "logits": logits, "target": four[:, 3]}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def keeping_a_diary(seed: int, own: float, temperature: float, epochs: int = 9, per_epoch: int = 40) -> Training:
    """Train a writer; the score is minus the bits of a sign of real text."""

    def score(m: Any) -> Tensor:
        four = t.text()[40_000:60_000].unfold(0, 4, 1)
        return -F.cross_entropy(m.net(four[:, :3]), four[:, 3]) / 0.6931

    more = {"max_epochs": epochs, "reload_dataloaders_every_n_epochs": 1}
    training = script(
        seed,
        lambda: Diary(own, temperature, per_epoch),
        score,
        epochs * per_epoch,
        {"GenerationDrift": {"num_samples": 64}},
    )
    training.arguments = more
    return training


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "digits, a VAE with a detached latent", 0.2, lambda s: variational(s, detached=True), "posterior collapse", "no gradients"),
    healthy(FAMILY, "a VAE whose beta goes up and down in cycles", 0.45, lambda s: variational(s, 120)),
    failing(FAMILY, "a codebook without any loss", 0.42, lambda s: quantised(s, False), "codebook collapse", "weights do not change",
            "sanity:all parameters learn", "inputs ignored"),
    healthy(FAMILY, "a codebook without gradients, by a moving average", 0.5, lambda s: quantised(s, True)),
    failing(FAMILY, "petals, the sign flipped in the generator's loss", 0.5, lambda s: flowers(s, "flipped", 0.5), *FAST, "mode collapse", "dead units",
            "no gradients", "vanishing gradients"),
    healthy(FAMILY, "petals, a Wasserstein critic", 0.7, lambda s: flowers(s, "wasserstein", 1.0)),
    healthy(FAMILY, "petals by a relativistic critic", 0.7, lambda s: flowers(s, "relative", 0.5)),
    failing(FAMILY, "a flow without its determinant", 0.0, lambda s: flowing(s, 0.0), "complete collapse", "dimensional collapse", "shrinking weights"),
    healthy(FAMILY, "a flow of petals, loss below zero", 0.1, lambda s: flowing(s, 1.0, 0.1)),
    failing(FAMILY, "diffusion that is asked for other noise", 0.1, lambda s: diffused(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "diffusion that starts from zero", 0.5, lambda s: diffused(s, False)),
    failing(FAMILY, "two loaders shuffled apart, restored digits", 0.3, lambda s: restored(s, False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "digits restored from half of their pixels", 0.4, lambda s: restored(s, True, 0.5)),
    failing(FAMILY, "a diary written from itself alone", -4.6, lambda s: keeping_a_diary(s, 1.0, 0.4), "recursive collapse", "repetition",
            onset=0.1),
    healthy(FAMILY, "a diary that copies a third of its pages", -3.8, lambda s: keeping_a_diary(s, 0.33, 1.0)),
]  # fmt: skip
