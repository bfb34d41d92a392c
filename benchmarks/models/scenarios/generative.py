"""Flows, diffusion, scores, energies and training on one's own samples, all on points in the plane.

Scores: log-likelihood of points held back, distance between samples and data, R² of a known field, or what is left of a
distribution's spread after some generations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios.gans import grid, moons
from benchmarks.models.trainings import Batches, Training, loader, mlp

FAMILY = "generative"
TOO_HIGH = ("divergence", "learning rate too high", "non-finite values")
UNRELATED = ("inputs ignored", "prediction collapse", "labels do not follow from inputs")


def held(draw: Callable[[int], Callable[[torch.Generator, int], Any]], count: int = 1000) -> Tensor:
    """Points that no training has seen."""
    batch = draw(count)(torch.Generator().manual_seed(777_777), 0)
    return batch if isinstance(batch, Tensor) else batch[0]


def finite(value: Tensor, low: float = -20.0) -> float:
    """A number that is not below ``low``."""
    return max(low, float(value)) if value.isfinite() else low


# -- flows ------------------------------------------------------------------------------------------------------------


class Flow(L.LightningModule):
    """Affine coupling layers. Reference: Dinh et al., 2016, arXiv:1605.08803.

    Args:
        bounded: whether the logarithm of a scale stays within -2 and 2.
        volume: whether the loss contains the change of volume.
        shrink: factor on the data; small data have a density above 1, and so a negative loss.
    """

    def __init__(self, lr: float = 2e-3, bounded: bool = True, volume: bool = True, shrink: float = 0.2) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(mlp([1, 48, 48, 2]) for _ in range(6))
        self.latent = nn.Identity()
        self.lr, self.bounded, self.volume, self.shrink = lr, bounded, volume, shrink

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, dim=1)
        log_det = x.new_zeros(len(x))
        for layer in self.couplings:
            log_scale, shift = layer(a).chunk(2, dim=1)
            log_scale = 2 * torch.tanh(log_scale / 2) if self.bounded else log_scale
            a, b = b * log_scale.exp() + shift, a
            log_det = log_det + log_scale.squeeze(1)
        return self.latent(torch.cat([a, b], dim=1)), log_det

    def log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self(x)
        return -z.square().sum(dim=1) / 2 - math.log(2 * math.pi) + log_det

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] * self.shrink
        loss = -self.log_prob(x).mean() if self.volume else self(x)[0].square().sum(dim=1).mean() / 2
        self.log("nll", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def flow(seed: int, steps: int = 500, **arguments: Any) -> Training:
    """Train a flow on two moons; the score is the gain in log-likelihood over a Gaussian, in nats."""
    torch.manual_seed(seed)
    module = Flow(**arguments)
    points = held(moons) * module.shrink
    plain = torch.distributions.MultivariateNormal(points.mean(0), points.T.cov()).log_prob(points).mean()

    @torch.no_grad()
    def score(module: Any) -> float:
        return finite(module.log_prob(points).mean() - plain)

    watched: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "latent"}, "TrainingDoctor": {}}
    return Training(module, Batches(steps, moons(128), seed), steps, watched, score=score)


# -- diffusion --------------------------------------------------------------------------------------------------------


class Diffusion(L.LightningModule):
    """Predict the noise. Reference: Ho et al., 2020, arXiv:2006.11239.

    Args:
        redrawn: whether the noise to predict is drawn again, a mistake.
        lr: rate of Adam.
    """

    def __init__(self, redrawn: bool = False, lr: float = 2e-3, rounds: int = 40) -> None:
        super().__init__()
        self.net = mlp([2 + 16, 96, 96, 2], nn.SiLU)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-3, 0.2, rounds), dim=0))
        self.redrawn, self.lr, self.rounds = redrawn, lr, rounds

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] / self.rounds * 2.0 ** torch.arange(8)
        return self.net(torch.cat([x, angles.sin(), angles.cos()], dim=1))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        t = torch.randint(self.rounds, (len(batch),))
        noise, kept = torch.randn_like(batch), self.kept[t, None]
        prediction = self(kept.sqrt() * batch + (1 - kept).sqrt() * noise, t)
        target = torch.randn_like(batch) if self.redrawn else noise
        loss = F.mse_loss(prediction, target)
        self.log("train/mse", loss)
        return {"loss": loss, "prediction": prediction, "noise": target}

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Go from noise to data."""
        x = torch.randn(count, 2)
        for i in reversed(range(self.rounds)):
            before = self.kept[i - 1] if i else torch.tensor(1.0)
            alpha = self.kept[i] / before
            x = (x - (1 - alpha) / (1 - self.kept[i]).sqrt() * self(x, torch.full((count,), i))) / alpha.sqrt()
            if i:
                x = x + (1 - alpha).sqrt() * torch.randn_like(x)
        return x

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Energy distance of two samples."""
    return 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()


def diffusion(seed: int, steps: int = 700, **arguments: Any) -> Training:
    """Train on a grid; the score is 1 less the energy distance to the data over that of a Gaussian of the same spread."""
    torch.manual_seed(seed)
    points = held(grid)
    gaussian = points.std() * torch.randn(points.shape, generator=torch.Generator().manual_seed(5))

    def score(module: Any) -> float:
        made = module.eval().sample(1000)
        return finite(1 - distance(made, points) / distance(gaussian, points), -10.0)

    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "prediction", "target": "noise"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    data = Batches(steps, grid(256), seed)
    return Training(Diffusion(**arguments), data, steps, watched, score=score)


# -- scores and energies ----------------------------------------------------------------------------------------------

SPREAD = 0.5


def mixture(batch: int) -> Callable[[torch.Generator, int], Any]:
    """Points around two places; batches are dicts."""

    def draw(generator: torch.Generator, index: int) -> Any:
        side = torch.randint(2, (batch, 1), generator=generator) * 2.0 - 1
        return {"x": side * torch.tensor([1.0, 0.5]) + SPREAD * torch.randn(batch, 2, generator=generator)}

    return draw


def log_density(x: Tensor) -> Tensor:
    """What the points are drawn from."""
    centres = torch.tensor([[1.0, 0.5], [-1.0, -0.5]])
    squares = torch.cdist(x, centres).square() / (2 * SPREAD**2)
    return (-squares).logsumexp(dim=1) - math.log(4 * math.pi * SPREAD**2)


class ScoreMatching(L.LightningModule):
    """Implicit score matching, whose loss is below 0. Reference: Hyvärinen, 2005."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.score = mlp([2, 64, 64, 2], nn.Softplus)
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch["x"].requires_grad_(True)
        field = self.score(x)
        trace = sum(torch.autograd.grad(field[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        loss = (trace + field.square().sum(dim=1) / 2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def score_matching(seed: int, lr: float = 2e-3, steps: int = 500) -> Training:
    """The score is R² of the true gradient of the log-density."""
    torch.manual_seed(seed)
    x = mixture(1000)(torch.Generator().manual_seed(777), 0)["x"].requires_grad_(True)
    (truth,) = torch.autograd.grad(log_density(x).sum(), x)

    @torch.no_grad()
    def score(module: Any) -> float:
        error = (module.score(x) - truth).square().sum() / truth.square().sum()
        return finite(1 - error, -10.0)

    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    return Training(ScoreMatching(lr), Batches(steps, mixture(128), seed), steps, watched, score=score)


class EnergyModel(L.LightningModule):
    """Contrastive divergence with samples that are kept. Reference: Du and Mordatch, 2019, arXiv:1903.08689.

    Args:
        lr: rate of Adam.
        weight: of the penalty on squared energies; without it, energies can grow without bound.
    """

    def __init__(self, lr: float = 1e-3, weight: float = 0.05) -> None:
        super().__init__()
        self.energy = mlp([2, 64, 64, 1], nn.SiLU)
        self.lr, self.weight = lr, weight
        self.chain = 2 * torch.randn(128, 2)

    def walk(self, x: Tensor, rounds: int = 6, length: float = 0.1) -> Tensor:
        for _ in range(rounds):
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x)
            x = (x - length**2 / 2 * 10 * slope + length * torch.randn_like(x)).clamp(-4, 4)
        return x.detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.chain = self.walk(self.chain)
        real, fake = self.energy(batch["x"]), self.energy(self.chain)
        loss = real.mean() - fake.mean() + self.weight * (real.square() + fake.square()).mean()
        self.log("contrastive_divergence", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def energy_model(seed: int, steps: int = 400, **arguments: Any) -> Training:
    """The score is the log-likelihood, normalised on a grid, less that of the uniform distribution, in nats."""
    torch.manual_seed(seed)
    x = mixture(1000)(torch.Generator().manual_seed(777), 0)["x"].clamp(-4, 4)
    axis = torch.linspace(-4, 4, 81)
    cells = torch.cartesian_prod(axis, axis)

    @torch.no_grad()
    def score(module: Any) -> float:
        normaliser = (-module.energy(cells)).logsumexp(dim=0) - math.log(len(cells))
        return finite(-module.energy(x).mean() - normaliser.mean())

    watched: dict[str, dict[str, Any]] = {"TrainingDoctor": {}}
    return Training(EnergyModel(**arguments), Batches(steps, mixture(128), seed), steps, watched, score=score)


# -- one's own samples ------------------------------------------------------------------------------------------------


class OwnSamples(L.LightningModule):
    """A mixture of Gaussians that from the second epoch on is fitted to its own samples.

    Args:
        keep: whether the real points and all earlier samples stay in the training data.
        count: points in the data set, and samples added in each generation.
    """

    def __init__(self, seed: int, keep: bool, count: int = 48, components: int = 6, per_epoch: int = 50) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.randn(components, 2))
        self.log_scales, self.weights = nn.Parameter(torch.zeros(components, 2)), nn.Parameter(torch.zeros(components))
        self.seed, self.keep, self.count, self.per_epoch = seed, keep, count, per_epoch
        self._corpus = mixture(count)(torch.Generator().manual_seed(seed), 0)["x"]

    def distribution(self) -> torch.distributions.Distribution:
        parts = torch.distributions.Independent(torch.distributions.Normal(self.means, self.log_scales.exp()), 1)
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=self.weights), parts)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw points."""
        return self.distribution().sample((count,))

    def train_dataloader(self) -> Any:
        if self.current_epoch:
            own = self.sample(self.count)
            self._corpus = torch.cat([self._corpus, own]) if self.keep else own
        corpus = self._corpus

        def draw(generator: torch.Generator, index: int) -> Any:
            return (corpus[torch.randint(len(corpus), (64,), generator=generator)],)

        return loader(Batches(self.per_epoch, draw, self.seed))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return -self.distribution().log_prob(batch[0]).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def own_samples(seed: int, keep: bool, epochs: int = 14) -> Training:
    """One epoch is one generation; the score is the log-likelihood of real points, in nats."""
    torch.manual_seed(seed)
    x = mixture(1000)(torch.Generator().manual_seed(777), 0)["x"]
    module = OwnSamples(seed, keep)

    @torch.no_grad()
    def score(module: Any) -> float:
        return finite(module.distribution().log_prob(x).mean())

    more = {"max_epochs": epochs, "reload_dataloaders_every_n_epochs": 1}
    watched: dict[str, dict[str, Any]] = {"GenerationDrift": {"num_samples": 64}, "TrainingDoctor": {}}
    nothing = Batches(0, lambda generator, index: None, 0)
    return Training(module, nothing, epochs * module.per_epoch, watched, score=score, arguments=more)


SCENARIOS: list[Scenario] = [
    # -- failing
    failing(FAMILY, "flow, change of volume forgotten", 0.2, lambda s: flow(s, volume=False), "complete collapse"),
    failing(
        FAMILY,
        "flow, scales without bound, Adam 0.1",
        0.2,
        lambda s: flow(s, bounded=False, lr=0.1),
        *TOO_HIGH,
        "loss spikes",
        twin="flow with negative loss",
    ),
    failing(FAMILY, "diffusion, noise drawn again", 0.15, lambda s: diffusion(s, redrawn=True), *UNRELATED),
    failing(
        FAMILY,
        "energies without penalty, Adam 0.5",
        0.4,
        lambda s: energy_model(s, lr=0.5, weight=0.0),
        *TOO_HIGH,
        twin="energies with penalty",
    ),
    failing(
        FAMILY,
        "mixture fitted to its own samples only",
        -3.2,
        lambda s: own_samples(s, keep=False),
        "recursive collapse",
        onset=1 / 14,
    ),
    # -- healthy
    healthy(FAMILY, "flow with negative loss", 0.2, flow),
    healthy(FAMILY, "diffusion, last layer starts at 0", 0.15, diffusion),
    healthy(FAMILY, "implicit score matching, loss below 0", 0.7, score_matching),
    healthy(FAMILY, "energies with penalty", 0.4, energy_model),
    healthy(FAMILY, "mixture fitted to real points and its own samples", -3.2, lambda s: own_samples(s, keep=True)),
]
