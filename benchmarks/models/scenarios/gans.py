"""GANs of five kinds on points in the plane and on digits, with manual optimisation as Lightning's documentation has it.

The score is the share of modes (places of a mixture, pieces of two arcs, kinds of digits) that get at least a quarter of
their due share of the generated samples, counting only samples that are near a mode.
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
from benchmarks.models.trainings import Batches, Training, circle, digits, mlp, split

FAMILY = "GAN"

# kind -> loss of the discriminator for scores of (real, fake), loss of the generator for scores of (real, fake)
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "non-saturating": (lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(), lambda r, f: F.softplus(-f).mean()),
    "saturating": (lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(), lambda r, f: -F.softplus(f).mean()),
    "hinge": (lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), lambda r, f: -f.mean()),
    "least squares": (lambda r, f: (r - 1).square().mean() + f.square().mean(), lambda r, f: (f - 1).square().mean()),
    "Wasserstein": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "relativistic": (lambda r, f: F.softplus(f - r).mean(), lambda r, f: F.softplus(r - f).mean()),
}


class GAN(L.LightningModule):
    """A generator and a discriminator.

    Args:
        kind: of the loss, a key of ``LOSSES``.
        rates: of the generator and of the discriminator.
        r1: weight of the gradient penalty at real samples.
        gp: weight of the gradient penalty between real and generated samples.
        critics: updates of the discriminator for one of the generator.
        one_noise: whether all samples of a batch are made from the same noise, a mistake.
        decay: factor on both rates after each update.
    """

    def __init__(
        self,
        kind: str = "non-saturating",
        size: int = 2,
        rates: tuple[float, float] = (1e-3, 1e-3),
        r1: float = 0.0,
        gp: float = 0.0,
        critics: int = 1,
        one_noise: bool = False,
        betas: tuple[float, float] = (0.0, 0.9),
        decay: float = 1.0,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = mlp([8, width, width, size])
        self.discriminator = mlp([size, width, width, 1], act=lambda: nn.LeakyReLU(0.2))
        self.discriminator_loss, self.generator_loss = LOSSES[kind]

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def noise(self, count: int) -> Tensor:
        return torch.randn(1, 8).expand(count, -1) if self.hparams.one_noise else torch.randn(count, 8)

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        if not (self.hparams.r1 or self.hparams.gp):
            return real.new_zeros(())
        mix = torch.rand(len(real), 1) if self.hparams.gp else torch.ones(len(real), 1)
        x = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.discriminator(x).sum(), x, create_graph=True)
        if self.hparams.gp:
            return self.hparams.gp * (slope.norm(dim=1) - 1).square().mean()
        return self.hparams.r1 / 2 * slope.square().sum(dim=1).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch if isinstance(batch, Tensor) else batch[0]
        optimizer_g, optimizer_d = self.optimizers()

        self.toggle_optimizer(optimizer_d)
        fake = self(self.noise(len(real))).detach()
        d_loss = self.discriminator_loss(self.discriminator(real), self.discriminator(fake)) + self.penalty(real, fake)
        self.log("d_loss", d_loss, prog_bar=False)
        optimizer_d.zero_grad()
        self.manual_backward(d_loss)
        optimizer_d.step()
        self.untoggle_optimizer(optimizer_d)

        if batch_idx % self.hparams.critics == 0:
            self.toggle_optimizer(optimizer_g)
            made = self(self.noise(len(real)))
            g_loss = self.generator_loss(self.discriminator(real).detach(), self.discriminator(made))
            self.log("g_loss", g_loss, prog_bar=False)
            optimizer_g.zero_grad()
            self.manual_backward(g_loss)
            optimizer_g.step()
            self.untoggle_optimizer(optimizer_g)
        for scheduler in self.lr_schedulers() if self.hparams.decay < 1 else ():
            scheduler.step()

    def configure_optimizers(self) -> Any:
        parts = zip((self.generator, self.discriminator), self.hparams.rates, strict=True)
        optimizers = [torch.optim.Adam(m.parameters(), lr=lr, betas=self.hparams.betas) for m, lr in parts]
        if self.hparams.decay == 1:
            return optimizers
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, self.hparams.decay) for o in optimizers]


# -- data and scores --------------------------------------------------------------------------------------------------


def grid(batch: int, side: int = 3) -> Callable[[torch.Generator, int], Any]:
    """Points around nine places; batches are tensors."""

    def draw(generator: torch.Generator, index: int) -> Any:
        places = torch.randint(side, (batch, 2), generator=generator).float() - 1
        return 1.5 * places + 0.08 * torch.randn(batch, 2, generator=generator)

    return draw


def arcs(angle: Tensor, second: Tensor) -> Tensor:
    """Two half circles that reach into each other."""
    first = torch.stack([angle.cos(), angle.sin()], dim=-1)
    other = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=-1)
    return 1.5 * (torch.where(second[..., None], other, first) - torch.tensor([0.5, 0.25]))


def moons(batch: int) -> Callable[[torch.Generator, int], Any]:
    """Points on two moons, and on which one they are, which nobody uses."""

    def draw(generator: torch.Generator, index: int) -> Any:
        second = torch.rand(batch, generator=generator) < 0.5
        x = arcs(math.pi * torch.rand(batch, generator=generator), second)
        return x + 0.08 * torch.randn(batch, 2, generator=generator), second.long()

    return draw


def places(data: str) -> tuple[Tensor, float]:
    """Return the modes of a data set in the plane, and how far away a sample may be."""
    if data == "circle":
        angle = 2 * math.pi * torch.arange(8) / 8
        return 2 * torch.stack([angle.cos(), angle.sin()], dim=1), 0.4
    if data == "grid":
        steps = torch.arange(3.0) - 1
        return 1.5 * torch.cartesian_prod(steps, steps), 0.4
    angle = math.pi * (torch.arange(12) % 6 + 0.5) / 6
    return arcs(angle, torch.arange(12) >= 6), 0.5


def covered(distances: Tensor, kinds: Tensor, reach: float, count: int) -> float:
    """Share of modes that get a quarter of their due, of samples with a distance to the nearest one and its kind."""
    hits = torch.bincount(kinds[distances < reach], minlength=count).float() / len(kinds)
    return float((hits >= 0.25 / count).float().mean())


@torch.no_grad()
def modes(module: Any, data: str) -> float:
    """Return the share of modes in the plane that are covered."""
    centres, reach = places(data)
    module.eval()
    made = module(module.noise(2000))
    if not made.isfinite().all():
        return 0.0
    distances, kinds = torch.cdist(made, centres).min(dim=1)
    return covered(distances, kinds, reach, len(centres))


WATCHED: dict[str, dict[str, Any]] = {"ModeCollapse": {"generator": "generator"}, "TrainingDoctor": {}}
DRAWS = {"circle": circle, "grid": grid, "moons": moons}


def plane(seed: int, data: str, steps: int = 600, batch: int = 128, **arguments: Any) -> Training:
    """Train on points in the plane."""
    torch.manual_seed(seed)
    return Training(
        GAN(**arguments), Batches(steps, DRAWS[data](batch), seed), steps, WATCHED, score=lambda m: modes(m, data)
    )


def images(seed: int, steps: int = 700, **arguments: Any) -> Training:
    """Train on digits; batches are images and labels, which nobody uses."""
    torch.manual_seed(seed)
    (x, y), (held, kinds) = split((digits()[0] * 2 - 1, digits()[1]), seed)

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.randint(len(x), (64,), generator=generator)
        return x[chosen].view(-1, 1, 8, 8).flatten(1), y[chosen]

    reach = float(torch.cdist(held, x).min(dim=1).values.quantile(0.95)) * 1.25

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        distances, nearest = torch.cdist(module(module.noise(1000)), x).min(dim=1)
        return covered(distances, y[nearest], reach, 10)

    return Training(GAN(size=64, **arguments), Batches(steps, draw, seed), steps, WATCHED, score=score)


LOST = ("mode collapse",)
DIVERGED = ("divergence", "learning rate too high", "non-finite values")
PASSES = 0.7

SCENARIOS: list[Scenario] = [
    # -- failing
    failing(
        FAMILY,
        "least-squares GAN, one noise for the whole batch",
        PASSES,
        lambda s: plane(s, "circle", kind="least squares", r1=0.5, one_noise=True),
        *LOST,
        "complete collapse",
    ),
    failing(
        FAMILY,
        "Wasserstein GAN, no penalty",
        PASSES,
        lambda s: plane(s, "circle", kind="Wasserstein", rates=(1e-3, 1e-2)),
        *LOST,
        *DIVERGED,
        twin="Wasserstein GAN, gradient penalty",
    ),
    failing(
        FAMILY,
        "saturating GAN, five updates of the discriminator for one",
        PASSES,
        lambda s: plane(s, "grid", kind="saturating", critics=5, rates=(1e-4, 5e-3)),
        *LOST,
        "vanishing gradients",
    ),
    failing(
        FAMILY,
        "relativistic GAN, generator's rate 1e-2",
        PASSES,
        lambda s: plane(s, "grid", kind="relativistic", rates=(1e-2, 2e-4)),
        *LOST,
        twin="relativistic GAN, slow",
    ),
    failing(
        FAMILY,
        "hinge GAN on two moons, both rates 0.1",
        PASSES,
        lambda s: plane(s, "moons", kind="hinge", rates=(0.1, 0.1)),
        *LOST,
        *DIVERGED,
        twin="hinge GAN on two moons",
    ),
    failing(
        FAMILY,
        "hinge GAN on digits with labels, generator's rate 5e-2",
        0.4,
        lambda s: images(s, kind="hinge", rates=(5e-2, 2e-4), steps=500),
        *LOST,
    ),
    # -- healthy
    healthy(
        FAMILY,
        "non-saturating GAN on two moons",
        PASSES,
        lambda s: plane(s, "moons", r1=0.3, rates=(2e-3, 2e-3)),
    ),
    healthy(FAMILY, "hinge GAN on two moons", PASSES, lambda s: plane(s, "moons", kind="hinge", r1=0.3)),
    healthy(
        FAMILY,
        "Wasserstein GAN, gradient penalty",
        PASSES,
        lambda s: plane(s, "circle", kind="Wasserstein", gp=0.3, rates=(3e-3, 3e-3), critics=2, steps=800),
    ),
    healthy(
        FAMILY,
        "least-squares GAN, decaying rates",
        PASSES,
        lambda s: plane(s, "circle", kind="least squares", r1=0.3, rates=(2e-3, 2e-3), decay=0.998),
    ),
    healthy(
        FAMILY,
        "relativistic GAN, slow",
        PASSES,
        lambda s: plane(s, "grid", kind="relativistic", r1=0.3, rates=(1e-3, 1e-3), steps=700),
    ),
    healthy(
        FAMILY,
        "GAN on digits with labels unused",
        0.4,
        lambda s: images(s, r1=1.0, rates=(1e-3, 1e-3), steps=700),
    ),
]
