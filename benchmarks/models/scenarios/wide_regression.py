"""Regression: heavy tails, huge targets, quantiles, columns against rows, survival.

Written as ``wide_classification.py`` is, with names in the develop half: these scenarios are for development and verify
nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, adamw, cut, plain, rmsprop

FAMILY = "wide regression"


def smooth(count: int = 5000, width: int = 6) -> Data:
    """Rows, and a smooth function of them."""
    x = torch.rand(count, width, generator=seeded(51)) * 2 - 1
    f = torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] * 2 + x[:, 3].square() - x[:, 4]
    return x, (f - f.mean()) / f.std()


class Tabular(Loaded):
    """A residual network for tables; the loss and the optimizer are given."""

    def __init__(self, loss: Any, optimizer: Any, outputs: int = 1, width: int = 6, start: float = 0.0) -> None:
        super().__init__()
        self.loss, self.optimizer = loss, optimizer
        self.enter, self.head = nn.Linear(width, 48), nn.Linear(48, outputs)
        self.block = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
        nn.init.constant_(self.head.bias, start)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.enter(x))
        return self.head(h + self.block(h))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self.loss(self(batch[0]), *batch[1:])
        self.log("mean_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[0]), *batch[1:]))

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def fitted(
    seed: int,
    loss: Any,
    optimizer: Any,
    change: Any,
    *,
    clean: Any = None,
    batch: int = 64,
    steps: int = 400,
    rows: Data | None = None,
    **more: Any,
) -> Training:
    """Train on a smooth function whose target is changed; the score is R squared against the function itself."""
    x, f = smooth() if rows is None else rows
    y = change(f)
    share = 4 * len(x) // 5
    train, test = cut((x, y), share)
    truth = (f if clean is None else clean(f))[share:]

    def explained(m: Any) -> Tensor:
        return 1 - (m(test[0])[:, -1] - truth).square().mean() / truth.var()

    make = lambda: Tabular(loss, optimizer, width=x.shape[1], **more).use(train, test, batch)  # noqa: E731
    watched = {"PredictionCollapse": {"output": "head"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, make, explained, steps, watched)


def heavy(f: Tensor) -> Tensor:
    """Add noise with the tails of a t distribution with 1.2 degrees of freedom."""
    torch.manual_seed(7)
    return (f + 0.5 * torch.distributions.StudentT(1.2).sample(f.shape)).unsqueeze(1)


def incomes(f: Tensor, spread: float) -> Tensor:
    """Move to two million."""
    return 2e6 + spread * f


def one_giant(f: Tensor) -> Tensor:
    """Write 1e8 into one row."""
    y = f.clone().unsqueeze(1)
    y[17] = 1e8
    return y


def pinball(out: Tensor, y: Tensor, sign: float = 1.0) -> Tensor:
    """Quantiles of 10, 90 and 50 percent."""
    q = torch.tensor([0.1, 0.9, 0.5])
    error = sign * (y - out)
    return torch.maximum(q * error, (q - 1) * error).mean()


def diabetes() -> Data:
    """442 patients with ten numbers each, standardised, and the progress of their disease."""
    x, y = load_diabetes(return_X_y=True)
    rows, target = torch.tensor(x, dtype=torch.float32) * 21, torch.tensor(y, dtype=torch.float32)
    order = torch.randperm(len(rows), generator=seeded(3))
    return rows[order], (target[order] - target.mean()) / target.std()


# -- survival ---------------------------------------------------------------------------------------------------------


def lives(count: int = 3000) -> Data:
    """Rows, times and whether the event was seen, a third of them were not."""
    g = seeded(61)
    x = torch.randn(count, 6, generator=g)
    risk = x[:, 0] + x[:, 1] * x[:, 2] - 0.5 * x[:, 3]
    time = torch.empty(count).exponential_(generator=g) * (-risk).exp()
    leaves = torch.empty(count).exponential_(generator=g) * 2
    return x, torch.minimum(time, leaves), (time <= leaves).float()


def cox(later: bool) -> Any:
    """Partial likelihood over those still at risk, or over those who are not any more."""

    def loss(out: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        order = time.argsort(descending=later)
        risk, seen = out.squeeze(1)[order], seen[order]
        return -((risk - risk.logcumsumexp(0)) * seen).sum() / seen.sum().clamp(min=1)

    return loss


def survived(seed: int, later: bool, batch: int = 128, steps: int = 300) -> Training:
    """Train a risk; the score is the concordance of risks and times."""
    train, test = cut(lives(), 2400)

    def concordance(m: Any) -> Tensor:
        risk, (_, time, seen) = m(test[0]).squeeze(1), test
        pairs = (time[:, None] < time) & (seen[:, None] > 0)
        return (risk[:, None] > risk)[pairs].float().mean()

    adam = lambda p: torch.optim.Adam(p, lr=3e-3, betas=(0.9, 0.99))  # noqa: E731
    return script(
        seed, lambda: Tabular(cox(later), adam).use(train, test, batch), concordance, steps, {"DeadUnits": {}, **DOCTOR}
    )


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "noise without a variance, absolute errors clipped", 0.5,
            lambda s: fitted(s, nn.SmoothL1Loss(), plain(0.05, momentum=0.9), heavy, batch=32)),
    failing(FAMILY, "a table with one row of 1e8", 0.3, lambda s: fitted(s, nn.MSELoss(), plain(1e-3, momentum=0.9), one_giant),
            *FAST, *UNLEARNED, "sanity:initial loss"),
    healthy(FAMILY, "incomes around two million, RMSprop", 0.6, lambda s: fitted(
        s, nn.L1Loss(), rmsprop(3e-3), lambda f: incomes(f, 5.0).unsqueeze(1), batch=128, clean=lambda f: incomes(f, 5.0), start=2e6)),
    failing(FAMILY, "incomes around two million, SGD 0.01", 0.4, lambda s: fitted(
        s, nn.MSELoss(), plain(0.01), lambda f: incomes(f, 3e5).unsqueeze(1), batch=128,
        clean=lambda f: incomes(f, 3e5)), *FAST, *UNLEARNED, ONE_BATCH),
    failing(FAMILY, "patients, column against row", 0.2, lambda s: fitted(
        s, nn.HuberLoss(), adamw(3e-3), lambda f: f, batch=16, rows=diabetes()), *UNLEARNED, SHAPES, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "patients, a column against a column", 0.2, lambda s: fitted(
        s, nn.HuberLoss(), adamw(1e-3), lambda f: f.unsqueeze(1), batch=16, steps=150, rows=diabetes())),
    healthy(FAMILY, "the middle and both ends by pinball loss", 0.6, lambda s: fitted(
        s, pinball, adamw(5e-3), lambda f: f.unsqueeze(1), outputs=3, batch=256, steps=200)),
    failing(FAMILY, "the middle and both ends, the sign turned", 0.4, lambda s: fitted(
        s, lambda out, y: -pinball(out, y), adamw(5e-3), lambda f: f.unsqueeze(1), outputs=3, batch=256, steps=200), *FAST, *UNLEARNED),
    healthy(FAMILY, "lives, those still at risk", 0.65, lambda s: survived(s, True)),
    failing(FAMILY, "lives, those at risk no longer", 0.55, lambda s: survived(s, False), *UNLEARNED, "divergence", FOLLOW),
]  # fmt: skip
