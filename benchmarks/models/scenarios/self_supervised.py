"""Self-supervision on digits without labels: contrastive, distilled, decorrelated and clustered representations.

The score is the accuracy of five nearest neighbours in an 8-bit index: the training images are stored as they are, the
queries are noisy views of images held back. Untrained networks reach about 0.4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Training, digits, mlp, split

FAMILY = "self-supervised"
COLLAPSED = ("complete collapse", "dimensional collapse")
USEFUL = 0.67


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """One view: dropout of 0.3 on the pixels, and noise on the others."""
    kept = torch.rand(x.shape, generator=generator) > 0.3
    return (x + 0.2 * torch.randn(x.shape, generator=generator)) * kept / 0.7


def retrieval(embed: Callable[[Any], Callable[[Tensor], Tensor]], seed: int) -> Callable[[Any], float]:
    """Return the score: accuracy of the five nearest neighbours of noisy queries in an index of 8-bit vectors."""
    (stored, names), (held, labels) = split(digits(), seed)
    queries = augment(held, torch.Generator().manual_seed(4242))

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        function = embed(module)
        index, asked = ((127 * F.normalize(function(x), dim=1)).round() for x in (stored, queries))
        nearest = (asked @ index.T).topk(5, dim=1).indices
        return float((names[nearest].mode(dim=1).values == labels).float().mean())

    return score


def pairs(seed: int, steps: int, batch: int = 64, form: str = "lightly", first: bool = False) -> Batches:
    """Two views and the labels, which nobody uses; with ``first``, the second view is always of the first image."""
    (x, y), _ = split(digits(), seed)

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.randint(len(x), (batch,), generator=generator)
        other = x[chosen][0].expand(batch, -1) if first else x[chosen]
        one, two = augment(x[chosen], generator), augment(other, generator)
        if form == "dict":
            return {"view_1": one, "view_2": two, "label": y[chosen]}
        return ((one, two), y[chosen]) if form == "lightly" else (one, two)

    return Batches(steps, draw, seed)


def embedding(layer: str) -> dict[str, dict[str, Any]]:
    """Return what watches a representation."""
    return {"RepresentationCollapse": {"layer": layer}, "DeadUnits": {}, "TrainingDoctor": {}}


class SimCLR(L.LightningModule):
    """NT-Xent. Reference: Chen et al., 2020, arXiv:2002.05709."""

    def __init__(self, temperature: float = 0.2, lr: float = 2e-3) -> None:
        super().__init__()
        self.backbone = mlp([64, 128, 64], norm=True)
        self.projection_head = mlp([64, 64, 32])
        self.temperature, self.lr = temperature, lr

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z1, z2]), dim=1)
        similarity = (z @ z.T / self.temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(z1)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x1, x2), _ = batch
        loss = self.loss(self(x1), self(x2))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (x1, x2), _ = batch
        self.log("val_loss", self.loss(self(x1), self(x2)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def simclr(seed: int, steps: int = 350, first: bool = False, validate: bool = False, **arguments: Any) -> Training:
    """Train SimCLR."""
    torch.manual_seed(seed)
    data = pairs(seed, steps, first=first)
    held = [pairs(seed + 50, 1, 128)[0]] if validate else ()
    return Training(
        SimCLR(**arguments), data, steps, embedding("projection_head"), held, score=retrieval(lambda m: m, seed)
    )


class BYOL(L.LightningModule):
    """A predictor follows a slow copy. Reference: Grill et al., 2020, arXiv:2006.07733.

    Args:
        slow: whether the target is a moving average with a predictor before it; else the online network itself.
    """

    def __init__(self, slow: bool = True, momentum: float = 0.98) -> None:
        super().__init__()
        self.online = nn.Sequential(mlp([64, 128, 64], norm=True), mlp([64, 64, 32], norm=True))
        self.target = copy.deepcopy(self.online).requires_grad_(False) if slow else self.online
        self.predictor = mlp([32, 64, 32], norm=True) if slow else nn.Identity()
        self.slow, self.momentum = slow, momentum

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x1, x2 = batch["view_1"], batch["view_2"]
        p1, p2 = self.predictor(self.online(x1)), self.predictor(self.online(x2))
        z1, z2 = self.target(x1), self.target(x2)
        loss = 2 - F.cosine_similarity(p1, z2).mean() - F.cosine_similarity(p2, z1).mean()
        self.log("loss/train", loss, prog_bar=False)
        return loss

    @torch.no_grad()
    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self.slow:
            for mine, slow in zip(self.online.parameters(), self.target.parameters(), strict=True):
                slow.lerp_(mine, 1 - self.momentum)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=2e-3, weight_decay=1e-3)


def byol(seed: int, steps: int = 450, **arguments: Any) -> Training:
    """Train BYOL on batches that are dicts."""
    torch.manual_seed(seed)
    data = pairs(seed, steps, form="dict")
    return Training(BYOL(**arguments), data, steps, embedding("online"), score=retrieval(lambda m: m.online, seed))


class VICReg(L.LightningModule):
    """Three terms with a weight each. Reference: Bardes et al., 2021, arXiv:2105.04906."""

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.encoder = mlp([64, 128, 64], norm=True)
        self.expander = nn.Sequential(nn.ReLU(), nn.Linear(64, 64))
        self.weights = (invariance, variance, covariance)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        z1, z2 = (self.expander(self.encoder(x)) for x in batch)
        terms = torch.stack([F.mse_loss(z1, z2), z1.new_zeros(()), z1.new_zeros(())])
        for z in (z1, z2):
            z = z - z.mean(dim=0)
            covariance = z.T @ z / (len(z) - 1)
            off = covariance.square().sum() - covariance.diagonal().square().sum()
            hinge = F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()
            terms = terms + torch.stack([z.new_zeros(()), hinge / 2, off / z.shape[1]])
        self.log_dict({"invariance": terms[0], "variance": terms[1], "covariance": terms[2]})
        return {"loss": (terms * torch.tensor(self.weights)).sum()}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def vicreg(seed: int, steps: int = 400, **weights: float) -> Training:
    """Train VICReg on batches of two views."""
    torch.manual_seed(seed)
    data = pairs(seed, steps, batch=128, form="views")
    score = retrieval(lambda m: lambda x: m.expander(m.encoder(x)), seed)
    return Training(VICReg(**weights), data, steps, embedding("expander"), score=score)


class DINO(L.LightningModule):
    """A teacher without labels. Reference: Caron et al., 2021, arXiv:2104.14294.

    Args:
        centring: momentum of the centre that is taken off the teacher's logits; None for no centre.
    """

    def __init__(self, prototypes: int = 32, centring: float | None = 0.9) -> None:
        super().__init__()
        self.student = nn.Sequential(mlp([64, 128, 64], norm=True), mlp([64, 64, prototypes]))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.assignments = nn.Softmax(dim=-1)
        self.centring = centring
        self.register_buffer("center", torch.zeros(prototypes))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x1, x2), _ = batch
        with torch.no_grad():
            logits = self.teacher(torch.cat([x2, x1]))
            targets = self.assignments((logits - self.center) / 0.04)
        loss = -(targets * F.log_softmax(self.student(torch.cat([x1, x2])) / 0.1, dim=-1)).sum(dim=-1).mean()
        if self.centring is not None:
            self.center.lerp_(logits.mean(dim=0), 1 - self.centring)
        self.log("train/loss", loss)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mine, slow in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            slow.data.mul_(0.98).add_(mine.data, alpha=0.02)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.student.parameters(), lr=2e-3)


PROTOTYPES = {"kind": "prototypes"}


def dino(seed: int, steps: int = 400, **arguments: Any) -> Training:
    """Train DINO."""
    torch.manual_seed(seed)
    watched = {**embedding("student"), "UsageCollapse": {"assignments": "assignments", **PROTOTYPES}}
    score = retrieval(lambda m: lambda x: m.assignments((m.student(x) - m.center) / 0.1), seed)
    return Training(DINO(**arguments), pairs(seed, steps), steps, watched, score=score)


@torch.no_grad()
def sinkhorn(scores: Tensor, rounds: int = 3, epsilon: float = 0.05) -> Tensor:
    """Assign each prototype equally often."""
    q = torch.exp((scores - scores.max()) / epsilon)
    for _ in range(rounds):
        q = q / q.sum(dim=0, keepdim=True)
        q = q / q.sum(dim=1, keepdim=True)
    return q


class SwAV(L.LightningModule):
    """Swapped assignments to prototypes. Reference: Caron et al., 2020, arXiv:2006.09882.

    Args:
        equal: whether targets use all prototypes equally; else they are the other view's own softmax.
    """

    def __init__(self, equal: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(mlp([64, 128, 64], norm=True), nn.ReLU(), nn.Linear(64, 32))
        self.prototypes = nn.Linear(32, 24, bias=False)
        self.equal = equal

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        (x1, x2), labels = batch
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        scores = self.prototypes(F.normalize(self.encoder(torch.cat([x1, x2])), dim=1))
        s1, s2 = scores.chunk(2)
        q1, q2 = (sinkhorn(s) if self.equal else F.softmax(s / 0.05, dim=1) for s in (s1, s2))
        loss = -(q1 * F.log_softmax(s2 / 0.1, 1) + q2 * F.log_softmax(s1 / 0.1, 1)).sum(1).mean() / 2
        return {"loss": loss, "labels": labels}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def swav(seed: int, steps: int = 400, **arguments: Any) -> Training:
    """Train SwAV."""
    torch.manual_seed(seed)
    watched = {**embedding("encoder"), "UsageCollapse": {"assignments": "prototypes", **PROTOTYPES}}
    data = pairs(seed, steps)
    return Training(SwAV(**arguments), data, steps, watched, score=retrieval(lambda m: m.encoder, seed))


class MoCo(L.LightningModule):
    """A queue of keys. Reference: He et al., 2019, arXiv:1911.05722.

    Args:
        size: keys in the queue; while it fills the loss rises, as there are more and more negatives.
        enqueue: whether new keys enter; else the queue keeps the random vectors that it was made of.
    """

    def __init__(self, size: int = 4096, enqueue: bool = True) -> None:
        super().__init__()
        self.encoder_q = nn.Sequential(mlp([64, 128, 64], norm=True), nn.ReLU(), nn.Linear(64, 32))
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(size, 32), dim=1))
        self.size, self.enqueue, self.filled = size, enqueue, 0 if enqueue else size
        self.place = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x_q, x_k), _ = batch
        with torch.no_grad():
            for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                k.data = k.data * 0.98 + q.data * 0.02
            keys = F.normalize(self.encoder_k(x_k), dim=1)
        queries = F.normalize(self.encoder_q(x_q), dim=1)
        positive = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, queries @ self.queue[: max(self.filled, 1)].T.clone()], dim=1) / 0.15
        if self.enqueue:
            self.queue[self.place : self.place + len(keys)] = keys
            self.place = (self.place + len(keys)) % self.size
            self.filled = min(self.filled + len(keys), self.size)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.encoder_q.parameters(), lr=0.06, momentum=0.9, weight_decay=1e-4)


def moco(seed: int, steps: int = 400, **arguments: Any) -> Training:
    """Train MoCo."""
    torch.manual_seed(seed)
    data = pairs(seed, steps, batch=32)
    return Training(
        MoCo(**arguments), data, steps, embedding("encoder_q"), score=retrieval(lambda m: m.encoder_q, seed)
    )


SCENARIOS: list[Scenario] = [
    # -- failing
    failing(FAMILY, "SimCLR, temperature 50", USEFUL, lambda s: simclr(s, temperature=50.0), "dimensional collapse"),
    failing(
        FAMILY, "SimCLR, each image is paired with the first one", USEFUL, lambda s: simclr(s, first=True), *COLLAPSED
    ),
    failing(FAMILY, "BYOL, no predictor, no target network", USEFUL, lambda s: byol(s, slow=False), *COLLAPSED),
    failing(
        FAMILY,
        "VICReg, variance and covariance weighted 1e-2",
        USEFUL,
        lambda s: vicreg(s, variance=0.01, covariance=0.01),
        *COLLAPSED,
    ),
    failing(FAMILY, "DINO, no centring", USEFUL, lambda s: dino(s, centring=None), "prototype collapse", *COLLAPSED),
    failing(
        FAMILY, "SwAV, no equal assignment", USEFUL, lambda s: swav(s, equal=False), "prototype collapse", *COLLAPSED
    ),
    failing(FAMILY, "MoCo, new keys never enter the queue", USEFUL, lambda s: moco(s, enqueue=False), *COLLAPSED),
    # -- healthy
    healthy(FAMILY, "SimCLR, labels in the batch unused", USEFUL, simclr),
    healthy(FAMILY, "SimCLR, validated on pairs", USEFUL, lambda s: simclr(s, validate=True, temperature=0.5)),
    healthy(FAMILY, "BYOL", USEFUL, byol),
    healthy(FAMILY, "VICReg, views only", USEFUL, vicreg),
    healthy(FAMILY, "DINO with centring and sharpening", USEFUL, dino),
    healthy(FAMILY, "SwAV with equal assignment", USEFUL, swav),
    healthy(FAMILY, "MoCo while its queue fills", USEFUL, moco),
]
