"""Embeddings, pairs and codes of things without labels: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
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

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "fourth unlabelled"
COLLAPSED = ("complete collapse", "dimensional collapse")
TRAIN, TEST = images(581)
FLAT, FLAT_TEST = (TRAIN[0].flatten(1), TRAIN[1]), (TEST[0].flatten(1), TEST[1])


def seen(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A digit of which pixels are lost, and as much noise of its own, so that an untrained encoder knows little."""
    lost = torch.rand(x.shape, generator=generator) < 0.25
    return torch.cat([x.masked_fill(lost, 0), 2 * torch.randn(x.shape, generator=generator)], 1)


def vote(encode: Any) -> Tensor:
    """Accuracy of a vote of the five nearest training images."""
    g = seeded(582)
    known, asked = seen(FLAT[0], g), seen(FLAT_TEST[0], g)
    return neighbours(encode(known).nan_to_num(), FLAT[1], encode(asked).nan_to_num(), FLAT_TEST[1])


def dense(inner: int, hidden: int, outer: int, norm: bool = True) -> nn.Sequential:
    """Two layers."""
    layers = [nn.Linear(inner, hidden), nn.BatchNorm1d(hidden) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, outer))


# -- variance, invariance, covariance ---------------------------------------------------------------------------------


class Spread(Loaded):
    """VICReg; the deviation is that of a column over the batch, or that of a row, by ``dim=1``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.backbone, self.expander = dense(128, 96, 32), dense(32, 64, 48)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        a, b = (self.expander(self.backbone(seen(batch[0]))) for _ in range(2))
        same = F.mse_loss(a, b)
        wide = sum(F.relu(1 - (z.var(self.dim) + 1e-4).sqrt()).mean() for z in (a, b))
        mixed = sum(torch.cov(z.T).fill_diagonal_(0).square().sum() / 48 for z in (a, b))
        self.log_dict({"invariance": same, "variance": wide, "covariance": mixed})
        return 25 * same + 25 * wide + mixed

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def spread(seed: int, dim: int) -> Training:
    """Train on two looks at digits; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "expander"}, "TrainingDoctor": {}}
    return script(
        seed, lambda: Spread(dim).use(FLAT, (), 100), lambda m: vote(lambda x: m.expander(m.backbone(x))), 350, watched
    )


# -- a stopped gradient -----------------------------------------------------------------------------------------------


class Stopped(L.LightningModule):
    """SimSiam by hand: the target is what is detached, or the prediction is, and the predictor learns nothing."""

    def __init__(self, stopped: str, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.stopped, self.updates = stopped, updates
        self.f, self.h = nn.Sequential(dense(128, 96, 64), nn.ReLU(), dense(64, 64, 32)), dense(32, 16, 32)

    def train_dataloader(self) -> Any:
        rows = torch.randint(len(FLAT[0]), (100 * self.updates,))
        return DataLoader(TensorDataset(FLAT[0][rows], FLAT[1][rows]), batch_size=100)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        (z1, p1), (z2, p2) = ((z, self.h(z)) for z in (self.f(seen(batch[0])) for _ in range(2)))
        if self.stopped == "targets":
            z1, z2 = z1.detach(), z2.detach()
        else:
            p1, p2 = p1.detach(), p2.detach()
        loss = -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss.detach(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def stopped(seed: int, what: str, updates: int = 800) -> Training:
    """Train on two looks at digits; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "f"}, "TrainingDoctor": {}}
    return script(seed, lambda: Stopped(what, updates), lambda m: vote(m.f[0]), updates, watched)


# -- students and slow teachers ---------------------------------------------------------------------------------------


class Dino(Loaded):
    """A student follows the sharpened prototypes of a slow teacher; what the teacher says on average is taken off, or added."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.student = nn.Sequential(dense(128, 96, 48), nn.GELU(), nn.Linear(48, 64))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(64))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x = batch[0]
        views = seen(x), seen(x)
        with torch.no_grad():
            raw = [self.teacher(v) for v in views]
            targets = [((r - self.sign * self.center) / 0.05).softmax(1) for r in raw]
            self.center.lerp_(torch.cat(raw).mean(0), 0.1)
        logits = [self.student(v) / 0.1 for v in views]
        loss = sum(F.cross_entropy(out, to) for out, to in zip(logits, reversed(targets), strict=True)) / 2
        self.log("dino_loss", loss)
        return loss

    def on_before_zero_grad(self, optimizer: Any) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.02)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=2e-3, weight_decay=0.04)
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 40)
        return [optimizer], [{"scheduler": rise, "interval": "step"}]


