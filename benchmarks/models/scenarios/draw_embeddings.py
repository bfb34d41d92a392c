"""Embeddings, graphs, experts, sparse codes, hashes, students: failures that are seldom combined, and healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, neighbours

FAMILY = "drawn embeddings"
TRAIN, TEST = images(101)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)


# -- two halves of an image that belong together ----------------------------------------------------------------------


class Halves(Loaded):
    """CLIP of the left and the right halves of digits; the label of the batch plays no part."""

    def __init__(self, locked: bool) -> None:
        super().__init__()
        self.left, self.right = t.mlp([32, 96, 32]), t.mlp([32, 96, 32])
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.left.requires_grad_(not locked)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        left, right, _ = batch
        a, b = F.normalize(self.left(left), dim=1), F.normalize(self.right(right), dim=1)
        logits = self.log_scale.exp() * a @ b.T
        each = torch.arange(len(a))
        return {"loss": (F.cross_entropy(logits, each) + F.cross_entropy(logits.T, each)) / 2}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx)["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=2e-3)


def halves_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left and the right halves of images."""
    return x[..., :4].flatten(1), x[..., 4:].flatten(1)


def together(seed: int, locked: bool = False, sorted_captions: bool = False) -> Training:
    """Train on halves; the score is the share of right halves among the five nearest of a hundred."""
    left, right = halves_of(TRAIN[0])
    if sorted_captions:
        right = right[right.sum(1).argsort()]
    test = (*halves_of(TEST[0]), TEST[1])

    def score(m: Any) -> Tensor:
        a, b = F.normalize(m.left(test[0][:100]), dim=1), F.normalize(m.right(test[1][:100]), dim=1)
        return ((a @ b.T).topk(5, 1).indices == torch.arange(100)[:, None]).any(1).float().mean()

    watched: dict[str, dict[str, Any]] = {
        "RepresentationCollapse": {"layer": "right"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Halves(locked).use((left, right, TRAIN[1]), test, 64), score, 350, watched)


# -- views, classes and triplets --------------------------------------------------------------------------------------


class Embedder(Loaded):
    """An embedding of digits with a loss by name; all of them get two noisy views and the labels."""

    def __init__(self, kind: str, lr: float) -> None:
        super().__init__()
        self.kind, self.lr = kind, lr
        self.embed = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 24))

    def loss(self, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        """Return the loss of two views."""
        if self.kind in ("vicreg", "vicreg flipped"):
            sign = -1.0 if self.kind == "vicreg flipped" else 1.0
            spread = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (a, b))
            centred = [z - z.mean(0) for z in (a, b)]
            crossed = [z.T @ z / (len(z) - 1) for z in centred]
            apart = sum((c.square().sum() - c.diagonal().square().sum()) / 24 for c in crossed)
            return 25 * F.mse_loss(a, b) + sign * 25 * spread + apart
        if self.kind == "classes":
            z, labels = F.normalize(torch.cat([a, b]), dim=1), torch.cat([y, y])
            similar = z @ z.T / 0.1 - 1e9 * torch.eye(len(z))
            same = (labels[:, None] == labels) & ~torch.eye(len(z), dtype=torch.bool)
            return -(similar.log_softmax(1) * same).sum(1).div(same.sum(1)).mean()
        far = (torch.cdist(a, b) + 1e6 * (y[:, None] == y)).argmin(1)  # the nearest of another class
        other = b[far]
        return (
            F.triplet_margin_loss(a, other, b)
            if self.kind == "triplets exchanged"
            else F.triplet_margin_loss(a, b, other)
        )

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        a, b = (self.embed(x + 0.3 * torch.randn_like(x)) for _ in range(2))
        loss = self.loss(a, b, y)
        self.log(self.kind.split()[0], loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def embedded(seed: int, kind: str, lr: float = 2e-3, steps: int = 300) -> Training:
    """Train an embedding; the score is the accuracy of its neighbours in bfloat16, with a little noise."""

    def score(m: Any) -> Tensor:
        a, b = m.embed(FLAT), m.embed(FLAT_TEST)
        a, b = ((z + 0.05 * torch.randn(z.shape, generator=seeded(102))).bfloat16().float() for z in (a, b))
        return neighbours(a, TRAIN[1], b, TEST[1])

    watched: dict[str, dict[str, Any]] = {
        "RepresentationCollapse": {"layer": "embed"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Embedder(kind, lr).use((FLAT, TRAIN[1]), (), 64), score, steps, watched)


# -- graphs -----------------------------------------------------------------------------------------------------------


def graph_of_digits(count: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of digits, the normalised adjacency of their six nearest neighbours, and labels."""
    x, y = FLAT[:count], TRAIN[1][:count]
    near = torch.cdist(x, x).topk(7, largest=False).indices
    joined = torch.zeros(count, count).scatter_(1, near, 1.0)
    joined = ((joined + joined.T) > 0).float()
    root = joined.sum(1).rsqrt()
    return x, root[:, None] * joined * root, y


ROWS, NEAR, SUBJECTS = graph_of_digits()


class Graph(L.LightningModule):
    """Graph convolutions over all nodes at once; option: each layer keeps a part of the first one."""

    def __init__(self, depth: int, keep: float, lr: float, steps: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.keep, self.lr, self.steps = keep, lr, steps
        self.register_buffer("adjacency", NEAR)

    def forward(self, x: Tensor) -> Tensor:
        first = h = F.relu(self.enter(x))
        for i, layer in enumerate(self.layers):
            h = self.adjacency @ h
            if self.keep:
                h = (1 - self.keep) * h + self.keep * first
                h = F.relu(h + (layer(h) - h) * 0.5 / (i + 1))
            else:
                h = F.relu(layer(h))
        return self.head(h)

    def train_dataloader(self) -> Any:
        known = torch.arange(400) < 120
        return DataLoader([(ROWS, SUBJECTS, known)] * self.steps, batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y, known = batch
        logits = self(x)[known]
        return {"loss": F.cross_entropy(logits, y[known]), "logits": logits, "labels": y[known]}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=5e-4)


def on_graph(seed: int, depth: int, keep: float, steps: int) -> Training:
    """Train on 120 nodes; the score is the accuracy of the others."""
    layers = [f"layers.{i}" for i in sorted({0, depth // 2, depth - 1})]
    watched = {
        "RepresentationCollapse": {"layer": layers},
        "PredictionCollapse": {"output": "logits", "target": "labels"},
        "TrainingDoctor": {},
    }
    score = lambda m: (m(ROWS)[120:].argmax(1) == SUBJECTS[120:]).float().mean()  # noqa: E731
    return script(seed, lambda: Graph(depth, keep, 1e-2, steps), score, steps, watched)


# -- experts ----------------------------------------------------------------------------------------------------------


def regimes(count: int, seed: int, rare: float) -> Data:
    """Rows of four regimes with a linear law each; the last regime has this share."""
    g = seeded(seed)
    laws = torch.randn(4, 6, generator=seeded(103))
    centres = 3 * torch.eye(4, 6)
    shares = torch.tensor([(1 - rare) / 3] * 3 + [rare])
    which = torch.multinomial(shares, count, replacement=True, generator=g)
    x = centres[which] + torch.randn(count, 6, generator=g)
    return x, (x * laws[which]).sum(1) / 2


class Experts(Loaded):
    """Linear experts of which one is chosen; the router starts at zero, and gets a gradient through its gate or none."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.router, self.experts, self.gated = nn.Linear(6, 4), nn.ModuleList(nn.Linear(6, 1) for _ in range(4)), gated
        if not gated:
            nn.init.zeros_(self.router.weight)
            nn.init.zeros_(self.router.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.router(x).softmax(1)
        out = torch.cat([e(x) for e in self.experts], 1)
        if self.gated:
            return (p * out).sum(1), p
        return out.gather(1, p.argmax(1, keepdim=True)).squeeze(1), p

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        guess, p = self(batch[0])
        return {"loss": F.mse_loss(guess, batch[1]), "prediction": guess}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch[0])[0], batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-2)


def expert(seed: int, gated: bool, rare: float) -> Training:
    """Train experts; the score is R squared, on rows of which each regime has a quarter."""
    train, test = regimes(3000, 104, rare), regimes(1500, 105, 0.25)
    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "router", "kind": "router"}, "PredictionCollapse": {"output": "prediction"}, "TrainingDoctor": {},
    }  # fmt: skip
    score = lambda m: 1 - (m(test[0])[0] - test[1]).square().mean() / test[1].var()  # noqa: E731
    return script(seed, lambda: Experts(gated).use(train, test, 64), score, 400, watched)


