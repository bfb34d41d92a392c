"""The studies of the tricks table: one trick of the literature each, as arms that differ in nothing else.

An arm trains one network for one seed and returns its measures. Data, their split, initial weights and the order of
batches depend on the seed alone, so arms are paired. Accuracies are shares; ``epochs`` counts passes over the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, scaled_dot_product_attention
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from benchmarks.models.cifar import cifar10
from benchmarks.models.small_tasks import source_text
from lightning_tricks import GradientAccumulation, GradientClip, LRSchedule, MultiStep

Measures = dict[str, float]
Arm = Callable[[int, "Setting"], Measures]


@dataclass(frozen=True)
class Setting:
    """What a run of the table was asked for.

    Args:
        length: factor on the number of epochs; below 1 for tests.
        data_root: folder of CIFAR-10 for the studies on images; None for scikit-learn's digits.
        accelerator: ``"cpu"`` or ``"gpu"``.
    """

    length: float = 1.0
    data_root: Path | None = None
    accelerator: str = "cpu"

    def epochs(self, count: int) -> int:
        """Return that many epochs, shortened if that was asked for."""
        return max(1, round(count * self.length))


@dataclass(frozen=True)
class Study:
    """One question.

    Args:
        name: short, for the command line.
        question: what is compared.
        literature: what textbooks and blog posts say.
        setting: data and network in a line.
        arms: name -> arm; the first is the baseline.
        against: arm -> the arm that it is compared with, where that is not the first.
        measure: which of the measures decides.
        higher: whether more of it is better.
        images: whether CIFAR-10 can take the place of digits.
    """

    name: str
    question: str
    literature: str
    setting: str
    arms: dict[str, Arm]
    measure: str = "test"
    higher: bool = True
    images: bool = False
    against: dict[str, str] = field(default_factory=dict)

    def baseline(self, arm: str) -> str | None:
        """Return the arm that an arm is compared with; None for a baseline."""
        first = next(iter(self.arms))
        found = self.against.get(arm, None if arm == first else first)
        return None if found == arm else found


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Data to train on and to test with."""

    train: TensorDataset
    test: TensorDataset


@cache
def _digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.images / 16.0).float().unsqueeze(1), torch.tensor(bunch.target)


@cache
def _cifar(root: Path) -> tuple[TensorDataset, TensorDataset]:
    return cifar10(root, "train"), cifar10(root, "test")


def images(seed: int, setting: Setting, count: int | None = None) -> Split:
    """Return digits (1,200 to train on, 597 to test with; another split for each seed), or CIFAR-10.

    Args:
        seed: of the split.
        setting: whether CIFAR-10 is there.
        count: train on so many only.
    """
    if setting.data_root is not None:
        train, test = _cifar(setting.data_root)
        return Split(TensorDataset(*(t[: count or len(t)] for t in train.tensors)), test)
    x, y = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    chosen, rest = order[: count or 1200], order[1200:]
    return Split(TensorDataset(x[chosen], y[chosen]), TensorDataset(x[rest], y[rest]))


def noisy(split: Split, share: float, seed: int) -> Split:
    """Return the split with a share of the training labels drawn at random."""
    x, y = split.train.tensors
    chance = torch.Generator().manual_seed(1000 + seed)
    wrong = torch.rand(len(y), generator=chance) < share
    return Split(TensorDataset(x, torch.where(wrong, torch.randint(10, y.shape, generator=chance), y)), split.test)


def patients(seed: int, minority: int) -> Split:
    """Return breast cancer with only so many malignant patients to train on; the test set keeps its shares."""
    bunch = load_breast_cancer()
    x, y = torch.tensor(bunch.data).float(), torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    test_x, test_y, x, y = x[:200], y[:200], x[200:], y[200:]
    kept = torch.cat([(y == 1).nonzero()[:, 0], (y == 0).nonzero()[:minority, 0]])
    mean, std = x[kept].mean(0), x[kept].std(0)
    return Split(TensorDataset((x[kept] - mean) / std, y[kept]), TensorDataset((test_x - mean) / std, test_y))


# -- networks ---------------------------------------------------------------------------------------------------------


