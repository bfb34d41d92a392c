"""Image classifiers of a first course in deep learning: what goes wrong in them, and what only looks as if it did."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset, WeightedRandomSampler

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import (
    CLASSES,
    PLAIN,
    Script,
    adam,
    auc,
    conv,
    images,
    noisy,
    right,
    script,
    sgd,
)
from benchmarks.models.trainings import Training

FAMILY = "everyday vision"
TRAIN, TEST = images()


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy of the model's output, and nothing else is returned."""
    x, y = batch
    return F.cross_entropy(s.model(x), y)


def told(s: Script, batch: Any) -> Any:
    """Cross entropy; logits are returned too, and the accuracy is logged."""
    x, y = batch
    logits = s(x)
    s.log("acc", (logits.argmax(1) == y).float().mean())
    return {"loss": F.cross_entropy(logits, y), "logits": logits}


def image(seed: int, model: Any = conv, loss: Any = crossed, optimizer: Any = None, **more: Any) -> Training:
    """Train on images of digits."""
    options = {k: more.pop(k) for k in ("steps", "detectors") if k in more}
    limits = {k: more.pop(k) for k in ("gradient_clip_val", "accumulate_grad_batches") if k in more}
    train, score = more.pop("train", TRAIN), more.pop("score", right(TEST))
    more.setdefault("val", TEST)
    make = more.pop("kind", Script)
    options.setdefault("detectors", CLASSES)
    return script(seed, lambda: make(model(), loss, optimizer or adam(2e-3), train, **more), score, **options, **limits)


class Probabilities(nn.Module):
    """A classifier that ends with a softmax, as in many tutorials."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body, self.dim = conv(norm=False), dim

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).softmax(self.dim)


class SmallFeatures(nn.Module):
    """Convolutions down to six numbers, and a classifier of those; option: features are computed without gradients."""

    def __init__(self, without: str = "") -> None:
        super().__init__()
        self.features, self.without = conv(6), without
        self.classifier = nn.Sequential(nn.ReLU(), nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        if self.without == "no_grad":
            with torch.no_grad():
                h = self.features(x)
            return self.classifier(h)
        h = self.features(x)
        return self.classifier(torch.tensor(h.detach().numpy()) if self.without == "numpy" else h)


def batch_mixed(x: Tensor) -> Tensor:
    """Put the channels first by view where permute was meant: two samples of a batch share rows then."""
    return x.squeeze(1).view(8, len(x), 8).permute(1, 0, 2)


class Rows(nn.Module):
    """An LSTM over the rows of an image; option: what is done to get time first."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.lstm, self.head = how, nn.LSTM(8, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        if self.how == "transpose":
            return self.head(self.lstm(x.transpose(0, 1))[0][-1])
        if self.how == "view":
            return self.head(self.lstm(x.reshape(8, len(x), 8))[0][-1])
        return self.head(self.lstm(x)[0][:, -1])  # (the batch is taken for the time)


class Deep(nn.Module):
    """Twenty narrow layers with BatchNorm behind each."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 24)]
        for _ in range(20):
            layers += [nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Evaluating(Script):
    """The model is put into eval mode in the step, since the author wants the same numbers each time."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.model.eval()
        return super().training_step(batch, batch_idx)


class TwoLoaders(Script):
    """Images and labels come from two loaders, each of which shuffles by itself."""

    def train_dataloader(self) -> Any:
        return {
            "image": DataLoader(TensorDataset(self.train_data[0]), self.batch, shuffle=True),
            "label": DataLoader(TensorDataset(self.train_data[1]), self.batch, shuffle=True),
        }


def of_two(s: Script, batch: Any) -> Any:
    """Cross entropy of what two loaders gave."""
    if isinstance(batch, dict):
        batch = (batch["image"][0], batch["label"][0])
    logits = s.model(batch[0])
    return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "target": batch[1]}


