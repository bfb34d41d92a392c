"""Signs, tokens, pixels and classes that come later: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, WeightedRandomSampler

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, conv, fitted, images, right, script, seeded
from benchmarks.models.trainings import Training, macro_f1
from benchmarks.models.wide import FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fourth classes"
RETURNED: dict[str, dict[str, Any]] = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}


def entropy(s: Script, batch: Data) -> Any:
    """Return cross entropy alone; the accuracy is logged."""
    output = s.model(batch[0])
    s.log("train_acc", (output.argmax(1) == batch[1]).float().mean(), prog_bar=True)
    return F.cross_entropy(output, batch[1])


# -- many kinds of signs ----------------------------------------------------------------------------------------------


def signs(count: int, kinds: int = 60, noise: float = 0.7) -> Data:
    """Noisy copies of 60 patterns of 40 numbers."""
    g = seeded(521)
    patterns = torch.randn(kinds, 40, generator=g)
    y = torch.randint(kinds, (count,), generator=g)
    return patterns[y] + noise * torch.randn(count, 40, generator=g), y


def signed(seed: int, last: nn.Module) -> Training:
    """Train on 60 signs, with something after the last layer; the score is the accuracy."""
    train, test = cut(signs(5000), 4200)
    model = lambda: nn.Sequential(nn.Linear(40, 96), nn.ReLU(), nn.Linear(96, 60), last)  # noqa: E731
    optimizer = lambda s: torch.optim.SGD(s.parameters(), lr=0.03, momentum=0.9)  # noqa: E731
    return fitted(seed, model, entropy, right(test), (train, test), optimizer, batch=64, steps=300, detectors=CLASSES)


# -- pixels -----------------------------------------------------------------------------------------------------------


def cracks(count: int, seed: int) -> Data:
    """Dark lines, level or upright, on noise, channels last as image libraries read them; about 96 % of it is background."""
    g = seeded(seed)
    upright = torch.rand(count, 1, 1, generator=g) < 0.5
    start, across = (torch.randint(14, (count, 1, 1), generator=g) for _ in range(2))
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    along, side = torch.where(upright, row, column), torch.where(upright, column, row)
    mask = (side == across) & (along >= start - 4) & (along < start + 8)
    image = 0.5 * torch.randn(count, 16, 16, 1, generator=g) - 1.6 * mask[..., None]
    return image, mask.long()


class Cracks(Loaded):
    """Two classes for each pixel, by a focal loss."""

    def __init__(self, order: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.order = order
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU())
        self.mask_head = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.mask_head(self.stem(image.permute(self.order)))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        ce = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        loss = ((1 - (-ce).exp()).square() * ce).mean()
        self.log("focal", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=4e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)]


def cracked(seed: int, order: tuple[int, int, int, int]) -> Training:
    """Train on cracks; the score is their share of the union of those found and those there, channels moved correctly."""
    image, mask = cracks(120, 523)

    def score(m: Any) -> Tensor:
        found = m.mask_head(m.stem(image.permute(0, 3, 1, 2))).argmax(1)
        return ((found == 1) & (mask == 1)).sum() / ((found == 1) | (mask == 1)).sum()

    watched = {"PredictionCollapse": {"output": "mask_head"}, "TrainingDoctor": {}}
    return script(seed, lambda: Cracks(order).use(cracks(640, 522), (), 16), score, 240, watched)


# -- one in fifty -----------------------------------------------------------------------------------------------------


class Sampled(Loaded):
    """Rare faults among 12 readings, drawn by weights that shall make both classes equally frequent."""

    def __init__(self, inverse: bool) -> None:
        super().__init__()
        self.inverse = inverse
        self.net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))

    def train_dataloader(self) -> Any:
        labels = self.train_set.tensors[1]
        counts = torch.bincount(labels).float()
        weights = (1 / counts if self.inverse else counts)[labels]
        sampler = WeightedRandomSampler(weights.tolist(), len(labels), generator=seeded(524))
        return DataLoader(self.train_set, batch_size=50, sampler=sampler, drop_last=True)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.log("loss", loss, prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": batch[1]}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def faults(seed: int, inverse: bool) -> Training:
    """Train on faults; the score is the mean of the shares of both classes that are recognised."""
    g = seeded(525)
    y = (torch.rand(9000, generator=g) < 0.02).long()
    x = torch.randn(9000, 12, generator=g) + 0.8 * y[:, None] * torch.tensor([1.0, -1.0, 1.0] * 4)
    train, test = cut((x, y), 5000)

    def score(m: Any) -> Tensor:
        guess = m.net(test[0]).argmax(1)
        return torch.stack([(guess[test[1] == k] == k).float().mean() for k in (0, 1)]).mean()

    return script(seed, lambda: Sampled(inverse).use(train), score, 250, RETURNED)


# -- pieces of words --------------------------------------------------------------------------------------------------


def pieces(count: int, seed: int, aligned: bool) -> Data:
    """Ten words, of which some are two pieces: labels of words are given to pieces, or to as many places in turn.

    A word of a label's class starts with a piece of its own range; second pieces have the label -100 if aligned.
    """
    g = seeded(seed)
    labels = torch.randint(4, (count, 10), generator=g)
    labels = torch.where(torch.rand(count, 10, generator=g) < 0.5, 0, labels)
    first = 10 * labels + torch.randint(10, (count, 10), generator=g)
    long = torch.rand(count, 10, generator=g) < 0.5
    x, y = torch.zeros(count, 20, dtype=torch.long) + 59, torch.full((count, 20), -100)
    at = torch.arange(10) + long.long().cumsum(1) - long.long()
    x.scatter_(1, at, first)
    extra = torch.randint(40, 58, (count, 10), generator=g)
    for k in range(10):
        rows = long[:, k].nonzero().squeeze(1)
        x[rows, at[rows, k] + 1] = extra[rows, k]
    if aligned:
        y.scatter_(1, at, labels)
    else:
        y[:, :10] = labels
    return x, y


class Words(Loaded):
    """A bidirectional LSTM over pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.lstm = nn.Embedding(60, 24), nn.LSTM(24, 24, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(48, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tags(self.lstm(self.emb(ids))[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out = self(batch["input_ids"])
        loss = F.cross_entropy(out.transpose(1, 2), batch["labels"], ignore_index=-100)
        self.log("ner_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.NAdam(self.parameters(), lr=5e-3)


def named(seed: int, aligned: bool) -> Training:
    """Train on pieces; the score is the mean F1 of the four labels, at the first piece of each word."""
    x, y = pieces(200, 527, True)
    there = y >= 0
    train = pieces(1500, 526, aligned)
    watched = {"PredictionCollapse": {"output": "tags"}, "TrainingDoctor": {}}
    make = lambda: Words().use(train, (), 32, keys=("input_ids", "labels"))  # noqa: E731
    return script(seed, make, lambda m: macro_f1(m(x)[there], y[there]), 160, watched)


# -- classes that come later ------------------------------------------------------------------------------------------


def later(seed: int, numbered: bool) -> Training:
    """Images of 0 to 4, then all; where each folder numbers its classes from 0, digits of 5 to 9 are 0 to 4 again."""
    (x, y), test = images(528)
    g = seeded(529)
    old, new = (y < 5).nonzero().squeeze(1), (y >= 5).nonzero().squeeze(1)
    first = old[torch.randint(len(old), (40 * 120,), generator=g)]
    pool = torch.cat([new, old]) if numbered else new
    second = pool[torch.randint(len(pool), (40 * 180,), generator=g)]
    order = torch.cat([first, second])
    labels = y[order] if numbered else y[order] % 5
    net = lambda: conv(width=8)  # noqa: E731
    return fitted(
        seed, net, entropy, right(test), ((x[order], labels), ()), rate=3e-3, batch=40, shuffle=False, steps=300,
        detectors=CLASSES,
    )  # fmt: skip


# -- augmentations ----------------------------------------------------------------------------------------------------


def arrows(count: int) -> Data:
    """Arrows to the left or to the right, somewhere in 12x12 pixels of noise."""
    g = seeded(530)
    y = torch.randint(2, (count,), generator=g)
    head = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0.0]])
    x = 0.4 * torch.randn(count, 1, 12, 12, generator=g)
    for k in range(count):
        r, c = torch.randint(9, (1,), generator=g).item(), torch.randint(6, (1,), generator=g).item()
        x[k, 0, r : r + 3, c : c + 6] += head.flip(1) if y[k] else head
    return x, y


def flipped(seed: int) -> Training:
    """Train on arrows, half of which are mirrored by an augmentation that leaves their labels; the score is the accuracy."""
    train, test = cut(arrows(1600), 1200)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        x, y = batch
        mirrored = torch.rand(len(x)) < 0.5
        logits = s.model(torch.where(mirrored[:, None, None, None], x.flip(3), x))
        return {"loss": F.cross_entropy(logits, y), "logits": logits, "labels": y}

    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 2),
        )

    return fitted(seed, net, loss, right(test), (train, test), rate=2e-3, batch=32, steps=250, detectors=RETURNED)


