"""Classification and segmentation with bugs that code reviews find, and trainings that resemble them and succeed.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import auc, conv, images, noisy, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "review classes"
TRAIN, TEST = images(211)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
WATCHED: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}


def right(m: Any) -> Tensor:
    """Return the share of right digits."""
    return (m.model(TEST[0]).argmax(1) == TEST[1]).float().mean()


# -- several properties of one image ----------------------------------------------------------------------------------


def properties(digits: Tensor) -> Tensor:
    """Even, above four, prime, with a closed loop, with a straight line: what is true of each digit."""
    table = torch.tensor([sum(1 << i for i, kind in enumerate(
        ({0, 2, 4, 6, 8}, {5, 6, 7, 8, 9}, {2, 3, 5, 7}, {0, 4, 6, 8, 9}, {1, 4, 5, 7})) if d in kind) for d in range(10)])  # fmt: skip
    return ((table[digits, None] >> torch.arange(5)) & 1).float()


class Endless(IterableDataset[Any]):
    """Batches of digits and their properties, without an end."""

    def __iter__(self) -> Any:
        while True:
            rows = torch.randint(len(FLAT), (48,))
            yield {"pixels": FLAT[rows], "properties": properties(TRAIN[1][rows])}


class Properties(L.LightningModule):
    """Answers five questions about a digit; the last activation is a sigmoid for each, or a softmax over all of them."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64))
        self.head = nn.Linear(64, 5)
        self.last = last
        self.f1 = torchmetrics.F1Score("multilabel", num_labels=5)

    def forward(self, pixels: Tensor) -> Tensor:
        scores = self.head(self.backbone(pixels))
        return scores.softmax(-1) if self.last == "softmax" else scores.sigmoid()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        probabilities = self(batch["pixels"])
        return {"loss": F.binary_cross_entropy(probabilities, batch["properties"]), "probabilities": probabilities}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        probabilities = self(batch[0])
        self.f1(probabilities, batch[1].long())
        self.log_dict({"val_loss": F.binary_cross_entropy(probabilities, batch[1]), "val_f1": self.f1})

    def configure_optimizers(self) -> Any:
        return torch.optim.NAdam(self.parameters(), lr=3e-3)

    def train_dataloader(self) -> Any:
        return DataLoader(Endless(), batch_size=None)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(FLAT_TEST, properties(TEST[1])), batch_size=200)


def questions(seed: int, last: str) -> Training:
    """Train on five questions; the score is the share of images of which all five answers are right."""
    watched = {"PredictionCollapse": {"output": "probabilities", "target": "properties"}, "DeadUnits": {}, "TrainingDoctor": {}}  # fmt: skip
    score = lambda m: ((m(FLAT_TEST) > 0.5) == (properties(TEST[1]) > 0.5)).all(1).float().mean()  # noqa: E731
    return script(seed, lambda: Properties(last), score, 300, watched, val_check_interval=50)


# -- one class is rare ------------------------------------------------------------------------------------------------


def rare_eights() -> Data:
    """One image in thirty is an eight, which is the class to find."""
    eights, others = (TRAIN[1] == 8).nonzero().squeeze(1)[:40], (TRAIN[1] != 8).nonzero().squeeze(1)
    rows = torch.cat([eights, others])
    return TRAIN[0][rows], (TRAIN[1][rows] == 8).long()


