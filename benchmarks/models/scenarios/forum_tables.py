"""Tables, ratings, small graphs and equations that people asked about in forums, and their repaired versions.

Rewritten from the subjects of threads and tutorials, on made-up rows. The comment above each scenario says what kind of
report it is from. The names were chosen so that all of them are in the develop half: these scenarios are for development
and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, PLAIN, Script, adam, explained, halves, script, sgd, table
from benchmarks.models.trainings import Training

FAMILY = "forum tables"
X, Y = table(seed=17)
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")
LEARN, BATCH = "sanity:all parameters learn", "sanity:overfits one batch"
WATCHED: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}
UNITS: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}


def squares(s: Script, batch: Any) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(s.model(batch[0]).squeeze(-1), batch[1])


def rows(seed: int, y: Tensor, loss: Any = squares, optimizer: Any = None, *, x: Tensor = X, **more: Any) -> Training:
    """Train an MLP, or another model, on rows."""
    train, test = halves((x, y))
    model, score = more.pop("model", lambda: t.mlp([x.shape[1], 64, 64, 1])), more.pop("score", explained)
    options = {k: more.pop(k) for k in ("steps", "detectors") if k in more}
    options.setdefault("detectors", WATCHED)
    make = lambda: Script(model(), loss, optimizer or adam(3e-3), train, test, **more)  # noqa: E731
    return script(seed, make, score(test), **options)


# -- numbers that are not finite --------------------------------------------------------------------------------------

torch.manual_seed(0)
GAPS = torch.stack(
    [Y, X[:, 5] + 0.5 * X[:, 6] * X[:, 7], (torch.rand(len(X)) < 0.9).float(), (torch.rand(len(X)) < 0.7).float()], 1
)


def rooted(small: float) -> Any:
    """The root of each squared error of two targets, some of which are missing; option: a small number under the root."""

    def loss(s: Script, batch: Any) -> Tensor:
        y, mask = batch[1].chunk(2, 1)
        error = ((s.model(batch[0]) - y) * mask).square()
        return (error + small).sqrt().sum() / mask.sum()

    return loss


class Roots(nn.Module):
    """Roots of hidden units where they are positive; option: the root is taken everywhere and then chosen."""

    def __init__(self, everywhere: bool) -> None:
        super().__init__()
        self.first, self.last, self.everywhere = nn.Linear(12, 64), t.mlp([64, 64, 1]), everywhere

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        inside = h if self.everywhere else h.clamp(min=1e-3)
        return self.last(torch.where(h > 1e-3, inside.sqrt(), torch.zeros_like(h)))


def standardised() -> Tensor:
    """Columns with mean 0 and std 1, one of which was constant."""
    x = X.clone()
    x[:, 3] = 7.0
    return (x - x.mean(0)) / x.std(0)


def no_nan(test: Any) -> Any:
    """R squared, -1 where the output is not finite."""
    return lambda s: explained(test)(s).nan_to_num(-1.0)


def of_first(test: Any) -> Any:
    """R squared of the first of two outputs, -1 where it is not finite."""
    return lambda s: (1 - (s.model(test[0])[:, 0] - test[1][:, 0]).square().mean() / test[1][:, 0].var()).nan_to_num(
        -1.0
    )


# -- targets and last layers ------------------------------------------------------------------------------------------

SHARES = torch.sigmoid(1.5 * Y)


def shares(whole: bool) -> Any:
    """Squared error of shares between 0 and 1; option: they were read as whole numbers."""
    return lambda s, b: F.mse_loss(s.model(b[0]).squeeze(-1), b[1].long().float() if whole and s.training else b[1])


RARE = (Y > 1.3).float()


class Twice(nn.Module):
    """An MLP that ends in a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.body = t.mlp([12, 64, 64, 1])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).sigmoid().squeeze(-1)


