"""Classification of pixels and tokens, and unusual ways to train: curricula, restarts, mixup, dropout, focal loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.styles import Plain, Shared, fresh, predict, stream
from benchmarks.models.trainings import Training, adam, digits, mlp, rows, sgd, split

FAMILY = "classification"
LOST = ("prediction collapse", "inputs ignored")


# -- pixels and tokens ------------------------------------------------------------------------------------------------


def scenes(seed: int, ignored: int) -> Training:
    """Find the ink of one digit in a picture of 24 x 24 with bright specks: 96 % of the pixels are background."""
    torch.manual_seed(seed)
    (pool, _), (unseen, _) = split(digits(), seed)

    def paint(images: Tensor, generator: torch.Generator, count: int) -> Any:
        picture = 0.2 * torch.rand(count, 1, 24, 24, generator=generator)
        picture[torch.rand(picture.shape, generator=generator) < 0.05] = 1.0
        mask = torch.zeros(count, 24, 24, dtype=torch.long)
        chosen = torch.randint(len(images), (count,), generator=generator)
        corners = torch.randint(17, (count, 2), generator=generator).tolist()
        for i, (top, left) in enumerate(corners):
            digit = images[chosen[i]].reshape(8, 8)
            picture[i, 0, top : top + 8, left : left + 8] = digit
            mask[i, top : top + 8, left : left + 8] = (digit > 0.5).long()
        return picture, mask

    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    held = paint(unseen, torch.Generator().manual_seed(41), 100)

    def score(module: Any) -> float:
        said, true = predict(module, held[0]).argmax(1) == 1, held[1] == 1
        return float((said & true).sum() / (said | true).sum())

    module = Plain(net, lambda logits, y: F.cross_entropy(logits, y, ignore_index=ignored), adam(5e-3))
    draw = lambda generator, index: paint(pool, generator, 12)  # noqa: E731
    val = [paint(unseen, torch.Generator().manual_seed(42), 12)]
    return stream(seed, module, draw, score, steps=300, validation=val)


class Names(nn.Module):
    """A recurrent tagger that reads from left to right."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory = nn.Embedding(33, 24, padding_idx=32), nn.GRU(24, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(self.embed(x))[0]).transpose(1, 2)


def sentences(batch: int, shift: int = 0) -> Callable[[torch.Generator, int], Any]:
    """Sentences of 3 to 24 tokens, padded with token 32 and label -100; most tokens have label 0."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randint(32, (batch, 24), generator=generator)
        y = torch.where(x >= 20, 1 + x % 4, 0).roll(-shift, 1)
        length = torch.randint(3, 25, (batch, 1), generator=generator)
        padding = torch.arange(24) >= length
        return x.masked_fill(padding, 32), y.masked_fill(padding, -100)

    return draw


def padded(seed: int, shift: int = 0) -> Training:
    """Tag tokens; with a shift, each token has the label of the next one, which the network has not read yet."""
    torch.manual_seed(seed)
    held = fresh(sentences(200))

    def score(module: Any) -> float:
        kept = held[1] >= 0
        return t.macro_f1(predict(module, held[0]).transpose(1, 2)[kept], held[1][kept])

    module = Shared(Names(), F.cross_entropy, adam(5e-3))
    val = [s.named(sentences(64, shift))(torch.Generator().manual_seed(seed + 50), 0)]
    kinds = s.watched("predictions", "labels", units=False)
    return stream(seed, module, s.named(sentences(16, shift)), score, steps=300, detectors=kinds, validation=val)


# -- how it is trained ------------------------------------------------------------------------------------------------


def harder(batch: Any, index: int) -> Any:
    """A curriculum: the images get noisier, so the loss rises."""
    noise = torch.randn(batch[0].shape, generator=torch.Generator().manual_seed(index))
    return batch[0] + min(index / 300, 1.0) * noise, batch[1]


def focal(logits: Tensor, y: Tensor) -> Tensor:
    """Focal loss with gamma 4: the loss of what is known nearly vanishes."""
    cross_entropy = F.cross_entropy(logits, y, reduction="none")
    return ((1 - torch.exp(-cross_entropy)) ** 4 * cross_entropy).mean()


def classify(
    seed: int,
    net: Callable[[], nn.Module],
    loss: s.Loss,
    optimizer: s.Optimizer,
    batch: int = 64,
    spoil: Callable[[Any, int], Any] | None = None,
    schedule: Callable[[Any], Any] | None = None,
    data: tuple[Tensor, ...] | None = None,
    style: type[Plain] = Plain,
    score: Callable[[tuple[Tensor, ...]], s.Score] = s.accuracy,
    **more: Any,
) -> Training:
    """Train on digits, or other data; ``spoil`` changes a batch, given its index."""
    torch.manual_seed(seed)
    train, held = split(data or digits(), seed)
    draw = rows(train, batch)
    changed = draw if spoil is None else lambda generator, index: spoil(draw(generator, index), index)
    module = style(net(), loss, optimizer, schedule)
    return stream(seed, module, changed, score(held), **{"validation": [held], **more})


class Mixup(Plain):
    """Mixup and label smoothing: the training loss stays high, because no answer is right."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        share, order = float(torch.rand(())), torch.randperm(len(x))
        logits = self(share * x + (1 - share) * x[order])
        smooth = lambda target: F.cross_entropy(logits, target, label_smoothing=0.1)  # noqa: E731
        return share * smooth(y) + (1 - share) * smooth(y[order])