# -- sparse codes and hashes ------------------------------------------------------------------------------------------


class Sparse(Loaded):
    """A sparse autoencoder of 256 units with an L1 penalty."""

    def __init__(self, penalty: float, summed: bool) -> None:
        super().__init__()
        self.penalty, self.summed = penalty, summed
        self.encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU())
        self.decoder = nn.Linear(256, 64)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        (x,) = batch
        code = self.encoder(x)
        out = self.decoder(code)
        sparsity = code.abs().sum() if self.summed else code.abs().sum(1).mean()
        return {"loss": F.mse_loss(out, x) + self.penalty * sparsity, "prediction": out, "x": x}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def sparse(seed: int, penalty: float, summed: bool) -> Training:
    """Train a sparse autoencoder; the score is how much of new images is restored."""
    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    centred = FLAT_TEST - FLAT_TEST.mean(0)
    score = lambda m: 1 - (m.decoder(m.encoder(FLAT_TEST)) - FLAT_TEST).square().mean() / centred.square().mean()  # noqa: E731
    return script(seed, lambda: Sparse(penalty, summed).use((FLAT,), (), 64), score, 400, watched)


class Hashing(Loaded):
    """Six bits for an image, and a linear classifier of them; through the sign passes a gradient, or none."""

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.hash, self.classify = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 6)), nn.Linear(6, 10)
        self.through = through

    def bits(self, x: Tensor) -> Tensor:
        """Return bits as -1 and 1."""
        h = self.hash(x).tanh()
        return h + (h.sign() - h).detach() if self.through else h.sign()

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self.classify(self.bits(batch[0]))
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx)["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def hashed(seed: int, through: bool) -> Training:
    """Train bits; the score is the accuracy of the neighbours by bits."""
    score = lambda m: neighbours(m.bits(FLAT), TRAIN[1], m.bits(FLAT_TEST), TEST[1], 15)  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "logits"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Hashing(through).use((FLAT, TRAIN[1]), (FLAT_TEST, TEST[1]), 64), score, 350, watched)


