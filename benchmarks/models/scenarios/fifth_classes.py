"""Classes of gestures, words, pixels and flowers: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, fitted, images, noisy, right, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut

FAMILY = "fifth classes"
RETURNED: dict[str, dict[str, Any]] = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}


# -- gestures ---------------------------------------------------------------------------------------------------------


class Gestures(Loaded):
    """Eight joints of a hand over twelve frames; log-probabilities are taken over classes, or over the batch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.temporal = nn.Sequential(nn.Conv1d(16, 32, 3, padding=1), nn.GELU(), nn.AdaptiveMaxPool1d(3), nn.Flatten())
        self.fc = nn.Linear(96, 8)

    def forward(self, frames: Tensor) -> Tensor:
        return F.log_softmax(self.fc(self.temporal(frames)), dim=self.dim)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        log_probs = self(batch[0])
        self.log("train_acc", (log_probs.argmax(1) == batch[1]).float().mean(), prog_bar=True)
        return F.nll_loss(log_probs, batch[1])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.nll_loss(self(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.NAdam(self.parameters(), lr=2e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def gesturing(seed: int, dim: int, batch: int) -> Training:
    """Train on gestures; the score is the accuracy."""
    g = seeded(701)
    y = torch.randint(8, (2600,), generator=g)
    kinds = torch.randn(8, 16, 12, generator=g)
    train, test = cut((0.8 * kinds[y] + 1.5 * torch.randn(2600, 16, 12, generator=g), y), 2000)
    watched = {"PredictionCollapse": {"output": "fc"}, "TrainingDoctor": {}}
    score = lambda m: (m.fc(m.temporal(test[0])).argmax(1) == test[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Gestures(dim).use(train, test, batch), score, 250, watched)


# -- parts of speech --------------------------------------------------------------------------------------------------


class Speech(Loaded):
    """Convolutions over words and one of twenty tags for each; the probabilities of the tags may meet the loss of logits."""

    def __init__(self, probabilities: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(61, 32, padding_idx=0)
        self.conv = nn.Conv1d(32, 48, 3, padding=1)
        self.tags = nn.Sequential(nn.Linear(48, 20), nn.Softmax(-1) if probabilities else nn.Identity())

    def forward(self, words: Tensor) -> Tensor:
        return self.tags(F.relu(self.conv(self.emb(words).transpose(1, 2))).transpose(1, 2))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        out = self(batch["words"])
        loss = F.cross_entropy(out.transpose(1, 2), batch["tags"], ignore_index=-100)
        return {"loss": loss, "logits": out, "labels": batch["tags"]}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def speaking(seed: int, probabilities: bool) -> Training:
    """Train on sentences of 5 to 16 words; the score is the accuracy of words. A tag follows from a word and the one before."""
    g = seeded(702)
    x = torch.randint(1, 61, (2000, 16), generator=g)
    before = F.pad(x, (1, 0))[:, :-1]
    y = (x - 1) // 6 * 2 + (before > 30)
    padding = torch.arange(16) >= torch.randint(5, 17, (2000, 1), generator=g)
    x, y = x.masked_fill(padding, 0), y.masked_fill(padding, -100)
    train, test = cut((x, y), 1600)
    kept = test[1] >= 0
    score = lambda m: (m(test[0]).argmax(-1) == test[1])[kept].float().mean()  # noqa: E731
    make = lambda: Speech(probabilities).use(train, (), 25, keys=("words", "tags"))  # noqa: E731
    return script(seed, make, score, 300, RETURNED)


# -- veins ------------------------------------------------------------------------------------------------------------


def veins(count: int, seed: int) -> Data:
    """Horizontal and vertical strokes of five pixels on 16x16 of noise: 96 % of the pixels are background."""
    g = seeded(seed)
    x, mask = 0.4 * torch.randn(count, 16, 16, generator=g), torch.zeros(count, 16, 16, dtype=torch.long)
    for i in range(count):
        a, b, c, d = torch.randint(11, (4,), generator=g).tolist()
        mask[i, a, b : b + 5], mask[i, c : c + 5, d] = 1, 2
    return (x + (mask > 0)).unsqueeze(1), mask


class Veins(Loaded):
    """A channel for each of three classes and Dice beside cross-entropy of each; the classes of masks come second."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.down = nn.Sequential(nn.Conv2d(1, 24, 5, padding=2), nn.BatchNorm2d(24), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits, hot = self(batch[0]), F.one_hot(batch[1], 3).float()
        hot = hot.view(logits.shape) if self.viewed else hot.permute(0, 3, 1, 2)
        p = logits.softmax(1)
        dice = 1 - (2 * (p * hot).sum((0, 2, 3)) / (p + hot).sum((0, 2, 3)))[1:].mean()
        self.log_dict({"dice": dice}, prog_bar=True)
        return {"loss": dice - (hot * logits.log_softmax(1)).sum(1).mean(), "logits": logits}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=4e-3, weight_decay=1e-3)


def segmenting(seed: int, viewed: bool) -> Training:
    """Train on strokes; the score is the mean of intersection over union of the two kinds."""
    test = veins(100, 704)

    def score(m: Any) -> Tensor:
        found = m(test[0]).argmax(1)
        return torch.stack(
            [((found == k) & (test[1] == k)).sum() / ((found == k) | (test[1] == k)).sum() for k in (1, 2)]
        ).mean()

    watched = {"PredictionCollapse": {"output": "up"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Veins(viewed).use(veins(600, 703), (), 12), score, 180, watched)


# -- more classes later -----------------------------------------------------------------------------------------------


class Growing(Loaded):
    """Six digits in the first epochs; then the head grows to ten, and the optimizer is told of it or is not."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        self.told = told
        self.features, self.head = nn.Sequential(nn.Linear(64, 24), nn.ReLU()), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch != 2:
            return
        grown = nn.Linear(24, 10)
        with torch.no_grad():
            grown.weight[:6], grown.bias[:6] = self.head.weight, self.head.bias
        grown.weight.data[6:] *= 0.1
        self.head = grown
        if self.told:
            self.trainer.optimizers = [self.configure_optimizers()]

    def training_step(self, batch: Data, batch_idx: int) -> Any:
        known = batch[1] < self.head.out_features
        loss = F.cross_entropy(self(batch[0])[known], batch[1][known])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def growing(seed: int, told: bool) -> Training:
    """Train on digits; the score is the accuracy of the four that came later."""
    train, test = images(705)
    late = test[1] >= 6
    make = lambda: Growing(told).use((train[0].flatten(1), train[1]), (), 20)  # noqa: E731
    score = lambda m: (m(test[0].flatten(1)).argmax(1) == test[1])[late].float().mean()  # noqa: E731
    watched = {"PredictionCollapse": {"output": "head"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, make, score, 350, watched)


# -- wrong labels, one after another ----------------------------------------------------------------------------------


def generalized(s: Script, batch: Data) -> dict[str, Tensor]:
    """The generalized cross-entropy, which wrong labels move less; its loss stays high."""
    logits = s.model(batch[0])
    p = logits.softmax(1).gather(1, batch[1][:, None]).clamp(min=1e-6)
    return {"loss": ((1 - p**0.5) / 0.5).mean(), "logits": logits, "labels": batch[1]}


def mislabelled(seed: int, by_folder: bool) -> Training:
    """Digits, three in ten of which are in the wrong folder, in the order of folders or shuffled; the score is the accuracy."""
    (x, y), test = images(706)
    y = noisy(y, 0.3)
    order = y.argsort(stable=True) if by_folder else torch.arange(len(y))
    train = (x.flatten(1)[order], y[order])
    flat = (test[0].flatten(1), test[1])
    model = lambda: t.mlp([64, 64, 10], nn.SiLU)  # noqa: E731
    optimizer = lambda s: torch.optim.RMSprop(s.parameters(), lr=6e-3)  # noqa: E731
    return fitted(
        seed, model, generalized, right(flat), (train, flat), optimizer, batch=28, shuffle=not by_folder, steps=300,
        detectors=RETURNED,
    )  # fmt: skip


# -- flowers under a decay --------------------------------------------------------------------------------------------


class Flowers(Loaded):
    """Thirty labels of a picture, one in twenty of which holds; an attention over its nine places."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.patch, self.attend = nn.Linear(12, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.queries, self.out = nn.Parameter(torch.randn(1, 30, 32)), nn.Linear(32, 1)

    def forward(self, places: Tensor) -> Tensor:
        keys = F.gelu(self.patch(places))
        return self.out(self.attend(self.queries.expand(len(places), -1, -1), keys, keys)[0]).squeeze(2)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.binary_cross_entropy_with_logits(logits, batch[1]), "logits": logits, "labels": batch[1]}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=self.decay)


def flowering(seed: int, decay: float) -> Training:
    """Train on pictures; the score is the chance that a label which holds is above one that does not."""
    g = seeded(707)
    kind = torch.randint(30, (3000, 2), generator=g)
    y = torch.zeros(3000, 30).scatter_(1, kind, 1.0)
    names = torch.randn(30, 12, generator=g)
    x = 0.5 * torch.randn(3000, 9, 12, generator=g)
    x[:, 2], x[:, 6] = x[:, 2] + names[kind[:, 0]], x[:, 6] + names[kind[:, 1]]
    train, test = cut((x, y), 2600)

    def score(m: Any) -> Tensor:
        logits = m(test[0])
        return (logits.gather(1, kind[2600:, :1]) - logits > 0)[test[1] == 0].float().mean()

    return script(seed, lambda: Flowers(decay).use(train, (), 40), score, 300, RETURNED)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "gestures, log_softmax over the batch", 0.82, lambda s: gesturing(s, 0, 2), *UNLEARNED, "sanity:samples do not leak", SHAPES, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "gestures, log_softmax over classes", 0.82, lambda s: gesturing(s, 1, 2)),
    failing(FAMILY, "parts of speech, nn.Softmax before the loss", 0.6, lambda s: speaking(s, True), *UNLEARNED, "vanishing gradients", SHAPES, ONE_BATCH),
    healthy(FAMILY, "parts of speech, sentences padded", 0.85, lambda s: speaking(s, False)),
    failing(FAMILY, "veins, a view of one-hot masks", 0.3, lambda s: segmenting(s, True), *UNLEARNED, FOLLOW, SHAPES, ONE_BATCH),
    healthy(FAMILY, "veins, 96 % of pixels are background", 0.5, lambda s: segmenting(s, False)),
    failing(FAMILY, "six digits, then ten, the optimizer of the old head", 0.6, lambda s: growing(s, False), "weights do not change", *UNLEARNED,
            "loss spikes", "divergence", "sanity:all parameters learn", onset=0.4),
    healthy(FAMILY, "six digits, then ten, a new optimizer", 0.8, lambda s: growing(s, True)),
    failing(FAMILY, "digits in folders, some in wrong ones, one folder after another", 0.6, lambda s: mislabelled(s, True),
            "sanity:data are shuffled", *UNLEARNED, "loss spikes", "divergence", "overfitting"),
    healthy(FAMILY, "digits in folders, three in ten in wrong ones", 0.8, lambda s: mislabelled(s, False)),
    failing(FAMILY, "thirty labels by attention, weight decay 30", 0.7, lambda s: flowering(s, 30.0), "shrinking weights", "dead units",
            "vanishing gradients", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "thirty labels by attention, decay 0.3", 0.85, lambda s: flowering(s, 0.3)),
]  # fmt: skip
