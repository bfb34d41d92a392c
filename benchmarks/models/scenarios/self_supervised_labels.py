"""Representations from labels, captions or a pretext task: SupCon, triplets, two towers and rotations, on digits.

Scores: retrieval as in ``self_supervised``, choice of the right caption, or accuracy on rotations of images held back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios.self_supervised import COLLAPSED, augment, embedding, pairs, retrieval
from benchmarks.models.trainings import Batches, Training, digits, mlp, split

FAMILY = "metric learning"
UNRELATED = ("labels do not follow from inputs", "sanity:labels follow from inputs")


# -- supervised contrast ----------------------------------------------------------------------------------------------


class SupCon(L.LightningModule):
    """Positives share a label. Reference: Khosla et al., 2020, arXiv:2004.11362.

    Args:
        column: whether one copy of the labels is a column; else they are compared with themselves, and all are equal.
    """

    def __init__(self, column: bool = True) -> None:
        super().__init__()
        self.encoder = mlp([64, 128, 64], norm=True)
        self.head = mlp([64, 64, 32])
        self.column = column

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        (x1, x2), y = batch
        labels = torch.cat([y, y])
        z = F.normalize(self.head(self.encoder(torch.cat([x1, x2]))), dim=1)
        positive = labels.view(-1, 1) == labels if self.column else (labels == labels).expand(len(z), -1)
        itself = torch.eye(len(z), dtype=torch.bool)
        logits = (z @ z.T / 0.2).masked_fill(itself, -1e9)
        log_p = logits - logits.logsumexp(dim=1, keepdim=True)
        positive = positive & ~itself
        loss = -((log_p * positive).sum(dim=1) / positive.sum(dim=1)).mean()
        self.log("supcon", loss)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def supcon(seed: int, steps: int = 300, column: bool = True) -> Training:
    """Train SupCon."""
    torch.manual_seed(seed)
    score = retrieval(lambda m: lambda x: m.head(m.encoder(x)), seed)
    return Training(SupCon(column), pairs(seed, steps, batch=48), steps, embedding("head"), score=score)


# -- triplets ---------------------------------------------------------------------------------------------------------


class Triplets(L.LightningModule):
    """Anchors, positives and negatives that the data set chose. Reference: Schroff et al., 2015, arXiv:1503.03832."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = mlp([64, 96, 96, 16])
        self.criterion = nn.TripletMarginLoss(margin=0.5)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        anchor, positive, negative = (F.normalize(self.embedder(batch[k]), dim=1) for k in ("anchor", "pos", "neg"))
        loss = self.criterion(anchor, positive, negative)
        self.log("triplet_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def easy_triplets(seed: int, steps: int = 500) -> Training:
    """Train on zeros, fours and sixes: after some steps all triplets are satisfied, and all gradients are exactly 0."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    kinds = (0, 4, 6)
    by_kind = [train[0][train[1] == k] for k in kinds]

    def some(which: int, count: int, generator: torch.Generator) -> Tensor:
        return by_kind[which][torch.randint(len(by_kind[which]), (count,), generator=generator)]

    def draw(generator: torch.Generator, index: int) -> Any:
        parts = []
        for kind in range(3):
            other = (kind + 1 + int(torch.randint(2, (), generator=generator))) % 3
            parts.append([some(k, 8, generator) for k in (kind, kind, other)])
        return {name: torch.cat(p) for name, p in zip(("anchor", "pos", "neg"), zip(*parts, strict=True), strict=True)}

    @torch.no_grad()
    def score(module: Any) -> float:
        centres = torch.stack([module.embedder(x).mean(0) for x in by_kind])
        mine = sum((held[1] == k).long() * (i + 1) for i, k in enumerate(kinds))
        nearest = torch.cdist(module.embedder(held[0][mine > 0]), centres).argmin(1)
        return float((nearest == mine[mine > 0] - 1).float().mean())

    return Training(Triplets(), Batches(steps, draw, seed), steps, embedding("embedder"), score=score)


class BatchHard(L.LightningModule):
    """The hardest positive and negative of the batch. Reference: Hermans et al., 2017, arXiv:1703.07737.

    Args:
        semi: whether negatives are those that are farther than the positive, averaged, instead of the nearest one.
    """

    def __init__(self, lr: float, semi: bool = False, margin: float = 0.3) -> None:
        super().__init__()
        self.embedder = mlp([64, 128, 128, 32])
        self.lr, self.semi, self.margin = lr, semi, margin

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        z = F.normalize(self.embedder(x), dim=1)
        distance = (2 - 2 * z @ z.T).clamp_min(1e-6).sqrt()
        same = y[:, None] == y[None, :]
        if self.semi:
            gap = distance[:, :, None] - distance[:, None, :] + self.margin
            chosen = same[:, :, None] & ~same[:, None, :] & (gap < self.margin)
            return (F.relu(gap) * chosen).sum() / chosen.sum().clamp_min(1)
        hardest_positive = (distance * same).amax(dim=1)
        hardest_negative = distance.masked_fill(same, 10.0).amin(dim=1)
        return F.relu(hardest_positive - hardest_negative + self.margin).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def batch_hard(seed: int, lr: float, steps: int = 400, **arguments: Any) -> Training:
    """Train on noisy views of digits with their labels."""
    torch.manual_seed(seed)
    (x, y), _ = split(digits(), seed)

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.randint(len(x), (48,), generator=generator)
        return augment(x[chosen], generator), y[chosen]

    score = retrieval(lambda m: m.embedder, seed)
    return Training(BatchHard(lr, **arguments), Batches(steps, draw, seed), steps, embedding("embedder"), score=score)


# -- two towers -------------------------------------------------------------------------------------------------------

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the digit {}", "handwritten {}", "{}", "this is a {} written by hand")


def tokens(texts: list[str]) -> Tensor:
    """Return the letters as numbers, padded to 36."""
    return torch.tensor([[ord(c) % 32 for c in text.ljust(36)] for text in texts])


class TextTower(nn.Module):
    """A small recurrent network over letters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.letters = nn.Embedding(32, 32)
        self.local, self.out = nn.Conv1d(32, 64, 5, padding=2), nn.Linear(64, width)

    def forward(self, text: Tensor) -> Tensor:
        return self.out(F.relu(self.local(self.letters(text).transpose(1, 2))).amax(dim=2))


class CLIP(L.LightningModule):
    """Images and captions in one space. Reference: Radford et al., 2021, arXiv:2103.00020."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = mlp([64, 128, 32]), TextTower()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        i, t = F.normalize(self.visual(images), dim=-1), F.normalize(self.text(texts), dim=-1)
        return self.logit_scale.exp().clamp(max=100.0) * i @ t.T

    def _shared_step(self, batch: Any) -> Tensor:
        logits = self(batch["image"], batch["caption"])
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._shared_step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._shared_step(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.01)


def clip(seed: int, steps: int = 400, shuffled: bool = False) -> Training:
    """Train two towers; a batch has several images of each digit, so the loss cannot come near 0."""
    torch.manual_seed(seed)
    (x, y), (held_x, held_y) = split(digits(), seed)

    def captions(labels: Tensor, generator: torch.Generator) -> Tensor:
        kinds = torch.randint(len(TEMPLATES), (len(labels),), generator=generator).tolist()
        return tokens([TEMPLATES[k].format(NAMES[d]) for k, d in zip(kinds, labels.tolist(), strict=True)])

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.randint(len(x), (32,), generator=generator)
        text = captions(y[chosen], generator)
        return {
            "image": x[chosen],
            "caption": text[torch.randperm(32, generator=generator)] if shuffled else text,
            "label": y[chosen],
        }

    @torch.no_grad()
    def score(module: Any) -> float:
        logits = module(held_x, tokens([TEMPLATES[0].format(n) for n in NAMES]))
        return float((logits.argmax(1) == held_y).float().mean())

    generator = torch.Generator().manual_seed(seed)
    held = [{"image": held_x[:32], "caption": captions(held_y[:32], generator), "label": held_y[:32]}]
    watched = {**embedding("visual")}
    return Training(CLIP(), Batches(steps, draw, seed), steps, watched, held, score=score)


# -- rotations --------------------------------------------------------------------------------------------------------


def turned(x: Tensor, quarters: Tensor) -> Tensor:
    """Rotate images by quarter turns."""
    images = x.view(-1, 1, 8, 8)
    every = torch.stack([torch.rot90(images, k, dims=(2, 3)) for k in range(4)])
    return every[quarters, torch.arange(len(x))]


class Rotations(L.LightningModule):
    """Which way was the image turned? Reference: Gidaris et al., 2018, arXiv:1803.07728.

    Args:
        redrawn: whether the labels are drawn a second time instead of kept, a mistake.
    """

    def __init__(self, redrawn: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Flatten()),
        )
        self.classifier = nn.Linear(256, 4)
        self.redrawn = redrawn

    def draw(self, count: int) -> Tensor:
        return torch.randint(4, (count,))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, _ = batch
        target = self.draw(len(x))
        logits = self.classifier(self.features(turned(x, target)))
        if self.redrawn:
            target = self.draw(len(x))
        loss = F.cross_entropy(logits, target)
        self.log_dict({"loss": loss.detach(), "acc": (logits.argmax(1) == target).float().mean()})
        return {"loss": loss, "logits": logits, "rotation": target}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def rotations(seed: int, steps: int = 300, **arguments: Any) -> Training:
    """Predict rotations; batches have the digits' labels, which nobody uses."""
    torch.manual_seed(seed)
    (x, y), (held, _) = split(digits(), seed)

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.randint(len(x), (32,), generator=generator)
        return x[chosen], y[chosen]

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        target = torch.arange(len(held)) % 4
        return float((module.classifier(module.features(turned(held, target))).argmax(1) == target).float().mean())

    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "logits", "target": "rotation"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return Training(Rotations(**arguments), Batches(steps, draw, seed), steps, watched, score=score)


Make = Callable[[int], Training]

SCENARIOS: list[Scenario] = [
    # -- failing
    failing(FAMILY, "SupCon, labels compared with themselves", 0.7, lambda s: supcon(s, column=False), *COLLAPSED),
    failing(
        FAMILY,
        "triplets, hardest negatives collapse to one point",
        0.7,
        lambda s: batch_hard(s, 1e-2),
        *COLLAPSED,
        "dead units",
        twin="triplets, semi-hard negatives",
    ),
    failing(FAMILY, "two towers, captions shuffled", 0.6, lambda s: clip(s, shuffled=True), *UNRELATED, *COLLAPSED),
    failing(
        FAMILY, "rotations, labels drawn again", 0.6, lambda s: rotations(s, redrawn=True), *UNRELATED, "inputs ignored"
    ),
    # -- healthy
    healthy(FAMILY, "SupCon", 0.7, supcon),
    healthy(FAMILY, "triplets, all satisfied early", 0.95, easy_triplets),
    healthy(FAMILY, "triplets, semi-hard negatives", 0.7, lambda s: batch_hard(s, 2e-3, semi=True)),
    healthy(FAMILY, "two towers, several images of each caption", 0.6, clip),
    healthy(FAMILY, "rotations, digits' labels unused", 0.6, rotations),
]
