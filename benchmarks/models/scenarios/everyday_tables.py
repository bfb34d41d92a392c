"""Tables, counts, prices, survival times and several labels at once, as they come to people who are not researchers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, PLAIN, Script, adam, auc, explained, halves, script, seeded, sgd, table
from benchmarks.models.trainings import Training

FAMILY = "everyday tables"
X, Y = table()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")
SHAPES = "sanity:shapes of outputs and labels"


def flat(width: int = 1, inputs: int = 12, hidden: int = 64) -> nn.Module:
    """An MLP."""
    return t.mlp([inputs, hidden, hidden, width])


def squares(s: Script, batch: Any) -> Tensor:
    """Mean squared error of a squeezed output."""
    x, y = batch
    return F.mse_loss(s.model(x).squeeze(-1), y)


def broadcast(loss: Any) -> Any:
    """A loss of ``[n, 1]`` and ``[n]``."""
    return lambda s, batch: loss(s.model(batch[0]), batch[1])


def rows(
    seed: int,
    y: Tensor,
    loss: Any = squares,
    optimizer: Any = None,
    *,
    x: Tensor = X,
    model: Any = flat,
    score: Any = None,
    **more: Any,
) -> Training:
    """Train on rows of a table."""
    options = {k: more.pop(k) for k in ("steps", "detectors") if k in more}
    limits = {k: more.pop(k) for k in ("gradient_clip_val",) if k in more}
    train, test = halves((x, y))
    options.setdefault("detectors", CLASSES)
    kind = more.pop("kind", Script)
    make = lambda: kind(model(), loss, optimizer or adam(3e-3), train, more.pop("val", test), **more)  # noqa: E731
    return script(seed, make, (score or explained)(test), **options, **limits)


NORMAL = torch.randn(len(X), generator=seeded(21))
HEAVY = torch.distributions.StudentT(2.0)
torch.manual_seed(0)
TAILS = HEAVY.sample((len(X),)) * 0.5

# -- quantiles, counts, variances, survival times ---------------------------------------------------------------------

LEVELS = torch.tensor([0.1, 0.5, 0.9])


def pinball(s: Script, batch: Any) -> Any:
    """Three quantiles at once."""
    x, y = batch
    out = s.model(x)
    apart = y[:, None] - out
    return {"loss": torch.maximum(LEVELS * apart, (LEVELS - 1) * apart).mean(), "pred": out}


def covered(test: Any) -> Any:
    """How well the outer quantiles cover 80 %, and the middle explains."""

    def score(s: Any) -> Tensor:
        out = s.model(test[0])
        inside = ((test[1] > out[:, 0]) & (test[1] < out[:, 2])).float().mean()
        return explained((test[0], test[1]))(_Middle(s)) - 4 * (inside - 0.8).abs()

    return score


class _Middle:
    def __init__(self, s: Any) -> None:
        self.model = lambda x: s.model(x)[:, 1]


def gaussian(s: Script, batch: Any) -> Tensor:
    """Mean and log variance."""
    mean, log_variance = s.model(batch[0]).chunk(2, -1)
    return F.gaussian_nll_loss(mean.squeeze(-1), batch[1], log_variance.squeeze(-1).exp())


def of_mean(test: Any) -> Any:
    """R squared of the first output."""

    def score(s: Any) -> Tensor:
        return 1 - (s.model(test[0])[:, 0] - test[1]).square().mean() / test[1].var()

    return score


def cox(reverse: bool) -> Any:
    """Partial likelihood of Cox; option: the risk set is those who went before."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, time, event = batch
        order = time.argsort(descending=not reverse)
        risk, event = s.model(x).squeeze(-1)[order], event[order]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)

    return loss


def concordance(test: Any) -> Any:
    """Chance that who dies earlier has the higher risk."""

    def score(s: Any) -> Tensor:
        risk, (time, event) = s.model(test[0]).squeeze(-1), test[1:]
        earlier = (time[:, None] < time) & (event[:, None] > 0)
        return (risk[:, None] > risk)[earlier].float().mean()

    return score