def binary(s: Script, batch: Any) -> Tensor:
    """Binary cross entropy of what should be logits."""
    return F.binary_cross_entropy_with_logits(s.model(batch[0]).reshape(-1), batch[1])


def found_positives(test: Any) -> Any:
    """F1 of positives, where the model's own threshold is that of logits."""

    def score(s: Any) -> Tensor:
        out = s.model(test[0]).reshape(-1)
        guess, y = out > (0.5 if isinstance(s.model, Twice) else 0.0), test[1] > 0
        return 2 * (guess & y).sum() / (guess.sum() + y.sum())

    return score


EXCLUSIVE = ((X[:, 0] > 0) ^ (X[:, 1] > 0)).float()


def accurate(test: Any) -> Any:
    """Accuracy at a logit of 0."""
    return lambda s: ((s.model(test[0]).squeeze(-1) > 0) == (test[1] > 0)).float().mean()


def xor(act: Any) -> Any:
    """Three linear layers on two columns; option: what is between them."""
    return lambda: nn.Sequential(nn.Linear(2, 16), act(), nn.Linear(16, 16), act(), nn.Linear(16, 1))


def second(most: float) -> tuple[Tensor, Tensor]:
    """Eight numbers, and the second largest of them."""
    x = most * torch.rand(4000, 8, generator=torch.Generator().manual_seed(8))
    return x, x.topk(2).values[:, 1]


# -- ratings ----------------------------------------------------------------------------------------------------------


def rated(count: int = 12000) -> tuple[Tensor, Tensor]:
    """Users, films, and ratings from tastes in three respects."""
    g = torch.Generator().manual_seed(12)
    users, films = torch.randn(120, 3, generator=g), torch.randn(80, 3, generator=g)
    x = torch.stack([torch.randint(120, (count,), generator=g), torch.randint(80, (count,), generator=g)], 1)
    y = (users[x[:, 0]] * films[x[:, 1]]).sum(1) / 1.7 + 0.2 * torch.randn(count, generator=g)
    return x, y


RATED = rated()


class Factors(nn.Module):
    """A product of a user's and a film's vector, and a bias of each; option: how vectors start."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(120, 8), nn.Embedding(80, 8)
        self.user_bias, self.film_bias = nn.Embedding(120, 1), nn.Embedding(80, 1)
        for e in (self.user, self.film):
            nn.init.normal_(e.weight, std=std)
        for e in (self.user_bias, self.film_bias):
            nn.init.zeros_(e.weight)

    def forward(self, x: Tensor) -> Tensor:
        both = (self.user(x[:, 0]) * self.film(x[:, 1])).sum(1)
        return both + self.user_bias(x[:, 0]).squeeze(1) + self.film_bias(x[:, 1]).squeeze(1)


# -- graphs -----------------------------------------------------------------------------------------------------------


def molecules(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rings and paths of eight nodes with a feature each: features, adjacency, and whether it is a ring with a large sum."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, 4, generator=g)
    ring = torch.rand(count, generator=g) < 0.5
    path = torch.diag(torch.ones(7), 1)
    path = path + path.T
    closed = path.clone()
    closed[0, 7] = closed[7, 0] = 1.0
    adjacency = torch.where(ring[:, None, None], closed, path)
    y = (adjacency @ x[:, :, :1]).mean((1, 2)) > 0
    return x, adjacency, y.long()


GRAPHS = molecules(2000, 1), molecules(500, 2)


class Pooled(nn.Module):
    """Two graph convolutions and a mean; option: the mean is over all nodes of the batch."""

    def __init__(self, over_batch: bool) -> None:
        super().__init__()
        self.one, self.two, self.head, self.over_batch = (
            nn.Linear(4, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 2),
            over_batch,
        )

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        around = adjacency + torch.eye(8)
        around = around / around.sum(2, keepdim=True)
        h = F.relu(self.two(around @ F.relu(self.one(around @ x))))
        mean = h.mean((0, 1)).expand(len(x), -1) if self.over_batch else h.mean(1)
        return self.head(mean)


def of_graphs(s: Script, batch: Any) -> Any:
    """Cross entropy of graphs."""
    logits = s.model(batch[0], batch[1])
    return {"loss": F.cross_entropy(logits, batch[2]), "logits": logits, "target": batch[2]}


def graphs(seed: int, over_batch: bool) -> Training:
    """Train to classify graphs."""
    score = lambda s: (s.model(*GRAPHS[1][:2]).argmax(1) == GRAPHS[1][2]).float().mean()  # noqa: E731
    make = lambda: Script(Pooled(over_batch), of_graphs, adam(5e-3), *GRAPHS)  # noqa: E731
    return script(
        seed, make, score, detectors={"PredictionCollapse": {"output": "logits"}, "DeadUnits": {}, "TrainingDoctor": {}}
    )


# -- equations --------------------------------------------------------------------------------------------------------


def decay(boundary: float) -> Any:
    """Residual of u' = -2u at random times, and u(0) = 1; option: the weight of the latter."""

    def loss(s: Script, batch: Any) -> Tensor:
        with torch.enable_grad():
            time = batch[0].clone().requires_grad_(True)
            u = s.model(time)
            (slope,) = torch.autograd.grad(u.sum(), time, create_graph=True)
        start = (s.model(torch.zeros(1, 1)) - 1).square().mean()
        return (slope + 2 * u).square().mean() + boundary * start

    return loss


