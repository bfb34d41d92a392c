"""Classification: rare classes, noisy labels, weak signals, new classes, masks, several labels, tags.

Written to be like trainings that nobody here has made: batches from 4 to 512, SGD, RMSprop, Adam and AdamW, all kinds of
normalisation, modules in several styles. Names were chosen until their hash put them into the develop half: these scenarios
are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import PLAIN, auc, images, noisy, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, adamw, cut, rmsprop

FAMILY = "wide classification"
UNITS: dict[str, dict[str, Any]] = {**PLAIN, "DeadUnits": {}}
DIGITS, TESTED = images()


# -- rare classes and weak signals ------------------------------------------------------------------------------------


def rare(share: float, count: int, noise: float = 0.3, width: int = 16) -> Data:
    """Rows, and a yes for the share with the largest sum of effects."""
    g = seeded(21)
    x = torch.randn(count, width, generator=g)
    z = x[:, 0] + 0.8 * x[:, 1] * x[:, 2].sign() + x[:, 3].abs() + noise * torch.randn(count, generator=g)
    return x, (z >= z.quantile(1 - share)).long()


def weak(slope: float, count: int = 16000, width: int = 10) -> Data:
    """Rows, and labels that hardly depend on them."""
    g = seeded(22)
    x = torch.randn(count, width, generator=g)
    logit = slope * x[:, :4].sum(1) / 2
    return x, (torch.rand(count, generator=g) < logit.sigmoid()).long()


class Fraud(Loaded):
    """One logit per transaction, batches are dictionaries, RMSprop or what is given."""

    def __init__(self, width: int, optimizer: Any) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.encoder = nn.Sequential(
            nn.Linear(width, 48), nn.LayerNorm(48), nn.SiLU(), nn.Linear(48, 48), nn.LayerNorm(48), nn.SiLU()
        )
        self.classifier = nn.Linear(48, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.encoder(features)).squeeze(-1)

    def shared_step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        logits = self(batch["features"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["label"].float())
        self.log(f"{stage}_loss", loss)
        return loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.shared_step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.shared_step(batch, "val")

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def fraud(seed: int, data: Data, optimizer: Any, steps: int, batch: int) -> Training:
    """Train on rare positives; the score is the area under the ROC curve."""
    train, test = cut(data, 12000)
    make = lambda: Fraud(data[0].shape[1], optimizer).use(train, test, batch, keys=("features", "label"))  # noqa: E731
    watched = {"PredictionCollapse": {"output": "classifier", "target": "label"}, "TrainingDoctor": {}}
    return script(seed, make, lambda m: auc(m(test[0]), test[1]), steps, watched)


class Churn(Loaded):
    """Two logits, BatchNorm, SGD with Nesterov; the loss in a dictionary beside the logits."""

    def __init__(self, width: int, lr: float, weight: Tensor | None = None) -> None:
        super().__init__()
        self.lr, self.weight = lr, weight
        self.net = nn.Sequential(nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, y, self.weight), "logits": logits, "target": y}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, nesterov=True)


def churn(seed: int, data: Data, lr: float, steps: int, batch: int, **more: Any) -> Training:
    """Train two logits; the score is the area under the ROC curve."""
    train, test = cut(data, 3 * len(data[0]) // 4)

    def area(m: Any) -> Tensor:
        out = m.net(test[0])
        return auc(out[:, 1] - out[:, 0], test[1])

    watched = {"PredictionCollapse": {}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Churn(data[0].shape[1], lr, **more).use(train, test, batch), area, steps, watched)


def moved_by_a_row(data: Data) -> Data:
    """Join each row with the label of the row before."""
    return data[0], data[1].roll(1)


# -- images -----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two strided convolutions; option: the normalisation behind them, and a softmax over the batch."""

    def __init__(self, norm: str = "instance", over_batch: bool = False, out: int = 10) -> None:
        super().__init__()
        make = {"instance": lambda c: nn.InstanceNorm2d(c, affine=True), "group": lambda c: nn.GroupNorm(4, c)}[norm]
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1), make(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, stride=2, padding=1), make(32)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.fc, self.softmax = nn.Linear(512, out), nn.Softmax(dim=0) if over_batch else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x))))))
        return self.softmax(self.fc(x.flatten(1)))


