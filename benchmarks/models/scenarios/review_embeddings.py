"""Self-supervision, metric learning, hashing and few labels with the bugs of reviews, and healthy look-alikes.

Retrieval is scored as an index stores embeddings, in eight bits or one: what is left of a collapsed space does not survive.
The names were chosen so that all of them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "reviewed embeddings"
TRAIN, TEST = images(211)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
COLLAPSED = ("complete collapse", "dimensional collapse")


def stored(z: Tensor) -> Tensor:
    """Embeddings as whole numbers from -127 to 127."""
    return (z / z.abs().max() * 127).round()


def retrieved(embed: Any, train: Tensor, test: Tensor) -> Tensor:
    """Accuracy of a vote of five neighbours among stored embeddings."""
    z = stored(embed(torch.cat([train, test])))
    return neighbours(z[: len(train)], TRAIN[1], z[len(train) :], TEST[1])


@lru_cache
def cluttered() -> tuple[Tensor, Tensor]:
    """Digits beside 64 numbers of chance that are three times as large."""
    g = seeded(212)
    return tuple(torch.cat([x, 3 * torch.randn(x.shape, generator=g)], 1) for x in (FLAT, FLAT_TEST))  # type: ignore[return-value]


def embeds(layer: str) -> dict[str, dict[str, Any]]:
    """Return detectors of a layer of embeddings."""
    return {"RepresentationCollapse": {"layer": layer}, "TrainingDoctor": {}, "DeadUnits": {}}


# -- contrast by labels -----------------------------------------------------------------------------------------------


class ByLabels(Loaded):
    """Supervised contrast of cluttered digits; labels come as a column or as a row."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.encoder = nn.Sequential(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.encoder(x), dim=1)

    def contrast(self, x: Tensor, labels: Tensor) -> Tensor:
        z = self(x)
        itself = torch.eye(len(z), dtype=torch.bool)
        positive = (labels == labels.T).expand(len(z), len(z)) & ~itself
        log_share = (z @ z.T / 0.1).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
        return -((log_share * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self.contrast(*batch)
        self.log("supcon", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.contrast(*batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step"}}


def by_labels(seed: int, column: bool) -> Training:
    """Contrast digits by their labels."""
    x, x_test = cluttered()
    label = lambda y: y[:, None] if column else y  # noqa: E731
    make = lambda: ByLabels(0.1).use((x, label(TRAIN[1])), (x_test, label(TEST[1])), 128)  # noqa: E731
    return script(seed, make, lambda m: retrieved(m, x, x_test), 300, embeds("encoder"))


# -- images and captions ----------------------------------------------------------------------------------------------

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@lru_cache
def captions() -> Tensor:
    """Names of digits as letters, behind four letters for some word or other."""
    width = max(map(len, NAMES))
    return torch.tensor([[ord(c) - 97 for c in name] + [26] * (width - len(name)) for name in NAMES])


class Towers(L.LightningModule):
    """An image tower and a caption tower, an optimizer for each, steps by hand; the right columns are places or labels."""

    def __init__(self, places: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.places = places
        self.image = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 24))
        self.letters = nn.Embedding(27, 12)
        self.caption = nn.Sequential(nn.Flatten(), nn.Linear(9 * 12, 64), nn.GELU(), nn.Linear(64, 24))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def logits(self, pixels: Tensor, words: Tensor) -> Tensor:
        image, caption = self.image(pixels), self.caption(self.letters(words))
        return self.log_scale.exp() * F.normalize(image, dim=1) @ F.normalize(caption, dim=1).T

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.logits(batch["pixels"], batch["words"])
        right = torch.arange(len(logits)) if self.places else batch["digit"]
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        both: Any = self.optimizers()
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in both:
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
        self.log("clip_loss", loss)

    def train_dataloader(self) -> Any:
        words = torch.cat([torch.randint(26, (len(FLAT), 4), generator=seeded(213)), captions()[TRAIN[1]]], 1)
        rows = [{"pixels": x, "words": w, "digit": y} for x, w, y in zip(FLAT, words, TRAIN[1], strict=True)]
        return DataLoader(rows * 14, batch_size=64, shuffle=True, drop_last=True)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        texts = [*self.letters.parameters(), *self.caption.parameters(), self.log_scale]
        return [torch.optim.Adam(self.image.parameters(), lr=2e-3), torch.optim.Adam(texts, lr=2e-3)]


def towers(seed: int, places: bool) -> Training:
    """Train two towers; the score is the accuracy of ten captions as classes."""
    asked = torch.cat([torch.full((10, 4), 7), captions()], 1)
    score = lambda m: (m.logits(FLAT_TEST, asked).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    watched = {"RepresentationCollapse": {"layer": ["image", "caption"]}, "TrainingDoctor": {}}
    return script(seed, lambda: Towers(places), score, 300, watched)


# -- masked letters ---------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A convolution over five places and what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv, self.act = nn.GroupNorm(1, width), nn.Conv1d(width, width, 5, padding=2), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.conv(self.norm(x)))


class Masked(Loaded):
    """Guesses letters that are masked; the answers are a copy of the text, or the text itself."""

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.copied = copied
        self.embed = nn.Embedding(33, 32)
        self.body = nn.Sequential(*(Residual(32) for _ in range(3)))
        self.head = nn.Linear(32, 33)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x).mT).mT)

    def _guess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.rand(x.shape) < 0.15
        inputs = x.clone() if self.copied else x
        inputs[hidden] = 32
        return self(inputs)[hidden], x[hidden]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits, letters = self._guess(batch[0])
        return {"loss": F.cross_entropy(logits, letters), "logits": logits.detach(), "letters": letters}

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(*self._guess(batch[0])))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=4e-3, betas=(0.9, 0.98))


