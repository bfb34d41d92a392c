"""Adaptation, experts, policies and updates by hand: half of the trainings fail, half are healthy look-alikes.

Written from a list of families and mistakes, not from what the rules do. The names were chosen so that all of them are in
the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, fitted, images, right, script, seeded, trained
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded

FAMILY = "listed updates"
TRAIN, TEST = images(461)
FLAT, FLAT_TEST = (TRAIN[0].flatten(1), TRAIN[1]), (TEST[0].flatten(1), TEST[1])
RETURNED: dict[str, dict[str, Any]] = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}
STILL = ("no gradients", "weights do not change", "vanishing gradients")


def plain(lr: float, momentum: float = 0.9, **more: Any) -> Callable[[Script], Any]:
    """SGD."""
    return lambda s: torch.optim.SGD(s.parameters(), lr=lr, momentum=momentum, **more)


# -- digits -----------------------------------------------------------------------------------------------------------


def crossed(s: Script, batch: Data) -> dict[str, Tensor]:
    """Cross entropy, logits and labels."""
    logits = s.model(batch[0])
    loss = F.cross_entropy(logits, batch[1])
    s.log_dict({"loss": loss, "acc": (logits.argmax(1) == batch[1]).float().mean()})
    return {"loss": loss, "logits": logits, "labels": batch[1]}


def sorting(seed: int, model: Any, loss: Any = crossed, optimizer: Any = None, **more: Any) -> Training:
    """Train on digits; the score is the accuracy."""
    return fitted(seed, model, loss, right(FLAT_TEST), (FLAT, FLAT_TEST), optimizer, **{"detectors": RETURNED, **more})


class Gated(nn.Module):
    """A residual step whose gate starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.alpha = nn.Linear(48, 48), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * F.relu(self.lin(x))


def rezero() -> nn.Module:
    """Twenty gated steps."""
    return nn.Sequential(nn.Linear(64, 48), *(Gated() for _ in range(20)), nn.Linear(48, 10))


def frozen() -> nn.Module:
    """A frozen body that was trained on the digits below 5, and a head of zeros."""
    below = FLAT[1] < 5
    body = trained(t.mlp([64, 64, 48, 10]), (FLAT[0][below], FLAT[1][below]))[:4].requires_grad_(False)  # type: ignore[index]
    head = nn.Linear(48, 10)
    for p in head.parameters():
        nn.init.zeros_(p)
    return nn.Sequential(body, head)


class Replaced(Loaded):
    """The head for the new task is put in when training starts; by then the optimizer has the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 48), nn.ReLU()).requires_grad_(False)
        self.head = nn.Linear(48, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def on_train_start(self) -> None:
        self.head = nn.Linear(48, 10)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class ByHand(L.LightningModule):
    """Updates as plain torch has them, with the line that clears gradients, or without."""

    def __init__(self, cleared: bool, lr: float, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cleared, self.lr, self.updates = cleared, lr, updates
        self.model = t.mlp([64, 64, 64, 64, 10], nn.LeakyReLU)

    def train_dataloader(self) -> Any:
        rows = torch.randint(len(FLAT[0]), (32 * self.updates,))
        return DataLoader(TensorDataset(FLAT[0][rows], FLAT[1][rows]), batch_size=32)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        logits = self.model(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        if self.cleared:
            optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {"loss": loss.detach(), "logits": logits.detach(), "labels": batch[1]}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=self.lr)


def by_hand(seed: int, cleared: bool, lr: float, updates: int = 400) -> Training:
    """Train by hand; the score is the accuracy."""
    return script(seed, lambda: ByHand(cleared, lr, updates), right(FLAT_TEST), updates, RETURNED)


def uphill(s: Script, batch: Data) -> Any:
    """The mean log-probability of the labels: its sign is that of a likelihood, not of a loss."""
    logits = s.model(batch[0])
    return {"loss": logits.log_softmax(1).gather(1, batch[1][:, None]).mean(), "logits": logits, "labels": batch[1]}


class Student(Loaded):
    """A small net learns the softened answers of a larger one, or follows its own average on unlabelled images."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.model = t.mlp([64, 32, 10], nn.GELU)
        teacher = copy.deepcopy(self.model) if kind == "mean teacher" else trained(t.mlp([64, 128, 10]), FLAT, 250)
        self.teacher = teacher.requires_grad_(False)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.model(x + 0.2 * torch.randn_like(x))
        soft = self.teacher(x)
        if self.kind == "mean teacher":
            known = y >= 0  # -1: nobody has said what it is
            loss = F.cross_entropy(logits[known], y[known]) + 2 * F.mse_loss(logits.softmax(1), soft.softmax(1))
        else:
            loss = 9 * F.kl_div((logits / 3).log_softmax(1), (soft / 3).softmax(1), reduction="batchmean")
        self.log("train/loss", loss)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        if self.kind == "mean teacher":
            for kept, new in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
                kept.data.mul_(0.98).add_(new.data, alpha=0.02)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.model.parameters(), lr=3e-3)