class HeadLater(L.LightningModule):
    """Contrastive training of an encoder on two views for 300 updates, then a linear head on what it has learned."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector, self.head = mlp([64, 128, 64]), mlp([64, 64, 32]), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).relu())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.global_step >= 300:
            return F.cross_entropy(self.head(self.encoder(x).relu().detach()), y)
        one, two = (
            F.normalize(self.projector(self.encoder(v).relu()), dim=1)
            for v in (x + 0.2 * torch.randn_like(x), x + 0.2 * torch.randn_like(x))
        )
        return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(x)))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def head_later(seed: int) -> Training:
    """The loss changes its meaning at update 300."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    kinds: dict[str, dict[str, Any]] = {
        "RepresentationCollapse": {"layer": "encoder"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return stream(seed, HeadLater(), rows(train, 96), s.accuracy(held), steps=600, detectors=kinds)


def dropped(seed: int) -> Training:
    """Dropout of 0.8, one image at a time."""
    net = lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 10))  # noqa: E731
    return classify(seed, net, F.cross_entropy, adam(5e-4), batch=1, steps=1500, every=300)


def single_logits(seed: int) -> Training:
    """Logits and targets of shape [n]."""
    net = lambda: nn.Sequential(mlp([30, 32, 1]), nn.Flatten(0))  # noqa: E731
    data = (t.cancer()[0], t.cancer()[1].float())
    return classify(seed, net, F.binary_cross_entropy_with_logits, adam(1e-3), data=data, score=s.auc)


def restarts(seed: int) -> Training:
    """The rate returns to its peak every 100 updates, and the loss with it."""
    schedule = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100)  # noqa: E731
    return classify(seed, lambda: mlp([64, 128, 128, 10]), F.cross_entropy, sgd(0.4), schedule=schedule)


class Cosine(nn.Module):
    """Class scores are cosines: they lie between -1 and 1, so the loss stays high however good the answers are."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = mlp([64, 128, 64]), nn.Parameter(torch.randn(10, 64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.body(x), dim=1), F.normalize(self.classes, dim=1))


WIDE = lambda: mlp([64, 128, 128, 10])  # noqa: E731

SCENARIOS: list[Scenario] = [
    # -- healthy
    healthy(FAMILY, "cosines as logits", 0.85, lambda seed: classify(seed, Cosine, F.cross_entropy, adam(3e-3))),
    healthy(FAMILY, "ink in a picture, 96 % background", 0.5, lambda seed: scenes(seed, -100)),
    healthy(FAMILY, "token labels with padding", 0.85, padded),
    healthy(
        FAMILY,
        "curriculum of growing noise",
        0.85,
        lambda seed: classify(seed, WIDE, F.cross_entropy, adam(1e-3), spoil=harder),
    ),
    healthy(FAMILY, "warm restarts", 0.85, restarts),
    healthy(
        FAMILY,
        "mixup and label smoothing",
        0.85,
        lambda seed: classify(seed, WIDE, F.cross_entropy, adam(1e-3), style=Mixup),
    ),
    healthy(FAMILY, "dropout 0.8, batch 1", 0.7, dropped),
    healthy(FAMILY, "focal loss, gamma 4", 0.85, lambda seed: classify(seed, WIDE, focal, adam(1e-3))),
    healthy(FAMILY, "contrastive encoder, then a head", 0.8, head_later),
    healthy(FAMILY, "single logits, breast cancer", 0.9, single_logits),
    # -- failing
    failing(FAMILY, "ink in a picture, ink is ignored", 0.5, lambda seed: scenes(seed, 1), *LOST),
    failing(
        FAMILY,
        "token labels one place early",
        0.85,
        lambda seed: padded(seed, 1),
        "labels do not follow from inputs",
        *LOST,
        "sanity:labels follow from inputs",
    ),
]
