"""Representations: SimCLR, BYOL, VICReg, DINO, MoCo, SupCon, triplets, CLIP, hashing, sparse autoencoders.

Written as ``wide_classification.py`` is, with names in the develop half: these scenarios are for development and verify
nothing. Labels are in the batch of most of them, although they are not used.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, adamw, neighbours, plain, rmsprop

FAMILY = "wide embeddings"
TRAIN, TEST = (tuple([x.flatten(1), y]) for x, y in images(13))


def augmented(x: Tensor) -> Tensor:
    """Noise, and a third of the pixels blanked."""
    return (x + 0.3 * torch.randn_like(x)) * (torch.rand_like(x) > 0.33)


def told_apart(encode: Any) -> Any:
    """Return a score: accuracy of the nearest images by their embeddings, to which a little noise is added."""

    def score(m: Any) -> Tensor:
        train, test = (encode(m, x) for x in (TRAIN[0][:1000], TEST[0]))
        size = 0.1 * train.square().mean().sqrt()
        train, test = (z + size * torch.randn(z.shape, generator=seeded(6)) for z in (train, test))
        if not bool(train.isfinite().all()):
            return train.new_tensor(0.0)
        return neighbours(train, TRAIN[1][:1000], test, TEST[1])

    return score


def backbone(norm: Any = nn.BatchNorm1d, out: int = 64) -> nn.Sequential:
    """Make an encoder."""
    return nn.Sequential(nn.Linear(64, 128), norm(128), nn.ReLU(), nn.Linear(128, out))


def head(norm: Any = nn.BatchNorm1d, width: int = 64, out: int = 32) -> nn.Sequential:
    """Make a projector."""
    return nn.Sequential(nn.Linear(width, 64), norm(64), nn.ReLU(), nn.Linear(64, out))


class Views(Loaded):
    """Two views of each image; a subclass says what is asked of them."""

    def __init__(self, optimizer: Any, norm: Any = nn.BatchNorm1d) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.encoder, self.projector = backbone(norm), head(norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, _ = batch
        loss = self.agreement(augmented(x), augmented(x))
        self.log("train_ssl_loss", loss)
        return loss

    def agreement(self, one: Tensor, two: Tensor) -> Tensor:
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        return self.optimizer(p for p in self.parameters() if p.requires_grad)


class SimCLR(Views):
    """NT-Xent with the positives and the negatives written out; option: the negatives were computed for the log only."""

    def __init__(self, *args: Any, detached: bool = False, temperature: float = 0.3) -> None:
        super().__init__(*args)
        self.detached, self.temperature = detached, temperature

    def agreement(self, one: Tensor, two: Tensor) -> Tensor:
        z = F.normalize(torch.cat([self(one), self(two)]), dim=1)
        similar = (z @ z.T / self.temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e4)
        positive = torch.cat([similar.diagonal(len(one)), similar.diagonal(-len(one))])
        everything = similar.logsumexp(1)
        return ((everything.detach() if self.detached else everything) - positive).mean()


class BYOL(Views):
    """A predictor and a target network that follows, or the same without both."""

    def __init__(self, *args: Any, decay: float = 0.97) -> None:
        super().__init__(*args)
        self.decay, self.predictor = decay, head(width=32) if decay else nn.Identity()
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.projector)).requires_grad_(False)

    def agreement(self, one: Tensor, two: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.decay):
            goal_one, goal_two = (self.target(v) if self.decay else self(v) for v in (one, two))
        p, q = self.predictor(self(one)), self.predictor(self(two))
        return 2 - F.cosine_similarity(p, goal_two).mean() - F.cosine_similarity(q, goal_one).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        for mine, theirs in zip(
            nn.Sequential(self.encoder, self.projector).parameters(), self.target.parameters(), strict=True
        ):
            theirs.data.lerp_(mine.data, 1 - self.decay)


class VICReg(Views):
    """Invariance, covariance and, with a weight, variance."""

    def __init__(self, *args: Any, variance: float) -> None:
        super().__init__(*args)
        self.variance = variance

    def agreement(self, one: Tensor, two: Tensor) -> Tensor:
        loss = one.new_zeros(())
        a, b = self(one), self(two)
        for z in (a, b):
            spread = (z.var(0) + 1e-4).sqrt()
            cov = torch.cov(z.T)
            loss = (
                loss
                + self.variance * F.relu(1 - spread).mean()
                + (cov - cov.diagonal().diag()).square().sum() / z.shape[1]
            )
        self.log("invariance", F.mse_loss(a, b))
        return loss + 25 * F.mse_loss(a, b)


class DINO(Views):
    """Prototypes of a teacher that follows; its outputs are sharpened and, mostly, centred."""

    def __init__(self, *args: Any, centred: bool = True) -> None:
        super().__init__(*args)
        self.centred = centred
        self.prototypes = nn.Linear(32, 24, bias=False)
        self.teacher = copy.deepcopy(nn.Sequential(self.encoder, self.projector, self.prototypes)).requires_grad_(False)
        self.register_buffer("center", torch.zeros(24))

    def agreement(self, one: Tensor, two: Tensor) -> Tensor:
        with torch.no_grad():
            goals = [self.teacher(v) for v in (one, two)]
            center = self.center if self.centred else 0.0
            chances = [((g - center) / 0.05).softmax(1) for g in goals]
            self.center.lerp_(torch.cat(goals).mean(0), 0.1)
        first, second = (self.prototypes(self(v)) / 0.2 for v in (one, two))
        return -(chances[0] * second.log_softmax(1) + chances[1] * first.log_softmax(1)).sum(1).mean() / 2

    def on_train_batch_end(self, *_: Any) -> None:
        student = nn.Sequential(self.encoder, self.projector, self.prototypes)
        for mine, theirs in zip(student.parameters(), self.teacher.parameters(), strict=True):
            theirs.data.lerp_(mine.data, 0.03)


class MoCo(Views):
    """A queue of keys that is empty at first, so that the loss rises as it is filled."""

    def __init__(self, *args: Any, size: int = 1024) -> None:
        super().__init__(*args)
        self.keys = copy.deepcopy(nn.Sequential(self.encoder, self.projector)).requires_grad_(False)
        self.size = size
        self.register_buffer("queue", torch.zeros(0, 32))

    def agreement(self, one: Tensor, two: Tensor) -> Tensor:
        with torch.no_grad():
            for mine, theirs in zip(
                nn.Sequential(self.encoder, self.projector).parameters(), self.keys.parameters(), strict=True
            ):
                theirs.data.mul_(0.98).add_(mine.data, alpha=0.02)
            k = F.normalize(self.keys(two), dim=1)
        q = F.normalize(self(one), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.T], 1) / 0.2
        self.queue = torch.cat([k, self.queue])[: self.size]
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def viewed(
    seed: int,
    kind: Any,
    optimizer: Any,
    *args: Any,
    batch: int = 128,
    steps: int = 300,
    watched: Any = None,
    **more: Any,
) -> Training:
    """Train on two views."""
    encode = (lambda m, x: m(x)) if kind is not DINO else (lambda m, x: (m.prototypes(m(x)) / 0.2).softmax(1))
    score = told_apart(encode)
    return script(seed, lambda: kind(optimizer, *args, **more).use(TRAIN, batch=batch), score, steps,
                  {**DOCTOR, "RepresentationCollapse": {"layer": "projector"}, **(watched or {})})  # fmt: skip


# -- labels and pairs -------------------------------------------------------------------------------------------------


class Metric(Loaded):
    """An embedding by labels: supervised contrast, or triplets."""

    def __init__(self, loss: str, lr: float, margin: float = 0.3) -> None:
        super().__init__()
        self.loss, self.lr, self.margin = loss, lr, margin
        self.embedder = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 24))

    def contrast(self, z: Tensor, y: Tensor) -> Tensor:
        z = F.normalize(z, dim=1)
        self_pair = torch.eye(len(z), dtype=torch.bool)
        logits = (z @ z.T / 0.1).masked_fill(self_pair, -1e4)
        same = (y[:, None] == y) & ~self_pair
        return -((logits.log_softmax(1) * same).sum(1) / same.sum(1).clamp(min=1)).mean()

    def triplets(self, z: Tensor, y: Tensor) -> Tensor:
        distance = torch.cdist(z, z)
        same = y[:, None] == y
        if self.loss == "hardest":  # from a zero-distance start, the hardest negative pulls all together
            far = distance.masked_fill(~same, 0.0).amax(1)
            near = distance.masked_fill(same, 1e4).amin(1)
            return F.relu(far.square() - near.square() + self.margin).mean()
        gap = distance[:, :, None] - distance[:, None] + self.margin
        valid = same[:, :, None] & ~same[:, None] & ~torch.eye(len(z), dtype=torch.bool)[:, :, None]
        return F.relu(gap[valid]).mean()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        z = self.embedder(augmented(x))
        loss = self.contrast(z, y) if self.loss == "supcon" else self.triplets(z, y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        z = self.embedder(batch[0])
        self.log("val_loss", self.contrast(z, batch[1]) if self.loss == "supcon" else self.triplets(z, batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def measured(seed: int, loss: str, lr: float, batch: int = 48, steps: int = 300, **more: Any) -> Training:
    """Train an embedding by labels."""
    score = told_apart(lambda m, x: m.embedder(x))
    watched = {**DOCTOR, "RepresentationCollapse": {"layer": "embedder"}, "DeadUnits": {}}
    return script(
        seed, lambda: Metric(loss, lr, **more).use(TRAIN, (TEST[0][:200], TEST[1][:200]), batch), score, steps, watched
    )


def captions(x: Tensor, seed: int) -> Tensor:
    """Return a description of each image: 12 noisy numbers that depend on it."""
    g = seeded(90)
    mix = torch.randn(64, 12, generator=g) / 8
    return (x @ mix).tanh() + 0.05 * torch.randn(len(x), 12, generator=seeded(seed))


class Pairs(Loaded):
    """Two towers with a learnt temperature; batches are dictionaries; option: captions of other images."""

    def __init__(self, paired: bool) -> None:
        super().__init__()
        self.paired = paired
        self.image, self.text = (
            backbone(nn.LayerNorm, 24),
            nn.Sequential(nn.Linear(12, 64), nn.GELU(), nn.Linear(64, 24)),
        )
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        return self.logit_scale.exp() * F.normalize(self.image(image), dim=1) @ F.normalize(self.text(text), dim=1).T

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.similarities(batch["image"], batch["text"])
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.step(batch)}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.05)


def paired(seed: int, right: bool) -> Training:
    """Train two towers; the score is how often the right one of 100 captions is found."""
    texts, new = captions(TRAIN[0], 1), captions(TEST[0], 2)
    if not right:  # the captions were sorted by their file name
        texts = texts[torch.randperm(len(texts), generator=seeded(91))]

    def retrieved(m: Any) -> Tensor:
        chosen = [
            m.similarities(TEST[0][i : i + 100], new[i : i + 100]).argmax(1) == torch.arange(100) for i in (0, 100, 200)
        ]
        return torch.cat(chosen).float().mean()

    watched = {**DOCTOR, "RepresentationCollapse": {"layer": "image"}}
    make = lambda: Pairs(right).use((TRAIN[0], texts), (TEST[0], new), 64, keys=("image", "text"))  # noqa: E731
    return script(seed, make, retrieved, 350, watched)


class Hashing(Loaded):
    """24 bits by tanh, alike for the same digit; option: a penalty on what is not a bit, and nothing pushes apart."""

    def __init__(self, apart: float, bits: float) -> None:
        super().__init__()
        self.apart, self.bits = apart, bits
        self.hash = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 24), nn.Tanh())

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        codes = self.hash(x)
        inner, same = codes @ codes.T / 24, (y[:, None] == y).float()
        pairs = same * (1 - inner).square() + self.apart * (1 - same) * F.relu(inner - 0.1).square()
        return pairs.mean() + self.bits * (codes.abs() - 1).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), lr=1e-3, momentum=0.5)


def hashed(seed: int, apart: float, bits: float) -> Training:
    """Train binary codes."""
    score = told_apart(lambda m, x: m.hash(x).sign())
    watched = {**DOCTOR, "RepresentationCollapse": {"layer": "hash"}}
    return script(seed, lambda: Hashing(apart, bits).use(TRAIN, batch=80), score, 300, watched)


class Sparse(Loaded):
    """A sparse autoencoder of what a network of digits thinks: 256 features, L1."""

    def __init__(self, weight: float, lr: float) -> None:
        super().__init__()
        self.weight, self.lr = weight, lr
        self.encoder, self.relu, self.decoder = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)
        self.decoder.weight.data = F.normalize(self.decoder.weight.data, dim=0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.relu(self.encoder(x - self.decoder.bias))
        return self.decoder(features), features

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        again, features = self(batch[0])
        self.log("l0", (features > 0).float().sum(1).mean())
        return (again - batch[0]).square().sum(1).mean() + self.weight * features.sum(1).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.decoder.weight.data = F.normalize(self.decoder.weight.data, dim=0)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, betas=(0.9, 0.999))


def sparse(seed: int, weight: float, lr: float = 3e-3) -> Training:
    """Train a sparse autoencoder; the score is R squared."""
    score = lambda m: 1 - (m(TEST[0])[0] - TEST[0]).square().sum() / (TEST[0] - TEST[0].mean(0)).square().sum()  # noqa: E731
    return script(seed, lambda: Sparse(weight, lr).use(TRAIN, batch=128), score, 250, {**DOCTOR, "DeadUnits": {}})


COLLAPSED = ("complete collapse", "dimensional collapse")

SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "SimCLR, batches of 256 by SGD", 0.8, lambda s: viewed(s, SimCLR, plain(0.1, momentum=0.9), batch=256, steps=200)),
    failing(FAMILY, "SimCLR whose negatives were detached", 0.6, lambda s: viewed(
        s, SimCLR, plain(0.1, momentum=0.9), nn.LayerNorm, batch=256, steps=200, detached=True), *COLLAPSED),
    healthy(FAMILY, "BYOL, a slow target", 0.75, lambda s: viewed(s, BYOL, adamw(2e-3))),
    failing(FAMILY, "BYOL, the target is the network itself", 0.6, lambda s: viewed(s, BYOL, adamw(3e-3), nn.LayerNorm, decay=0.0), *COLLAPSED),
    healthy(FAMILY, "VICReg on digits, RMSprop", 0.75, lambda s: viewed(s, VICReg, rmsprop(1e-3), batch=192, steps=200, variance=25.0)),
    failing(FAMILY, "VICReg on digits, variance left out", 0.6, lambda s: viewed(
        s, VICReg, rmsprop(1e-3), nn.LayerNorm, batch=192, steps=200, variance=0.0), *COLLAPSED),
    healthy(FAMILY, "DINO, the centre subtracted", 0.6, lambda s: viewed(
        s, DINO, adamw(2e-3), watched={"UsageCollapse": {"assignments": "prototypes", "kind": "prototypes"}})),
    failing(FAMILY, "DINO without a centre", 0.5, lambda s: viewed(
        s, DINO, adamw(2e-3), nn.LayerNorm, watched={"UsageCollapse": {"assignments": "prototypes", "kind": "prototypes"}}, centred=False),
        "prototype collapse", *COLLAPSED),
    healthy(FAMILY, "MoCo, an empty queue is filled", 0.75, lambda s: viewed(s, MoCo, plain(0.05, momentum=0.9, weight_decay=1e-4), batch=64)),
    healthy(FAMILY, "contrast by labels, 48 images", 0.85, lambda s: measured(s, "supcon", 2e-3)),
    healthy(FAMILY, "all triplets, mostly satisfied", 0.85, lambda s: measured(s, "all", 2e-3, margin=0.5, steps=250)),
    failing(FAMILY, "hardest triplets, Adam 0.1", 0.6, lambda s: measured(s, "hardest", 0.1, margin=0.2), *COLLAPSED, *FAST, "dead units"),
    healthy(FAMILY, "images beside their captions", 0.4, lambda s: paired(s, True)),
    failing(FAMILY, "images beside captions of others", 0.1, lambda s: paired(s, False), *UNLEARNED, FOLLOW, ONE_BATCH, "overfitting", *COLLAPSED),
    healthy(FAMILY, "24 bits for each digit", 0.8, lambda s: hashed(s, 1.0, 0.01)),
    failing(FAMILY, "24 bits for a digit, nothing pushes apart", 0.5, lambda s: hashed(s, 0.0, 0.5), *COLLAPSED, "saturated units"),
    healthy(FAMILY, "256 sparse features, weight 0.3", 0.6, lambda s: sparse(s, 0.3)),
    failing(FAMILY, "256 sparse features, weight 60", 0.2, lambda s: sparse(s, 60.0), "dead units"),
]  # fmt: skip