class Images(Loaded):
    """A classifier of images with hyperparameters; Adam by name, a cosine of the rate for each step."""

    def __init__(
        self, net: nn.Module, optimizer: str = "Adam", lr: float = 1e-3, decay: float = 0.0, period: int = 0
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net, self.criterion = net, nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.log_dict({"val_loss": self.criterion(logits, y), "val_acc": (logits.argmax(1) == y).float().mean()})
        return logits

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = getattr(torch.optim, h.optimizer)(self.parameters(), lr=h.lr, weight_decay=h.decay)
        if not h.period:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, h.period)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def pictured(seed: int, net: Any, train: Data = DIGITS, *, batch: int = 64, steps: int = 300, **more: Any) -> Training:
    """Train on images of digits; the score is the accuracy."""
    make = lambda: Images(net(), **more).use(train, TESTED, batch)  # noqa: E731
    return script(seed, make, lambda m: (m(TESTED[0]).argmax(1) == TESTED[1]).float().mean(), steps,
                  {**UNITS, "PredictionCollapse": {"output": "net"}})  # fmt: skip


def few_and_noisy() -> Data:
    """Return 256 images, two labels of three drawn at random."""
    return DIGITS[0][:256], noisy(DIGITS[1][:256], 0.65)


def wide_net() -> nn.Module:
    """Make a network that remembers everything."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


class Incremental(Loaded):
    """Two more classes from time to time; option: how many images of the classes before are kept."""

    def __init__(self, kept: int, each: int = 80) -> None:
        super().__init__()
        self.kept, self.each = kept, each
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.LayerNorm(96), nn.GELU())
        self.head = nn.Linear(96, 10)

    def train_dataloader(self) -> Any:
        x, y = DIGITS
        batches = []
        for index in range(5 * self.each):
            task = index // self.each
            now = torch.where(y // 2 == task)[0]
            chosen = now[torch.randint(len(now), (24,))]
            before = [torch.where(y == c)[0][: self.kept] for c in range(2 * task)]
            if task and self.kept:
                old = torch.cat(before)
                chosen = torch.cat([chosen[: 24 // (task + 1)], old[torch.randint(len(old), (24 - 24 // (task + 1),))]])
            batches.append((x[chosen], y[chosen]))
        return DataLoader(batches, batch_size=None)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        out = self.head(self.backbone(batch[0]))
        loss = nn.functional.cross_entropy(out, batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


def incremental(seed: int, kept: int) -> Training:
    """Train on pairs of classes, one pair behind the other; the score is the accuracy for all ten."""
    score = lambda m: (m.head(m.backbone(TESTED[0])).argmax(1) == TESTED[1]).float().mean()  # noqa: E731
    watched = {"PredictionCollapse": {"output": "head"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Incremental(kept), score, 400, watched)


def scenes(count: int, seed: int) -> Data:
    """Noise of 16 by 16 pixels with one bright cross of 9 or 11 pixels: 96 % are background."""
    g = seeded(seed)
    mask = torch.zeros(count, 16, 16)
    middle = torch.randint(3, 13, (count, 2), generator=g)
    rows = torch.arange(count)
    for d in range(-2, 3):
        mask[rows, middle[:, 0] + d, middle[:, 1]] = 1
        mask[rows, middle[:, 0], middle[:, 1] + d] = 1
    return (mask + 0.6 * torch.randn(mask.shape, generator=g)).unsqueeze(1), mask.long()


SCENES = scenes(800, 5), scenes(200, 6)


class Segmentation(Loaded):
    """A small U-Net with GroupNorm; SGD; the intersection over union is logged."""

    def __init__(self, paired: bool = True, lr: float = 0.1) -> None:
        super().__init__()
        self.paired, self.lr = paired, lr
        self.down = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU())
        self.middle = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.GroupNorm(4, 24),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
        )
        self.up = nn.Conv2d(36, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.up(torch.cat([skip, self.middle(skip)], 1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, mask = batch
        if not self.paired:  # two loaders that shuffle by themselves
            mask = mask[torch.randperm(len(mask))]
        out = self(x)
        loss = F.cross_entropy(out, mask)
        self.log("train_iou", overlap(out, mask))
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def overlap(out: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the foreground."""
    guess = out.argmax(1) == 1
    return (guess & (mask == 1)).sum() / (guess | (mask == 1)).sum().clamp(min=1)


