"""Classes of images, points, episodes and shifted data in seldom combined forms: half fail, half are healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded

FAMILY = "fresh classes"
TRAIN, TEST = images(301)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
RETURNED: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {"output": "logits", "target": "labels"},
    "DeadUnits": {},
    "TrainingDoctor": {},
}
OF_MODEL: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}


# -- prototypical networks --------------------------------------------------------------------------------------------


class Episodes(Dataset[Any]):
    """Five digits at a time, five images of each to make a prototype and five to ask for; half of the columns are noise."""

    def __init__(self, data: Data, count: int, seed: int) -> None:
        self.x, self.count, self.seed = data[0], count, seed
        self.rows = [(data[1] == k).nonzero().squeeze(1) for k in range(10)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        g = seeded(7919 * self.seed + index)
        classes = torch.randperm(10, generator=g)[:5].tolist()
        chosen = torch.stack([r[torch.randperm(len(r), generator=g)[:10]] for r in (self.rows[c] for c in classes)])
        x = torch.cat([self.x[chosen], 3 * torch.randn(5, 10, 64, generator=g)], 2)
        return {"support": x[:, :5], "query": x[:, 5:].flatten(0, 1)}


class Prototypes(L.LightningModule):
    """Distance to the mean of a class; the classes of the questions are counted as they lie, or in turn."""

    def __init__(self, in_turn: bool, seed: int) -> None:
        super().__init__()
        self.in_turn, self.seed = in_turn, seed
        self.embed = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes = self.embed(support.flatten(0, 1)).view(5, 5, -1).mean(1)
        return -torch.cdist(self.embed(query), prototypes).square()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["support"], batch["query"])
        labels = torch.arange(5).repeat(5) if self.in_turn else torch.arange(5).repeat_interleave(5)
        loss = F.cross_entropy(logits, labels)
        self.log_dict({"loss": loss, "acc": (logits.argmax(1) == labels).float().mean()}, prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": labels}

    def train_dataloader(self) -> Any:
        return DataLoader(Episodes((FLAT, TRAIN[1]), 500, self.seed), batch_size=None)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def episodes(seed: int, in_turn: bool) -> Training:
    """Train on episodes; the score is the accuracy in episodes of other images."""

    def score(m: Any) -> Tensor:
        tests = Episodes((FLAT_TEST, TEST[1]), 20, 99)
        answers = torch.arange(5).repeat_interleave(5)
        return torch.stack(
            [(m(e["support"], e["query"]).argmax(1) == answers).float().mean() for e in (tests[i] for i in range(20))]
        ).mean()

    return script(seed, lambda: Prototypes(in_turn, seed), score, 500, RETURNED)


# -- a detector -------------------------------------------------------------------------------------------------------


def scenes(data: Data, count: int, seed: int) -> Data:
    """A digit somewhere on 14x14 pixels with noise; which one, and where its corner is."""
    g = seeded(seed)
    chosen = torch.randint(len(data[0]), (count,), generator=g)
    corners = torch.randint(7, (count, 2), generator=g)
    canvas = 0.2 * torch.randn(count, 1, 14, 14, generator=g) - 0.8
    for i, (row, (a, b)) in enumerate(zip(chosen.tolist(), corners.tolist(), strict=True)):
        canvas[i, :, a : a + 8, b : b + 8] += data[0][row] + 0.8
    return canvas, data[1][chosen], corners.float()


class Detector(Loaded):
    """What and where from one body; losses are means, or sums over the batch."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten()
        )  # fmt: skip
        self.what, self.where = nn.Linear(32 * 49, 10), nn.Linear(32 * 49, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.what(h), self.where(h)

    def _losses(self, batch: Data) -> dict[str, Tensor]:
        x, label, corner = batch
        what, where = self(x)
        class_loss = F.cross_entropy(what, label, reduction=self.reduction)
        box_loss = F.smooth_l1_loss(where, corner, reduction=self.reduction)
        return {"loss": class_loss + box_loss, "class_loss": class_loss, "box_loss": box_loss, "logits": what}

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        out = self._losses(batch)
        self.log_dict({k: v for k, v in out.items() if k != "logits"})
        return {"loss": out["loss"], "logits": out["logits"].detach(), "labels": batch[1]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        out = self._losses(batch)
        self.log("val_loss", out["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)


def detecting(seed: int, reduction: str) -> Training:
    """Train a detector; the score is the share of scenes whose digit is right and whose corner is within 1.5 pixels."""
    train, test = scenes((TRAIN[0], TRAIN[1]), 2000, 302), scenes((TEST[0], TEST[1]), 300, 303)

    def score(m: Any) -> Tensor:
        what, where = m(test[0])
        near = (where - test[2]).norm(dim=1) < 1.5
        return ((what.argmax(1) == test[1]) & near).float().mean()

    return script(seed, lambda: Detector(reduction).use(train, test, 32), score, 350, RETURNED)


# -- clouds of points -------------------------------------------------------------------------------------------------


def clouds(count: int, seed: int) -> Data:
    """Forty points ``[n, 40, 3]``, each coordinate alike in all classes; which pair of them agrees, or has opposite signs, is the class."""
    g = seeded(seed)
    x, y = torch.rand(count, 40, 3, generator=g) * 2 - 1, torch.randint(4, (count,), generator=g)
    x[y == 0, :, 1] = x[y == 0, :, 0]
    x[y == 1, :, 1] = -x[y == 1, :, 0]
    x[y == 2, :, 2] = x[y == 2, :, 1]
    x[y == 3, :, 2] = -x[y == 3, :, 1]
    return x + 0.1 * torch.randn(x.shape, generator=g), y


class PointNet(Loaded):
    """Convolutions of width 1 and a maximum over points; channels are moved by a transpose, or by a view."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.points = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc, self.val_acc = MulticlassAccuracy(4), MulticlassAccuracy(4)

    def forward(self, cloud: Tensor) -> Tensor:
        n, points, channels = cloud.shape
        x = cloud.view(n, channels, points) if self.viewed else cloud.transpose(1, 2)
        return self.classifier(self.points(x).amax(2))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        out = self(batch[0])
        self.train_acc(out, batch[1])
        self.log("train_acc", self.train_acc)
        return self.criterion(out, batch[1])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        out = self(batch[0])
        self.val_acc(out, batch[1])
        self.log("val_acc", self.val_acc)
        self.log("val_loss", self.criterion(out, batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def pointing(seed: int, viewed: bool) -> Training:
    """Train on clouds; the score is the accuracy."""
    train, test = clouds(2000, 304), clouds(500, 305)
    watched = {"PredictionCollapse": {"output": "classifier"}, "DeadUnits": {}, "TrainingDoctor": {}}
    score = lambda m: (m(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    return script(seed, lambda: PointNet(viewed).use(train, test, 32), score, 300, watched)


# -- distillation and adaptation --------------------------------------------------------------------------------------


def taught(net: nn.Module, updates: int = 120) -> nn.Module:
    """Train a network on digits, as whoever published it did."""
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for start in range(updates):
        rows = slice(64 * (start % 20), 64 * (start % 20) + 64)
        optimizer.zero_grad()
        F.cross_entropy(net(FLAT[rows]), TRAIN[1][rows]).backward()
        optimizer.step()
    return net


class Distilled(Loaded):
    """Learns the softened answers of a teacher that were written to a file before; the labels are for the log alone."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.student, self.temperature = t.mlp([64, 24, 10]), temperature

    def _distance(self, logits: Tensor, soft: Tensor) -> Tensor:
        log_p, log_q = (F.log_softmax(v / self.temperature, 1) for v in (logits, soft))
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * self.temperature**2

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, soft, labels = batch
        logits = self.student(x)
        self.log("acc", (logits.argmax(1) == labels).float().mean())
        return {"loss": self._distance(logits, soft), "logits": logits, "labels": labels}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def distilling(seed: int, shuffled: bool) -> Training:
    """Train a student; the score is its accuracy."""

    def make() -> Any:
        teacher = taught(t.mlp([64, 64, 10])).eval()
        order = torch.randperm(len(FLAT)) if shuffled else torch.arange(len(FLAT))  # "the loader of the training set"
        with torch.no_grad():
            soft = teacher(FLAT[order])
        return Distilled(4.0).use((FLAT, soft, TRAIN[1]), (), 32)

    score = lambda m: (m.student(FLAT_TEST).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, make, score, 400, RETURNED)


class Adapting(Loaded):
    """A trained network sees darker, noisy images; scale and shift of its normalisation follow the entropy of its answers."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))  # fmt: skip
        taught(self.model).requires_grad_(False)
        for layer in self.model:
            if isinstance(layer, nn.BatchNorm1d):
                layer.requires_grad_(True)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch  # the labels are not used
        p = self.model(x).softmax(1)
        entropy = -(p * p.clamp(min=1e-8).log()).sum(1).mean()
        self.log("entropy", entropy)
        return entropy

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=self.lr)


def adapting(seed: int, lr: float) -> Training:
    """Adapt to other images; the score is the accuracy on them."""
    g = seeded(306)
    dark = [
        (0.3 * x - 1.0 + 0.25 * torch.randn(x.shape, generator=g), y)
        for x, y in ((FLAT, TRAIN[1]), (FLAT_TEST, TEST[1]))
    ]
    score = lambda m: (m.model(dark[1][0]).argmax(1) == dark[1][1]).float().mean()  # noqa: E731
    return script(seed, lambda: Adapting(lr).use(dark[0], (), 16), score, 250, OF_MODEL)


# -- averaged and perturbed weights -----------------------------------------------------------------------------------


class Averaged(Loaded):
    """What is validated and kept is the average of the weights over the run."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 10)
        )
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update_parameters(self.model)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        out = self.average(batch[0])
        self.log_dict(
            {"val_loss": F.cross_entropy(out, batch[1]), "val_acc": (out.argmax(1) == batch[1]).float().mean()}
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)


def averaging(seed: int, decay: float) -> Training:
    """Train with an average; the score is the accuracy of the average."""
    score = lambda m: (m.average(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Averaged(decay).use(TRAIN, TEST, 32), score, 301, OF_MODEL)


class Sharpness(L.LightningModule):
    """SAM by manual optimization: a step up, the gradient there, back down, a step of SGD; the way back is there, or is not."""

    def __init__(self, back: bool, radius: float, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.back, self.radius, self.updates = back, radius, updates
        self.model = t.mlp([64, 48, 48, 10], nn.GELU)

    def train_dataloader(self) -> Any:
        chosen = torch.randint(len(FLAT), (32 * self.updates,))
        return DataLoader(TensorDataset(FLAT[chosen], TRAIN[1][chosen]), batch_size=32)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        x, y = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        self.manual_backward(loss)
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in self.model.parameters()]).norm() + 1e-12
            moves = [self.radius * p.grad / norm for p in self.model.parameters()]
            for p, move in zip(self.model.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        logits = self.model(x)
        self.manual_backward(F.cross_entropy(logits, y))
        if self.back:
            with torch.no_grad():
                for p, move in zip(self.model.parameters(), moves, strict=True):
                    p.sub_(move)
        optimizer.step()
        self.log("loss", loss.detach(), prog_bar=True)
        return {"loss": loss.detach(), "logits": logits.detach(), "labels": y}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


def sharpness(seed: int, back: bool, updates: int = 350) -> Training:
    """Train with SAM; the score is the accuracy."""
    score = lambda m: (m.model(FLAT_TEST).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Sharpness(back, 0.3, updates), score, updates, RETURNED)


# -- a hypernetwork ---------------------------------------------------------------------------------------------------


class Hyper(Loaded):
    """A network makes the weights of a classifier for each of four ways to turn an image; they are used, or copied."""

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.copied = copied
        self.tasks = nn.Embedding(4, 8)
        self.make = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64 * 10))
        self.target = nn.Linear(64, 10)

    def forward(self, x: Tensor, task: int) -> Tensor:
        weight = self.make(self.tasks(torch.tensor(task))).view(10, 64)
        if self.copied:
            with torch.no_grad():
                self.target.weight.copy_(weight)
            return self.target(x)
        return F.linear(x, weight, self.target.bias)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        task = batch_idx % 4
        logits = self(torch.rot90(x, task, (2, 3)).flatten(1), task)
        return {"loss": F.cross_entropy(logits, y), "logits": logits, "labels": y}

    def configure_optimizers(self) -> Any:
        made = [p for n, p in self.named_parameters() if n != "target.weight"]
        return torch.optim.Adam([{"params": made}, {"params": [self.target.weight], "lr": 0.0}], lr=3e-3)


def hyper(seed: int, copied: bool) -> Training:
    """Train a hypernetwork; the score is the accuracy over all four ways."""

    def score(m: Any) -> Tensor:
        return torch.stack(
            [(m(torch.rot90(TEST[0], k, (2, 3)).flatten(1), k).argmax(1) == TEST[1]).float().mean() for k in range(4)]
        ).mean()

    return script(seed, lambda: Hyper(copied).use(TRAIN, (), 32), score, 500, RETURNED)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "prototypes whose questions are labelled in turn", 0.6, lambda s: episodes(s, True), *UNLEARNED, "complete collapse", FOLLOW, ONE_BATCH),
    healthy(FAMILY, "prototypes of five images, half the columns noise", 0.6, lambda s: episodes(s, False)),
    failing(FAMILY, "where a digit is, both losses summed", 0.5, lambda s: detecting(s, "sum"), *FAST, *UNLEARNED, "dead units",
            "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "a digit and its corner in pixels", 0.5, lambda s: detecting(s, "mean")),
    failing(FAMILY, "clouds of points, viewed for a transpose", 0.6, lambda s: pointing(s, True), *UNLEARNED, FOLLOW, ONE_BATCH, "overfitting"),
    healthy(FAMILY, "clouds of points whose coordinates look alike", 0.6, lambda s: pointing(s, False)),
    failing(FAMILY, "a student, answers of its teacher in a new order", 0.5, lambda s: distilling(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "a student of softened answers of a teacher", 0.8, lambda s: distilling(s, False)),
    failing(FAMILY, "darker images, entropy lowered at a rate of 0.3", 0.6, lambda s: adapting(s, 0.3), *UNLEARNED, *FAST, "complete collapse",
            "dead units", twin="darker images, entropy lowered at a rate of 0.001"),
    healthy(FAMILY, "darker images, entropy lowered at a rate of 0.001", 0.6, lambda s: adapting(s, 1e-3)),
    failing(FAMILY, "averaged weights that hardly move", 0.6, lambda s: averaging(s, 0.9999), "evaluation differs", "overfitting"),
    healthy(FAMILY, "an average of weights that follows", 0.85, lambda s: averaging(s, 0.97)),
    failing(FAMILY, "a step up that is never taken back", 0.7, lambda s: sharpness(s, False), *FAST, *UNLEARNED, "dead units", "saturated units"),
    healthy(FAMILY, "a step up of 0.3 before each step down", 0.85, lambda s: sharpness(s, True)),
    failing(FAMILY, "weights made by a network, then copied", 0.5, lambda s: hyper(s, True), "no gradients", "weights do not change", *UNLEARNED,
            "vanishing gradients", "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "weights made by a network for four ways to turn", 0.7, lambda s: hyper(s, False)),
]  # fmt: skip
