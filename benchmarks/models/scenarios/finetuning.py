"""Networks that are not trained from scratch, or of which little is trained: adapters, heads, teachers and students."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Training, accuracy, mlp, rows, split

Data = tuple[Tensor, Tensor]


class Network(nn.Module):
    """A backbone of two layers and a head."""

    def __init__(self, classes: int = 10, inputs: int = 64, width: int = 96) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def some_classes(data: Data, first: int, last: int) -> Data:
    """Rows of these classes, numbered from 0."""
    chosen = (data[1] >= first) & (data[1] < last)
    return data[0][chosen], data[1][chosen] - first


@lru_cache
def _pretrained(classes: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(41)
        train, _ = split(some_classes(t.digits(), 0, classes), 0)
        net, generator = Network(classes), torch.Generator().manual_seed(41)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(300):
            x, y = rows(train, 64)(generator, 0)
            optimizer.zero_grad()
            F.cross_entropy(net(x + 0.1 * torch.randn(x.shape, generator=generator)), y).backward()
            optimizer.step()
    return net


def pretrained(classes: int = 10) -> Network:
    """Return a good network for the digits below ``classes``; its training data are those of ``split(..., 0)``."""
    return copy.deepcopy(_pretrained(classes))


def turned(data: Data) -> Data:
    """Images that are turned by a quarter."""
    return data[0].reshape(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64), data[1]


def shifted(data: Data) -> Data:
    """Images with a bright pattern over them, the same for all."""
    pattern = 2.0 * torch.randn(64, generator=torch.Generator().manual_seed(23))
    return data[0] + pattern, data[1]


class FineTuning(L.LightningModule):
    """A classifier; ``groups`` picks what the optimizer gets."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        groups: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.groups = net, optimizer, groups

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.log("train_loss", loss)
        return {"loss": loss, "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        chosen = [p for p in self.net.parameters() if p.requires_grad] if self.groups is None else self.groups(self.net)
        return self.optimizer(chosen)


CLASSIFIER: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "PredictionCollapse": {}, "DeadUnits": {}}


def tuning(
    seed: int,
    module: Callable[[], L.LightningModule],
    data: Data | None = None,
    *,
    batch: int = 32,
    steps: int = 300,
    count: int | None = None,
    labels: Callable[[Tensor], Tensor] = lambda y: y,
    draw: Callable[[Data], Callable[[torch.Generator, int], Any]] | None = None,
) -> Training:
    """Train on a part of the data, of which ``count`` rows are used; score: accuracy on the others.

    The division is that of the pretrained networks: what is held out has never been seen.
    """
    torch.manual_seed(seed)
    train, val = split(data or t.digits(), 0)
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))[:count]
    train = train[0][order], labels(train[1][order])
    batches = Batches(steps, draw(train) if draw else rows(train, batch), seed)
    held = (val[0], labels(val[1]))
    return Training(module(), batches, steps, CLASSIFIER, [held], every=50, score=accuracy(val))


# -- adapters ---------------------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """A frozen linear layer and a product of two thin matrices, the second of which starts at 0."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float = 8.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.a.T @ self.b.T)


def with_adapters(rank: int = 8) -> Network:
    """Return the pretrained network with adapters in its backbone."""
    net = pretrained().requires_grad_(False)
    for i in (0, 2):
        net.backbone[i] = LowRank(net.backbone[i], rank)
    return net


class Prompted(nn.Module):
    """A frozen network, and a learned pattern that is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.frozen = nn.Parameter(torch.zeros(64)), pretrained().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x + self.prompt)


class ReZero(nn.Module):
    """Residual layers, each times a number that starts at 0."""

    def __init__(self, depth: int = 12, width: int = 48) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth))
        self.alpha = nn.Parameter(torch.zeros(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for alpha, layer in zip(self.alpha, self.layers, strict=True):
            h = h + alpha * layer(h)
        return self.head(h)


# -- heads ------------------------------------------------------------------------------------------------------------


def new_head(classes: int, *, zero: bool = False, freeze: bool = False) -> Network:
    """Return a backbone that was pretrained on the digits below 5, with a new head."""
    net = pretrained(5)
    net.backbone.requires_grad_(not freeze)
    net.head = nn.Linear(96, classes)
    if zero:
        nn.init.zeros_(net.head.weight)
        nn.init.zeros_(net.head.bias)
    return net


class HeadTooLate(FineTuning):
    """The head is replaced when training starts, after the optimizer was made."""

    def on_train_start(self) -> None:
        self.net.head = nn.Linear(96, 5)


class Unfreezing(FineTuning):
    """Trains the head first, and one layer more every hundred steps."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        later = {100: self.net.backbone[2], 200: self.net.backbone[0]}
        if batch_idx in later:
            later[batch_idx].requires_grad_(True)
            optimizer: Any = self.optimizers()
            optimizer.add_param_group({"params": list(later[batch_idx].parameters()), "lr": 1e-3})