def learning(seed: int, kind: str) -> Training:
    """Train a student; the score is the accuracy of the student, or of its average."""
    unlabelled = FLAT[1].masked_fill((torch.arange(1400) % 8 > 0), -1)
    data = (FLAT[0], unlabelled) if kind == "mean teacher" else FLAT
    return script(seed, lambda: Student(kind).use(data, (), 64), right(FLAT_TEST), 300, CLASSES)


class LoRA(nn.Module):
    """A frozen layer and a change of it of rank 6 that starts at nothing."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        inner, outer = int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
        self.down, self.up = nn.Parameter(torch.randn(inner, 6) / inner**0.5), nn.Parameter(torch.zeros(6, outer))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 2 * x @ self.down @ self.up


def adapted() -> nn.Module:
    """A network that knew the digits with their pixels in another order."""
    order = torch.randperm(64, generator=seeded(468))
    net = trained(t.mlp([64, 64, 64, 10]), (FLAT[0][:, order], FLAT[1]))
    return nn.Sequential(*(LoRA(m) if isinstance(m, nn.Linear) else m for m in net))  # type: ignore[attr-defined]


def contexts(data: Data, seed: int) -> Data:
    """Digits whose names differ in four contexts; the context is given with the image."""
    names = torch.stack([torch.randperm(10, generator=seeded(k)) for k in range(4)])
    which = torch.randint(4, (len(data[0]),), generator=seeded(seed))
    return torch.cat([data[0], 4.0 * F.one_hot(which, 4)], 1), names[which, data[1]]


class Experts(nn.Module):
    """The best of four linear experts for each image; the router may begin with a head start for the first."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.router = nn.Linear(68, 4)
        self.experts = nn.ModuleList(nn.Linear(68, 10) for _ in range(4))
        with torch.no_grad():
            self.router.bias[0] += start

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        chance = self.router(x).softmax(1)
        best, index = chance.max(1)
        out = torch.stack([e(x) for e in self.experts], 1)[torch.arange(len(x)), index]
        load = F.one_hot(index, 4).float().mean(0)
        return best[:, None] * out, 4 * (load * chance.mean(0)).sum()


def routed(seed: int, balance: float, start: float) -> Training:
    """Train experts; the score is the accuracy."""
    train, test = contexts(FLAT, 466), contexts(FLAT_TEST, 467)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits, more = s.model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]) + balance * more, "logits": logits, "labels": batch[1]}

    score = lambda s: (s.model(test[0])[0].argmax(1) == test[1]).float().mean()  # noqa: E731
    seen = {"UsageCollapse": {"assignments": "model.router", "kind": "router"}, "TrainingDoctor": {}}
    model = lambda: Experts(start)  # noqa: E731
    return fitted(seed, model, loss, score, (train, ()), rate=5e-3, batch=64, steps=500, detectors=seen)


# -- policies ---------------------------------------------------------------------------------------------------------


class Agent(L.LightningModule):
    """Moves on a line of seven places towards the one that a lamp shows: REINFORCE, or values of moves (DQN)."""

    def __init__(self, kind: str, lr: float, updates: int) -> None:
        super().__init__()
        self.kind, self.lr, self.updates = kind, lr, updates
        self.policy = t.mlp([14, 48, 3], nn.Tanh)
        self.target = copy.deepcopy(self.policy).requires_grad_(False)

    @staticmethod
    def see(at: Tensor, lamp: Tensor) -> Tensor:
        """One-hot codes of where the agent and the lamp are."""
        return torch.cat([F.one_hot(at, 7), F.one_hot(lamp, 7)], 1).float()

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randint(7, (64 * self.updates, 2))), batch_size=64)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return (self._values if self.kind == "values" else self._returns)(*batch[0].T)

    def _returns(self, at: Tensor, lamp: Tensor) -> Tensor:
        logs, rewards = [], []
        for _ in range(6):
            moves = torch.distributions.Categorical(logits=self.policy(self.see(at, lamp)))
            move = moves.sample()
            at = (at + move - 1).clamp(0, 6)
            logs.append(moves.log_prob(move))
            rewards.append((at == lamp).float())
        returns = torch.stack(rewards).flip(0).cumsum(0).flip(0)
        self.log("return", returns[0].mean(), prog_bar=True)
        advantage = returns - returns.mean(1, keepdim=True)
        sign = -1.0 if self.kind == "losses" else 1.0
        return -(torch.stack(logs) * advantage).mean() * sign

    def _values(self, at: Tensor, lamp: Tensor) -> Tensor:
        move = torch.randint(3, at.shape)
        then = (at + move - 1).clamp(0, 6)
        with torch.no_grad():
            goal = (then == lamp).float() + 0.8 * self.target(self.see(then, lamp)).amax(1)
        loss = F.smooth_l1_loss(self.policy(self.see(at, lamp)).gather(1, move[:, None]).squeeze(1), goal)
        self.log("td", loss)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        if self.global_step % 20 == 0:
            self.target.load_state_dict(self.policy.state_dict())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.policy.parameters(), lr=self.lr)


