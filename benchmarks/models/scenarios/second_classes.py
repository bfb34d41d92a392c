"""Images by class, by pixel, by place and by distance, as users of forums train them: half fail, half are healthy look-alikes.

Nobody had tuned anything on them when they were written. The names were chosen so that all of them are in the develop half:
these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, conv, fitted, images, right, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "second classes"
TRAIN, TEST = images(401)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
UNITS: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
EMBEDDING: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "model.encoder"}, **UNITS}
STILL = ("weights do not change", "no gradients", "vanishing gradients", *UNLEARNED)


def cross_entropy(s: Script, batch: Data) -> Tensor:
    return F.cross_entropy(s.model(batch[0]), batch[1])


def convolutions(*widths: int) -> nn.Sequential:
    """Convolutions of three by three that keep the size, with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# -- pixels and places ------------------------------------------------------------------------------------------------


def scenes(count: int, seed: int) -> Data:
    """Twelve by twelve pixels of noise with a cross and an upright cross: image, pixels of the upright one, and its middle."""
    g = seeded(seed)
    x, mask = 0.3 * torch.randn(count, 1, 12, 12, generator=g), torch.zeros(count, 12, 12)
    upright = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    other = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    row, left = torch.randint(10, (count,), generator=g), torch.rand(count, generator=g) < 0.5
    column = torch.where(left, torch.randint(4, (count,), generator=g), torch.randint(6, 10, (count,), generator=g))
    for i, (a, b) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        mask[i, a : a + 3, b : b + 3] = upright
        c, d = int(torch.randint(10, (), generator=g)), (b + 6) % 12 if b < 4 else b - 6
        x[i, 0, c : c + 3, d : d + 3] += other
    return x + mask.unsqueeze(1), mask, torch.stack([row, column], 1).float() / 5.5 - 0.82


def overlap(m: Any) -> Tensor:
    """Intersection over union of new scenes."""
    x, mask, _ = scenes(300, 403)
    found = m.model(x).squeeze(1) > 0
    return (found & (mask > 0)).sum() / (found | (mask > 0)).sum()


def segmented(seed: int, turned: bool) -> Training:
    """Find pixels; images are turned on the way, masks with them or not, by cross entropy or by Dice's loss."""

    def loss(s: Script, batch: Data) -> Tensor:
        x, mask = batch
        turns = int(torch.randint(4, ())) if s.training else 0
        out = s.model(torch.rot90(x, turns, (2, 3))).squeeze(1)
        if turned:
            return F.binary_cross_entropy_with_logits(out, mask)
        p, mask = out.sigmoid(), torch.rot90(mask, turns, (1, 2))
        return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)

    train, test = scenes(1200, 402)[:2], scenes(200, 404)[:2]
    model = lambda: convolutions(1, 12, 12, 1)  # noqa: E731
    return fitted(seed, model, loss, overlap, (train, test), rate=5e-3, detectors=UNITS, steps=300)