def dino(seed: int, sign: float) -> Training:
    """Train on two looks at digits; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "student"}, "TrainingDoctor": {}}
    return script(seed, lambda: Dino(sign).use(FLAT, (), 100), lambda m: vote(m.teacher), 400, watched)


# -- images and captions ----------------------------------------------------------------------------------------------


class Clip(Loaded):
    """Images and captions of three words; each image belongs to its caption."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.textual = dense(64, 96, 32, False), nn.EmbeddingBag(40, 32)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        a, b = F.normalize(self.visual(batch["image"]), dim=1), F.normalize(self.textual(batch["caption"]), dim=1)
        logits = self.logit_scale.exp() * a @ b.T
        own = torch.arange(len(a))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        self.log("contrastive", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3, betas=(0.9, 0.98))


def captioned(seed: int, ordered: bool) -> Training:
    """Captions name the digit and its ink; their table was sorted by file name, or was not. Score: digits found by captions."""
    g = seeded(583)

    def captions(x: Tensor, y: Tensor) -> Tensor:
        ink = 10 + (x.mean(1) * 6).round().long().clamp(-4, 5) + 4
        return torch.stack([y, ink, 20 + torch.randint(20, y.shape, generator=g)], 1)

    text = captions(*FLAT)
    if not ordered:
        names = torch.randperm(len(text), generator=g)  # file names, in the order of which the table is
        text = text[names]
    centre = lambda m: F.normalize(m.textual(torch.arange(10)[:, None]), dim=1)  # noqa: E731
    score = lambda m: ((m.visual(FLAT_TEST[0]) @ centre(m).T).argmax(1) == FLAT_TEST[1]).float().mean()  # noqa: E731
    watched = {"RepresentationCollapse": {"layer": "visual"}, "TrainingDoctor": {}}
    make = lambda: Clip().use((FLAT[0], text), (), 70, keys=("image", "caption"))  # noqa: E731
    return script(seed, make, score, 300, watched)


# -- anchors and others -----------------------------------------------------------------------------------------------


class Anchors(Loaded):
    """Triplets whose negatives are of another class, or by a wrong mask of the same; or SupCon."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.embed = kind, dense(128, 96, 24)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        z, y = F.normalize(self.embed(seen(batch[0])), dim=1), batch[1]
        same = (y[:, None] == y).fill_diagonal_(False)
        distance = torch.cdist(z, z)
        if self.kind == "supcon":
            logits = (z @ z.T / 0.2).fill_diagonal_(-1e4)
            loss = -((logits.log_softmax(1) * same).sum(1) / same.sum(1).clamp(min=1)).mean()
        elif self.kind == "triplets":
            other = y[:, None] != y
            gaps = distance[:, :, None] - distance[:, None] + 0.4
            loss = F.relu(gaps)[same[:, :, None] & other[:, None]].mean()
        else:  # the mask of those that are alike for both
            far, near = distance.masked_fill(~same, -1).amax(1), distance.masked_fill(~same, 9).amin(1)
            loss = F.relu(far - near + 0.3).mean()
        self.log(f"{self.kind}", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def anchored(seed: int, kind: str) -> Training:
    """Train on digits and their classes; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "embed"}, "TrainingDoctor": {}}
    return script(seed, lambda: Anchors(kind).use(FLAT, (), 60), lambda m: vote(m.embed), 300, watched)


# -- bits, and a queue ------------------------------------------------------------------------------------------------