TIMES = 2 * torch.rand(3200, 1, generator=torch.Generator().manual_seed(3))


def solved(s: Any) -> Tensor:
    """R squared of the solution."""
    time = torch.linspace(0, 2, 100)[:, None]
    truth = (-2 * time).exp()
    return 1 - (s.model(time) - truth).square().mean() / truth.var()


def equation(seed: int, boundary: float) -> Training:
    """Solve a differential equation."""
    make = lambda: Script(t.mlp([1, 32, 32, 1], act=nn.Tanh), decay(boundary), adam(5e-3), (TIMES,))  # noqa: E731
    return script(seed, make, solved, 500, DOCTOR)


def concordance(s: Script, batch: Any) -> Tensor:
    """One minus the concordance correlation of a batch, which starts near 1."""
    x, y = s.model(batch[0]).squeeze(-1), batch[1]
    both = ((x - x.mean()) * (y - y.mean())).mean()
    return 1 - 2 * both / (x.var() + y.var() + (x.mean() - y.mean()).square())


SCENARIOS: list[Scenario] = [
    # PyTorch forum: NaN from an RMSE, in which errors of missing targets are exactly 0
    failing(FAMILY, "roots of masked errors", 0.3, lambda s: rows(
        s, GAPS, rooted(0.0), model=lambda: t.mlp([12, 64, 64, 2]), score=of_first, detectors=UNITS),
        "non-finite values", "divergence", BATCH),
    # the repaired code: a small number under the root
    healthy(FAMILY, "masked errors, 1e-6 under the root", 0.5, lambda s: rows(
        s, GAPS, rooted(1e-6), model=lambda: t.mlp([12, 64, 64, 2]), score=of_first, detectors=UNITS)),
    # PyTorch issue: torch.where passes NaN gradients of the branch that was not chosen
    failing(FAMILY, "NaN from the branch that where left out", 0.3, lambda s: rows(s, Y, model=lambda: Roots(True), score=no_nan),
            "non-finite values", "divergence", BATCH, *UNRELATED),
    # the repaired code: clamped inside
    healthy(FAMILY, "the root clamped inside where", 0.5, lambda s: rows(s, Y, model=lambda: Roots(False), score=no_nan)),
    # Stack Overflow: a column without variance divided by its std
    failing(FAMILY, "a constant column, standardised", 0.3, lambda s: rows(s, Y, x=standardised(), score=no_nan),
            "non-finite values", "divergence", "sanity:initial loss", "sanity:inputs matter", BATCH),
    # Stack Overflow: targets between 0 and 1 turned into LongTensors, all of them 0
    failing(FAMILY, "shares read as whole numbers", 0.3, lambda s: rows(s, SHARES, shares(True)), *UNRELATED, "complete collapse",
            "sanity:labels follow from inputs"),
    # the repaired code
    healthy(FAMILY, "shares as they are", 0.5, lambda s: rows(s, SHARES, shares(False))),
    # PyTorch forum: BCEWithLogitsLoss behind a sigmoid, one row in ten is positive
    failing(FAMILY, "a sigmoid in front of BCEWithLogitsLoss", 0.45, lambda s: rows(s, RARE, binary, sgd(0.05), model=Twice, score=found_positives),
            *UNRELATED, "vanishing gradients", "saturated units", "sanity:initial loss", BATCH),
    # the repaired code
    healthy(FAMILY, "BCEWithLogitsLoss of logits", 0.5, lambda s: rows(s, RARE, binary, sgd(0.05), score=found_positives)),
    # Stack Overflow: XOR with linear layers and nothing between them
    failing(FAMILY, "XOR by linear layers alone", 0.8, lambda s: rows(
        s, EXCLUSIVE, binary, x=X[:, :2], model=xor(nn.Identity), score=accurate), *UNRELATED, BATCH, "sanity:labels follow from inputs"),
    # the repaired code
    healthy(FAMILY, "XOR, layers with tanh", 0.9, lambda s: rows(
        s, EXCLUSIVE, binary, adam(1e-2), x=X[:, :2], model=xor(nn.Tanh), score=accurate, detectors=PLAIN)),
    # Stack Overflow: the second largest of some numbers up to 100, SGD
    failing(FAMILY, "the second largest of numbers up to 100", 0.6, lambda s: rows(
        s, second(100.0)[1], optimizer=sgd(1e-3), x=second(100.0)[0], score=no_nan), *FAST, *UNRELATED, BATCH, "sanity:initial loss"),
    # the repaired code: numbers between 0 and 1, Adam
    healthy(FAMILY, "the second largest of numbers up to 1", 0.6, lambda s: rows(s, second(1.0)[1], x=second(1.0)[0], steps=500)),
    # issue of a matrix factorisation: vectors that start at 0 have no gradient, biases have
    failing(FAMILY, "users and films start at 0", 0.4, lambda s: rows(
        s, RATED[1], optimizer=adam(1e-2), x=RATED[0], model=lambda: Factors(0.0), batch=64, detectors=WATCHED),
        LEARN, BATCH, "no gradients", *UNRELATED),
    # keras.io example of collaborative filtering
    healthy(FAMILY, "users and films start small", 0.6, lambda s: rows(
        s, RATED[1], optimizer=adam(2e-2), x=RATED[0], model=lambda: Factors(0.1), batch=64, detectors=WATCHED, steps=400)),
    # issue of PyTorch Geometric: global mean pooling without the vector that says which node is of which graph
    failing(FAMILY, "one mean for all graphs of a batch", 0.7, lambda s: graphs(s, True), *UNRELATED, "sanity:samples do not leak",
            "oversmoothing", BATCH),
    # PyTorch Geometric example on small graphs
    healthy(FAMILY, "mean pooling per graph", 0.85, lambda s: graphs(s, False)),
    # question on physics-informed networks: the solution is 0 everywhere, since the start weighs nothing
    failing(FAMILY, "an equation without its start", 0.5, lambda s: equation(s, 0.0), "complete collapse", *UNRELATED,
            "shrinking weights"),
    # example of physics-informed networks
    healthy(FAMILY, "an equation and its start", 0.9, lambda s: equation(s, 1.0)),
    # PyTorch forum: one minus the concordance correlation as a loss, around 1 at the start
    healthy(FAMILY, "one minus the concordance correlation", 0.5, lambda s: rows(s, Y, concordance)),
]  # fmt: skip
