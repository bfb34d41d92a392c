"""Classes of recordings, pixels, nodes and images: half of the trainings fail, half are healthy look-alikes.

Written from a list of families and mistakes, not from what the rules do. The names were chosen so that all of them are in
the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, conv, fitted, images, right, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut, neighbours

FAMILY = "listed classes"
RETURNED: dict[str, dict[str, Any]] = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}


def entropy(s: Script, batch: Data) -> Any:
    """Return cross entropy alone."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def plain(lr: float, momentum: float = 0.9, **more: Any) -> Any:
    """SGD of what may be trained."""
    return lambda s: torch.optim.SGD((p for p in s.parameters() if p.requires_grad), lr=lr, momentum=momentum, **more)


# -- recordings -------------------------------------------------------------------------------------------------------


def recordings(count: int, seed: int, kinds: int = 4) -> tuple[Data, Data]:
    """Tones of 96 samples that rise or fall at ``kinds`` speeds, any phase, in noise: ``[n, 1, 96]``."""
    g = seeded(seed)
    y, time = torch.randint(kinds, (count,), generator=g), torch.linspace(0, 1, 96)
    speed = (y - (kinds - 1) / 2)[:, None] * 60 / kinds
    phase = 6.3 * torch.rand(count, 1, generator=g)
    x = torch.sin(phase + 40 * time + speed * time**2) + 0.4 * torch.randn(count, 96, generator=g)
    return cut((x.unsqueeze(1), y), count - 500)


def listener(kinds: int = 4, width: int = 16, last: nn.Module | None = None) -> nn.Sequential:
    """Strided convolutions over time and a mean."""
    return nn.Sequential(
        nn.Conv1d(1, width, 9, 2, 4), nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, 2 * width, 7, 2, 3), nn.BatchNorm1d(2 * width),
        nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(8 * width, kinds), last or nn.Identity(),
    )  # fmt: skip


def over_the_batch(s: Script, batch: Data) -> dict[str, Tensor]:
    """``dim=0`` of an example for one sample that was kept for batches."""
    logits = s.model(batch[0])
    return {"loss": F.nll_loss(F.log_softmax(logits, dim=0), batch[1]), "logits": logits, "labels": batch[1]}


def windows(s: Script, batch: Data) -> dict[str, Tensor]:
    """Three windows of each recording go through the net, their labels in turn."""
    x, y = batch
    starts = torch.randint(96 - 64, (3,)).tolist()
    logits = s.model(torch.stack([x[..., k : k + 64] for k in starts], 1).flatten(0, 1))
    labels = y.repeat(3)
    s.log("acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
    return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}


def in_parts(s: Script, batch: Data) -> Any:
    """Sum over the batch, in a rate that was chosen for a mean."""
    return F.cross_entropy(s.model(batch[0]), batch[1], reduction="sum")


def listening(seed: int, loss: Any = entropy, net: Any = None, *, kinds: int = 4, **more: Any) -> Training:
    """Train on recordings; the score is the accuracy."""
    train, test = recordings(2500, 401, kinds)
    if more.pop("sorted", False):
        train = tuple(d[train[1].argsort(stable=True)] for d in train)
        more["shuffle"] = False
    watched = RETURNED if loss in (over_the_batch, windows) else CLASSES
    net = net or (lambda: listener(kinds))
    return fitted(seed, net, loss, right(test), (train, test), **{"detectors": watched, **more})


# -- pixels -----------------------------------------------------------------------------------------------------------


def lesions(count: int, seed: int) -> Data:
    """A bright or a dark spot on 16x16 pixels of noise: 96 % of the pixels are background."""
    g = seeded(seed)
    place, kind = 2 + 11 * torch.rand(count, 2, 1, 1, generator=g), torch.randint(2, (count, 1, 1), generator=g)
    grid = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")).float()
    inside = (grid - place).square().sum(1) < 3.3
    x = 0.5 * torch.randn(count, 16, 16, generator=g) + inside * (2.4 * kind - 1.2)
    return x.unsqueeze(1), inside * (1 + kind)


