"""Embeddings, codes, clusters and densities of tutorials, and what goes wrong when a reader adapts them.

Rewritten in small form from documented examples of libraries and courses; nothing is copied. The comment above each scenario
says what kind of example it is from and, for a failing one, which mistake was made. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, Script, adam, fitted, halves, images, script, seeded
from benchmarks.models.trainings import Training, mlp

FAMILY = "guides unlabelled"
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
ONE_BATCH = "sanity:overfits one batch"
PIXELS = halves((t.digits()[0],))
(IMAGES, LABELS), (TEST, TEST_LABELS) = images()


# -- words ------------------------------------------------------------------------------------------------------------


def neighbours(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of 160 words of eight topics: seven of ten pairs are of one topic."""
    g = seeded(seed)
    word = torch.randint(160, (count,), generator=g)
    same = word // 20 * 20 + torch.randint(20, (count,), generator=g)
    other = torch.randint(160, (count,), generator=g)
    return word, torch.where(torch.rand(count, generator=g) < 0.7, same, other)


WORDS = neighbours(16000, 101), neighbours(800, 102)


class SkipGram(nn.Module):
    """A vector for each word in the middle and one for each word beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.beside = nn.Embedding(160, 24), nn.Embedding(160, 24)
        for part in (self.middle, self.beside):
            nn.init.uniform_(part.weight, -0.5 / 24, 0.5 / 24)

    def forward(self, word: Tensor) -> Tensor:
        return self.middle(word)


def skip_gram(negatives: int) -> Any:
    """A word beside another is likely, and so many drawn words are not."""

    def loss(s: Script, batch: Any) -> Tensor:
        word, near = batch
        v = s.model(word)
        total = -F.logsigmoid((v * s.model.beside(near)).sum(1))
        if negatives:
            drawn = s.model.beside(torch.randint(160, (len(word), negatives)))
            total = total - F.logsigmoid(-(drawn @ v.unsqueeze(2)).squeeze(2)).sum(1)
        return total.mean()

    return loss


def gap_of_topics(s: Any) -> Tensor:
    """Mean cosine of two words of one topic, less that of two words of two topics."""
    v = F.normalize(s.model(torch.arange(160)))
    same, cosine = torch.arange(160)[:, None] // 20 == torch.arange(160) // 20, v @ v.T
    return cosine[same & ~torch.eye(160).bool()].mean() - cosine[~same].mean()


def words(seed: int, negatives: int) -> Training:
    """Train vectors of words."""
    watched: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "model.middle"}, "TrainingDoctor": {}}
    return fitted(
        seed, SkipGram, skip_gram(negatives), gap_of_topics, WORDS, adam(1e-2), steps=400, batch=128, detectors=watched
    )


# -- codes ------------------------------------------------------------------------------------------------------------


class Scalars(nn.Module):
    """An autoencoder whose code is six numbers, each rounded to one of five; option: gradients past the rounding."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.straight = mlp([64, 64, 6]), mlp([6, 64, 64]), straight

    def forward(self, x: Tensor) -> Tensor:
        z = 2 * torch.tanh(self.encoder(x))
        rounded = z.round()
        return self.decoder(z + (rounded - z).detach() if self.straight else rounded)


def rebuilt(s: Any) -> Tensor:
    """R squared of test images."""
    x = PIXELS[1][0]
    return 1 - (s.model(x) - x).square().mean() / (x - PIXELS[0][0].mean(0)).square().mean()


def scalars(seed: int, straight: bool) -> Training:
    """Train an autoencoder of rounded numbers."""
    loss = lambda s, b: F.mse_loss(s.model(b[0]), b[0])  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "RepresentationCollapse": {"layer": "model.encoder"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return fitted(
        seed, lambda: Scalars(straight), loss, rebuilt, PIXELS, adam(3e-3), steps=500, batch=64, detectors=watched
    )


class Variational(nn.Module):
    """A VAE written with torch.distributions; option: the method that draws the code."""

    def __init__(self, draw: str) -> None:
        super().__init__()
        self.body, self.mean, self.log_variance = mlp([64, 64, 32]), nn.Linear(32, 6), nn.Linear(32, 6)
        self.decoder, self.draw = mlp([6, 64, 64]), draw

    def encode(self, x: Tensor) -> torch.distributions.Normal:
        """Distribution of the code."""
        h = F.relu(self.body(x))
        return torch.distributions.Normal(self.mean(h), (0.5 * self.log_variance(h)).exp())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encode(x).mean)


def evidence(s: Script, batch: Any) -> Tensor:
    """Minus the evidence lower bound, of normal pixels with a standard deviation of 0.2."""
    q = s.model.encode(batch[0])
    x = s.model.decoder(getattr(q, s.model.draw)())
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    return ((x - batch[0]).square().sum(1) / 0.08 + divergence).mean()