class Sampled(L.LightningModule):
    """Draws by the weight of each row; a row's weight is one over the size of its class, or that size."""

    def __init__(self, inverse: bool) -> None:
        super().__init__()
        self.model = conv(2, 8)
        self.criterion = nn.CrossEntropyLoss()
        self.inverse = inverse

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.criterion(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.criterion(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)

    def train_dataloader(self) -> Any:
        x, y = rare_eights()
        count = torch.bincount(y).double()
        weights = (1 / count if self.inverse else count)[y]
        sampler = WeightedRandomSampler(weights.tolist(), len(y), replacement=True)
        return DataLoader(TensorDataset(x, y), batch_size=32, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(TEST[0], (TEST[1] == 8).long()), batch_size=200)


def found_eights(m: Any) -> Tensor:
    """Return the F1 score of the eights."""
    guess, eight = m.model(TEST[0]).argmax(1) == 1, TEST[1] == 8
    return 2 * (guess & eight).sum() / (guess.sum() + eight.sum())


def faults(count: int, seed: int) -> Data:
    """Machines of which four in a thousand break; what tells them apart is a product of two of their eight numbers."""
    g = seeded(seed)
    y = torch.zeros(count).bernoulli_(0.004, generator=g)
    x = torch.randn(count, 8, generator=g)
    x[:, 0] = x[:, 0] + 2.2 * y * torch.where(torch.rand(count, generator=g) > 0.5, 1.0, -1.0)
    x[:, 1] = torch.where(y > 0, x[:, 0].sign() * (x[:, 1].abs() + 1.0), x[:, 1])
    return x, y


class Adjusted(Loaded):
    """A logit for a rare fault, to which the logarithm of the odds is added in training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 1))
        self.prior = math.log(0.004 / 0.996)

    def shared(self, batch: Data) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self.model(x).squeeze(-1) + self.prior, y)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.shared(batch)}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.shared(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def breaking(seed: int) -> Training:
    """Train on faults; the score is the area under the curve for new machines."""
    train, (x, y) = faults(20000, 212), faults(12000, 213)
    score = lambda m: auc(m.model(x).squeeze(1), y)  # noqa: E731
    return script(seed, lambda: Adjusted().use(train, (x, y), 256), score, 350, WATCHED)


# -- classes that come later ------------------------------------------------------------------------------------------


class Growing(Loaded):
    """Five classes at first, ten from one update on; the optimizer is told of the larger head, or is not."""

    def __init__(self, told: bool, when: int) -> None:
        super().__init__()
        self.told, self.when = told, when
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU())
        self.head = nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def on_train_batch_start(self, batch: Data, batch_idx: int) -> None:
        if self.global_step != self.when or self.head.out_features == 10:
            return
        old, self.head = self.head, nn.Linear(96, 10)
        with torch.no_grad():
            self.head.weight[:5], self.head.bias[:5] = old.weight, old.bias
        self.body.requires_grad_(False)  # the old classes shall be kept
        if self.told:
            self.optimizers().add_param_group({"params": list(self.head.parameters())})  # type: ignore[union-attr]

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        if self.head.out_features == 5:
            x, y = x[y < 5], y[y < 5]
        logits = self(x)
        return {"loss": F.cross_entropy(logits, y), "logits": logits, "labels": y}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


def growing(seed: int, told: bool) -> Training:
    """Train on five classes and then on ten; the score is the accuracy for all of them."""
    watched = {"PredictionCollapse": {"output": "logits", "target": "labels"}, "DeadUnits": {}, "TrainingDoctor": {}}
    make = lambda: Growing(told, 60).use((FLAT, TRAIN[1]), (), 32)  # noqa: E731
    return script(seed, make, lambda m: (m(FLAT_TEST).argmax(1) == TEST[1]).float().mean(), 400, watched)


# -- strokes on a large sheet -----------------------------------------------------------------------------------------


def sheets(x: Tensor, seed: int) -> Data:
    """A digit somewhere on a sheet of 20 by 20 among blots that are weaker, and where its ink is (about 6 %)."""
    g = seeded(seed)
    sheet = 0.25 * torch.rand(len(x), 1, 20, 20, generator=g)
    mask = torch.zeros(len(x), 20, 20, dtype=torch.uint8)
    corners = torch.randint(0, 12, (len(x), 2), generator=g).tolist()
    for i, (a, b) in enumerate(corners):
        ink = (x[i, 0] * 0.38 + 0.3).clamp(0, 1)
        sheet[i, 0, a : a + 8, b : b + 8] += 0.6 * ink
        mask[i, a : a + 8, b : b + 8] = (ink > 0.5).to(torch.uint8) * 255
    return (sheet - 0.15) * 5, mask


class Strokes(Loaded):
    """Finds ink; masks may be read as images are, and images may be turned without their masks."""

    def __init__(self, read: str, turned: str) -> None:
        super().__init__()
        self.read, self.turned = read, turned
        self.net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 1))  # fmt: skip

    def prepare(self, batch: Data) -> Data:
        x, mask = batch
        y = (mask / 255 / 255).long() if self.read == "as an image" else mask.div(255).long()
        if self.training and self.turned:
            turns = int(torch.randint(1, 4, (1,)))
            x = x.rot90(turns, (2, 3))
            y = y.rot90(turns, (1, 2)) if self.turned == "both" else y
        return x, y

    def _step(self, batch: Data) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self.prepare(batch)
        logits = self.net(x)
        return F.cross_entropy(logits, y), logits, y

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        loss, logits, y = self._step(batch)
        self.log("ink", y.float().mean())
        return {"loss": loss, "logits": logits, "mask": y}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._step(batch)[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=250)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def strokes(seed: int, read: str = "as labels", turned: str = "") -> Training:
    """Train on sheets; the score is the intersection over the union of the ink."""
    train, test = sheets(TRAIN[0], 214), sheets(TEST[0], 215)

    def score(m: Any) -> Tensor:
        guess, ink = m.net(test[0]).argmax(1) == 1, test[1] > 0
        return (guess & ink).sum() / (guess | ink).sum()

    watched = {"PredictionCollapse": {"output": "logits", "target": "mask"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Strokes(read, turned).use(train, test, 16), score, 250, watched)


# -- noise in labels, and mixed images ---------------------------------------------------------------------------------


class Correcting(Loaded):
    """Takes its own answer for the label of an image where it is sure enough, after some updates."""

    def __init__(self, sure: float, after: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), t.mlp([64, 96, 10]))
        self.sure, self.after = sure, after

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.model(x)
        if self.global_step >= self.after:
            probability, own = logits.detach().softmax(1).max(1)
            y = torch.where(probability > self.sure, own, y)
        return F.cross_entropy(logits, y)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Mixing(Loaded):
    """CutMix, or a little of another image as noise, of which the weight may be meant for the other argument of lerp."""

    def __init__(self, weight: float | None = None) -> None:
        super().__init__()
        self.model = conv(10, 12)
        self.weight = weight

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        order = torch.randperm(len(x))
        if self.weight is not None:
            return F.cross_entropy(self.model(torch.lerp(x, x[order], self.weight) + 0.2 * torch.randn_like(x)), y)
        rows = int(torch.randint(0, 9, (1,)))
        x, share = torch.cat([x[order, :, :rows], x[:, :, rows:]], 2), 1 - rows / 8
        logits = self.model(x)
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def classes(seed: int, make: Any, train: Data = TRAIN, batch: int = 32, steps: int = 300) -> Training:
    """Train on digits; the score is the accuracy."""
    return script(seed, lambda: make().use(train, TEST, batch), right, steps, WATCHED)


# -- tumours ----------------------------------------------------------------------------------------------------------


def tumours() -> tuple[Data, Data]:
    """569 rows of 30 numbers, and 1 for the benign ones."""
    x, y = t.cancer()
    order = torch.randperm(len(x), generator=seeded(216))
    return cut((x[order], y[order]), 400)


class Margin(Loaded):
    """A hinge loss, of labels -1 and 1 or of labels as they are in the file."""

    def __init__(self, signed: bool) -> None:
        super().__init__()
        self.signed = signed
        self.model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))

    def _hinge(self, batch: Data) -> Tensor:
        x, y = batch[0], batch[1].float()
        y = 2 * y - 1 if self.signed else y
        return (1 - y * self.model(x).squeeze(1)).clamp(min=0).mean()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self._hinge(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._hinge(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Single(Loaded):
    """One tumour at a time through dropout of 0.8, or batches whose rate is multiplied by what should have been a rate."""

    def __init__(self, dropout: float, factor: float) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(30, 64), nn.LayerNorm(64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 2))  # fmt: skip
        self.factor = factor

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self.model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=2e-3, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor * (1 - step / 1000))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def balanced(m: Any) -> Tensor:
    """Return the mean of both classes' shares of right answers."""
    x, y = tumours()[1]
    out = m.model(x)
    guess = (out[:, 0] > 0).long() if out.shape[1] == 1 else out.argmax(1)
    return torch.stack([(guess[y == k] == k).float().mean() for k in (0, 1)]).mean()


def tumour(seed: int, make: Any, batch: int, steps: int) -> Training:
    """Train on tumours; the score is the accuracy, averaged over both classes."""
    train, test = tumours()
    return script(seed, lambda: make().use(train, test, batch), balanced, steps, WATCHED)


WRONG_LABELS = (TRAIN[0], noisy(TRAIN[1], 0.5, seed=217))
SCENARIOS: list[Scenario] = [
    failing(FAMILY, "five questions, a softmax over the answers", 0.5, lambda s: questions(s, "softmax"), *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "five questions about a digit, five sigmoids", 0.7, lambda s: questions(s, "sigmoid")),
    failing(FAMILY, "rare eights, a sampler weighted by counts", 0.4, lambda s: script(s, lambda: Sampled(False), found_eights, 200, WATCHED), *UNLEARNED),
    healthy(FAMILY, "rare eights, sampled by inverse counts", 0.7, lambda s: script(s, lambda: Sampled(True), found_eights, 200, WATCHED)),
    healthy(FAMILY, "four machines in a thousand break, odds in the logit", 0.85, breaking),
    failing(FAMILY, "ten classes after five, the optimizer keeps the old head", 0.65, lambda s: growing(s, False), "weights do not change", *UNLEARNED,
            "no gradients", onset=0.15),
    healthy(FAMILY, "ten classes after five, a group for the larger head", 0.65, lambda s: growing(s, True)),
    failing(FAMILY, "ink on a sheet, masks divided twice", 0.3, lambda s: strokes(s, "as an image"), *UNLEARNED),
    failing(FAMILY, "ink on turned sheets, masks as they were", 0.3, lambda s: strokes(s, turned="images"), *UNLEARNED, FOLLOW, ONE_BATCH,
            "evaluation differs"),
    healthy(FAMILY, "ink on a sheet, turned with its mask", 0.6, lambda s: strokes(s, turned="both")),
    failing(FAMILY, "half of the labels by lot, own answers from the start", 0.5, lambda s: classes(
        s, lambda: Correcting(0.1, 0), WRONG_LABELS, 64), *UNLEARNED, FOLLOW, "overfitting", "evaluation differs"),
    healthy(FAMILY, "half of the labels by lot, corrected where it is sure", 0.75, lambda s: classes(
        s, lambda: Correcting(0.9, 100), WRONG_LABELS, 64)),
    failing(FAMILY, "digits blended, lerp the wrong way round", 0.8, lambda s: classes(s, lambda: Mixing(0.9), steps=250), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "rows of two images, CutMix", 0.85, lambda s: classes(s, lambda: Mixing(), steps=250)),
    failing(FAMILY, "tumours, a hinge for 0 and 1", 0.7, lambda s: tumour(s, lambda: Margin(False), 32, 250), *UNLEARNED, "no gradients",
            "vanishing gradients", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "tumours, a hinge for labels of -1 and 1", 0.9, lambda s: tumour(s, lambda: Margin(True), 32, 250)),
    failing(FAMILY, "tumours, a rate where a factor belongs", 0.75, lambda s: tumour(s, lambda: Single(0.2, 2e-3), 32, 400),
            "weights do not change", *UNLEARNED),
    healthy(FAMILY, "single tumours, LayerNorm, dropout of 0.8", 0.85, lambda s: tumour(s, lambda: Single(0.8, 1.0), 1, 700)),
]  # fmt: skip
