"""Embeddings of spectra with and without labels: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut, neighbours

FAMILY = "fifth unlabelled"
COLLAPSED = ("complete collapse", "dimensional collapse")


def spectra(count: int = 2400, bins: int = 48) -> Data:
    """Three lines of a substance at their places, of heights that vary; twelve substances."""
    g = seeded(731)
    places = bins * torch.rand(12, 3, generator=g)
    y = torch.randint(12, (count,), generator=g)
    heights = 0.8 + torch.rand(count, 3, 1, generator=g)
    shapes = torch.exp(-(torch.arange(bins) - places[y][..., None]).square() / 3)
    return 2 * (heights * shapes).sum(1) + 0.2 * torch.randn(count, bins, generator=g), y


TRAIN, TEST = cut(spectra(), 1800)


def measured(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A spectrum with new noise, beside a second channel in which there is nothing else."""
    noise = torch.randn(2, *x.shape, generator=generator)
    return torch.cat([x + 0.6 * noise[0], 2 * noise[1]], 1)


def vote(encode: Any) -> Tensor:
    """Accuracy of a vote of the five nearest spectra."""
    g = seeded(732)
    known, asked = measured(TRAIN[0], g), measured(TEST[0], g)
    return neighbours(encode(known).nan_to_num(), TRAIN[1], encode(asked).nan_to_num(), TEST[1])


def block(a: int, hidden: int, b: int, norm: bool = True) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(
        nn.Linear(a, hidden), nn.BatchNorm1d(hidden) if norm else nn.Identity(), nn.ReLU(), nn.Linear(hidden, b)
    )


# -- contrast of two views --------------------------------------------------------------------------------------------


class SimCLR(Loaded):
    """Both views go through the encoder as one batch ``[n, 2, d]``; they are taken apart again by their axis, or by a view."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.encoder, self.projection = block(96, 128, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projection(F.relu(self.encoder(x))), dim=1)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        pairs = torch.stack([measured(batch[0]), measured(batch[0])], 1)
        z = self(pairs.flatten(0, 1))
        a, b = z.view(2, len(pairs), -1) if self.viewed else z.view(len(pairs), 2, -1).unbind(1)
        both = torch.cat([a, b])
        logits = (both @ both.T / 0.2).fill_diagonal_(-1e9)
        partner = torch.arange(len(both)).roll(len(a))
        loss = F.cross_entropy(logits, partner)
        self.log("top1", (logits.argmax(1) == partner).float().mean(), prog_bar=True)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def contrasted(seed: int, viewed: bool) -> Training:
    """Train on two measurements of spectra, labels unused; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "projection"}, "TrainingDoctor": {}}
    return script(seed, lambda: SimCLR(viewed).use(TRAIN, (), 60), lambda m: vote(m.encoder), 250, watched)


class SupCon(Loaded):
    """Two measurements of a batch, one after the other, and their labels: in the same order, or each label twice in turn."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.trunk, self.head = block(96, 96, 48), block(48, 48, 24, False)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        z = F.normalize(self.head(self.trunk(torch.cat([measured(batch[0]), measured(batch[0])]))), dim=1)
        labels = batch[1].repeat_interleave(2) if self.interleaved else batch[1].repeat(2)
        logits = (z @ z.T / 0.15).fill_diagonal_(-1e9)
        alike = (labels[:, None] == labels).float().fill_diagonal_(0)
        loss = -((alike * logits.log_softmax(1)).sum(1) / alike.sum(1)).mean()
        self.log("supcon", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250), "interval": "step"}
        ]


def supervised(seed: int, interleaved: bool) -> Training:
    """Train on labelled spectra; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "trunk"}, "TrainingDoctor": {}}
    return script(seed, lambda: SupCon(interleaved).use(TRAIN, (), 60), lambda m: vote(m.trunk), 250, watched)


# -- a slow copy ------------------------------------------------------------------------------------------------------