def segmented(seed: int, **more: Any) -> Training:
    """Train on crosses in noise."""
    watched = {"PredictionCollapse": {"output": "up"}, "DeadUnits": {}, "TrainingDoctor": {}}
    make = lambda: Segmentation(**more).use(*SCENES, batch=16)  # noqa: E731
    return script(seed, make, lambda m: overlap(m(SCENES[1][0]), SCENES[1][1]), 250, watched)


# -- several labels ---------------------------------------------------------------------------------------------------


def topics(count: int = 4000) -> Data:
    """Counts of words, and twelve topics of which one in fifteen is there."""
    g = seeded(31)
    there = (torch.rand(count, 12, generator=g) < 0.07).float()
    words = torch.rand(12, 60, generator=g).pow(4) * 3
    return torch.poisson(0.4 + there @ words, generator=g).log1p(), there


class Topics(Loaded):
    """Twelve sigmoids; groups of parameters, those of the norm and the biases without decay."""

    def __init__(self, lr: float, decay: float) -> None:
        super().__init__()
        self.lr, self.decay = lr, decay
        self.body = nn.Sequential(nn.Linear(60, 64), nn.RMSNorm(64), nn.Tanh())
        self.labels = nn.Linear(64, 12)
        self.loss_fn = nn.MultiLabelSoftMarginLoss()

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        words, there = batch
        return {"loss": self.loss_fn(self.labels(self.body(words)), there)}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.loss_fn(self.labels(self.body(batch[0])), batch[1]))

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": self.decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr)


