"""Regression, survival, several tasks, decisions and adaptation with the bugs of code reviews, and healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from sklearn.datasets import load_diabetes, load_linnerud
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut

FAMILY = "drawn bugs"
TRAIN, TEST = images(111)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)


# -- diabetes: shapes and quantiles -----------------------------------------------------------------------------------


def patients() -> tuple[Data, Data]:
    """Ten standardised numbers of 442 patients, and how the disease went on, from 25 to 346."""
    x, y = (torch.tensor(a, dtype=torch.float32) for a in load_diabetes(return_X_y=True))
    order = torch.randperm(len(x), generator=seeded(112))
    return cut(((x / x.std(0))[order], y[order]), 340)


class Progress(Loaded):
    """A regression of the progress; the loss is squared of ``[n, 1]`` against ``[n]``, or of quantiles."""

    def __init__(self, kind: str, lr: float) -> None:
        super().__init__()
        self.kind, self.lr = kind, lr
        self.register_buffer("levels", torch.tensor([0.1, 0.5, 0.9]))
        self.hidden = nn.Sequential(nn.Linear(10, 32), nn.Tanh())
        self.out = nn.Linear(32, 1 if kind == "column" else 3)

    def forward(self, x: Tensor) -> Tensor:
        return 150 + 75 * self.out(self.hidden(x))

    def _loss(self, batch: Data) -> Tensor:
        guess, y = self(batch[0]), batch[1]
        if self.kind == "column":
            return F.mse_loss(guess, y) / 1000
        error = y.unsqueeze(1) - guess
        pinball = torch.maximum(self.levels * error, (self.levels - 1) * error)
        if self.kind == "one flipped":
            pinball = pinball * torch.tensor([1.0, 1.0, -1.0])
        return pinball.mean() / 10

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def progress(seed: int, kind: str, score: Any, lr: float = 5e-3) -> Training:
    """Train on patients."""
    train, test = patients()
    watched = {"PredictionCollapse": {"output": "out"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Progress(kind, lr).use(train, test, 34), lambda m: score(m, *test), 400, watched)


def determined(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """R squared of the middle output."""
    out = m(x)
    return 1 - (out[:, out.shape[1] // 2] - y).square().mean() / y.var()


def covered(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """How near the share between the outer quantiles is to 0.8, as one less the distance."""
    low, _, high = m(x).unbind(1)
    return 1 - (((y > low) & (y < high)).float().mean() - 0.8).abs()


# -- survival ---------------------------------------------------------------------------------------------------------


def lifetimes(censored: float) -> tuple[Data, Data]:
    """Tumours with a time that is made up of their measurements, most of it unseen after the study ends."""
    x, _ = t.cancer()
    g = seeded(113)
    x = x[torch.randperm(len(x), generator=g)]
    risk = 1.2 * x[:, 0] - 0.8 * x[:, 4] + 0.6 * x[:, 20]
    times = torch.empty(len(x)).exponential_(generator=g) * (-risk).exp()
    end = times.quantile(1 - censored)
    return cut((x, times.clamp(max=float(end)), (times < end).float()), 420)


class Cox(Loaded):
    """Partial likelihood of batches; the risk set of a patient is who lives longer, or who died before."""

    def __init__(self, backwards: bool, lr: float) -> None:
        super().__init__()
        self.backwards, self.lr = backwards, lr
        self.net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, times, died = batch
        order = times.argsort(descending=not self.backwards)
        risk = self.net(x[order]).squeeze(1)
        at_risk = risk.logcumsumexp(0)
        loss = -((risk - at_risk) * died[order]).sum() / died.sum().clamp(min=1)
        self.log("partial_likelihood", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)


def survival(seed: int, backwards: bool = False, censored: float = 0.3, lr: float = 3e-3) -> Training:
    """Train on times; the score is the concordance of new patients."""
    train, (x, times, died) = lifetimes(censored)

    def score(m: Any) -> Tensor:
        risk = m.net(x).squeeze(1)
        earlier = (times[:, None] < times) & (died[:, None] > 0)
        return (risk[:, None] > risk)[earlier].float().mean()

    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Cox(backwards, lr).use(train, (), 60), score, 300, watched)


# -- several tasks ----------------------------------------------------------------------------------------------------


class Tasks(Loaded):
    """The digit and whether it is odd, from one body; a head of zeros is put in after the optimizer was made, or noise is learned per task."""

    def __init__(self, late: bool, balanced: bool) -> None:
        super().__init__()
        self.late = late
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)
        self.log_noise = nn.Parameter(torch.zeros(2), requires_grad=balanced)

    def on_train_start(self) -> None:
        if self.late:  # "the checkpoint had another number of classes"
            self.digit = nn.Linear(64, 10)
            nn.init.zeros_(self.digit.weight)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, digit, ink = batch
        h = self.body(x)
        logits = self.digit(h)
        one, two = F.cross_entropy(logits, digit), F.mse_loss(self.ink(h).squeeze(1), ink)
        noise = self.log_noise
        loss = (one * (-noise[0]).exp() + noise[0]) + (two * (-2 * noise[1]).exp() + noise[1])
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self) -> Any:
        slow = [p for n, p in self.named_parameters() if n.startswith("body")]
        fast = [p for n, p in self.named_parameters() if not n.startswith("body")]
        return torch.optim.Adam([{"params": slow, "lr": 5e-4 if self.late else 3e-3}, {"params": fast}], lr=5e-3)


def tasks(seed: int, late: bool, balanced: bool, steps: int = 350) -> Training:
    """Train two tasks; the score is the accuracy of the first."""
    train = FLAT, TRAIN[1], FLAT.mean(1)
    watched = {"PredictionCollapse": {"output": "logits"}, "DeadUnits": {}, "TrainingDoctor": {}}
    score = lambda m: (m.digit(m.body(FLAT_TEST)).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Tasks(late, balanced).use(train, (), 32), score, steps, watched)


class TwoOptimizers(L.LightningModule):
    """Body and head with an optimizer each, by hand; the gradients of the body are cleared, or are not."""

    def __init__(self, cleared: bool, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cleared, self.steps = cleared, steps
        self.body, self.head = t.mlp([64, 64, 64]), nn.Sequential(nn.ReLU(), nn.Linear(64, 10))

    def train_dataloader(self) -> Any:
        chosen = torch.randint(len(FLAT), (32 * self.steps,))
        return DataLoader(TensorDataset(FLAT[chosen], TRAIN[1][chosen]), batch_size=32)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        body, head = self.optimizers()  # type: ignore[misc]
        logits = self.head(self.body(batch[0]))
        loss = F.cross_entropy(logits, batch[1])
        head.zero_grad()
        if self.cleared:
            body.zero_grad()
        self.manual_backward(loss)
        body.step()
        head.step()
        self.log("loss", loss.detach(), prog_bar=True)
        return {"loss": loss.detach(), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.body.parameters(), lr=0.1 if self.cleared else 0.5), torch.optim.Adam(
            self.head.parameters(), lr=2e-3
        )


def by_two(seed: int, cleared: bool, steps: int = 350) -> Training:
    """Train with two optimizers; the score is the accuracy."""
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "logits"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    score = lambda m: (m.head(m.body(FLAT_TEST)).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: TwoOptimizers(cleared, steps), score, steps, watched)


# -- decisions --------------------------------------------------------------------------------------------------------


class Bandit(Loaded):
    """Chooses a digit for an image and hears whether it was right; REINFORCE with a mean as baseline."""

    def __init__(self, sign: float, lr: float, entropy: float) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.sign, self.lr, self.entropy, self.baseline = sign, lr, entropy, 0.1

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        choices = torch.distributions.Categorical(logits=self.policy(x))
        actions = choices.sample()
        reward = (actions == y).float()
        loss = (
            -self.sign * (choices.log_prob(actions) * (reward - self.baseline)).mean()
            - self.entropy * choices.entropy().mean()
        )
        self.baseline = 0.95 * self.baseline + 0.05 * float(reward.mean())
        self.log("reward", reward.mean())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def choosing(seed: int, sign: float, lr: float, entropy: float, steps: int = 500) -> Training:
    """Train on rewards; the score is the share of right choices."""
    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "policy", "kind": "policy"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    score = lambda m: (m.policy(FLAT_TEST).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Bandit(sign, lr, entropy).use((FLAT, TRAIN[1]), (), 64), score, steps, watched)


# -- adaptation and deep residuals ------------------------------------------------------------------------------------


class Adapted(Loaded):
    """A frozen network for digits below five, and a low-rank change of it for all digits; the second factor starts at zero, or both do."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(64, 96), nn.Linear(96, 10)
        self.down, self.up = nn.Linear(64, 8, bias=False), nn.Linear(8, 96, bias=False)
        nn.init.zeros_(self.up.weight)
        if both:
            nn.init.zeros_(self.down.weight)
        self.pretrained()
        for part in (self.base, self.head):
            part.requires_grad_(False)

    def pretrained(self) -> None:
        """Train the network on the digits below five."""
        few = TRAIN[1] < 5
        optimizer = torch.optim.Adam([*self.base.parameters(), *self.head.parameters()], lr=5e-3)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(self.head(self.base(FLAT[few]).relu()), TRAIN[1][few]).backward()
            optimizer.step()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.base(x) + 2 * self.up(self.down(x))))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=5e-3)