class Net(L.LightningModule):
    """A network with a loss and an optimizer, that notes its test accuracy after every epoch."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        test: TensorDataset,
        smoothing: float = 0.0,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net, self.make_optimizer, self.smoothing = net, optimizer, smoothing
        self.register_buffer("weight", weight)
        self.test = test
        self.curve: list[float] = []
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        weight: Any = self.weight
        return cross_entropy(self.net(batch[0]), batch[1], weight=weight, label_smoothing=self.smoothing)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())

    def on_train_epoch_end(self) -> None:
        logits, targets = self.said(self.test)
        self.curve.append(float((logits.argmax(1) == targets).float().mean()))
        self.losses.append(float(cross_entropy(logits, targets)))
        self.log("test_loss", self.losses[-1])

    @torch.no_grad()
    def said(self, data: TensorDataset) -> tuple[Tensor, Tensor]:
        """Return logits and targets, in eval mode."""
        self.eval()
        x, y = data.tensors
        logits = torch.cat([self.net(part.to(self.device)).cpu() for part in x.split(2048)])
        self.train()
        return logits, y

    def accuracy(self, data: TensorDataset) -> float:
        logits, targets = self.said(data)
        return float((logits.argmax(1) == targets).float().mean())


NORMS = ("none", "batch", "layer", "weight", "cosine")


class CosineConv2d(nn.Conv2d):
    """Cosine normalisation: the cosine of the weights and of what is under them, in place of their product.

    With a learned factor for each channel. Reference: Luo et al., 2017, arXiv:1702.05870.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named, bias=False)
        self.factor = nn.Parameter(torch.ones(self.out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        under = nn.functional.conv2d(x.square(), torch.ones_like(self.weight[:1]), None, self.stride, self.padding)
        lengths = self.weight.square().sum((1, 2, 3), keepdim=True).sqrt().reshape(-1, 1, 1)
        return self.factor * super().forward(x) / (lengths * (under + 1e-6).sqrt() + 1e-6)


def cnn(split: Split, norm: str = "none", width: int = 16) -> nn.Sequential:
    """Three convolutions, a mean over pixels, a linear head."""
    channels = split.train.tensors[0].shape[1]
    norms: dict[str, Callable[[int], nn.Module]] = {
        "none": lambda n: nn.Identity(),
        "batch": nn.BatchNorm2d,
        "layer": lambda n: nn.GroupNorm(1, n),
        "weight": lambda n: nn.Identity(),
        "cosine": lambda n: nn.Identity(),
    }
    kinds: dict[str, Callable[..., nn.Module]] = {
        "weight": lambda *a, **k: nn.utils.parametrizations.weight_norm(nn.Conv2d(*a, **k)),
        "cosine": CosineConv2d,
    }
    blocks: list[nn.Module] = []
    for a, b, stride in ((channels, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
        blocks += [kinds.get(norm, nn.Conv2d)(a, b, 3, stride, padding=1), norms[norm](b), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10))


def mlp(
    split: Split, hidden: Sequence[int], activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0
) -> nn.Sequential:
    """A multilayer perceptron on flattened inputs."""
    x, y = split.train.tensors
    sizes = [x[0].numel(), *hidden]
    blocks: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(sizes):
        blocks += [nn.Linear(a, b), activation(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*blocks, nn.Linear(sizes[-1], int(y.max()) + 1))


def trainer(setting: Setting, callbacks: Sequence[Any], **length: Any) -> L.Trainer:
    return L.Trainer(
        accelerator=setting.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **length,
    )


@dataclass
class Plan:
    """How an arm trains."""

    epochs: int
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: int = 64
    callbacks: Callable[[], Sequence[Any]] = field(default=tuple)
    smoothing: float = 0.0
    weight: Tensor | None = None
    sampler: Callable[[Tensor], Any] | None = None


def train(seed: int, setting: Setting, split: Split, make: Callable[[Split], nn.Module], plan: Plan) -> Net:
    """Train one network; the seed gives weights and the order of batches."""
    L.seed_everything(seed, verbose=False)
    net = Net(make(split), plan.optimizer, split.test, plan.smoothing, plan.weight)
    order = torch.Generator().manual_seed(seed)
    sampler = None if plan.sampler is None else plan.sampler(split.train.tensors[1])
    loader = DataLoader(
        split.train, plan.batch, shuffle=sampler is None, sampler=sampler, generator=order, drop_last=True
    )
    trainer(setting, plan.callbacks(), max_epochs=setting.epochs(plan.epochs)).fit(net, loader)
    return net


def measured(net: Net, split: Split) -> Measures:
    """Return accuracies on training and test data, the gap between them, and the loss on test data."""
    first, last = net.accuracy(split.train), net.curve[-1]
    return {"train": first, "test": last, "gap": first - last, "test_loss": net.losses[-1]}


def sgd(lr: float, momentum: float = 0.9, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, **more)


def adamw(lr: float, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, **more)


# -- the studies ------------------------------------------------------------------------------------------------------


def _scheduled(schedule: Callable[[], LRSchedule], epochs: int, lr: float) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, setting)
        plan = Plan(epochs, sgd(lr, weight_decay=5e-4), callbacks=lambda: [schedule()])
        return {**measured(train(seed, setting, split, lambda s: cnn(s, "batch"), plan), split), "epochs": epochs}

    return arm


def _one_cycle() -> LRSchedule:
    return LRSchedule("one_cycle")


def _step() -> LRSchedule:
    return LRSchedule(MultiStep(["50%", "75%"], gamma=0.1), warmup=0)


def _cosine() -> LRSchedule:
    return LRSchedule("cosine", warmup="5%")


def _regularised(decay: float, dropout: float) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = noisy(images(seed, Setting(), count=200), 0.1, seed)
        plan = Plan(60, adamw(2e-3, weight_decay=decay), batch=32)
        return measured(train(seed, setting, split, lambda s: mlp(s, (256, 256), dropout=dropout), plan), split)

    return arm


def _until(target: float, optimizer: Callable[[Any], torch.optim.Optimizer], most: int) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, setting)
        net = train(seed, setting, split, lambda s: mlp(s, (64, 64)), Plan(most, optimizer))
        reached = next((i + 1 for i, value in enumerate(net.curve) if value >= target), len(net.curve) + 1)
        return {**measured(net, split), "epochs": float(reached)}

    return arm


def _optimized(optimizer: Callable[[Any], torch.optim.Optimizer]) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, setting)
        plan = Plan(8, optimizer, callbacks=lambda: [_cosine()])
        return measured(train(seed, setting, split, lambda s: cnn(s, "batch"), plan), split)

    return arm


def _smoothed(smoothing: float) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = noisy(images(seed, setting), 0.3, seed)
        plan = Plan(15, adamw(3e-3), smoothing=smoothing, callbacks=lambda: [_cosine()])
        return measured(train(seed, setting, split, lambda s: cnn(s, "batch"), plan), split)

    return arm


def _normalised(norm: str, batch: int) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, setting)
        plan = Plan(
            4 if batch < 16 else 12, sgd(0.02 if batch < 16 else 0.1), batch=batch, callbacks=lambda: [_cosine()]
        )
        return measured(train(seed, setting, split, lambda s: cnn(s, norm), plan), split)

    return arm