class Segmenter(Loaded):
    """Three classes for each pixel; they are brought last by a permute, or by a view."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        maps, masks = self(batch[0]), batch[1].reshape(-1)
        logits = maps.view(-1, 3) if self.viewed else maps.permute(0, 2, 3, 1).reshape(-1, 3)
        hit = logits.softmax(1)[torch.arange(len(masks)), masks]
        overlap = 1 - 2 * hit[masks > 0].sum() / (len(masks) - logits.softmax(1)[:, 0].sum() + (masks > 0).sum())
        self.log("dice", overlap, prog_bar=True)
        return {"loss": F.cross_entropy(logits, masks) + overlap, "logits": logits, "labels": masks}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def segmenting(seed: int, viewed: bool) -> Training:
    """Train on spots; the score is the share of their pixels in the union of those found and those there, class by class."""
    test = lesions(100, 409)

    def score(m: Any) -> Tensor:
        found = m(test[0]).argmax(1)
        both = [((found == k) & (test[1] == k)).sum() / ((found == k) | (test[1] == k)).sum() for k in (1, 2)]
        return torch.stack(both).mean()

    return script(seed, lambda: Segmenter(viewed).use(lesions(600, 408), (), 16), score, 250, RETURNED)


# -- nodes ------------------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Layers over a graph; each keeps a part of the first features and of what it got, or nothing of them."""

    def __init__(self, links: Tensor, depth: int, kept: float) -> None:
        super().__init__()
        self.kept, self.first, self.last = kept, nn.Linear(16, 32), nn.Linear(32, 4)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.register_buffer("links", links)

    def forward(self, x: Tensor) -> Tensor:
        h = start = F.relu(self.first(x))
        for layer in self.layers:
            h = (1 - self.kept) * self.links @ h + self.kept * start
            h = F.relu(0.8 * h + 0.2 * layer(h)) if self.kept else F.relu(layer(h))
        return self.last(h)


def communities(seed: int, depth: int, kept: float, lr: float = 1e-2) -> Training:
    """A full batch of 400 nodes of 4 communities, 80 with labels; the score is the accuracy of the others."""
    g = seeded(410)
    y = torch.arange(400) % 4
    chance = torch.where(y[:, None] == y, 0.06, 0.008)
    edges = (torch.rand(400, 400, generator=g) < chance).triu(1).float()
    edges = edges + edges.T + torch.eye(400)
    scale = edges.sum(1).rsqrt()
    links = scale[:, None] * edges * scale
    x = F.one_hot(y, 4).float().repeat(1, 4) + 1.5 * torch.randn(400, 16, generator=g)
    known = torch.randperm(400, generator=g)[:80]

    def loss(s: Script, batch: Data) -> Any:
        features, labels, mask = (d[0] for d in batch)
        return F.cross_entropy(s.model(features)[mask], labels[mask])

    mask = torch.zeros(400, dtype=torch.bool).index_fill(0, known, True)
    score = lambda s: (s.model(x).argmax(1) == y)[~mask].float().mean()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "RepresentationCollapse": {"layer": f"model.layers.{depth - 1}"},
        "TrainingDoctor": {},
    }
    whole = (x[None], y[None], mask[None])
    optimizer = lambda s: torch.optim.Adam(s.parameters(), lr=lr, weight_decay=5e-4)  # noqa: E731
    model = lambda: Deep(links, depth, kept)  # noqa: E731
    return fitted(seed, model, loss, score, (whole, ()), optimizer, batch=1, steps=200, detectors=watched)


# -- images -----------------------------------------------------------------------------------------------------------