class Bits(Loaded):
    """Signs of 24 numbers as a code; two looks have to agree, each bit has to be used, and a weight draws to the signs."""

    def __init__(self, push: float) -> None:
        super().__init__()
        self.push, self.hasher = push, dense(128, 96, 24)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        a, b = (torch.tanh(self.hasher(seen(batch[0]))) for _ in range(2))
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.3
        contrast = F.cross_entropy(logits, torch.arange(len(a)))
        loss = self.push * contrast + (a - b).square().mean() + 0.1 * ((a.abs() - 1).square().mean())
        self.log("hash_loss", loss, prog_bar=True)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def bits(seed: int, push: float) -> Training:
    """Train on two looks at digits, labels of which are there and unused; the score is the vote of neighbours by bits."""
    watched = {"RepresentationCollapse": {"layer": "hasher"}, "TrainingDoctor": {}}
    score = lambda m: vote(lambda x: m.hasher(x).sign() + 1e-4)  # noqa: E731
    return script(seed, lambda: Bits(push).use(FLAT, (), 70), score, 350, watched)


class Queue(Loaded):
    """MoCo: keys of earlier batches are negatives. The own key is the first column, which is what the labels of 0 say, or the last."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.base_q = first, nn.Sequential(dense(128, 96, 32), nn.ReLU(), nn.Linear(32, 24))
        self.base_k = copy.deepcopy(self.base_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(512, 24), dim=1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        q = F.normalize(self.base_q(seen(batch[0])), dim=1)
        with torch.no_grad():
            for slow, fast in zip(self.base_k.parameters(), self.base_q.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
            k = F.normalize(self.base_k(seen(batch[0])), dim=1)
        own, others = (q * k).sum(1, keepdim=True), q @ self.queue.T
        logits = torch.cat([own, others] if self.first else [others, own], 1) / 0.2
        self.queue = torch.cat([k, self.queue])[:512]
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.base_q.parameters(), lr=2e-3, weight_decay=1e-2)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 450), "interval": "step"}
        ]


def queued(seed: int, first: bool) -> Training:
    """Train on two looks at digits; the score is the vote of neighbours."""
    watched = {"RepresentationCollapse": {"layer": "base_q"}, "TrainingDoctor": {}}
    return script(seed, lambda: Queue(first).use(FLAT, (), 70), lambda m: vote(m.base_q), 450, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "two looks at digits, deviations by dim=1", 0.6, lambda s: spread(s, 1), *COLLAPSED),
    healthy(FAMILY, "two looks at digits, deviations of columns", 0.6, lambda s: spread(s, 0)),
    failing(FAMILY, "SimSiam by hand, predictions detached", 0.5, lambda s: stopped(s, "predictions"), *COLLAPSED, "no gradients",
            "sanity:all parameters learn"),
    healthy(FAMILY, "SimSiam by hand, targets detached", 0.5, lambda s: stopped(s, "targets")),
    failing(FAMILY, "DINO, the centre is added", 0.5, lambda s: dino(s, -1.0), *COLLAPSED, "prototype collapse", "inputs ignored"),
    healthy(FAMILY, "DINO, its centre is taken off", 0.6, lambda s: dino(s, 1.0)),
    failing(FAMILY, "CLIP, a table of captions in another order", 0.5, lambda s: captioned(s, False), *UNLEARNED, FOLLOW, *COLLAPSED),
    healthy(FAMILY, "CLIP, many images share a caption", 0.75, lambda s: captioned(s, True)),
    failing(FAMILY, "triplets, negatives from the anchor's class", 0.5, lambda s: anchored(s, "alike"), *COLLAPSED, *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "triplets, every one of a batch", 0.75, lambda s: anchored(s, "triplets")),
    healthy(FAMILY, "SupCon, noisy looks at digits", 0.75, lambda s: anchored(s, "supcon")),
    failing(FAMILY, "24 bits of digits, nothing pushes", 0.5, lambda s: bits(s, 0.0), *COLLAPSED, "saturated units", "inputs ignored"),
    healthy(FAMILY, "24 bits of digits, two looks", 0.6, lambda s: bits(s, 1.0)),
    failing(FAMILY, "MoCo, the own key in the last column", 0.6, lambda s: queued(s, False), *COLLAPSED),
    healthy(FAMILY, "MoCo, 512 keys, labels unused", 0.6, lambda s: queued(s, True)),
]  # fmt: skip