class Keypoint(nn.Module):
    """A map of heat and the place of its maximum, which a layer brings to the scale of the labels, or which has it already."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.heat = nn.Sequential(convolutions(1, 12, 12, 1), nn.Flatten())
        self.scale = nn.Linear(2, 2) if scaled else nn.Identity()
        line = torch.linspace(-1, 1, 12)
        self.register_buffer("places", torch.cartesian_prod(line, line))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.places[self.heat(x).argmax(1)])


def located(seed: int, by_map: bool) -> Training:
    """Find the middle of the upright cross, by the error of the place, or of the map. Score: share within one pixel and a half."""
    (x, _, place), (new, _, answer) = scenes(1200, 402), scenes(300, 403)

    def loss(s: Script, batch: Data) -> Tensor:
        if not by_map:
            return F.smooth_l1_loss(s.model(batch[0]), batch[1])
        near = (-30 * (s.model.places - batch[1].unsqueeze(1)).square().sum(2)).exp()
        return F.mse_loss(s.model.heat(batch[0]), near)

    score = lambda m: ((m.model(new) - answer).norm(dim=1) * 5.5 < 1.5).float().mean()  # noqa: E731
    make = lambda: Keypoint(not by_map)  # noqa: E731
    return fitted(seed, make, loss, score, ((x, place), (new, answer)), rate=5e-3, detectors=UNITS, steps=300)


# -- rare classes and wrong labels ------------------------------------------------------------------------------------


def rare(seed: int, focal: bool) -> Training:
    """Find the eights, of which most are left out; weights of classes are their counts, or the loss is focal."""
    keep = (TRAIN[1] != 8) | (torch.rand(len(TRAIN[1]), generator=seeded(405)) < 0.4)
    x, y = TRAIN[0][keep], (TRAIN[1][keep] == 8).long()
    x = x + 0.3 * torch.randn(x.shape, generator=seeded(406))
    new = TEST[0] + 0.3 * torch.randn(TEST[0].shape, generator=seeded(407)), (TEST[1] == 8).long()
    weight = torch.bincount(y) / len(y)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits = s.model(batch[0])
        each = F.cross_entropy(logits, batch[1], reduction="none")
        value = (
            ((1 - (-each).exp()).square() * each).mean() if focal else F.cross_entropy(logits, batch[1], weight=weight)
        )
        return {"loss": value, "logits": logits}

    def score(m: Any) -> Tensor:
        found = m.model(new[0]).argmax(1) == new[1]
        return (found[new[1] == 0].float().mean() + found[new[1] == 1].float().mean()) / 2

    return fitted(
        seed, lambda: conv(2, 8), loss, score, ((x, y), new), rate=2e-3, detectors=CLASSES, steps=500 if focal else 250
    )


def mixed(seed: int) -> Training:
    """Two images laid over each other, with both labels, both smoothed."""

    def loss(s: Script, batch: Data) -> Tensor:
        x, y = batch
        if not s.training:
            return cross_entropy(s, batch)
        share, other = float(torch.rand(())), torch.randperm(len(x))
        logits = s.model(share * x + (1 - share) * x[other])
        one, two = (F.cross_entropy(logits, labels, label_smoothing=0.2) for labels in (y, y[other]))
        return share * one + (1 - share) * two

    return fitted(seed, conv, loss, right(TEST), (TRAIN, TEST), detectors=CLASSES, steps=350)


# -- distances --------------------------------------------------------------------------------------------------------


def beside(x: Tensor, seed: int) -> Tensor:
    """Columns of noise beside the pixels."""
    return torch.cat([x, 3 * torch.randn(x.shape, generator=seeded(seed))], 1)


class Angles(nn.Module):
    """An encoder, and the cosine to a direction for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 16))
        self.directions = nn.Parameter(torch.randn(10, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.encoder(x), dim=1) @ F.normalize(self.directions, dim=1).T


def angular(seed: int, all_of_it: bool) -> Training:
    """Learn an additive angular margin of 0.3 at scale 30; the optimizer has all, or the directions alone. Score: a vote of neighbours."""

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        cosine = s.model(batch[0]).clamp(-1 + 1e-6, 1 - 1e-6)
        own = F.one_hot(batch[1], 10).bool()
        logits = 30 * torch.where(own, (cosine.acos() + 0.3).cos(), cosine)
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    x, new = beside(FLAT, 409), beside(FLAT_TEST, 410)
    score = lambda m: neighbours(m.model.encoder(x), TRAIN[1], m.model.encoder(new), TEST[1])  # noqa: E731
    given = lambda s: torch.optim.Adam(s.parameters() if all_of_it else [s.model.directions], lr=2e-3)  # noqa: E731
    return fitted(
        seed, Angles, loss, score, ((x, TRAIN[1]), (new, TEST[1])), given, batch=64, detectors=EMBEDDING, steps=400
    )


# -- updates ----------------------------------------------------------------------------------------------------------


class Averaging(Loaded):
    """A student and the average of its weights; few images have labels, and on all the two have to agree, or all have labels."""

    def __init__(self, backwards: bool) -> None:
        super().__init__()
        self.backwards, self.model = backwards, t.mlp([64, 64, 10])
        self.average = copy.deepcopy(self.model).requires_grad_(False)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.model(x + 0.3 * torch.randn_like(x)), y)
        if not self.backwards:
            more = FLAT[torch.randint(len(FLAT), (64,))]
            one = self.model(more + 0.5 * torch.randn_like(more)).softmax(1)
            two = self.average(more + 0.5 * torch.randn_like(more)).softmax(1)
            loss = loss + 20 * math.exp(-5 * (1 - min(1.0, self.global_step / 200)) ** 2) * F.mse_loss(one, two)
        self.log("train_loss", loss)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        for p, a in zip(self.model.parameters(), self.average.parameters(), strict=True):
            if self.backwards:
                p.data.mul_(0.005).add_(0.995 * a.data)
            else:
                a.data.mul_(0.97).add_(0.03 * p.data)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)


def averaging(seed: int, backwards: bool) -> Training:
    """Train with an average; the score is its accuracy."""
    data = (FLAT, TRAIN[1]) if backwards else (FLAT[:80], TRAIN[1][:80])
    score = lambda m: (m.average(FLAT_TEST).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Averaging(backwards).use(data, (), 32), score, 400, CLASSES)