LATENT: dict[str, dict[str, Any]] = {
    "PosteriorCollapse": {"mean": "model.mean", "log_variance": "model.log_variance"},
    "DeadUnits": {},
    "TrainingDoctor": {},
}


# -- clusters ---------------------------------------------------------------------------------------------------------


def view(x: Tensor) -> Tensor:
    """Shift by up to one pixel, and change the contrast."""
    shift = torch.randint(-1, 2, (2,)).tolist()
    return x.roll(shift, (-2, -1)) * (1 + 0.2 * torch.randn(len(x), 1, 1, 1)) + 0.1 * torch.randn_like(x)


def two_views(weight: float) -> Any:
    """Two views are in one cluster, and clusters are equally frequent; option: the weight of the latter."""

    def loss(s: Script, batch: Any) -> Tensor:
        one, two = (s.model(view(batch[0])).softmax(1) for _ in range(2))
        agree = (one * two).sum(1).clamp(min=1e-8).log().mean()
        share = one.mean(0).clamp(min=1e-8)
        return -agree + weight * (share * share.log()).sum()

    return loss


def purity(s: Any) -> float:
    """Share of test images whose label is the most frequent one of their cluster."""
    guess = s.model(TEST).argmax(1)
    return sum(int(torch.bincount(TEST_LABELS[guess == k]).max()) for k in guess.unique()) / len(guess)


def clusterer() -> nn.Module:
    """A small network with 25 outputs."""
    return nn.Sequential(nn.Flatten(), mlp([64, 96, 64, 25], norm=True))


def clusters(seed: int, weight: float) -> Training:
    """Train clusters that two views share; labels are in the batch and not used."""
    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "model", "kind": "prototypes"},
        "TrainingDoctor": {},
    }
    data = (IMAGES, LABELS), (TEST, TEST_LABELS)
    return fitted(seed, clusterer, two_views(weight), purity, data, adam(2e-3), steps=300, batch=96, detectors=watched)


# -- densities --------------------------------------------------------------------------------------------------------


def moons(count: int, seed: int) -> tuple[Tensor]:
    """Two half circles that reach into each other."""
    g = seeded(seed)
    angle, upper = math.pi * torch.rand(count, generator=g), torch.rand(count, generator=g) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return (1.5 * torch.stack([x, y], 1) + 0.05 * torch.randn(count, 2, generator=g),)


MOONS = moons(4000, 103), moons(500, 104)