def masked(seed: int, copied: bool) -> Training:
    """Train on source as text; the score is the accuracy for one masked letter in the middle of each window."""
    train, (x,) = lines(20, 3000)
    asked = x.clone()
    asked[:, 10] = 32
    score = lambda m: (m(asked)[:, 10].argmax(1) == x[:, 10]).float().mean()  # noqa: E731
    watched = {"PredictionCollapse": {"output": "logits", "target": "letters"}, "DeadUnits": {}, "TrainingDoctor": {}}
    # (the loader gives copies of its rows: stacking makes new tensors)
    return script(seed, lambda: Masked(copied).use(train, (x,), 64), score, 300, watched)


# -- bits -------------------------------------------------------------------------------------------------------------


class Bits(Loaded):
    """Hashing by continuation: the tanh gets sharper with each epoch, from a first sharpness on."""

    def __init__(self, sharpness: float, growth: float) -> None:
        super().__init__()
        self.sharpness, self.growth = sharpness, growth
        self.body = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 20))
        self.squash = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.sharpness * self.body(x))

    def on_train_epoch_end(self) -> None:
        self.sharpness *= self.growth

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        code = self(batch["x"])
        same = (batch["y"][:, None] == batch["y"]).float()
        alike = code @ code.T / 4
        weight = torch.where(same > 0, 9.0, 1.0)
        return {"loss": F.binary_cross_entropy_with_logits(alike, same, weight), "code": code.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def bits(seed: int, sharpness: float, growth: float) -> Training:
    """Train 20 bits; the score is the accuracy of a vote of neighbours by Hamming distance."""
    x, x_test = cluttered()

    def score(m: Any) -> Tensor:
        return neighbours(m(x).sign(), TRAIN[1], m(x_test).sign(), TEST[1])

    make = lambda: Bits(sharpness, growth).use((x, TRAIN[1]), (), 100, keys=("x", "y"))  # noqa: E731
    return script(seed, make, score, 350, embeds("squash"))


# -- a mean teacher ---------------------------------------------------------------------------------------------------


class MeanTeacher(L.LightningModule):
    """A hundred labels, a loader of images without labels, and a teacher that moves after each update."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.student = nn.Sequential(
            nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10)
        )  # fmt: skip
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        (x, y), (free, _) = batch["labelled"], batch["free"]
        noisy = lambda images_: images_ + 0.3 * torch.randn_like(images_)  # noqa: E731
        agreement = F.mse_loss(self.student(noisy(free)), self.teacher(noisy(free)))
        ramp = min(1.0, self.global_step / 150)
        loss = F.cross_entropy(self.student(noisy(x)), y) + ramp * agreement
        self.log_dict({"loss": loss, "agreement": agreement})
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any) -> None:
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.mul_(0.98).add_(new, alpha=self.share)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.teacher(batch[0]), batch[1]))

    def train_dataloader(self) -> Any:
        labelled = DataLoader(TensorDataset(TRAIN[0][:100], TRAIN[1][:100]), batch_size=20, shuffle=True)
        free = DataLoader(TensorDataset(*TRAIN), batch_size=40, shuffle=True, drop_last=True)
        return CombinedLoader({"labelled": labelled, "free": free}, "max_size_cycle")

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*TEST), batch_size=200)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student.parameters(), lr=0.03, momentum=0.9)


def mean_teacher(seed: int, share: float) -> Training:
    """Train with few labels; the score is the accuracy of the teacher."""
    score = lambda m: (m.teacher(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}
    return script(seed, lambda: MeanTeacher(share), score, 350, watched)


# -- variance and covariance ------------------------------------------------------------------------------------------


class Vicreg(Loaded):
    """Two noisy views; the spread is measured down the batch or along the embedding. Labels come along, unused."""

    def __init__(self, axis: int, lr: float) -> None:
        super().__init__()
        self.axis, self.lr = axis, lr
        self.backbone = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))
        self.expander = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def _spread(self, z: Tensor) -> Tensor:
        return F.relu(1 - (z.var(dim=self.axis) + 1e-4).sqrt()).mean()

    def _redundancy(self, z: Tensor) -> Tensor:
        z = z - z.mean(0)
        covariance = (z.T @ z) / (len(z) - 1)
        return (covariance - covariance.diag().diag()).square().sum() / z.shape[1]

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch
        one, two = (
            self.expander(self.backbone((x + 0.4 * torch.randn_like(x)) * (torch.rand_like(x) > 0.2))) for _ in "ab"
        )
        parts = {
            "invariance": 25 * F.mse_loss(one, two),
            "variance": 25 * (self._spread(one) + self._spread(two)) / 2,
            "covariance": self._redundancy(one) + self._redundancy(two),
        }
        self.log_dict(parts)
        return sum(parts.values())  # type: ignore[return-value]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=1e-3)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 450), "interval": "step"},
        }  # fmt: skip


def vicreg(seed: int, axis: int) -> Training:
    """Train on views of digits; the score is the accuracy of a vote of neighbours by signs."""
    make = lambda: Vicreg(axis, 3e-3).use((FLAT, TRAIN[1]), (), 128)  # noqa: E731

    def score(m: Any) -> Tensor:
        signs = lambda x: m.expander(m(x)).sign()  # noqa: E731
        return neighbours(signs(FLAT), TRAIN[1], signs(FLAT_TEST), TEST[1])

    return script(seed, make, score, 350, embeds("expander"))


# -- adaptation without labels ----------------------------------------------------------------------------------------


def reader() -> nn.Sequential:
    """Make a network for digits with batch normalisation."""
    return nn.Sequential(
        nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 10)
    )  # fmt: skip


@lru_cache
def source(seed: int) -> dict[str, Tensor]:
    """Weights of a reader after training on clean digits."""
    g = seeded(seed)
    model = reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        chosen = torch.randint(len(FLAT), (64,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(FLAT[chosen]), TRAIN[1][chosen]).backward()
        optimizer.step()
    return {k: v.clone() for k, v in model.state_dict().items()}


def dimmed(x: Tensor, seed: int) -> Tensor:
    """Digits with a gradient of light over them, and noise."""
    light = torch.linspace(-1.5, 1.5, 8).repeat(8)
    return 0.5 * x + light + 0.4 * torch.randn(x.shape, generator=seeded(seed))


class Adapting(Loaded):
    """Makes a good network sure of its answers on other images; of all weights, or of the norms with a spread answer."""

    def __init__(self, seed: int, everything: bool, lr: float) -> None:
        super().__init__()
        self.everything, self.lr = everything, lr
        self.net = reader()
        self.net.load_state_dict(source(seed))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch
        p = self.net(x).softmax(1)
        entropy = -(p * (p + 1e-8).log()).sum(1).mean()
        if self.everything:
            return entropy
        mean = p.mean(0)
        return entropy + (mean * (mean + 1e-8).log()).sum()

    def configure_optimizers(self) -> Any:
        norms = [p for m in self.net if isinstance(m, nn.BatchNorm1d) for p in m.parameters()]
        return torch.optim.Adam(self.net.parameters() if self.everything else norms, lr=self.lr)


def adapting(seed: int, everything: bool, lr: float) -> Training:
    """Adapt to dimmed digits whose labels come along, unused; the score is the accuracy on others of them."""
    x, x_test = dimmed(FLAT, 214), dimmed(FLAT_TEST, 215)
    make = lambda: Adapting(seed, everything, lr).use((x, TRAIN[1]), (), 64)  # noqa: E731
    score = lambda m: (m.net(x_test).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    watched = {"PredictionCollapse": {"output": "net"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, make, score, 300, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "labels in a row, all pairs are positive", 0.6, lambda s: by_labels(s, False), *COLLAPSED, *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "contrast of cluttered digits, labels in a column", 0.75, lambda s: by_labels(s, True)),
    failing(FAMILY, "captions, the class taken for the column", 0.4, lambda s: towers(s, False), *COLLAPSED, *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "captions of which six in a batch are alike", 0.75, lambda s: towers(s, True)),
    failing(FAMILY, "masked letters, the answers masked as well", 0.2, lambda s: masked(s, False), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "masked letters of source", 0.35, lambda s: masked(s, True)),
    failing(FAMILY, "bits behind a tanh of 300 times the output", 0.6, lambda s: bits(s, 300.0, 1.0), "saturated units",
            "vanishing gradients", "no gradients", *UNLEARNED, *COLLAPSED, ONE_BATCH),
    healthy(FAMILY, "bits behind a tanh that gets sharper", 0.75, lambda s: bits(s, 1.0, 1.1)),
    failing(FAMILY, "a mean teacher without the other weight", 0.5, lambda s: mean_teacher(s, 1.0), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "a mean teacher of a hundred labels", 0.75, lambda s: mean_teacher(s, 0.02)),
    failing(FAMILY, "VICReg, the spread along the embedding", 0.6, lambda s: vicreg(s, 1), *COLLAPSED),
    healthy(FAMILY, "VICReg, the spread down the batch", 0.85, lambda s: vicreg(s, 0)),
    failing(FAMILY, "a good network made sure, all of it", 0.4, lambda s: adapting(s, True, 1e-2), *UNLEARNED, *COLLAPSED, *FAST,
            "dead units", "vanishing gradients"),
    healthy(FAMILY, "a good network made sure, its answers spread", 0.65, lambda s: adapting(s, False, 3e-3)),
]  # fmt: skip