def _initialised(kind: str, activation: type[nn.Module]) -> Arm:
    def fill(net: nn.Module) -> nn.Module:
        for m in net.modules():
            if isinstance(m, nn.Linear):
                if kind == "He":
                    nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                elif kind == "Xavier":
                    nn.init.xavier_normal_(m.weight, nn.init.calculate_gain("tanh") if activation is nn.Tanh else 1.0)
                else:
                    nn.init.normal_(m.weight, std=0.01)
                nn.init.zeros_(m.bias)
        return net

    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, Setting())
        plan = Plan(12, sgd(0.01))
        return measured(train(seed, setting, split, lambda s: fill(mlp(s, [64] * 12, activation)), plan), split)

    return arm


def _scaled(batch: int, lr: float) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, setting)
        plan = Plan(8, sgd(lr), batch=batch, callbacks=lambda: [_cosine()])
        return measured(train(seed, setting, split, lambda s: mlp(s, (128, 128)), plan), split)

    return arm


def _accumulated(batch: int, window: int, norm: str) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = images(seed, setting, count=1152)  # nine batches of 128, or 72 of 16: no partial window
        tricks = (lambda: [GradientAccumulation(window)]) if window > 1 else tuple
        plan = Plan(8, sgd(0.1), batch=batch, callbacks=tricks)
        return measured(train(seed, setting, split, lambda s: cnn(s, norm), plan), split)

    return arm