def survival(seed: int, reverse: bool, optimizer: Any = None) -> Training:
    """Survival times that depend on the row."""
    time = -torch.rand(len(X), generator=seeded(4)).log() * torch.exp(-1.2 * Y)
    end = -torch.rand(len(X), generator=seeded(5)).log() * 2
    train, test = halves((X, torch.minimum(time, end), (time < end).float()))
    make = lambda: Script(flat(), cox(reverse), optimizer or adam(3e-3), train, test, batch=64)  # noqa: E731
    return script(seed, make, concordance(test), detectors={"DeadUnits": {}, "TrainingDoctor": {}})


# -- classes ----------------------------------------------------------------------------------------------------------


def logistic(s: Script, batch: Any) -> Tensor:
    """One logit against 0 or 1."""
    return F.binary_cross_entropy_with_logits(s.model(batch[0]).squeeze(-1), batch[1])


def ranking(test: Any) -> Any:
    """Area under the curve of one output."""
    return lambda s: auc(s.model(test[0]).reshape(len(test[1]), -1)[:, -1], test[1])


def balanced(test: Any) -> Any:
    """Mean recall of both classes, of one output at 0."""

    def score(s: Any) -> Tensor:
        guess, y = s.model(test[0]).squeeze(-1) > 0, test[1] > 0
        return (guess[y].float().mean() + (~guess[~y]).float().mean()) / 2

    return score


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


class OneColumn(nn.Module):
    """A softmax over a single column, which is 1 whatever the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = flat()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(1)


class LastNorm(nn.Module):
    """A LayerNorm over the one number that comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.norm = flat(), nn.LayerNorm(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.net(x))


class LastReLU(nn.Module):
    """A ReLU behind the logit: no answer is below 0."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.net = t.mlp([12, 64, 1])
        with torch.no_grad():
            self.net[-1].bias.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x))


def skill(test: Any) -> Any:
    """``1 - BCE / H`` of several labels at once."""

    def score(s: Any) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(s.model(test[0]), test[1])
        p = test[1].mean(0)
        return 1 - loss / -(p * p.log() + (1 - p) * (1 - p).log()).mean()

    return score


def topics(count: int, share: float) -> Tensor:
    """Labels that are 1 in a share of rows, each for a direction of its own."""
    directions = torch.randn(12, count, generator=seeded(8))
    scores = X @ directions / directions.norm(dim=0)
    return (scores > scores.quantile(1 - share, 0)).float()


class Sigmoid(nn.Module):
    """Logits squashed already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = flat(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).sigmoid()


def many(s: Script, batch: Any) -> Any:
    """Several labels at once."""
    out = s.model(batch[0])
    return {"loss": F.binary_cross_entropy_with_logits(out, batch[1]), "logits": out}


FRAUD = (Y + 0.5 * NORMAL > 2.3).float()
WEAK = (0.28 * Y + NORMAL > 0).float()
PRICE = 250_000 + 80_000 * Y
UNITS = X * torch.tensor([1.0, 1e6, 1.0, 1.0, 1e-3, 1.0, 1.0, 1e5, 1.0, 1.0, 1.0, 1.0])


def windows(seed: int, loss: Any, ahead: int = 4) -> Training:
    """Forecast one to four steps from sixteen."""
    series = torch.sin(torch.arange(2400) / 7.0) + torch.sin(torch.arange(2400) / 17.0)
    whole = (series + 0.2 * torch.randn(2400, generator=seeded(6))).unfold(0, 20, 1)
    train, test = halves((whole[:, :16], whole[:, 16 : 16 + ahead]))
    make = lambda: Script(flat(ahead, 16), loss, adam(3e-3), train, test)  # noqa: E731
    measure = lambda s: 1 - (s.model(test[0]) - test[1]).square().mean() / test[1].var()  # noqa: E731
    return script(seed, make, measure, detectors=CLASSES)