def hard_labels(seed: int) -> Training:
    """Two labels in five are wrong, labels smoothed, cosine to zero, SGD with Nesterov's momentum."""
    (x, y), test = images(411)
    g = seeded(412)
    wrong = torch.where(torch.rand(len(y), generator=g) < 0.4, torch.randint(10, y.shape, generator=g), y)

    def loss(s: Script, batch: Data) -> Any:
        return F.cross_entropy(s.model(batch[0]), batch[1], label_smoothing=0.2)

    def optimizer(s: Script) -> Any:
        sgd = torch.optim.SGD(s.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return [sgd], [{"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 300), "interval": "step"}]

    return fitted(seed, conv, loss, right(test), ((x, wrong), test), optimizer, batch=64, detectors=CLASSES)


def tuned_further(seed: int) -> Training:
    """A network that knows its digits goes on with batches of four."""
    train, test = images(413)

    def model() -> nn.Module:
        net = conv(width=8, norm=False)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for k in range(200):
            rows = torch.arange(64 * k, 64 * k + 64) % 1400
            optimizer.zero_grad()
            F.cross_entropy(net(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
        return net

    return fitted(seed, model, entropy, right(test), (train, test), plain(2e-3), batch=4, detectors=CLASSES)


def in_sessions(seed: int, replay: bool) -> Training:
    """Five digits, then the five others; the second session sees the first five again, or does not."""
    (x, y), test = images(414)
    old, new = (y < 5).nonzero().squeeze(1), (y >= 5).nonzero().squeeze(1)
    g = seeded(415)
    draw = lambda pool: pool[torch.randint(len(pool), (32 * 150,), generator=g)]  # noqa: E731
    order = torch.cat([draw(old), draw(torch.cat([old, new]) if replay else new)])
    data = ((x.flatten(1)[order], y[order]), ())
    net = lambda: t.mlp([64, 64, 10])  # noqa: E731
    scored = right((test[0].flatten(1), test[1]))
    return fitted(seed, net, entropy, scored, data, rate=2e-3, shuffle=False, steps=300, detectors=CLASSES)


class Dropped(nn.Sequential):
    """Dropout of 0.8 before the last layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(13, 128), nn.ReLU(), nn.Dropout(0.8), nn.Linear(128, 3))


def single(seed: int) -> Training:
    """Wines one at a time behind a dropout of 0.8."""
    train, test = t.split(t.wine(), 416, 0.7)
    return fitted(
        seed, Dropped, entropy, right(test), (train, test), plain(5e-3, 0.0), batch=1, steps=400, detectors=CLASSES
    )


def hashed(seed: int, kept: bool) -> Training:
    """Sixteen bits for an image, alike for images of a class; others are pushed apart, or nothing is."""

    train, test = images(445)

    def loss(s: Script, batch: Data) -> Any:
        h = torch.tanh(s.model(batch[0]))
        alike = (batch[1][:, None] == batch[1]).float()
        inner = h @ h.T / 2
        pull = (F.softplus(inner) - alike * inner).mean() if kept else ((h[:, None] - h).square().sum(2) * alike).mean()
        return pull + 0.1 * (h.abs() - 1).square().mean()

    def score(s: Any) -> Tensor:
        known, asked = s.model(train[0].flatten(1)).sign(), s.model(test[0].flatten(1)).sign()
        return neighbours(known + 1e-4, train[1], asked + 1e-4, test[1])

    watched = {"RepresentationCollapse": {"layer": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return fitted(
        seed,
        lambda: t.mlp([64, 96, 16]),
        loss,
        score,
        ((train[0].flatten(1), train[1]), ()),
        rate=1e-3,
        batch=64,
        detectors=watched,
    )


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "forty tones, a softmax before the loss", 0.4, lambda s: listening(s, net=lambda: listener(40, 8, nn.Softmax(1)), kinds=40,
            optimizer=plain(0.02), steps=250), *UNLEARNED, "vanishing gradients", ONE_BATCH, SHAPES),
    failing(FAMILY, "lone tones, log_softmax(dim=0)", 0.5, lambda s: listening(s, over_the_batch, batch=1), "no gradients",
            "vanishing gradients", "weights do not change", *UNLEARNED, SHAPES, FOLLOW, ONE_BATCH),
    failing(FAMILY, "three windows of a tone, labels in turn", 0.8, lambda s: listening(s, windows), *UNLEARNED, FOLLOW, ONE_BATCH),
    failing(FAMILY, "rising tones, the loss summed over 64", 0.7, lambda s: listening(s, in_parts, optimizer=plain(0.3), batch=64), *FAST, *UNLEARNED,
            "dead units"),
    failing(FAMILY, "tones sorted by folder", 0.6, lambda s: listening(s, sorted=True, optimizer=plain(0.05)),
            "sanity:data are shuffled", *UNLEARNED, "loss spikes", "divergence", "overfitting"),
    healthy(FAMILY, "rising tones, RMSprop", 0.85, lambda s: listening(s, optimizer=lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3))),
    failing(FAMILY, "spots of two kinds, maps viewed as rows", 0.3, lambda s: segmenting(s, True), *UNLEARNED, FOLLOW, SHAPES, ONE_BATCH),
    healthy(FAMILY, "two kinds of spots, 96 % background", 0.4, lambda s: segmenting(s, False)),
    failing(FAMILY, "communities through 24 plain layers", 0.6, lambda s: communities(s, 24, 0.0), "oversmoothing", "complete collapse",
            "dimensional collapse", "vanishing gradients", "dead units", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "24 layers over communities, a fifth is kept", 0.7, lambda s: communities(s, 24, 0.2)),
    healthy(FAMILY, "communities, two layers, a full batch", 0.7, lambda s: communities(s, 2, 0.0)),
    healthy(FAMILY, "smoothed labels, two digits in five mislabelled", 0.85, hard_labels),
    healthy(FAMILY, "digits known already, batches of four", 0.9, tuned_further),
    failing(FAMILY, "sessions of five digits, no replay", 0.65, lambda s: in_sessions(s, False), "loss spikes", "divergence", *UNLEARNED,
            "overfitting", "sanity:data are shuffled", onset=0.5),
    healthy(FAMILY, "five digits, then all ten", 0.8, lambda s: in_sessions(s, True)),
    healthy(FAMILY, "wine after wine, four units of five dropped", 0.9, single),
    failing(FAMILY, "sixteen bits, only pulled together", 0.4, lambda s: hashed(s, False), "complete collapse", "dimensional collapse", *UNLEARNED),
    healthy(FAMILY, "sixteen bits for each digit", 0.8, lambda s: hashed(s, True)),
]  # fmt: skip
