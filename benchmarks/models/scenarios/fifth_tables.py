"""Rows of clicks, cards, deliveries, pumps and atoms: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, DOCTOR, Script, explained, fitted, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut

FAMILY = "fifth tables"


def auc(found: Tensor, labels: Tensor) -> float:
    """AUC of logits."""
    return float(roc_auc_score(labels.numpy(), found.reshape(labels.shape).nan_to_num().numpy()))


# -- clicks: hardly any signal ----------------------------------------------------------------------------------------


class Clicks(Loaded):
    """Factors of three categories and four numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 6) for _ in range(3))
        self.deep = nn.Sequential(nn.Linear(22, 24), nn.LeakyReLU(), nn.Linear(24, 1))

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        return self.deep(torch.cat([*(table(ids[:, i]) for i, table in enumerate(self.tables)), numbers], 1)).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self(batch["ids"], batch["numbers"]), batch["clicked"])
        self.log("logloss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = F.binary_cross_entropy_with_logits(self(batch["ids"], batch["numbers"]), batch["clicked"])
        self.log("val_logloss", loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9)


def clicking(seed: int, outlier: bool) -> Training:
    """Train on views of adverts; the score is the AUC, 0.6 at best. Two dwell times may be 1e8,
    one where there was a click and one where there was none."""
    g = seeded(711)
    ids, numbers = torch.randint(20, (14000, 3), generator=g), torch.randn(14000, 4, generator=g)
    logits = 0.2 * numbers[:, 0] + 0.2 * ((ids[:, 0] % 3 - 1) + (ids[:, 1] % 2)) - 1.0
    y = (torch.rand(14000, generator=g) < logits.sigmoid()).float()
    train, test = cut((ids, numbers, y), 10000)
    if outlier:
        train[1][[int((train[2] == k).nonzero()[9]) for k in (0, 1)], 2] = 1e8
    watched = {"PredictionCollapse": {"output": "deep"}, "DeadUnits": {}, "TrainingDoctor": {}}
    make = lambda: Clicks().use(train, test, 40, keys=("ids", "numbers", "clicked"))  # noqa: E731
    return script(seed, make, lambda m: auc(m(test[0], test[1]), test[2]), 500, watched)


# -- cards: one in a hundred ------------------------------------------------------------------------------------------


def cards(seed: int, copied_first: bool) -> Training:
    """One card in a hundred is stolen; these are copied until they are half, before the rows are divided or after it.

    The score says whether validation may be believed: minus the difference of the AUC on the validation rows and on rows of
    another month. Labels of both months are noisy, and the network is large enough to know its rows by heart.
    """
    g = seeded(712)
    x = torch.randn(4600, 24, generator=g)
    value = x[:, :3].sum(1) + 3.0 * torch.randn(4600, generator=g)
    y = (value > value.quantile(0.99)).float()
    (x, y), later = cut((x, y), 2000)

    def balanced(data: Data) -> Data:
        rare = (data[1] > 0).nonzero().squeeze(1)
        rows = torch.cat([torch.arange(len(data[1])), rare.repeat(len(data[1]) // len(rare))])
        rows = rows[torch.randperm(len(rows), generator=g)]
        return data[0][rows], data[1][rows]

    if copied_first:
        train, val = cut(balanced((x, y)), 3000)
    else:
        train, val = cut((x, y), 1400)
        train = balanced(train)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits = s.model(batch[0]).squeeze(1)
        return {"loss": F.binary_cross_entropy_with_logits(logits, batch[1]), "logits": logits, "labels": batch[1]}

    score = lambda s: auc(s.model(later[0]), later[1]) - auc(s.model(val[0]), val[1])  # noqa: E731
    watched = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}
    return fitted(
        seed, lambda: t.mlp([24, 128, 1]), loss, score, (train, val), rate=3e-3, batch=50, steps=400, detectors=watched
    )


# -- deliveries -------------------------------------------------------------------------------------------------------


class Deliveries(Loaded):
    """Minutes until a parcel comes, a few of them weeks: Huber's loss, as a mean or as a sum."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.criterion = nn.HuberLoss(reduction=reduction)
        self.net = nn.Sequential(nn.Linear(9, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self.criterion(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)}


def delivering(seed: int, reduction: str) -> Training:
    """Train on parcels, Student's noise with one and a half degrees; the score is the share of the median's error removed."""
    g = torch.manual_seed(713)
    x = torch.randn(5000, 9, generator=g)
    noise = torch.distributions.StudentT(1.5).sample((5000,)) * 0.3
    y = (x[:, 0] + (2 * x[:, 1]).sin() + x[:, 2] * x[:, 3] + noise)[:, None]
    train, test = cut((x, y), 4000)

    def score(m: Any) -> Tensor:
        return 1 - (m.net(test[0]).nan_to_num(1e6) - test[1]).abs().mean() / (test[1] - train[1].median()).abs().mean()

    return script(seed, lambda: Deliveries(reduction).use(train, (), 128), score, 310, {"DeadUnits": {}, **DOCTOR})


# -- what cannot be foreseen exactly ----------------------------------------------------------------------------------


def likely(s: Script, batch: Data) -> Any:
    """The negative log-likelihood of a mean and a variance for each row."""
    mean, spread = s.model(batch[0]).split(1, dim=1)
    target = batch[1] if s.wide else batch[1].squeeze(1)
    variance = F.softplus(spread) + 1e-3
    value = 0.5 * ((target - mean).square() / variance + variance.log()).mean()
    s.log("nll", value, prog_bar=True)
    return value


def yields(seed: int, wide: bool) -> Training:
    """Yields of fields, whose noise depends on the soil; the score is R squared, 0.5 at best."""
    g = seeded(714)
    x = torch.randn(4000, 8, generator=g)
    f = x[:, 0] + x[:, 1].abs() - 0.8
    y = f + torch.randn(4000, generator=g) * (0.6 + 0.9 * (x[:, 2] > 0))
    train, test = cut((x, y[:, None]), 3200)
    score = lambda s: explained((test[0], test[1].squeeze(1)))(Mean(s.model))  # noqa: E731
    return fitted(
        seed, lambda: t.mlp([8, 48, 48, 2], nn.GELU), likely, score, (train, test), rate=3e-3, batch=50, steps=320,
        detectors=DOCTOR, wide=wide,
    )  # fmt: skip


class Mean:
    """The first column of what a network gives, as ``model``."""

    def __init__(self, net: nn.Module) -> None:
        self.model = lambda x: net(x)[:, 0]


# -- pumps ------------------------------------------------------------------------------------------------------------


class Pumps(Loaded):
    """Cox's partial likelihood; those at risk are the rows that last at least as long, or, sorted upwards, the others."""

    def __init__(self, descending: bool) -> None:
        super().__init__()
        self.descending = descending
        self.site, self.log_hazard = nn.Embedding(12, 8), nn.Sequential(nn.Linear(14, 32), nn.SELU(), nn.Linear(32, 1))

    def forward(self, site: Tensor, x: Tensor) -> Tensor:
        return self.log_hazard(torch.cat([self.site(site), x], 1)).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        order = batch["days"].argsort(descending=self.descending)
        risk, event = self(batch["site"], batch["x"])[order], batch["failed"][order]
        loss = -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)
        self.log("cox", loss)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def pumping(seed: int, descending: bool) -> Training:
    """Pumps of twelve sites, a quarter of which still run; the score is the concordance."""
    g = seeded(715)
    site, x = torch.randint(12, (3600,), generator=g), torch.randn(3600, 6, generator=g)
    age = torch.exp(0.9 * torch.randn(12, generator=g)[site] + 0.7 * x[:, 0] - 0.5 * x[:, 1])
    fails, seen = -torch.rand(3600, generator=g).log() / age, 6 * torch.rand(3600, generator=g)
    days, failed = torch.minimum(fails, seen), (fails < seen).float()
    train, test = cut((site, x, days, failed), 2800)

    def score(m: Any) -> Tensor:
        risk = m(test[0], test[1])
        pairs = (test[2][:, None] < test[2]) & (test[3][:, None] > 0)
        return ((risk[:, None] > risk) & pairs).sum() / pairs.sum()

    make = lambda: Pumps(descending).use(train, (), 64, keys=("site", "x", "days", "failed"))  # noqa: E731
    return script(seed, make, score, 260, DOCTOR)


# -- atoms, deep and in full batches ----------------------------------------------------------------------------------


class Layers(nn.Module):
    """Means over neighbours: added to what a node has, or in its place."""

    def __init__(self, links: Tensor, depth: int, added: bool) -> None:
        super().__init__()
        self.register_buffer("links", links / links.sum(1, keepdim=True))
        self.added, self.enter, self.leave = added, nn.Linear(12, 32), nn.Linear(32, 1)
        self.steps = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(32) if added else nn.Identity() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        for step, norm in zip(self.steps, self.norms, strict=True):
            new = step(self.links @ norm(h)).relu()
            h = h + new if self.added else new
        return self.leave(h).squeeze(-1)


def charging(seed: int, depth: int, added: bool) -> Training:
    """A number for each of 400 nodes of one graph, half of which are known; the score is R squared of the others."""
    g = seeded(716)
    place = torch.rand(400, 2, generator=g)
    links = (torch.cdist(place, place) < 0.09).float()
    x = torch.randn(400, 12, generator=g)
    near = links / links.sum(1, keepdim=True)
    y = x[:, 0] + 2 * (near @ x[:, 1]) + (near @ x[:, 2].abs()) - 0.8
    known = torch.rand(400, generator=g) < 0.5

    def loss(s: Script, batch: Data) -> Any:
        found = s.model(batch[0][0])
        s.log("mse", value := F.mse_loss(found[known], batch[1][0][known]))
        return value

    score = lambda s: 1 - (s.model(x) - y)[~known].square().mean() / y[~known].var()  # noqa: E731
    watched = {"RepresentationCollapse": {"layer": f"model.steps.{depth - 1}"}, "TrainingDoctor": {}}
    model = lambda: Layers(links, depth, added)  # noqa: E731
    return fitted(seed, model, loss, score, ((x[None], y[None]), ()), rate=3e-3, batch=1, steps=150, detectors=watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "clicks, two dwell times of 1e8", 0.54, lambda s: clicking(s, True), *FAST, *UNLEARNED, "dead units", "sanity:initial loss"),
    healthy(FAMILY, "clicks, a weak signal", 0.54, lambda s: clicking(s, False)),
    failing(FAMILY, "stolen cards, copied before the split", -0.2, lambda s: cards(s, True), "sanity:validation data are new", "overfitting"),
    healthy(FAMILY, "stolen cards, copied after the split", -0.2, lambda s: cards(s, False)),
    failing(FAMILY, "parcels, Huber's loss summed over 128", 0.1, lambda s: delivering(s, "sum"), *FAST, *UNLEARNED, "dead units", "saturated units"),
    healthy(FAMILY, "parcels, a few of them weeks late", 0.2, lambda s: delivering(s, "mean")),
    failing(FAMILY, "yields, means [n, 1] and targets [n]", 0.3, lambda s: yields(s, False), *UNLEARNED, FOLLOW, SHAPES, ONE_BATCH),
    healthy(FAMILY, "yields, half of them noise", 0.3, lambda s: yields(s, True)),
    failing(FAMILY, "pumps, risk sets reversed", 0.6, lambda s: pumping(s, False), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "pumps, a quarter still run", 0.65, lambda s: pumping(s, True)),
    failing(FAMILY, "charges of atoms, 24 means instead of nodes", 0.4, lambda s: charging(s, 24, False), "oversmoothing", "complete collapse",
            "dimensional collapse", "vanishing gradients", "dead units", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "charges of atoms through two means", 0.6, lambda s: charging(s, 2, True)),
]  # fmt: skip