def unfreezing() -> Unfreezing:
    """Return a module of which only the head learns at first."""
    return Unfreezing(new_head(5, freeze=True), ADAM(3e-3))


def by_layer(net: Network) -> list[dict[str, Any]]:
    """Rates that fall with depth, by a factor of ten for each layer."""
    parts = [net.head, net.backbone[2], net.backbone[0]]
    return [{"params": list(part.parameters()), "lr": 5e-3 * 0.1**i} for i, part in enumerate(parts)]


# -- teachers and students --------------------------------------------------------------------------------------------


class Distillation(L.LightningModule):
    """A small network learns what a large one answers; labels are in the batch and unused."""

    def __init__(self, teacher: nn.Module, temperature: float = 3.0, lr: float = 3e-3) -> None:
        super().__init__()
        self.net, self.teacher = mlp([64, 24, 10]), teacher.requires_grad_(False).eval()
        self.temperature, self.lr = temperature, lr

    def _loss(self, logits: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = (self.teacher(x) / self.temperature).softmax(-1)
        guess = (logits / self.temperature).log_softmax(-1)
        return F.kl_div(guess, wanted, reduction="batchmean") * self.temperature**2

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _ = batch
        logits = self.net(x)
        return {"loss": self._loss(logits, x), "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(self.net(batch[0]), batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), self.lr)


class MeanTeacher(L.LightningModule):
    """Few labels; student and teacher, an average of students, should agree on many images without labels.

    Args:
        weight: of the agreement.
        supervised: weight of the labels.
    """

    def __init__(self, weight: float = 5.0, lr: float = 3e-3, supervised: float = 1.0) -> None:
        super().__init__()
        self.student = Network()
        self.net = copy.deepcopy(self.student).requires_grad_(False)  # the teacher, which is used afterwards
        self.weight, self.lr, self.supervised = weight, lr, supervised

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (x, y), (many, _) = batch["labelled"], batch["unlabelled"]
        logits = self.student(x + 0.1 * torch.randn_like(x))
        guess = self.student(many + 0.2 * torch.randn_like(many)).softmax(-1)
        with torch.no_grad():
            wanted = self.net(many + 0.2 * torch.randn_like(many)).softmax(-1)
        agreement = (guess - wanted).square().sum(-1).mean()
        self.log("agreement", agreement)
        loss = self.supervised * F.cross_entropy(logits, y) + self.weight * min(1.0, batch_idx / 100) * agreement
        return {"loss": loss, "logits": logits, "labels": y}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.net.parameters(), self.student.parameters(), strict=True):
                slow.lerp_(fast, max(0.03, 1 / (batch_idx + 1)))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.student.parameters(), self.lr)


def mean_teacher(seed: int, labelled: int = 60, steps: int = 300, **more: Any) -> Training:
    """Train with labels for few images."""
    train = split(t.digits(), 0)[0]
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))[:labelled]
    few, many = rows((train[0][order], train[1][order]), 32), rows(train, 64)
    both = lambda generator, index: {"labelled": few(generator, index), "unlabelled": many(generator, index)}  # noqa: E731
    training = tuning(seed, lambda: MeanTeacher(**more), steps=steps, draw=lambda data: both)
    training.detectors = {**CLASSIFIER, "PredictionCollapse": {"target": "labels"}}
    return training


FIVE_TO_NINE = lambda: some_classes(t.digits(), 5, 10)  # noqa: E731
TOO_HIGH = ("learning rate too high", "divergence", "loss spikes", "non-finite values")
LOST = ("dead units", "prediction collapse", "inputs ignored")
SGD, ADAM = t.sgd, t.adam