def crops(wrong: bool) -> Any:
    """Four noisy crops of each image, and the labels for them."""

    def loss(s: Script, batch: Any) -> Any:
        x, y = batch
        four = torch.stack([x + 0.3 * torch.randn_like(x) for _ in range(4)], 1).flatten(0, 1)
        labels = y.repeat(4) if wrong else y.repeat_interleave(4)
        logits = s.model(four)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "target": labels}

    return loss


def mixup(s: Script, batch: Any) -> Any:
    """Mixed images, mixed losses."""
    x, y = batch
    weight, order = float(torch.rand(()) * 0.5 + 0.5), torch.randperm(len(x))
    logits = s.model(weight * x + (1 - weight) * x[order])
    return weight * F.cross_entropy(logits, y) + (1 - weight) * F.cross_entropy(logits, y[order])


def smooth(s: Script, batch: Any) -> Tensor:
    """Label smoothing."""
    return F.cross_entropy(s.model(batch[0]), batch[1], label_smoothing=0.2)


def one_hot_squares(s: Script, batch: Any) -> Tensor:
    """Squared error of one-hot labels, as some do on purpose."""
    return F.mse_loss(s.model(batch[0]), F.one_hot(batch[1], 10).float())


def summed(s: Script, batch: Any) -> Tensor:
    """The sum over the batch."""
    return F.cross_entropy(s.model(batch[0]), batch[1], reduction="sum")


def written_out(s: Script, batch: Any) -> Tensor:
    """A cross entropy written out with a logarithm of probabilities, which are 0 once the model is certain."""
    p = s.model(batch[0]).mul(20).softmax(1)
    return -(F.one_hot(batch[1], 10) * p.log()).sum(1).mean()


def bare_nll(s: Script, batch: Any) -> Tensor:
    """The negative log-likelihood of what are logits."""
    return F.nll_loss(s.model(batch[0]), batch[1])


def not_the_loss(s: Script, batch: Any) -> Tensor:
    """A new tensor that has the loss as its value."""
    return torch.tensor(float(F.cross_entropy(s.model(batch[0]), batch[1])), requires_grad=True)


def zeros(kind: float) -> Any:
    """An MLP all of whose weights start with the same value."""

    def make() -> nn.Module:
        net = nn.Sequential(nn.Flatten(), t.mlp([64, 64, 64, 10]))
        for p in net.parameters():
            nn.init.constant_(p, kind)
        return net

    return make


def dropped(p: float) -> Any:
    """An MLP with dropout."""
    return lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p),
        nn.Linear(64, 10),
    )  # fmt: skip