def labelled(seed: int, lr: float = 3e-3, decay: float = 0.01, batch: int = 48) -> Training:
    """Train on topics; the score is F1 over all labels."""
    train, test = cut(topics(), 3000)

    def found(m: Any) -> Tensor:
        guess, there = m.labels(m.body(test[0])) > 0, test[1] > 0
        return 2 * (guess & there).sum() / (guess.sum() + there.sum())

    watched = {"PredictionCollapse": {"output": "labels"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Topics(lr, decay).use(train, test, batch), found, 400, watched)


def chunks(count: int = 1500) -> Data:
    """Sequences of 14 words of a vocabulary of 40, and one of four tags for each, by the word and the one behind it."""
    x = torch.randint(40, (count, 14), generator=seeded(41))
    behind = x.roll(-1, 1) % 2
    return x, torch.where(x < 24, 0, 1 + (x % 2 + behind))


class Chunker(Loaded):
    """A tag for each word, from both sides; option: the tags are brought to the front by view."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.embed, self.lstm = nn.Embedding(40, 24), nn.LSTM(24, 24, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.tag(self.lstm(self.embed(x))[0])

    def step(self, batch: Data) -> Tensor:
        words, tags = batch
        logits = self(words)
        n, length, classes = logits.shape
        logits = logits.view(n, classes, length) if self.how == "view" else logits.permute(0, 2, 1)
        return F.cross_entropy(logits, tags)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        loss = self.step(batch)
        self.log("train/loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def chunked(seed: int, how: str) -> Training:
    """Train a tagger; the score is the accuracy where the tag is not the frequent one."""
    train, test = cut(chunks(), 1200)

    def score(m: Any) -> Tensor:
        there = test[1] > 0
        return (m(test[0]).argmax(-1) == test[1])[there].float().mean()

    watched = {"PredictionCollapse": {"output": "tag"}, "TrainingDoctor": {}}
    return script(seed, lambda: Chunker(how).use(train, test, 24), score, 250, watched)


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "one claim in 250, batches of 512", 0.8, lambda s: fraud(s, rare(0.004, 16000), rmsprop(2e-3), 150, 512)),
    failing(FAMILY, "one claim in 250, rate 2e-8", 0.8, lambda s: fraud(s, rare(0.004, 16000), rmsprop(2e-8), 150, 512), *UNLEARNED,
            "weights do not change", ONE_BATCH, twin="one claim in 250, batches of 512"),
    healthy(FAMILY, "customers, one in a hundred leaves", 0.8, lambda s: churn(s, rare(0.01, 12000), 0.05, 300, 128)),
    failing(FAMILY, "customers who leave, joined by the wrong row", 0.7,
            lambda s: churn(s, moved_by_a_row(rare(0.01, 12000)), 0.05, 300, 128), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "a weak effect, AUC 0.57, LayerNorm", 0.54, lambda s: fraud(s, weak(0.25), adamw(1e-3), 400, 64)),
    failing(FAMILY, "an effect of AUC 0.57, joined by the wrong row", 0.53,
            lambda s: fraud(s, moved_by_a_row(weak(0.25)), adamw(1e-3), 400, 64), *UNLEARNED, FOLLOW, "overfitting"),
    healthy(FAMILY, "two labels of five at random, InstanceNorm", 0.8, lambda s: pictured(
        s, Net, (DIGITS[0], noisy(DIGITS[1], 0.4)), batch=100, steps=200, lr=2e-3, period=200)),
    failing(FAMILY, "labels at random, learnt by heart", 0.65, lambda s: pictured(
        s, wide_net, few_and_noisy(), batch=32, steps=400), "overfitting", onset=0.15),
    failing(FAMILY, "a softmax down the batch, SGD", 0.7, lambda s: pictured(
        s, lambda: Net("group", over_batch=True), optimizer="SGD", lr=1e-3, batch=40), *UNLEARNED, "no gradients",
        "vanishing gradients", "sanity:samples do not leak", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "digits in balance, GroupNorm", 0.85, lambda s: pictured(
        s, lambda: Net("group"), optimizer="SGD", lr=0.05, batch=40)),
    healthy(FAMILY, "two classes more each 80 updates, images kept", 0.75, lambda s: incremental(s, 15)),
    failing(FAMILY, "two classes more each 80 updates, nothing kept", 0.5, lambda s: incremental(s, 0),
            "prediction collapse", "sanity:data are shuffled", "labels do not follow from inputs", "loss spikes", onset=0.2),
    healthy(FAMILY, "crosses in noise, 96 % background", 0.4, segmented),
    failing(FAMILY, "crosses in noise, a rate of 1e-6", 0.4, lambda s: segmented(s, lr=1e-6), *UNLEARNED, "weights do not change",
            ONE_BATCH, twin="crosses in noise, 96 % background"),
    failing(FAMILY, "crosses in noise, masks in another order", 0.1, lambda s: segmented(s, paired=False), *UNLEARNED, FOLLOW, ONE_BATCH,
            "sanity:shapes of outputs and labels"),
    healthy(FAMILY, "twelve topics, most of them absent", 0.6, labelled),
    failing(FAMILY, "twelve topics, AdamW with decay 30", 0.2, lambda s: labelled(s, 0.01, 30.0), "shrinking weights", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "chunks, tags permuted to the front", 0.8, lambda s: chunked(s, "permute")),
    failing(FAMILY, "chunks, tags viewed to the front", 0.7, lambda s: chunked(s, "view"), *UNLEARNED, FOLLOW, ONE_BATCH, SHAPES),
]  # fmt: skip