class Flow(nn.Module):
    """A velocity at a place and a time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp([3, 64, 64, 64, 2], act=nn.ELU)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(torch.cat([x, time], 1))

    def sample(self, count: int) -> Tensor:
        """Follow the velocity from noise in 40 steps."""
        x = torch.randn(count, 2, generator=seeded(0))
        for i in range(40):
            x = x + self(x, torch.full((count, 1), i / 40)) / 40
        return x


def matching(s: Script, batch: Any) -> Tensor:
    """Squared error of the velocity on straight lines from noise to data."""
    data = batch[0]
    noise, time = torch.randn_like(data), torch.rand(len(data), 1)
    return F.mse_loss(s.model((1 - time) * noise + time * data, time), data - noise)


def near_moons(s: Any) -> Tensor:
    """Share of samples near the moons, times the share of the moons near samples."""
    distance = torch.cdist(s.model.sample(500), MOONS[1][0])
    return (distance.amin(1) < 0.2).float().mean() * (distance.amin(0) < 0.2).float().mean()


class Masked(nn.Linear):
    """A linear layer some of whose weights are masked."""

    def __init__(self, given: Tensor, made: Tensor, strict: bool) -> None:
        super().__init__(len(given), len(made))
        self.register_buffer("mask", (made[:, None] > given if strict else made[:, None] >= given).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def made() -> nn.Module:
    """Each output depends on the inputs before it."""
    places, hidden = torch.arange(64), torch.randint(63, (128,), generator=seeded(105))
    return nn.Sequential(Masked(places, hidden, False), nn.ReLU(), Masked(hidden, places, True))


INK = tuple(((x > 0.4).float(),) for (x,) in PIXELS)


def pixels(s: Script, batch: Any) -> Tensor:
    """Cross entropy of pixels in nats."""
    return F.binary_cross_entropy_with_logits(s.model(batch[0]), batch[0], reduction="none").sum(1).mean()


def bits_saved(s: Any) -> Tensor:
    """Nats for a test image that are saved against pixels that do not depend on each other."""
    frequency = INK[0][0].mean(0).clamp(1e-3, 1 - 1e-3)
    x = INK[1][0]
    apart = F.binary_cross_entropy(frequency.expand_as(x), x, reduction="none").sum(1).mean()
    return apart - pixels(s, (x,))


# -- a teacher --------------------------------------------------------------------------------------------------------


class MeanTeacher(L.LightningModule):
    """A student of eighty labels and of its own moving average, the teacher.

    Args:
        reversed_copy: whether the arguments of the moving average are in the wrong order, so that the student follows.
    """

    def __init__(self, reversed_copy: bool) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Flatten(), mlp([64, 64, 10]))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.reversed_copy = reversed_copy

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)

    @torch.no_grad()
    def average(self, target: nn.Module, source: nn.Module, keep: float = 0.0) -> None:
        """Move a network's weights to another's; ``keep`` stays."""
        for a, b in zip(target.parameters(), source.parameters(), strict=True):
            a.mul_(keep).add_(b, alpha=1 - keep)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        known = y >= 0
        logits = self(x + 0.1 * torch.randn_like(x))
        with torch.no_grad():
            wanted = self.teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
        loss = F.cross_entropy(logits[known], y[known]) + F.mse_loss(logits.softmax(1), wanted)
        self.log("train_loss", loss)
        return {"loss": loss, "logits": logits[known], "target": y[known]}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.reversed_copy:
            self.average(self.student, self.teacher, keep=0.02)
        else:
            self.average(self.teacher, self.student, keep=0.98)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.teacher(batch[0]), batch[1]))

    def train_dataloader(self) -> Any:
        order = torch.randperm(len(IMAGES), generator=seeded(106))
        shown = torch.full_like(LABELS, -1)
        shown[order[:280]] = LABELS[order[:280]]
        return DataLoader(TensorDataset(IMAGES, shown), 64, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(TEST, TEST_LABELS), 128)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.student.parameters(), lr=2e-3)


def taught(seed: int, reversed_copy: bool) -> Training:
    """Train a student and its mean teacher."""
    score = lambda m: (m.teacher(TEST).argmax(1) == TEST_LABELS).float().mean()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {"PredictionCollapse": {}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: MeanTeacher(reversed_copy), score, 350, watched)


SCENARIOS: list[Scenario] = [
    # tutorial on word vectors: skip-grams, five negative samples
    healthy(FAMILY, "words and their topics by skip-grams", 0.4, lambda s: words(s, 5)),
    # the same without the second sum of the loss
    failing(FAMILY, "skip-grams, negatives forgotten", 0.4, lambda s: words(s, 0), "complete collapse", "dimensional collapse",
            *UNRELATED),
    # library for quantisation: finite scalars, gradients past the rounding
    healthy(FAMILY, "rounded codes, gradients straight through", 0.5, lambda s: scalars(s, True)),
    # the same rounded by torch.round alone, whose gradient is 0
    failing(FAMILY, "rounded codes without a straight-through gradient", 0.3, lambda s: scalars(s, False), "no gradients", "vanishing gradients",
            "weights do not change", "complete collapse", "dimensional collapse", "codebook collapse", "inputs ignored",
            "sanity:all parameters learn", "sanity:inputs matter", ONE_BATCH),
    # library for probabilistic programs: rsample() became sample(), and only the divergence reaches the encoder
    failing(FAMILY, "a VAE, sample() for rsample()", 0.3, lambda s: fitted(
        s, lambda: Variational("sample"), evidence, rebuilt, PIXELS, adam(3e-3), steps=400, batch=64, detectors=LATENT),
        "posterior collapse", "dimensional collapse", "complete collapse", "inputs ignored"),
    # paper code on clusters: two views agree, and the entropy of the clusters counts five times
    healthy(FAMILY, "clusters of two views and their entropy", 0.45, lambda s: clusters(s, 5.0)),
    # the same with the weight of the entropy left at its default in another config, 0
    failing(FAMILY, "clusters by agreement of two views alone", 0.45, lambda s: clusters(s, 0.0), "prototype collapse", "complete collapse",
            "dimensional collapse", "prediction collapse", "inputs ignored"),
    # library of diffusion models: the smallest example of flow matching; the loss stays high by its nature
    healthy(FAMILY, "two moons by flow matching", 0.5, lambda s: fitted(
        s, Flow, matching, near_moons, MOONS, adam(5e-3), steps=600, batch=256, detectors=DOCTOR)),
    # library of normalising flows: a masked autoregressive network on binary pixels
    healthy(FAMILY, "MADE on binary digits", 5.0, lambda s: fitted(
        s, made, pixels, bits_saved, INK, adam(1e-2), steps=400, batch=64, detectors=DOCTOR)),
    # tutorial on learning from few labels with a mean teacher
    healthy(FAMILY, "a mean teacher", 0.75, lambda s: taught(s, False)),
    # the same: update_average(teacher, student) was called with its arguments in the wrong order
    failing(FAMILY, "a student that is overwritten by its teacher", 0.5, lambda s: taught(s, True), "weights do not change", *UNRELATED),
]  # fmt: skip