class Cleared(L.LightningModule):
    """Optimized by hand; gradients are cleared between backward and the step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization, self.model = False, conv()

    def train_dataloader(self) -> Any:
        chosen = torch.randint(len(FLAT), (32 * 250,))
        return DataLoader(TensorDataset(TRAIN[0][chosen], TRAIN[1][chosen]), 32)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.manual_backward(loss)
        optimizer.zero_grad()
        optimizer.step()
        self.log("loss", loss.detach(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def simple(
    seed: int, model: Any, optimizer: Any = None, *, train: Data = TRAIN, steps: int = 300, **more: Any
) -> Training:
    """Train a classifier of digits; the score is the accuracy."""
    return fitted(
        seed, model, cross_entropy, right(TEST), (train, TEST), optimizer, detectors=CLASSES, steps=steps, **more
    )


def fading(seed: int) -> Training:
    """A rate that was meant to fall by a tenth with each epoch, and falls with each batch."""

    def optimizer(s: Script) -> dict[str, Any]:
        made = torch.optim.SGD(s.parameters(), lr=0.02)
        falls = torch.optim.lr_scheduler.ExponentialLR(made, 0.9)
        return {"optimizer": made, "lr_scheduler": {"scheduler": falls, "interval": "step"}}

    return simple(seed, lambda: conv(norm=False), optimizer)


def dropped(seed: int) -> Training:
    """Keep 95 % of the units, which in this library is the share that is dropped."""
    layers = lambda: [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.95)]  # noqa: E731
    make = lambda: nn.Sequential(nn.Flatten(), *layers(), *layers(), nn.Linear(64, 10))  # noqa: E731
    return simple(seed, make, rate=1e-3, steps=400)


def running(seed: int) -> Training:
    """A momentum of 0.99 for running statistics, as it is called elsewhere, with three images in a batch."""
    layers = lambda: [nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=0.99), nn.ReLU()]  # noqa: E731
    make = lambda: nn.Sequential(nn.Flatten(), *layers(), *layers(), *layers(), nn.Linear(64, 10))  # noqa: E731
    return simple(seed, make, rate=1e-3, batch=3, steps=600)


class Thawed(Loaded):
    """A body that was trained on upright digits; it is frozen first and trained at a tenth of the rate then, on digits upside down."""

    def __init__(self) -> None:
        super().__init__()
        self.model = conv()
        optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-3)
        for start in range(0, 1200, 40):
            optimizer.zero_grad()
            F.cross_entropy(self.model(TRAIN[0][start : start + 40]), TRAIN[1][start : start + 40]).backward()
            optimizer.step()
        self.model[-1].reset_parameters()
        self.model[:-1].requires_grad_(False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 150:
            self.model.requires_grad_(True)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([{"params": self.model[:-1].parameters(), "lr": 3e-4}, {"params": self.model[-1].parameters()}], lr=3e-3)  # fmt: skip


def thawed(seed: int) -> Training:
    """Finetune; the score is the accuracy."""
    over = [(x.flip(2, 3), (y % 5) * 2 + y // 5) for x, y in (TRAIN, TEST)]
    return script(seed, lambda: Thawed().use(over[0], (), 32), right(over[1]), 350, CLASSES)


def raw(seed: int) -> Training:
    """Train on pixels from 0 to 255 and use standardised ones."""
    return simple(seed, conv, train=((TRAIN[0] * 0.38 + 0.3) * 255, TRAIN[1]), rate=1e-3)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "crosses turned on the way, masks left upright", 0.3, lambda s: segmented(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "five pixels in a hundred and forty by Dice's loss", 0.6, lambda s: segmented(s, False)),
    failing(FAMILY, "a keypoint at the maximum of its map", 0.5, lambda s: located(s, False), *STILL, "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "a keypoint by the error of its map", 0.7, lambda s: located(s, True)),
    failing(FAMILY, "the weight of a class is its count", 0.7, lambda s: rare(s, False), *UNLEARNED, "sanity:class weights"),
    healthy(FAMILY, "four eights in a hundred by a focal loss", 0.7, lambda s: rare(s, True)),
    healthy(FAMILY, "images laid over images, smoothed labels", 0.85, mixed),
    failing(FAMILY, "an angular margin, the optimizer has its directions alone", 0.7, lambda s: angular(s, False), *STILL, "complete collapse",
            "dimensional collapse", "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "an angular margin, scale of 30", 0.8, lambda s: angular(s, True)),
    failing(FAMILY, "a student overwritten by its average", 0.6, lambda s: averaging(s, True), *STILL),
    healthy(FAMILY, "a teacher of averages, eighty labels", 0.75, lambda s: averaging(s, False)),
    failing(FAMILY, "gradients cleared before they are used", 0.6, lambda s: script(s, Cleared, right(TEST), 250, CLASSES), *STILL),
    failing(FAMILY, "a rate meant to fall with the epochs falls with the batches", 0.6, fading, *STILL),
    failing(FAMILY, "95 % to be kept, 95 % dropped", 0.6, dropped, *STILL, "evaluation differs", "dead units", ONE_BATCH),
    failing(FAMILY, "running statistics, three images in a batch", 0.7, running, "evaluation differs", "overfitting"),
    failing(FAMILY, "pixels up to 255 to train on, standardised ones later", 0.6, raw, "evaluation differs", "overfitting", "sanity:validation is prepared as training"),
    healthy(FAMILY, "a head first, its body later", 0.85, thawed),
]  # fmt: skip