SCENARIOS: list[Scenario] = [
    healthy(
        "fine-tuning",
        "low-rank adapters on turned digits",
        0.8,
        lambda s: tuning(s, lambda: FineTuning(with_adapters(), ADAM(3e-3)), turned(t.digits()), steps=400),
    ),
    failing(
        "fine-tuning",
        "low-rank adapters, rate 3",
        0.8,
        lambda s: tuning(s, lambda: FineTuning(with_adapters(), ADAM(3.0)), turned(t.digits()), steps=400),
        *TOO_HIGH,
        *LOST,
        twin="low-rank adapters on turned digits",
    ),
    healthy(
        "fine-tuning",
        "a learned prompt before a frozen network",
        0.8,
        lambda s: tuning(s, lambda: FineTuning(Prompted(), ADAM(3e-2)), shifted(t.digits()), steps=500),
    ),
    healthy(
        "fine-tuning",
        "ReZero, twelve layers",
        0.8,
        lambda s: tuning(s, lambda: FineTuning(ReZero(), ADAM(2e-3)), steps=300),
    ),
    healthy(
        "fine-tuning",
        "linear probe on a frozen backbone",
        0.8,
        lambda s: tuning(s, lambda: FineTuning(new_head(5, freeze=True), ADAM(2e-2)), FIVE_TO_NINE(), steps=500),
    ),
    healthy(
        "fine-tuning",
        "head that starts at zero",
        0.8,
        lambda s: tuning(s, lambda: FineTuning(new_head(5, zero=True), SGD(0.05)), FIVE_TO_NINE()),
    ),
    healthy(
        "fine-tuning",
        "a good network, batch of four",
        0.85,
        lambda s: tuning(s, lambda: FineTuning(pretrained(), SGD(2e-3)), batch=4, steps=500),
    ),
    failing(
        "fine-tuning",
        "a good network, batch of four, rate 500 times too high",
        0.85,
        lambda s: tuning(s, lambda: FineTuning(pretrained(), SGD(1.0)), batch=4, steps=500),
        *TOO_HIGH,
        *LOST,
        twin="a good network, batch of four",
    ),
    failing(
        "fine-tuning",
        "a good network, weight decay 30",
        0.85,
        lambda s: tuning(s, lambda: FineTuning(pretrained(), ADAM(3e-3, weight_decay=30.0))),
        "shrinking weights",
        "vanishing gradients",
        "complete collapse",
        *LOST,
        twin="a good network, batch of four",
    ),
    failing(
        "fine-tuning",
        "head replaced after the optimizer, backbone frozen",
        0.8,
        lambda s: tuning(s, lambda: HeadTooLate(new_head(5, freeze=True), ADAM(3e-3)), FIVE_TO_NINE()),
        "no gradients",
        "labels do not follow from inputs",
        "prediction collapse",
        "sanity:all parameters learn",
        "sanity:overfits one batch",
    ),
    failing(
        "fine-tuning",
        "labels clamped to a new head of five",
        0.8,
        lambda s: tuning(
            s,
            lambda: FineTuning(new_head(5), ADAM(1e-3)),
            FIVE_TO_NINE(),
            labels=lambda y: (y + 5).clamp(max=4),
        ),
        "inputs ignored",
        "prediction collapse",
        "labels do not follow from inputs",
        "sanity:labels follow from inputs",
    ),
    healthy(
        "fine-tuning",
        "layers unfrozen one after the other",
        0.8,
        lambda s: tuning(s, unfreezing, FIVE_TO_NINE()),
    ),
    healthy(
        "fine-tuning",
        "rates that fall with depth",
        0.8,
        lambda s: tuning(
            s, lambda: FineTuning(new_head(5), lambda p: torch.optim.AdamW(p, lr=1e-3), by_layer), FIVE_TO_NINE()
        ),
    ),
    healthy("fine-tuning", "distillation", 0.8, lambda s: tuning(s, lambda: Distillation(pretrained()), steps=400)),
    failing(
        "fine-tuning",
        "distillation from a teacher that was never trained",
        0.8,
        lambda s: tuning(s, lambda: Distillation(Network()), steps=400),
        "labels do not follow from inputs",
        "inputs ignored",
        "prediction collapse",
        "sanity:labels follow from inputs",
    ),
    healthy("fine-tuning", "mean teacher, sixty labels", 0.65, mean_teacher),
    failing(
        "fine-tuning",
        "mean teacher, the agreement drowns the labels",
        0.65,
        lambda s: mean_teacher(s, weight=3000.0, supervised=0.1),
        "prediction collapse",
        "inputs ignored",
        "complete collapse",
        "labels do not follow from inputs",
        onset=0.1,
        twin="mean teacher, sixty labels",
    ),
]