# -- students ---------------------------------------------------------------------------------------------------------


class Student(Loaded):
    """Learns from the cached answers of a teacher, at a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
        self.divergence = nn.KLDivLoss(reduction="batchmean")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        out = (self.net(batch["image"]) / self.temperature).log_softmax(1)
        loss = self.divergence(out, (batch["teacher"] / self.temperature).softmax(1)) * self.temperature**2
        self.log("distillation", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def taught(seed: int, temperature: float, another_order: bool) -> Training:
    """Train a student; the score is its accuracy."""
    means = torch.stack([FLAT[TRAIN[1] == k].mean(0) for k in range(10)])
    answers = -torch.cdist(FLAT, means).square() / 4
    if another_order:
        answers = answers[torch.randperm(len(answers), generator=seeded(106))]
    make = lambda: Student(temperature).use((FLAT, answers, TRAIN[1]), (), 32, keys=("image", "teacher", "label"))  # noqa: E731
    score = lambda m: (m.net(FLAT_TEST).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "net", "target": "label"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, make, score, 350, watched)


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "halves of digits find each other", 0.35, lambda s: together(s)),
    failing(FAMILY, "halves of digits, the right ones sorted by ink", 0.2, lambda s: together(s, sorted_captions=True), *UNLEARNED, FOLLOW, ONE_BATCH,
            "complete collapse", "dimensional collapse", "overfitting"),
    healthy(FAMILY, "halves of digits, the left tower locked", 0.3, lambda s: together(s, locked=True)),
    failing(FAMILY, "VICReg, one of three signs flipped", 0.6, lambda s: embedded(s, "vicreg flipped"), "complete collapse", "dimensional collapse"),
    healthy(FAMILY, "ten classes that become ten points", 0.8, lambda s: embedded(s, "classes", 5e-3)),
    healthy(FAMILY, "triplets until none is left", 0.85, lambda s: embedded(s, "triplets", 5e-3)),
    failing(FAMILY, "triplets, positive and negative exchanged", 0.6, lambda s: embedded(s, "triplets exchanged"), "complete collapse",
            "dimensional collapse", *UNLEARNED, *FAST, ONE_BATCH, "sanity:labels follow from inputs"),
    failing(FAMILY, "a graph of digits through 24 plain layers", 0.5, lambda s: on_graph(s, 24, 0.0, 90), "oversmoothing", "complete collapse",
            "dimensional collapse", "vanishing gradients", "no gradients", "dead units", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "a graph of digits through 24 layers that keep the first", 0.75, lambda s: on_graph(s, 24, 0.3, 90)),
    healthy(FAMILY, "a graph of digits, two layers, all at once", 0.75, lambda s: on_graph(s, 2, 0.0, 200)),
    failing(FAMILY, "a router of zeros that gets no gradient", 0.63, lambda s: expert(s, False, 0.25), "router collapse", "no gradients",
            "weights do not change", "sanity:all parameters learn"),
    healthy(FAMILY, "experts, one of which is rarely needed", 0.63, lambda s: expert(s, True, 0.02)),
    failing(FAMILY, "sparse codes, the penalty summed over the batch", 0.2, lambda s: sparse(s, 0.01, True), "dead units", *UNLEARNED, "sanity:units are alive",
            "inputs ignored", ONE_BATCH),
    healthy(FAMILY, "sparse codes, most of the units silent", 0.5, lambda s: sparse(s, 0.004, False)),
    failing(FAMILY, "six bits through a sign, no gradient", 0.7, lambda s: hashed(s, False), "no gradients", "weights do not change",
            "sanity:all parameters learn", "vanishing gradients", *UNLEARNED),
    healthy(FAMILY, "six bits through a straight gradient", 0.75, lambda s: hashed(s, True)),
    failing(FAMILY, "a student of answers in another order", 0.5, lambda s: taught(s, 2.0, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "a student at a temperature of 20", 0.8, lambda s: taught(s, 20.0, False)),
]  # fmt: skip