class Gated(Loaded):
    """Thirty residual layers whose gates start at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, 32), nn.Linear(32, 10)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(30))
        self.gates = nn.Parameter(torch.zeros(30))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h = h + gate * F.relu(layer(h))
        return self.leave(h)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class MeanTeacher(L.LightningModule):
    """Fifty labels and an averaged teacher for all other images, whose weight rises; the softmax of both is free, or the labels are left out."""

    def __init__(self, labelled: bool, weight: float, steps: int) -> None:
        super().__init__()
        self.student = t.mlp([64, 64, 10])
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.labelled, self.weight, self.steps = labelled, weight, steps

    def train_dataloader(self) -> Any:
        few = DataLoader(TensorDataset(FLAT[:50], TRAIN[1][:50]), batch_size=25, shuffle=True)
        all_ = DataLoader(TensorDataset(FLAT), batch_size=64, shuffle=True)
        return CombinedLoader({"labelled": few, "unlabelled": all_}, "max_size_cycle")  # type: ignore[arg-type]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch["labelled"]
        (u,) = batch["unlabelled"]
        logits = self.student(x + 0.2 * torch.randn_like(x))
        rise = min(1.0, self.global_step / (0.5 * self.steps))
        other = self.teacher(u + 0.2 * torch.randn_like(u)).softmax(1)
        agreement = F.mse_loss(self.student(u + 0.2 * torch.randn_like(u)).softmax(1), other)
        loss = F.cross_entropy(logits, y) * self.labelled + self.weight * rise * agreement
        return {"loss": loss, "logits": logits, "labels": y}

    def on_train_batch_end(self, *args: Any) -> None:
        for kept, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(new.detach(), 0.05)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.student.parameters(), lr=3e-3)


CLASSES: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "logits"}, "TrainingDoctor": {}}


def digits(
    seed: int, make: Any, out: Any = lambda m: m, steps: int = 300, detectors: dict[str, dict[str, Any]] | None = None
) -> Training:
    """Train on digits; the score is the accuracy."""
    score = lambda m: (out(m)(FLAT_TEST).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, make, score, steps, detectors or CLASSES)


def supervised(kind: Any) -> Any:
    """Return what makes a module with its data."""
    return lambda: kind().use((FLAT, TRAIN[1]), (FLAT_TEST, TEST[1]), 32)


def teaching(seed: int, labelled: bool, weight: float) -> Training:
    """Train a student and its teacher; the score is the accuracy of the teacher."""
    watched = {"PredictionCollapse": {"output": "logits", "target": "labels"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return digits(seed, lambda: MeanTeacher(labelled, weight, 350), lambda m: m.teacher, 350, watched)


# -- twenty men -------------------------------------------------------------------------------------------------------


def men(copies: int) -> Data:
    """Weight, waist and pulse of twenty men, copied with noise, and twelve columns of chance; whether they jump far."""
    bunch = load_linnerud()
    x, y = torch.tensor(bunch.target, dtype=torch.float32), torch.tensor(bunch.data[:, 2] > 55).long()
    x = ((x - x.mean(0)) / x.std(0)).repeat(copies, 1)
    g = seeded(114)
    return torch.cat([x + 0.1 * torch.randn(x.shape, generator=g), torch.randn(len(x), 12, generator=g)], 1), y.repeat(
        copies
    )


class Jumps(Loaded):
    """A classifier of men."""

    def __init__(self) -> None:
        super().__init__()
        self.model = t.mlp([15, 64, 2])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def jumping(seed: int) -> Training:
    """Train on fourteen men and validate on eight of them; the score is the accuracy for the six who are new."""
    x, y = men(10)
    who = torch.arange(200) % 20
    new = who >= 14
    make = lambda: Jumps().use((x[~new], y[~new]), (x[who < 8], y[who < 8]), 20)  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "model"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, make, lambda m: (m.model(x[new]).argmax(1) == y[new]).float().mean(), 350, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "diabetes, a column minus a row", 0.2, lambda s: progress(s, "column", determined), SHAPES, *UNLEARNED, FOLLOW, ONE_BATCH),
    failing(FAMILY, "quantiles of diabetes, one sign flipped", 0.7, lambda s: progress(s, "one flipped", covered), *FAST, *UNLEARNED,
            "saturated units", ONE_BATCH),
    healthy(FAMILY, "three quantiles of diabetes", 0.8, lambda s: progress(s, "quantiles", covered)),
    failing(FAMILY, "tumours, risk sets the wrong way", 0.55, lambda s: survival(s, True, 0.3), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "tumours, 80 % of them censored", 0.68, lambda s: survival(s, False, 0.8)),
    failing(FAMILY, "two tasks, a head of zeros put in too late", 0.7, lambda s: tasks(s, True, False), "weights do not change", *UNLEARNED,
            "sanity:all parameters learn"),
    healthy(FAMILY, "two tasks with a noise of their own", 0.85, lambda s: tasks(s, False, True, 450)),
    failing(FAMILY, "two optimizers, one of them never cleared", 0.75, lambda s: by_two(s, False), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "two optimizers by hand", 0.85, lambda s: by_two(s, True)),
    failing(FAMILY, "rewarded digits, the sign flipped", 0.3, lambda s: choosing(s, -1.0, 3e-3, 0.0), "policy collapse", *UNLEARNED, *FAST),
    failing(FAMILY, "rewarded digits, one answer for all", 0.6, lambda s: choosing(s, 1.0, 0.3, 0.0), "policy collapse", "dead units", *UNLEARNED, *FAST,
            twin="rewarded digits"),
    healthy(FAMILY, "rewarded digits", 0.75, lambda s: choosing(s, 1.0, 3e-3, 0.01, 700)),
    failing(FAMILY, "an adapter, both factors zero", 0.6, lambda s: digits(s, supervised(lambda: Adapted(True))), "no gradients",
            "weights do not change", "sanity:all parameters learn", "vanishing gradients", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "an adapter of a network that knew five digits", 0.6, lambda s: digits(s, supervised(lambda: Adapted(False)))),
    healthy(FAMILY, "thirty gated layers that start as none", 0.85, lambda s: digits(s, supervised(Gated), steps=200)),
    failing(FAMILY, "a mean teacher whose labels are left out", 0.5, lambda s: teaching(s, False, 20.0), *UNLEARNED, "no gradients", "vanishing gradients",
            FOLLOW, ONE_BATCH),
    healthy(FAMILY, "a mean teacher of fifty labels, the loss rising", 0.65, lambda s: teaching(s, True, 20.0)),
    failing(FAMILY, "men that were copied before the split", 0.7, jumping, "sanity:validation data are new", "overfitting", *UNLEARNED),
]  # fmt: skip