def mixed(seed: int) -> Training:
    """Mixup of digits of which three in ten are mislabelled: the training loss stays high; the score is the accuracy."""
    (x, y), test = images(531)
    g = seeded(532)
    y = torch.where(torch.rand(len(y), generator=g) < 0.3, torch.randint(10, y.shape, generator=g), y)

    def loss(s: Script, batch: Data) -> Any:
        image, label = batch
        share, other = float(torch.rand(())), torch.randperm(len(image))
        output = s.model(share * image + (1 - share) * image[other])
        return share * F.cross_entropy(output, label) + (1 - share) * F.cross_entropy(output, label[other])

    return fitted(seed, conv, loss, right(test), ((x, y), ()), rate=2e-3, batch=50, steps=300, detectors=CLASSES)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "sixty signs, nn.Softmax ends the model", 0.5, lambda s: signed(s, nn.Softmax(1)), *UNLEARNED, "vanishing gradients", ONE_BATCH,
            "sanity:shapes of outputs and labels"),
    healthy(FAMILY, "sixty signs, nn.LogSoftmax ends the model", 0.8, lambda s: signed(s, nn.LogSoftmax(1))),
    failing(FAMILY, "cracks, permute(0, 3, 2, 1) of images only", 0.3, lambda s: cracked(s, (0, 3, 2, 1)), *UNLEARNED, FOLLOW, ONE_BATCH,
            "evaluation differs"),
    healthy(FAMILY, "cracks, a focal loss over 96 % background", 0.5, lambda s: cracked(s, (0, 3, 1, 2))),
    failing(FAMILY, "one fault in fifty, weights of the sampler are counts", 0.7, lambda s: faults(s, False), "prediction collapse", "inputs ignored"),
    healthy(FAMILY, "one fault in fifty, weights of the sampler are inverse counts", 0.8, lambda s: faults(s, True)),
    failing(FAMILY, "names in pieces, labels given in turn", 0.6, lambda s: named(s, False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "names in pieces, each first piece labelled", 0.85, lambda s: named(s, True)),
    failing(FAMILY, "a second folder of digits numbered from 0", 0.6, lambda s: later(s, False), "loss spikes", "divergence", *UNLEARNED,
            "sanity:data are shuffled", onset=0.4),
    healthy(FAMILY, "a second folder of digits, the first goes on", 0.85, lambda s: later(s, True)),
    failing(FAMILY, "arrows mirrored at random", 0.7, flipped, *UNLEARNED, FOLLOW),
    healthy(FAMILY, "mixup of digits, three in ten mislabelled", 0.85, mixed),
]  # fmt: skip