def _balanced(how: str) -> Arm:
    def sampler(labels: Tensor) -> WeightedRandomSampler:
        weights = 1.0 / torch.bincount(labels)[labels].float()
        return WeightedRandomSampler(weights.tolist(), len(labels), generator=torch.Generator().manual_seed(0))

    def arm(seed: int, setting: Setting) -> Measures:
        split = patients(seed, minority=12)
        counts = torch.bincount(split.train.tensors[1]).float()
        weight = counts.sum() / (2 * counts) if how == "class weights" else None
        plan = Plan(20, adamw(1e-3), batch=16, weight=weight, sampler=sampler if how == "resampling" else None)
        net = train(seed, setting, split, lambda s: mlp(s, (32,)), plan)
        logits, targets = net.said(split.test)
        recall = float((logits.argmax(1) == 0)[targets == 0].float().mean())
        f1 = float(f1_score(targets.numpy(), logits.argmax(1).numpy(), average="macro"))
        return {**measured(net, split), "macro_f1": f1, "minority_recall": recall}

    return arm


def _stopped(patience: int | None) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = noisy(images(seed, Setting(), count=300), 0.2, seed)
        x, y = split.train.tensors
        held, kept = TensorDataset(x[:60], y[:60]), TensorDataset(x[60:], y[60:])
        watched = Split(kept, held)

        def tricks() -> list[Any]:
            return [] if patience is None else [EarlyStopping("test_loss", patience=patience)]

        net = train(seed, setting, watched, lambda s: mlp(s, (256, 256)), Plan(60, adamw(1e-3), 32, tricks))
        logits, targets = net.said(split.test)
        loss, right = float(cross_entropy(logits, targets)), float((logits.argmax(1) == targets).float().mean())
        return {"train": net.accuracy(kept), "test": right, "test_loss": loss, "epochs": float(len(net.curve))}

    return arm


def _averaged(decay: float | None) -> Arm:
    def arm(seed: int, setting: Setting) -> Measures:
        split = noisy(images(seed, setting), 0.1, seed)
        tricks = tuple if decay is None else (lambda: [EMAWeightAveraging(decay=decay)])
        net = train(seed, setting, split, lambda s: cnn(s, "batch"), Plan(10, sgd(0.1), callbacks=tricks))
        # (the callback puts the averaged weights into the module when training ends)
        return {"train": net.accuracy(split.train), "test": net.accuracy(split.test)}

    return arm


# -- text ---------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Post-norm transformer block, as in the first paper: the one that needs a warm-up."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d)
        x = self.norms[0](x + self.out(seen))
        return self.norms[1](x + self.feed(x))


