"""Rows of readings, patients, prices and nodes: half of the trainings fail, half are healthy look-alikes.

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
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fourth tables"


def auc(m: Any, data: Data) -> float:
    """AUC of logits, the mean of several columns."""
    return float(roc_auc_score(data[1].numpy(), m(data[0]).reshape(data[1].shape).nan_to_num().numpy()))


# -- churn: a weak signal ---------------------------------------------------------------------------------------------


class Churn(Loaded):
    """A small network and binary cross-entropy; outputs are returned under a name of their own."""

    def __init__(self, rate: float = 2e-3) -> None:
        super().__init__()
        self.rate = rate
        self.fc1, self.fc2, self.drop = nn.Linear(15, 24), nn.Linear(24, 1), nn.Dropout(0.2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.fc2(self.drop(F.gelu(self.fc1(rows)))).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        out = self(batch["x"])
        loss = F.binary_cross_entropy_with_logits(out, batch["y"])
        self.log("bce", loss)
        return {"loss": loss, "preds": out.detach()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_bce", F.binary_cross_entropy_with_logits(self(batch["x"]), batch["y"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01)


def churning(seed: int, sorted_alone: bool) -> Training:
    """Train on customers, a weak signal; the score is the AUC. The column of labels may have been sorted alone."""
    g = seeded(541)
    x = torch.randn(12000, 15, generator=g)
    y = (torch.rand(12000, generator=g) < torch.sigmoid(0.27 * x[:, :3].sum(1) - 0.5)).float()
    train, test = cut((x, y), 8000)
    if sorted_alone:
        train = (train[0], train[1].sort().values)
    make = lambda: Churn().use(train, test, 128, keys=("x", "y"))  # noqa: E731
    watched = {"PredictionCollapse": {"output": "fc2"}, "TrainingDoctor": {}}
    return script(seed, make, lambda m: auc(m, test), 300, watched)


# -- nodes ------------------------------------------------------------------------------------------------------------


class Sage(nn.Module):
    """Means over neighbours beside the nodes themselves, with residual steps where it is deep."""

    def __init__(self, edges: Tensor, depth: int, residual: bool) -> None:
        super().__init__()
        self.register_buffer("edges", edges)
        self.residual, self.inp, self.out = residual, nn.Linear(24, 32), nn.Linear(32, 5)
        self.convs = nn.ModuleList(nn.Linear(64 if residual else 32, 32) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(32) if residual else nn.Identity() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        h = F.relu(self.inp(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            total = torch.zeros_like(h).index_add(0, target, h[source])
            mean = total / torch.bincount(target, minlength=len(h)).clamp(min=1)[:, None]
            h = h + F.relu(conv(torch.cat([norm(h), mean], 1))) if self.residual else F.relu(conv(mean))
        return self.out(h)


def citing(seed: int, depth: int, *, viewed: bool = False, residual: bool = False) -> Training:
    """Five groups of papers, features of which say little, a full batch; the score is the accuracy of those not labelled.

    The list of pairs ``[edges, 2]`` becomes ``[2, edges]`` by ``.t()``, or by ``.view(2, -1)``.
    """
    g = seeded(542)
    y = torch.arange(500) % 5
    chance = torch.where(y[:, None] == y, 0.08, 0.004)
    pairs = (torch.rand(500, 500, generator=g) < chance).nonzero()
    edges = pairs.contiguous().view(2, -1) if viewed else pairs.t()
    x = torch.randn(500, 24, generator=g)
    x[:, :5] += 1.2 * F.one_hot(y, 5)
    known = torch.rand(500, generator=g) < 0.3

    def loss(s: Script, batch: Data) -> Any:
        logits = s.model(batch[0][0])
        s.log("full_batch_loss", value := F.cross_entropy(logits[known], batch[1][0][known]))
        return value

    score = lambda s: (s.model(x).argmax(1) == y)[~known].float().mean()  # noqa: E731
    watched = {"RepresentationCollapse": {"layer": f"model.convs.{depth - 1}"}, "TrainingDoctor": {}}
    optimizer = lambda s: torch.optim.Adam(s.parameters(), lr=5e-3)  # noqa: E731
    model = lambda: Sage(edges, depth, residual)  # noqa: E731
    data = ((x[None], y[None]), ())
    return fitted(seed, model, loss, score, data, optimizer, batch=1, steps=150, detectors=watched)


# -- times until something happens ------------------------------------------------------------------------------------


class Hazards(Loaded):
    """Cox's partial likelihood of batches, as a loss, or as it is."""

    def __init__(self, sign: float, rate: float) -> None:
        super().__init__()
        self.sign, self.rate = sign, rate
        self.risk = nn.Sequential(nn.Linear(9, 32), nn.Tanh(), nn.Linear(32, 1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, time, seen = batch
        order = time.argsort(descending=True)
        h, event = self.risk(x[order]).squeeze(1), seen[order]
        partial = ((h - h.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)
        self.log("partial_likelihood", partial, prog_bar=True)
        return self.sign * partial

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), lr=self.rate)


def waiting(seed: int, sign: float) -> Training:
    """Train on machines, seven in ten of which never fail while watched; the score is the concordance."""
    g = seeded(543)
    x = torch.randn(3000, 9, generator=g)
    fails = -torch.rand(3000, generator=g).log() / torch.exp(x[:, 0] - 0.8 * x[:, 1] + 0.5 * x[:, 2].square())
    leaves = 0.25 * -torch.rand(3000, generator=g).log()
    train, test = cut((x, torch.minimum(fails, leaves), (fails < leaves).float()), 2200)

    def score(m: Any) -> Tensor:
        h, time, seen = m.risk(test[0]).squeeze(1), test[1], test[2]
        first = (time[:, None] < time) & (seen[:, None] > 0)
        return ((h[:, None] > h) & first).sum() / first.sum()

    return script(seed, lambda: Hazards(sign, 3e-3).use(train, (), 40), score, 300, DOCTOR)


# -- prices -----------------------------------------------------------------------------------------------------------


class Unscaled(nn.Module):
    """A network whose output is in units of the targets: a last step multiplies by their spread and adds their mean."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.body, self.mean, self.spread = t.mlp([11, 48, 48, 1], nn.SiLU), mean, spread

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.spread * self.body(x).squeeze(1)


def flats(count: int = 3000) -> Data:
    """Prices between about 100,000 and 900,000."""
    g = seeded(544)
    x = torch.randn(count, 11, generator=g)
    return x, 4e5 + 1e5 * (
        x[:, 0] + torch.tanh(x[:, 1] * x[:, 2]) + 0.6 * x[:, 3] + 0.3 * torch.randn(count, generator=g)
    )


def squared(s: Script, batch: Data) -> Any:
    """Mean squared error in squares of the unit of targets."""
    loss = F.mse_loss(s.model(batch[0]), batch[1])
    s.log("mse", loss)
    return loss


def letting(seed: int, mean: float, spread: float) -> Training:
    """Train on prices as they are; the score is R squared."""
    train, test = cut(flats(), 2400)
    model = lambda: Unscaled(mean, spread)  # noqa: E731
    return fitted(
        seed, model, squared, explained(test), (train, test), rate=2e-3, batch=40, steps=300, detectors=DOCTOR
    )


def sensors(seed: int, code: float) -> Training:
    """Readings, one in forty of which is missing and given as ``code``; the score is R squared of rows without gaps."""
    g = seeded(545)
    x = torch.randn(3000, 8, generator=g)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] - 0.5 * x[:, 2] * x[:, 3]
    y = (y - y.mean()) / y.std()
    clean, train = (x[2400:], y[2400:]), (x[:2400].clone(), y[:2400])
    train[0][torch.rand(2400, 8, generator=g) < 0.025] = code

    def loss(s: Script, batch: Data) -> Any:
        return {"loss": F.smooth_l1_loss(s.model(batch[0]).squeeze(1), batch[1])}

    optimizer = lambda s: torch.optim.SGD(s.parameters(), lr=0.05, momentum=0.9)  # noqa: E731
    model = lambda: t.mlp([8, 64, 64, 1])  # noqa: E731
    return fitted(
        seed, model, loss, explained(clean), (train, clean), optimizer, batch=32, steps=375, detectors=DOCTOR,
    )  # fmt: skip


def bands(seed: int) -> Training:
    """The 10, 50 and 90 % quantiles of wages with tails of Cauchy; the score is the gain of pinball loss over constants."""
    g = seeded(546)
    x = torch.randn(4000, 6, generator=g)
    spread = torch.exp(0.7 * x[:, 1])
    tails = torch.tan(3.1 * (torch.rand(4000, generator=g) - 0.5))
    train, test = cut((x, 2 * x[:, 0] + spread * tails), 3200)
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(found: Tensor, y: Tensor) -> Tensor:
        over = y[:, None] - found
        return torch.maximum(levels * over, (levels - 1) * over).mean()

    def loss(s: Script, batch: Data) -> Any:
        s.log("pinball", value := pinball(s.model(batch[0]), batch[1]), prog_bar=True)
        return value

    def score(s: Any) -> Tensor:
        middle = test[1].abs() < 30
        constant = torch.quantile(train[1], levels).expand(int(middle.sum()), 3)
        return 1 - pinball(s.model(test[0][middle]), test[1][middle]) / pinball(constant, test[1][middle])

    optimizer = lambda s: torch.optim.Adagrad(s.parameters(), lr=0.03)  # noqa: E731
    model = lambda: t.mlp([6, 32, 3])  # noqa: E731
    return fitted(seed, model, loss, score, (train, test), optimizer, batch=64, steps=400, detectors=DOCTOR)


# -- several answers for a row, and rare ones -------------------------------------------------------------------------


def labelled(seed: int, decay: float) -> Training:
    """Ten labels, each of one row in ten; Adam with a decay of its gradients' kind; the score is the mean AUC."""
    g = seeded(547)
    x = torch.randn(5000, 30, generator=g)
    logits = x @ torch.randn(30, 10, generator=g) * 0.4 + 0.7 * torch.randn(5000, 10, generator=g)
    train, test = cut((x, (logits > logits.quantile(0.9, 0)).float()), 4000)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        return {"loss": F.binary_cross_entropy_with_logits(s.model(batch[0]), batch[1])}

    optimizer = lambda s: torch.optim.Adam(s.parameters(), lr=3e-3, weight_decay=decay)  # noqa: E731
    model = lambda: t.mlp([30, 64, 10])  # noqa: E731
    score = lambda s: auc(s.model, test)  # noqa: E731
    return fitted(seed, model, loss, score, (train, test), optimizer, batch=50, steps=320, detectors=CLASSES)


def fraud(seed: int, filtered: bool = False) -> Training:
    """Four payments in a thousand are fraud: most batches have none. Score: AUC.

    A filter that was meant for another table may have kept the honest ones alone.
    """
    g = seeded(548)
    x = torch.randn(30000, 10, generator=g)
    value = x[:, 0] + x[:, 1] + 0.8 * x[:, 2].abs() + 0.5 * torch.randn(30000, generator=g)
    train, test = cut((x, (value > value.quantile(0.996)).float()), 20000)
    if filtered:
        train = (train[0][train[1] == 0], train[1][train[1] == 0])

    def loss(s: Script, batch: Data) -> Any:
        return F.binary_cross_entropy_with_logits(s.model(batch[0]).squeeze(1), batch[1])

    optimizer = lambda s: torch.optim.Adamax(s.parameters(), lr=1e-2)  # noqa: E731
    model = lambda: t.mlp([10, 24, 1], nn.ELU)  # noqa: E731
    score = lambda s: auc(s.model, test)  # noqa: E731
    return fitted(seed, model, loss, score, (train, ()), optimizer, batch=64, steps=312, detectors=CLASSES)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "churn, the column of answers sorted alone", 0.58, lambda s: churning(s, True), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "churn, an AUC of 0.62 at best", 0.58, lambda s: churning(s, False)),
    failing(FAMILY, "papers, pairs of edges by view(2, -1)", 0.7, lambda s: citing(s, 2, viewed=True), *UNLEARNED, "oversmoothing", "overfitting",
            FOLLOW, ONE_BATCH),
    healthy(FAMILY, "papers, pairs of edges by .t()", 0.8, lambda s: citing(s, 2)),
    healthy(FAMILY, "papers through 24 residual layers", 0.75, lambda s: citing(s, 24, residual=True)),
    failing(FAMILY, "papers through 24 plain layers", 0.6, lambda s: citing(s, 24), "oversmoothing", "complete collapse", "dimensional collapse",
            "vanishing gradients", "dead units", *UNLEARNED, ONE_BATCH),
    failing(FAMILY, "machines, Cox's loss has lost its minus", 0.6, lambda s: waiting(s, 1.0), *UNLEARNED, *FAST, FOLLOW, ONE_BATCH,
            "saturated units"),
    healthy(FAMILY, "machines, seven of ten outlast the study", 0.7, lambda s: waiting(s, -1.0)),
    failing(FAMILY, "rents in euros, Adam at 2e-3", 0.5, lambda s: letting(s, 0.0, 1.0), *UNLEARNED, ONE_BATCH, "sanity:initial loss"),
    healthy(FAMILY, "rents in euros, the last step scales", 0.75, lambda s: letting(s, 4e5, 1e5)),
    failing(FAMILY, "sensors, -99999 for what is missing", 0.5, lambda s: sensors(s, -99999.0), *FAST, *UNLEARNED, "dead units",
            "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "sensors, 0 where nothing was read", 0.7, lambda s: sensors(s, 0.0)),
    healthy(FAMILY, "wages with endless tails, three quantiles", 0.12, bands),
    failing(FAMILY, "ten labels, a decay of 3 inside of Adam", 0.7, lambda s: labelled(s, 3.0), "shrinking weights", "dead units",
            "vanishing gradients", *UNLEARNED),
    healthy(FAMILY, "ten labels, nine in ten are 0", 0.85, lambda s: labelled(s, 1e-4)),
    failing(FAMILY, "payments, a filter keeps the honest ones", 0.75, lambda s: fraud(s, True), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "payments, 0.4 % are fraud", 0.9, fraud),
]  # fmt: skip