def scaled(factor: float, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Training images in other units."""
    return TRAIN[0] * factor + shift, TRAIN[1]


def decayed_at_once(s: Script) -> Any:
    """A StepLR that was meant for epochs and is called after each step."""
    optimizer = torch.optim.SGD(s.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def restarts(s: Script) -> Any:
    """SGD with warm restarts."""
    optimizer = torch.optim.SGD(s.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 60)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def one_cycle(s: Script) -> Any:
    """One cycle."""
    optimizer = torch.optim.SGD(s.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=302)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Balanced(Script):
    """A sampler that draws rare classes more often."""

    def train_dataloader(self) -> Any:
        labels = self.train_data[1]
        weights = 1 / torch.bincount(labels).float()[labels]
        sampler = WeightedRandomSampler(weights.tolist(), len(labels))
        return DataLoader(TensorDataset(*self.train_data), self.batch, sampler=sampler)


def rare(keep: int = 25) -> tuple[Tensor, Tensor]:
    """Is it a nine? Of which there are few."""
    x, y = TRAIN
    nines = (y == 9).nonzero().flatten()[:keep]
    chosen = torch.cat([(y != 9).nonzero().flatten(), nines])
    return x[chosen], (y[chosen] == 9).long()


def nine(s: Any) -> Tensor:
    """Area under the curve of "nine"."""
    out = s.model(TEST[0])
    return auc(out[:, 1] - out[:, 0], (TEST[1] == 9).long())


def spoilt_row(value: float) -> tuple[Tensor, Tensor]:
    """One image of the training data is damaged."""
    x = TRAIN[0].clone()
    x[7] = value
    return x, TRAIN[1]


class Mixed(Script):
    """Training data that hold the validation data; labels are noisy, so that those can only be learnt by heart."""

    def train_dataloader(self) -> Any:
        both = ConcatDataset([TensorDataset(*self.train_data), TensorDataset(*self.val_data)])
        return DataLoader(both, self.batch, shuffle=True)


def honest(s: Any) -> Tensor:
    """Minus how much better the validation data look than new ones with noisy labels."""
    x, y = s.val_data
    return (s.model(TEST[0]).argmax(1) == noisy(TEST[1], 0.4)).float().mean() - (
        s.model(x).argmax(1) == y
    ).float().mean()


def alone(s: Any) -> Tensor:
    """Accuracy on images that come one at a time, as in use."""
    answers = torch.cat([s.model(x[None]).argmax(1) for x in TEST[0][:200]])
    return (answers == TEST[1][:200]).float().mean()


NOISY = noisy(TRAIN[1], 0.4)
LEAK = {"train": (TRAIN[0][:500], NOISY[:500]), "val": (TRAIN[0][500:700], NOISY[500:700])}
WIDE = {"model": lambda: nn.Sequential(nn.Flatten(), t.mlp([64, 256, 256, 10])), "steps": 600}
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
UNCHANGED = "weights do not change"
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")
SANITY_LOSS = "sanity:initial loss"

SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a model that ends with a softmax, SGD 0.01", 0.9,
            lambda s: image(s, lambda: Probabilities(1), optimizer=sgd(0.01)),
            *UNRELATED, SANITY_LOSS, "sanity:overfits one batch", "vanishing gradients"),
    failing(FAMILY, "a softmax over the images of the batch", 0.9,
            lambda s: image(s, lambda: Probabilities(0), lambda m, b: F.nll_loss(m.model(b[0]).log(), b[1]), score=alone),
            *UNRELATED, SANITY_LOSS, "sanity:samples do not leak"),
    failing(FAMILY, "features computed under no_grad", 0.9, lambda s: image(s, lambda: SmallFeatures("no_grad")),
            "no gradients", "sanity:all parameters learn"),
    failing(FAMILY, "features that went through numpy", 0.9, lambda s: image(s, lambda: SmallFeatures("numpy")),
            "no gradients", "sanity:all parameters learn"),
    healthy(FAMILY, "features of six numbers", 0.9, lambda s: image(s, SmallFeatures, steps=500)),
    failing(FAMILY, "rows of an image read by view", 0.85, lambda s: image(s, lambda: Rows("view"), detectors=PLAIN),
            *UNRELATED, "overfitting", "sanity:samples do not leak", "sanity:shapes of outputs and labels"),
    failing(FAMILY, "an LSTM that takes the batch for time", 0.9,
            lambda s: image(s, lambda: Rows("none"), detectors=PLAIN, score=alone),
            "sanity:samples do not leak", *UNRELATED),
    healthy(FAMILY, "an LSTM over rows, time first", 0.85, lambda s: image(s, lambda: Rows("transpose"), detectors=PLAIN)),
    failing(FAMILY, "a deep network with BatchNorm, eval() in the step", 0.9,
            lambda s: image(s, Deep, kind=Evaluating, optimizer=adam(3e-3)),
            *UNRELATED, *FAST, "vanishing gradients", "sanity:modules are in training mode"),
    healthy(FAMILY, "a deep network with BatchNorm", 0.8, lambda s: image(s, Deep, optimizer=adam(3e-3), steps=500)),
    failing(FAMILY, "images and labels from two loaders", 0.9, lambda s: image(s, loss=of_two, kind=TwoLoaders),
            *UNRELATED, "overfitting", "sanity:labels follow from inputs"),
    failing(FAMILY, "labels shuffled in each batch", 0.9,
            lambda s: image(s, loss=lambda m, b: told(m, (b[0], b[1][torch.randperm(len(b[1]))])), val=(),
                            detectors={**CLASSES, "PredictionCollapse": {}}),
            *UNRELATED, "sanity:labels follow from inputs", "sanity:shapes of outputs and labels"),
    failing(FAMILY, "four crops, labels repeated", 0.9, lambda s: image(s, loss=crops(True), val=()),
            *UNRELATED, "sanity:shapes of outputs and labels", "sanity:labels follow from inputs"),
    healthy(FAMILY, "four crops, labels interleaved", 0.9, lambda s: image(s, loss=crops(False), val=())),
    healthy(FAMILY, "mixed images, mixed losses", 0.9, lambda s: image(s, loss=mixup)),
    healthy(FAMILY, "smoothed labels", 0.9, lambda s: image(s, loss=smooth, optimizer=sgd(0.05))),
    healthy(FAMILY, "squared error of one-hot labels", 0.9, lambda s: image(s, loss=one_hot_squares)),
    healthy(FAMILY, "two labels of five are wrong", 0.8,
            lambda s: image(s, train=(TRAIN[0], NOISY), val=(TEST[0], noisy(TEST[1], 0.4)))),
    failing(FAMILY, "a sum over 128 images at SGD 0.1", 0.9,
            lambda s: image(s, lambda: conv(norm=False), summed, sgd(0.1), batch=128), *FAST, *UNRELATED, SANITY_LOSS,
            "sanity:overfits one batch", twin="a conv net, SGD 1e-3 on the sum"),
    healthy(FAMILY, "a conv net, SGD 1e-3 on the sum", 0.9,
            lambda s: image(s, lambda: conv(norm=False), summed, sgd(2e-4), batch=128)),
    failing(FAMILY, "the logarithm of probabilities that are 0", 0.9,
            lambda s: image(s, loss=written_out, optimizer=adam(1e-2)), "non-finite values", *FAST),
    failing(FAMILY, "negative log-likelihood of logits", 0.9,
            lambda s: image(s, lambda: conv(norm=False), bare_nll, sgd(0.01)), *FAST, *UNRELATED,
            SANITY_LOSS, "sanity:overfits one batch"),
    failing(FAMILY, "the loss wrapped in a new tensor", 0.9, lambda s: image(s, loss=not_the_loss, detectors=CLASSES),
            *UNRELATED, "no gradients", "sanity:all parameters learn", "sanity:overfits one batch"),
    failing(FAMILY, "all weights start at 0", 0.9, lambda s: image(s, zeros(0.0), optimizer=sgd(0.05)),
            *UNRELATED, "no gradients", "dead units", "vanishing gradients", "sanity:all parameters learn",
            "sanity:inputs matter", "sanity:units are alive", "sanity:overfits one batch"),
    failing(FAMILY, "all weights start at 0.02", 0.9, lambda s: image(s, zeros(0.02), optimizer=sgd(0.02)),
            *UNRELATED, "dead units", "sanity:all parameters learn", "sanity:overfits one batch"),
    failing(FAMILY, "dropout of 0.97", 0.85, lambda s: image(s, dropped(0.97)), *UNRELATED, "sanity:overfits one batch"),
    healthy(FAMILY, "dropout of 0.6", 0.85, lambda s: image(s, dropped(0.6))),
    failing(FAMILY, "pixels divided by 255 twice", 0.85,
            lambda s: image(s, lambda: nn.Sequential(nn.Flatten(), t.mlp([64, 64, 10])), optimizer=sgd(0.01),
                            train=scaled(1e-4), val=(), score=right((TEST[0] * 1e-4, TEST[1]))),
            *UNRELATED, "sanity:inputs matter"),
    failing(FAMILY, "pixels up to 2,000, no normalisation, SGD 0.05", 0.85,
            lambda s: image(s, lambda: nn.Sequential(nn.Flatten(), t.mlp([64, 64, 64, 10])), optimizer=sgd(0.05),
                            train=scaled(1000.0, 500.0), val=(), score=right((TEST[0] * 1000 + 500, TEST[1]))),
            *FAST, *UNRELATED, SANITY_LOSS, "sanity:overfits one batch"),
    failing(FAMILY, "a conv net, SGD 10", 0.9, lambda s: image(s, lambda: conv(norm=False), optimizer=sgd(10.0)),
            *FAST, *UNRELATED, "sanity:overfits one batch", twin="a conv net, plain"),
    failing(FAMILY, "a conv net, SGD 1e-6", 0.9, lambda s: image(s, optimizer=sgd(1e-6)), *UNRELATED,
            twin="a conv net, plain"),
    healthy(FAMILY, "a conv net, plain", 0.9, lambda s: image(s, lambda: conv(norm=False), told, sgd(0.05))),
    failing(FAMILY, "a step schedule called after each step", 0.85,
            lambda s: image(s, lambda: conv(norm=False), optimizer=decayed_at_once), UNCHANGED, *UNRELATED),
    failing(FAMILY, "the gradient clipped to 1e-4, SGD", 0.85,
            lambda s: image(s, lambda: conv(norm=False), optimizer=sgd(0.02, 0.0), gradient_clip_val=1e-4), *UNRELATED),
    healthy(FAMILY, "a conv net with warm restarts", 0.9, lambda s: image(s, optimizer=restarts)),
    healthy(FAMILY, "a conv net in one cycle", 0.9, lambda s: image(s, optimizer=one_cycle)),
    healthy(FAMILY, "a conv net, four batches for an update", 0.9,
            lambda s: image(s, optimizer=adam(3e-3), batch=16, accumulate_grad_batches=4, steps=150)),
    failing(FAMILY, "a conv net, AdamW, weight decay 100", 0.85, lambda s: image(s, optimizer=adam(2e-3, weight_decay=100.0)),
            *UNRELATED, "shrinking weights", "dead units", "vanishing gradients"),
    failing(FAMILY, "a conv net, SGD, weight decay 1", 0.85,
            lambda s: image(s, lambda: conv(norm=False), optimizer=sgd(0.05, weight_decay=1.0)),
            *UNRELATED, "shrinking weights", "dead units", "vanishing gradients"),
    failing(FAMILY, "sorted images, a conv net", 0.85,
            lambda s: image(s, lambda: conv(norm=False), train=tuple(d[TRAIN[1].argsort(stable=True)] for d in TRAIN),
                            shuffle=False, steps=43 * 5, optimizer=adam(5e-3)),
            "divergence", "loss spikes", "prediction collapse", "sanity:data are shuffled"),
    healthy(FAMILY, "images in the order of the file", 0.9, lambda s: image(s, shuffle=False)),
    failing(FAMILY, "one image of 1e8", 0.85,
            lambda s: image(s, lambda: conv(norm=False), train=spoilt_row(1e8), val=(), steps=200, optimizer=sgd(0.02)),
            *FAST, *UNRELATED, SANITY_LOSS),
    failing(FAMILY, "one image of NaN", 0.85, lambda s: image(s, train=spoilt_row(float("nan")), val=(), steps=200),
            "non-finite values"),
    healthy(FAMILY, "a rare digit, drawn more often", 0.9,
            lambda s: image(s, lambda: conv(2), kind=Balanced, train=rare(), val=(TEST[0], (TEST[1] == 9).long()), score=nine)),
    healthy(FAMILY, "a rare digit, drawn as it comes", 0.85,
            lambda s: image(s, lambda: conv(2), told, train=rare(), val=(TEST[0], (TEST[1] == 9).long()), score=nine)),
    failing(FAMILY, "validation images among those trained on", -0.15,
            lambda s: image(s, kind=Mixed, score=honest, optimizer=adam(2e-3), **LEAK, **WIDE),
            "overfitting", "sanity:validation data are new"),
]  # fmt: skip