def masked_wrongly(s: Script, batch: Any) -> Tensor:
    """One of two classes is what a loss is told to ignore."""
    return F.cross_entropy(s.model(batch[0]), batch[1].long(), ignore_index=1)


def one_of_two(test: Any) -> Any:
    """Mean recall of two logits."""

    def score(s: Any) -> Tensor:
        guess, y = s.model(test[0]).argmax(1) > 0, test[1] > 0
        return (guess[y].float().mean() + (~guess[~y]).float().mean()) / 2

    return score


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "a table, squared error", 0.8, lambda s: rows(s, Y)),
    failing(FAMILY, "absolute error of [n, 1] and [n]", 0.5, lambda s: rows(s, Y, broadcast(F.l1_loss)), SHAPES, *UNRELATED),
    failing(FAMILY, "Huber loss of [n, 1] and [n], written out", 0.5,
            lambda s: rows(s, Y, broadcast(lambda p, y: ((p - y).square() / (1 + (p - y).abs())).mean())),
            SHAPES, *UNRELATED),
    failing(FAMILY, "a forecast of [n, 1] against [n]", 0.5,
            lambda s: windows(s, lambda m, b: (m.model(b[0]) - b[1][:, 0]).square().mean(), 1), SHAPES, *UNRELATED),
    healthy(FAMILY, "a forecast of [n, 4]", 0.5, lambda s: windows(s, lambda m, b: F.mse_loss(m.model(b[0]), b[1]))),
    failing(FAMILY, "prices around 250,000, AdamW 1e-3", 0.5, lambda s: rows(s, PRICE, optimizer=adam()),
            "sanity:initial loss", *UNRELATED, *FAST),
    failing(FAMILY, "prices around 250,000, SGD 1e-2", 0.5, lambda s: rows(s, PRICE, optimizer=sgd(1e-2)),
            "sanity:initial loss", *UNRELATED, *FAST),
    healthy(FAMILY, "prices in units of their spread", 0.8, lambda s: rows(s, (PRICE - PRICE.mean()) / PRICE.std(),
                                                                        optimizer=sgd(0.02))),
    healthy(FAMILY, "heavy tails, Huber loss", 0.3, lambda s: rows(
        s, Y + TAILS, lambda m, b: F.huber_loss(m.model(b[0]).squeeze(-1), b[1]), score=lambda test: explained((test[0], Y[-len(test[0]):])))),
    healthy(FAMILY, "heavy tails, squared error, clipped", 0.3, lambda s: rows(
        s, Y + TAILS, gradient_clip_val=1.0, score=lambda test: explained((test[0], Y[-len(test[0]):])))),
    healthy(FAMILY, "three quantiles of a table", 0.3, lambda s: rows(s, Y + 0.4 * NORMAL, pinball, model=lambda: flat(3), score=covered)),
    healthy(FAMILY, "mean and variance", 0.5, lambda s: rows(s, Y + 0.2 * NORMAL, gaussian, model=lambda: flat(2), score=of_mean)),
    healthy(FAMILY, "mean and variance of small targets, loss below 0", 0.5,
            lambda s: rows(s, 0.1 * (Y + 0.2 * NORMAL), gaussian, model=lambda: flat(2), score=of_mean, steps=500)),
    healthy(FAMILY, "weak effects, R squared 0.06", 0.02, lambda s: rows(
        s, Y + 4 * NORMAL, optimizer=sgd(3e-3), batch=128, model=lambda: nn.Linear(12, 1), detectors=PLAIN)),
    failing(FAMILY, "columns in other units, up to 1e6", 0.6, lambda s: rows(s, Y, x=UNITS, optimizer=sgd(1e-3)),
            "sanity:initial loss", *UNRELATED, *FAST),
    failing(FAMILY, "the target is drawn anew", 0.3, lambda s: rows(
        s, Y, lambda m, b: F.mse_loss(m.model(b[0]).squeeze(-1), b[1][torch.randint(len(b[1]), (len(b[1]),))]),
        ), *UNRELATED, SHAPES, "sanity:labels follow from inputs"),
    healthy(FAMILY, "survival times, Cox", 0.7, lambda s: survival(s, reverse=False)),
    failing(FAMILY, "survival times, Cox, those who went before", 0.7, lambda s: survival(s, reverse=True),
            *UNRELATED, "divergence", "sanity:overfits one batch", "sanity:initial loss"),
    healthy(FAMILY, "fraud, one row in a hundred", 0.85, lambda s: rows(s, FRAUD, logistic, score=ranking)),
    healthy(FAMILY, "fraud, positives weighted", 0.75, lambda s: rows(
        s, FRAUD, lambda m, b: F.binary_cross_entropy_with_logits(
            m.model(b[0]).squeeze(-1), b[1], pos_weight=torch.tensor(60.0)), score=balanced, batch=64)),
    healthy(FAMILY, "a weak signal, AUC 0.57", 0.54, lambda s: rows(
        s, WEAK, logistic, sgd(0.02), model=lambda: nn.Linear(12, 1), score=ranking, detectors=PLAIN)),
    healthy(FAMILY, "a weak signal, two logits, an MLP", 0.53, lambda s: rows(
        s, WEAK.long(), crossed, sgd(0.01), model=lambda: flat(2), score=lambda d: ranking((d[0], d[1])), batch=64)),
    failing(FAMILY, "a softmax over one column", 0.85, lambda s: rows(
        s, (Y > 0).float(), lambda m, b: F.binary_cross_entropy(m.model(b[0]).squeeze(-1), b[1]), model=OneColumn, score=ranking),
        *UNRELATED, "no gradients", "sanity:inputs matter", "sanity:initial loss", "sanity:overfits one batch",
        "sanity:all parameters learn"),
    failing(FAMILY, "a LayerNorm over one number", 0.5, lambda s: rows(s, Y, model=LastNorm), *UNRELATED,
            "no gradients", "sanity:inputs matter", "sanity:overfits one batch", "sanity:all parameters learn"),
    failing(FAMILY, "a ReLU behind the logit, far below 0", 0.75, lambda s: rows(
        s, (Y > 0).float(), logistic, model=lambda: LastReLU(-3.0), score=balanced),
        *UNRELATED, "no gradients", "dead units", "sanity:inputs matter", "sanity:overfits one batch",
        "sanity:all parameters learn", "sanity:units are alive"),
    failing(FAMILY, "labels of -1 and 1 for a binary cross entropy", 0.85, lambda s: rows(
        s, torch.where(Y > 1, 1.0, -1.0), logistic, sgd(0.1), score=balanced), *FAST, *UNRELATED, "sanity:initial loss",
        "sanity:overfits one batch"),
    failing(FAMILY, "one class is the index that is ignored", 0.7, lambda s: rows(
        s, (Y > 0).float(), masked_wrongly, model=lambda: flat(2), score=one_of_two), *UNRELATED,
        "sanity:labels follow from inputs"),
    failing(FAMILY, "twenty rare labels, two sigmoids", 0.2, lambda s: rows(
        s, topics(20, 0.05), many, model=lambda: Sigmoid(20), score=skill), "sanity:initial loss", *UNRELATED,
        "vanishing gradients", "sanity:overfits one batch"),
    healthy(FAMILY, "twenty rare labels", 0.2, lambda s: rows(s, topics(20, 0.05), many, model=lambda: flat(20), score=skill)),
    healthy(FAMILY, "eight labels, half of them 1", 0.5, lambda s: rows(s, topics(8, 0.5), many, model=lambda: flat(8), score=skill)),
    healthy(FAMILY, "a linear regression, closed form from the first epoch", 0.3, lambda s: rows(
        s, Y, model=lambda: nn.Linear(12, 1), optimizer=sgd(0.05, 0.0), detectors=PLAIN, steps=400)),
]  # fmt: skip