def walking(seed: int, kind: str, lr: float, updates: int = 300) -> Training:
    """Train an agent; the score is the share of all starts from which the best move leads to the lamp."""

    def score(m: Any) -> Tensor:
        at, lamp = torch.cartesian_prod(torch.arange(7), torch.arange(7)).T
        for _ in range(6):
            at = (at + m.policy(m.see(at, lamp)).argmax(1) - 1).clamp(0, 6)
        return (at == lamp).float().mean()

    watched = {"UsageCollapse": {"assignments": "policy", "kind": "policy"}, "TrainingDoctor": {}}
    return script(seed, lambda: Agent(kind, lr, updates), score, updates, watched)


def easy_first(s: Script, batch: Data) -> dict[str, Tensor]:
    """Noise on the images that grows with the updates."""
    return crossed(s, (batch[0] + min(1.5, s.global_step / 150) * torch.randn_like(batch[0]), batch[1]))


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a log-likelihood handed to SGD", 0.5, lambda s: sorting(s, lambda: t.mlp([64, 48, 10]), uphill, plain(0.01)), *FAST, *UNLEARNED,
            FOLLOW, ONE_BATCH, "saturated units", "dead units", "sanity:initial loss"),
    failing(FAMILY, "five layers for digits, SGD at 2", 0.5, lambda s: sorting(s, lambda: t.mlp([64, 64, 64, 64, 10]), optimizer=plain(2.0)),
            "dead units", *FAST, *UNLEARNED),
    failing(FAMILY, "digits, SGD at 1e-5 without momentum", 0.5, lambda s: sorting(s, lambda: t.mlp([64, 48, 10]), optimizer=plain(1e-5, 0.0)),
            *STILL, *UNLEARNED),
    failing(FAMILY, "a head put in when training starts", 0.5, lambda s: script(s, lambda: Replaced().use(FLAT, (), 32),
            lambda m: (m(FLAT_TEST[0])[:, :10].argmax(1) == FLAT_TEST[1]).float().mean(), 250, RETURNED), *STILL, *UNLEARNED,
            "sanity:all parameters learn"),
    failing(FAMILY, "digits by hand, zero_grad() forgotten", 0.6, lambda s: by_hand(s, False, 0.3), *FAST, *UNLEARNED, "saturated units", "dead units"),
    healthy(FAMILY, "digits by hand, SGD 0.3", 0.85, lambda s: by_hand(s, True, 0.3)),
    healthy(FAMILY, "twenty steps with gates of 0, Adamax", 0.85, lambda s: sorting(s, rezero, optimizer=lambda m: torch.optim.Adamax(
            m.parameters(), lr=4e-3))),
    healthy(FAMILY, "a frozen body, a new head of zeros", 0.7, lambda s: sorting(s, frozen, rate=1e-2)),
    healthy(FAMILY, "digits under noise that grows", 0.8, lambda s: sorting(s, lambda: t.mlp([64, 96, 10], nn.SiLU), easy_first)),
    healthy(FAMILY, "a student at temperature 3", 0.85, lambda s: learning(s, "distilled")),
    healthy(FAMILY, "a slow teacher, one digit in eight labelled", 0.8, lambda s: learning(s, "mean teacher")),
    failing(FAMILY, "four experts, one with a head start of 8", 0.7, lambda s: routed(s, 0.0, 8.0), "router collapse", "no gradients",
            "sanity:all parameters learn", "weights do not change"),
    healthy(FAMILY, "four linear experts, evenly used", 0.7, lambda s: routed(s, 0.3, 0.0)),
    failing(FAMILY, "a walk to a lamp, losses for rewards", 0.4, lambda s: walking(s, "losses", 1e-2), "policy collapse", *UNLEARNED),
    failing(FAMILY, "a walk to a lamp, Adam at a rate of 1", 0.6, lambda s: walking(s, "returns", 1.0), "policy collapse", *FAST, "saturated units"),
    healthy(FAMILY, "a walk to a lamp by returns", 0.7, lambda s: walking(s, "returns", 5e-3)),
    healthy(FAMILY, "a walk to a lamp by Q-values", 0.8, lambda s: walking(s, "values", 1e-2, 800)),
    healthy(FAMILY, "low-rank changes for pixels in another order", 0.75, lambda s: sorting(s, adapted, optimizer=lambda m: torch.optim.AdamW(
            [p for p in m.parameters() if p.requires_grad], lr=5e-3))),
]  # fmt: skip