class Byol(L.LightningModule):
    """A predictor of what a slow copy says of the other view, by hand; what the encoder says may be detached before it."""

    def __init__(self, detached: bool, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.detached, self.updates = detached, updates
        self.online = nn.Sequential(block(96, 128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        self.target, self.predictor = copy.deepcopy(self.online).requires_grad_(False), block(32, 64, 32)

    def train_dataloader(self) -> Any:
        rows = torch.randint(len(TRAIN[0]), (80 * self.updates,))
        return DataLoader(TensorDataset(TRAIN[0][rows], TRAIN[1][rows]), batch_size=80)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        views, loss = (measured(batch[0]), measured(batch[0])), torch.zeros(())
        for one, other in (views, views[::-1]):
            z = self.online(one)
            p = self.predictor(z.detach() if self.detached else z)
            loss = loss + 1 - F.cosine_similarity(p, self.target(other)).mean()
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.02)
        self.log("byol", loss.detach())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([*self.online.parameters(), *self.predictor.parameters()], lr=2e-3)


def slowly(seed: int, detached: bool, updates: int = 500) -> Training:
    """Train on two measurements of spectra; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "online"}, "TrainingDoctor": {}}
    return script(seed, lambda: Byol(detached, updates), lambda m: vote(m.online[0]), updates, watched)


# -- pairs and threes -------------------------------------------------------------------------------------------------


class Clip(Loaded):
    """Spectra and what was written about them, three words each; a batch has many of a substance."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum, self.words = block(96, 96, 32, False), nn.EmbeddingBag(44, 32)
        self.scale = nn.Parameter(torch.tensor(2.3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        a, b = F.normalize(self.spectrum(measured(batch["x"])), dim=1), F.normalize(self.words(batch["text"]), dim=1)
        logits, own = self.scale.exp() * a @ b.T, torch.arange(len(a))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def described(seed: int, together: bool) -> Training:
    """Spectra and notes are shuffled together, or each by its own; the score is the accuracy of substances by their words."""
    g = seeded(733)
    text = torch.stack([TRAIN[1], 12 + TRAIN[1] % 4, torch.randint(16, 44, TRAIN[1].shape, generator=g)], 1)
    x = TRAIN[0]
    if not together:
        x, text = x[torch.randperm(1800, generator=g)], text[torch.randperm(1800, generator=g)]

    def score(m: Any) -> Tensor:
        names = F.normalize(m.words(torch.stack([torch.arange(12), 12 + torch.arange(12) % 4], 1)), dim=1)
        return ((m.spectrum(measured(TEST[0], seeded(734))) @ names.T).argmax(1) == TEST[1]).float().mean()

    watched = {"RepresentationCollapse": {"layer": "spectrum"}, "TrainingDoctor": {}}
    return script(seed, lambda: Clip().use((x, text), (), 50, keys=("x", "text")), score, 300, watched)


class Hardest(Loaded):
    """Codes of 24 bits by triplets of a batch: the farthest of the own substance, the nearest of another where there is any."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = block(96, 96, 24, False)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        z = self.embed(measured(batch[0])).tanh()
        far = (torch.cdist(z, z).square() + 1e-6).sqrt()
        alike = batch[1][:, None] == batch[1]
        positive = far.masked_fill(~alike, 0).max(1).values
        negative = far.masked_fill(alike, 1e3).min(1).values.clamp(max=far.max().detach())
        self.log("distance", far.mean())
        return F.softplus(positive - negative).mean() + 0.05 * (1 - z.abs()).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def mined(seed: int, sorted_rows: bool) -> Training:
    """Train on spectra, shuffled or in the order of substances; the score is the vote of neighbours by bits."""
    order = TRAIN[1].argsort(stable=True) if sorted_rows else torch.arange(1800)
    data = tuple(d[order] for d in TRAIN)
    watched = {"RepresentationCollapse": {"layer": "embed"}, "TrainingDoctor": {}}
    return script(
        seed,
        lambda: Hardest().use(data, (), 30, shuffle=not sorted_rows),
        lambda m: vote(lambda x: m.embed(x).sign()),
        300,
        watched,
    )


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "SimCLR of spectra, pairs by view(2, n, d)", 0.7, lambda s: contrasted(s, True), *COLLAPSED, ONE_BATCH),
    healthy(FAMILY, "SimCLR of spectra, pairs by their axis", 0.7, lambda s: contrasted(s, False)),
    failing(FAMILY, "SupCon of spectra, labels by repeat_interleave", 0.7, lambda s: supervised(s, True), *COLLAPSED, *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "SupCon of spectra, labels by torch.repeat", 0.85, lambda s: supervised(s, False)),
    failing(FAMILY, "BYOL of spectra, the encoder detached", 0.7, lambda s: slowly(s, True), "no gradients", "weights do not change",
            "sanity:all parameters learn", *COLLAPSED),
    healthy(FAMILY, "BYOL of spectra", 0.7, lambda s: slowly(s, False)),
    failing(FAMILY, "spectra and notes, shuffled apart", 0.5, lambda s: described(s, False), *UNLEARNED, FOLLOW, *COLLAPSED),
    healthy(FAMILY, "spectra and notes, many of a substance", 0.75, lambda s: described(s, True)),
    failing(FAMILY, "bits of spectra, one substance after another", 0.7, lambda s: mined(s, True), *COLLAPSED, "sanity:data are shuffled",
            *UNLEARNED),
    healthy(FAMILY, "bits of spectra by triplets", 0.75, lambda s: mined(s, False)),
]  # fmt: skip