class Recurrent(nn.Module):
    """An LSTM over one-hot bytes."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.lstm, self.head = nn.LSTM(vocabulary, width, batch_first=True), nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(one_hot(x, self.vocabulary).float())[0])


@cache
def _text() -> Tensor:
    text = torch.frombuffer(bytearray(source_text()[:200_000]), dtype=torch.uint8)
    return torch.unique(text, return_inverse=True)[1]


def _language(make: Callable[[int], nn.Module], optimizer: Any, updates: int, tricks: Callable[[], list[Any]]) -> Arm:
    """Predict the next byte; ``bits`` is bits per byte on text that was not trained on, 8 for a run that diverged."""

    class Model(L.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def loss(self, text: Tensor) -> Tensor:
            return cross_entropy(self.net(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch[0])

        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters())

    def arm(seed: int, setting: Setting) -> Measures:
        text = _text()
        L.seed_everything(seed, verbose=False)
        rows = text[: len(text) // 65 * 65].view(-1, 65)
        train_rows, test_rows = rows[:-300], rows[-300:]
        model = Model(make(int(text.max()) + 1))
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(TensorDataset(train_rows), 16, shuffle=True, generator=order, drop_last=True)
        steps = max(4, round(updates * setting.length))
        trainer(setting, tricks(), max_steps=steps).fit(model, loader)
        model.eval()
        with torch.no_grad():
            bits = float(model.cpu().loss(test_rows)) / math.log(2)
        bits = min(bits, 8.0) if math.isfinite(bits) else 8.0
        return {"bits": bits, "diverged": float(bits > 6.0)}

    return arm


def transformer(vocabulary: int) -> nn.Module:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.position = nn.Embedding(vocabulary, 64), nn.Embedding(64, 64)
            self.blocks = nn.Sequential(*(Attention(64) for _ in range(4)))
            self.head = nn.Linear(64, vocabulary)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(self.embedding(x) + self.position.weight[: x.shape[1]]))

    return Language()


def _warmed(warmup: int | str, lr: float) -> Arm:
    return _language(transformer, adamw(lr), 250, lambda: [LRSchedule("cosine", warmup=warmup)])


def _clipped(tricks: Callable[[], list[Any]], lr: float) -> Arm:
    return _language(lambda n: Recurrent(n, 96), sgd(lr), 250, tricks)


STUDIES: tuple[Study, ...] = (
    Study(
        "one_cycle",
        "one-cycle against step decay",
        "96 % in 30 epochs against 94 % in 50: better and in 60 % of the epochs",
        "CNN with BatchNorm on digits, SGD momentum, peak rate 0.2 against 0.1",
        {
            "step decay, 20 epochs": _scheduled(_step, 20, 0.1),
            "one-cycle, 20 epochs": _scheduled(_one_cycle, 20, 0.2),
            "one-cycle, 12 epochs": _scheduled(_one_cycle, 12, 0.2),
            "one-cycle, 6 epochs": _scheduled(_one_cycle, 6, 0.2),
            "cosine, 20 epochs": _scheduled(_cosine, 20, 0.1),
        },
        images=True,
    ),
    Study(
        "regularisation",
        "L2, dropout, both, none",
        "train/test accuracy 99/70 without, 95/85 L2, 93/88 dropout, 90/91 both",
        "MLP 2 x 256 on 200 digits, 10 % of the labels wrong, AdamW",
        {
            "none": _regularised(0.0, 0.0),
            "weight decay 1": _regularised(1.0, 0.0),
            "dropout 0.5": _regularised(0.0, 0.5),
            "both": _regularised(1.0, 0.5),
        },
    ),
    Study(
        "momentum",
        "momentum against plain SGD: epochs to 95 %",
        "100 epochs become 60",
        "MLP 2 x 64 on digits, rate 0.05, epochs until the test accuracy is 95 %",
        {"SGD": _until(0.95, sgd(0.05, 0.0), 60), "SGD, momentum 0.9": _until(0.95, sgd(0.05, 0.9), 60)},
        measure="epochs",
        higher=False,
        images=True,
    ),
    Study(
        "optimizers",
        "SGD with momentum against Adam and AdamW",
        "Adam is faster, SGD generalises better",
        "CNN with BatchNorm on digits, 8 epochs, cosine; the best rate of {0.3, 0.1, 0.03, 0.01, 0.003} on other seeds",
        {
            "SGD, momentum 0.9, rate 0.3": _optimized(sgd(0.3)),
            "SGD, rate 0.3": _optimized(sgd(0.3, 0.0)),
            "Adam, rate 0.03": _optimized(lambda p: torch.optim.Adam(p, lr=0.03)),
            "AdamW, rate 0.03": _optimized(adamw(0.03)),
        },
        images=True,
    ),
    Study(
        "label_smoothing",
        "label smoothing under noisy labels",
        "helps where labels are wrong",
        "CNN with BatchNorm on digits, 30 % of the labels drawn at random, AdamW",
        {"0": _smoothed(0.0), "0.1": _smoothed(0.1), "0.3": _smoothed(0.3)},
        images=True,
    ),
    Study(
        "normalisation",
        "BatchNorm, LayerNorm, WeightNorm and cosine normalisation at small and large batch",
        "BatchNorm fails at small batches; LayerNorm, WeightNorm and cosine normalisation do not depend on them",
        "CNN on digits, SGD momentum; batch 2 (4 epochs, rate 0.02) and 128 (12 epochs, rate 0.1)",
        {f"{norm}, batch {batch}": _normalised(norm, batch) for batch in (2, 128) for norm in NORMS},
        images=True,
        against={f"{norm}, batch 128": "none, batch 128" for norm in NORMS},
    ),
    Study(
        "warmup",
        "warm-up at a high rate",
        "transformers diverge without it",
        "post-norm byte transformer of 4 layers, AdamW, 250 updates",
        {
            "rate 0.01, none": _warmed(0, 0.01),
            "rate 0.01, warm-up 20 %": _warmed("20%", 0.01),
            "rate 0.001, none": _warmed(0, 0.001),
            "rate 0.001, warm-up 20 %": _warmed("20%", 0.001),
        },
        against={f"rate 0.001, {how}": "rate 0.001, none" for how in ("none", "warm-up 20 %")},
        measure="bits",
        higher=False,
    ),
    Study(
        "clipping",
        "clipping on an LSTM at a high rate",
        "recurrent networks need it: gradients explode",
        "byte LSTM of 96 units, SGD momentum, 250 updates",
        {
            "rate 5, none": _clipped(list, 5.0),
            "rate 5, norm 0.25": _clipped(lambda: [GradientClip(0.25)], 5.0),
            "rate 1, none": _clipped(list, 1.0),
            "rate 1, norm 0.25": _clipped(lambda: [GradientClip(0.25)], 1.0),
        },
        against={f"rate 1, {how}": "rate 1, none" for how in ("none", "norm 0.25")},
        measure="bits",
        higher=False,
    ),
    Study(
        "initialisation",
        "He, Xavier and normal(0.01) on deep networks",
        "He for ReLU, Xavier for tanh; small normal weights do not train deep networks",
        "MLP of 12 layers of 64 on digits, SGD momentum 0.01, 12 epochs",
        {
            f"{name}, {kind}": _initialised(kind, activation)
            for name, activation in (("ReLU", nn.ReLU), ("tanh", nn.Tanh))
            for kind in ("He", "Xavier", "normal 0.01")
        },
        against={f"tanh, {kind}": "tanh, Xavier" for kind in ("He", "Xavier", "normal 0.01")},
    ),
    Study(
        "batch_scaling",
        "the rate with the batch size: fixed, square root, linear",
        "times the batch, times the rate (SGD)",
        "MLP 2 x 128 on digits, SGD momentum, 8 epochs; batch 16 at rate 0.02, then batch 128",
        {
            "batch 16, rate 0.02": _scaled(16, 0.02),
            "batch 128, same rate": _scaled(128, 0.02),
            "batch 128, square root": _scaled(128, 0.02 * 8**0.5),
            "batch 128, linear": _scaled(128, 0.16),
        },
        against={f"batch 128, {how}": "batch 128, same rate" for how in ("square root", "linear")},
        images=True,
    ),
    Study(
        "accumulation",
        "accumulation against the real large batch",
        "the same result in less memory",
        "CNN on digits, SGD momentum; 8 x 16 against 128, without a norm and with BatchNorm",
        {
            "batch 128": _accumulated(128, 1, "none"),
            "8 x 16": _accumulated(16, 8, "none"),
            "batch 128, BatchNorm": _accumulated(128, 1, "batch"),
            "8 x 16, BatchNorm": _accumulated(16, 8, "batch"),
        },
        against={f"{how}, BatchNorm": "batch 128, BatchNorm" for how in ("batch 128", "8 x 16")},
        images=True,
    ),
    Study(
        "imbalance",
        "class imbalance: resampling and class weights",
        "resampling finds the rare class",
        "MLP on breast cancer, 12 malignant patients among some 230, macro-F1 on a test set with the usual shares",
        {name: _balanced(name) for name in ("nothing", "resampling", "class weights")},
        measure="macro_f1",
    ),
    Study(
        "early_stopping",
        "early stopping",
        "saves epochs and prevents overfitting",
        "MLP 2 x 256 on 240 digits, 20 % of the labels wrong; stops on 60 held-out images, patience 5",
        {"60 epochs": _stopped(None), "stopped early": _stopped(5)},
        measure="test_loss",
        higher=False,
    ),
    Study(
        "weight_averaging",
        "an exponential average of the weights",
        "as good as a decayed rate, at a constant one",
        "CNN with BatchNorm on digits, 10 % of the labels wrong, SGD momentum, constant rate 0.1, 10 epochs; Lightning's EMAWeightAveraging",
        {"last weights": _averaged(None), "average, decay 0.9": _averaged(0.9), "average, decay 0.98": _averaged(0.98)},
        images=True,
    ),
)
