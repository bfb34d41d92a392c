"""Experts, agents, adapters and what is known already: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, script, seeded, trained
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fifth updates"
RETURNED: dict[str, dict[str, Any]] = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}
STILL = ("no gradients", "weights do not change", "vanishing gradients")
LEARNING = "sanity:all parameters learn"


def machines(noise: float = 1.0, seed: int = 751) -> tuple[Data, Data]:
    """Vibrations of 32 numbers of nine kinds of damage: 1,600 to train on and 400 to test."""
    g = seeded(seed)
    kinds, y = torch.randn(9, 32, generator=g), torch.randint(9, (2000,), generator=g)
    gain = 0.5 + torch.rand(2000, 1, generator=g)
    return cut((gain * kinds[y] + noise * torch.randn(2000, 32, generator=g), y), 1600)


TRAIN, TEST = machines()


def accuracy(forward: Any, data: Data = TEST) -> Any:
    """Share of right answers of what ``forward(module)`` gives."""
    return lambda m: (forward(m)(data[0]).nan_to_num().argmax(1) == data[1]).float().mean()


# -- experts and warm restarts ----------------------------------------------------------------------------------------


class Experts(Loaded):
    """One of six linear experts for a row; the loss of balance is added, or, with a sign lost, taken off."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.router = nn.Linear(38, 6)
        self.experts = nn.ModuleList(nn.Linear(38, 9) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.router(x).softmax(1)
        top, chosen = gates.max(1)
        out = torch.stack([expert(x) for expert in self.experts], 1)[torch.arange(len(x)), chosen]
        balance = 6 * (F.one_hot(chosen, 6).float().mean(0) * gates.mean(0)).sum()
        return top[:, None] * out, balance

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits, balance = self(batch[0])
        self.log_dict({"balance": balance, "acc": (logits.argmax(1) == batch[1]).float().mean()})
        return {"loss": F.cross_entropy(logits, batch[1]) + self.sign * 0.3 * balance}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100)
        return [optimizer], [{"scheduler": restarts, "interval": "step"}]


def routing(seed: int, sign: float) -> Training:
    """Machines in six halls, whose damages have other names in each; the score is the accuracy."""
    names = torch.stack([torch.randperm(9, generator=seeded(752 + k)) for k in range(6)])

    def halls(data: Data, number: int) -> Data:
        hall = torch.randint(6, (len(data[0]),), generator=seeded(number))
        return torch.cat([data[0], 4.0 * F.one_hot(hall, 6)], 1), names[hall, data[1]]

    train, test = halls(TRAIN, 760), halls(TEST, 761)
    watched = {"UsageCollapse": {"assignments": "router", "kind": "router"}, "TrainingDoctor": {}}
    return script(
        seed, lambda: Experts(sign).use(train, (), 64), accuracy(lambda m: lambda x: m(x)[0], test), 500, watched
    )


# -- an agent ---------------------------------------------------------------------------------------------------------


class Corridor(L.LightningModule):
    """Eight steps to the left or to the right, and after the last of them a reward for being near the lamp.

    The logarithm is that of the step that was made, or of one that is drawn anew.
    """

    def __init__(self, redrawn: bool, updates: int) -> None:
        super().__init__()
        self.redrawn, self.updates = redrawn, updates
        self.pi = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randint(-3, 4, (48 * self.updates,)).float()), batch_size=48)

    def play(self, lamp: Tensor, greedy: bool = False) -> tuple[Tensor, Tensor]:
        """Logarithms of what was done, and rewards, both ``[n, 8]``."""
        place, logs, rewards = torch.zeros_like(lamp), [], []
        for k in range(8):
            state = torch.stack([lamp / 3, place / 3, (lamp - place) / 3, torch.full_like(lamp, k / 8)], 1)
            policy = torch.distributions.Categorical(logits=self.pi(state))
            action = policy.probs.argmax(1) if greedy else policy.sample()
            place = place + action - 1
            logs.append(policy.log_prob(policy.sample() if self.redrawn else action))
            rewards.append(lamp.abs() - (lamp - place).abs() if k == 7 else torch.zeros_like(lamp))
        return torch.stack(logs, 1), torch.stack(rewards, 1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        logs, rewards = self.play(batch[0])
        returns = rewards.flip(1).cumsum(1).flip(1)
        advantage = returns - returns.mean(0)
        self.log("return", rewards.sum(1).mean(), prog_bar=True)
        return -(logs * advantage).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.pi.parameters(), lr=1e-2)


def walking(seed: int, redrawn: bool, updates: int = 150) -> Training:
    """Train an agent; the score is the mean distance won on the way to the lamp, of 12/7 at best."""
    watched = {"UsageCollapse": {"assignments": "pi", "kind": "policy"}, "TrainingDoctor": {}}
    score = lambda m: m.play(torch.arange(-3.0, 4.0), greedy=True)[1].sum(1).mean()  # noqa: E731
    return script(seed, lambda: Corridor(redrawn, updates), score, updates, watched)


# -- adapters of a frozen body, taught by a teacher -------------------------------------------------------------------


class LoRA(nn.Module):
    """A frozen layer and a product of two matrices, one of which starts at 0."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 6, bias=False), nn.Linear(6, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Taught(Loaded):
    """A body that knows other machines, frozen, with adapters and a new head of zeros; answers are those of a teacher.

    Adapters and head are put in before the optimizer is made, or as the training starts, when it has the old head.
    """

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late
        body = trained(t.mlp([32, 48, 48, 9], nn.GELU), machines(0.5, 770)[0], 200)
        self.body, self.head = body[:-1].requires_grad_(False), body[-1]
        self.teacher = trained(t.mlp([32, 96, 9]), TRAIN, 250).requires_grad_(False)
        if not late:
            self.adapt()

    def adapt(self) -> None:
        """Put in the adapters and the head."""
        self.body = nn.Sequential(*(LoRA(m) if isinstance(m, nn.Linear) else m for m in self.body))
        self.head = nn.Linear(48, 9)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def on_train_start(self) -> None:
        if self.late:
            self.adapt()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        soft = (self.teacher(batch[0]) / 2).softmax(1)
        loss = 4 * F.kl_div((self(batch[0]) / 2).log_softmax(1), soft, reduction="batchmean")
        self.log("kd", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3)


def adapting(seed: int, late: bool) -> Training:
    """Train adapters and head; the score is the accuracy."""
    watched = {"PredictionCollapse": {"output": "head"}, "TrainingDoctor": {}}
    return script(seed, lambda: Taught(late).use(TRAIN, (), 40), accuracy(lambda m: m), 280, watched)


# -- a mean teacher, a curriculum, gates from 0 -----------------------------------------------------------------------


class Gate(nn.Module):
    """A step whose share is learned from 0, behind a norm over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.alpha = nn.BatchNorm1d(48), nn.Linear(48, 48), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * F.relu(self.inner(self.norm(x)))


class MeanTeacher(Loaded):
    """A student of raw numbers behind a norm, and the mean of its weights; noise grows, and few rows have labels.

    The mean is tried on each batch in eval(), for which the whole module is set to it and set back, or is not.
    """

    def __init__(self, left: bool) -> None:
        super().__init__()
        self.left = left
        self.student = nn.Sequential(
            nn.BatchNorm1d(32), nn.Linear(32, 48), *(Gate() for _ in range(6)), nn.Linear(48, 9)
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def on_train_batch_start(self, batch: Data, batch_idx: int) -> None:
        self.eval()
        with torch.no_grad():
            for slow, fast in zip(self.teacher.state_dict().values(), self.student.state_dict().values(), strict=True):
                slow.copy_(slow.lerp(fast, 0.05) if slow.is_floating_point() else fast)
            self.agreed = self.teacher(batch[0]).softmax(1)
        if not self.left:
            self.train()

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        level = 20.0 * min(1.0, self.global_step / 200)
        logits = self.student(x + level * torch.randn_like(x))
        agree = (logits.softmax(1) - self.agreed).square().mean()
        loss = F.cross_entropy(logits[y >= 0], y[y >= 0]) if (y >= 0).any() else 0 * logits.sum()
        self.log_dict({"supervised": loss, "consistency": agree})
        return {"loss": loss + min(1.0, self.global_step / 100) * agree, "logits": logits, "labels": y}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student.parameters(), lr=0.02, momentum=0.9, nesterov=True)


def raw(data: Data) -> Data:
    """Numbers as they come from the sensor."""
    return 400 + 60 * data[0], data[1]


def averaged(seed: int, left: bool) -> Training:
    """Train on raw numbers, three in four without a label; the score is the accuracy of the student."""
    x, y = raw(TRAIN)
    data = (x, y.masked_fill(torch.arange(1600) % 4 > 0, -100))
    return script(
        seed, lambda: MeanTeacher(left).use(data, (), 64), accuracy(lambda m: m.student, raw(TEST)), 300, RETURNED
    )


# -- a good model goes on ---------------------------------------------------------------------------------------------


class Further(L.LightningModule):
    """A network that knows its machines goes on, by hand, four rows or one at a time, behind a dropout of 0.8."""

    def __init__(self, batch: int, cleared: bool, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.batch, self.cleared, self.updates = batch, cleared, updates
        net: Any = trained(t.mlp([32, 96, 9]), TRAIN, 200)
        self.classifier = nn.Sequential(net[0], net[1], nn.Dropout(0.8 if batch == 1 else 0.1), net[2])

    def train_dataloader(self) -> Any:
        rows = torch.randint(1600, (self.batch * self.updates,))
        return DataLoader(TensorDataset(TRAIN[0][rows], TRAIN[1][rows]), batch_size=self.batch)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = F.cross_entropy(self.classifier(batch[0]), batch[1])
        if self.cleared:
            optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss.detach(), prog_bar=True)
        return loss.detach()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=5e-3 if self.batch == 1 else 0.05)


def further(seed: int, batch: int, cleared: bool, updates: int = 600) -> Training:
    """Train further; the score is the accuracy."""
    watched = {**CLASSES, "PredictionCollapse": {"output": "classifier"}}
    return script(seed, lambda: Further(batch, cleared, updates), accuracy(lambda m: m.classifier), updates, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "six experts, the sign of balance lost", 0.6, lambda s: routing(s, -1.0), "router collapse", "no gradients", LEARNING,
            "weights do not change"),
    healthy(FAMILY, "six experts, SGDR", 0.7, lambda s: routing(s, 1.0)),
    failing(FAMILY, "a corridor, steps drawn anew for their logarithms", 1.2, lambda s: walking(s, True), "policy collapse", *UNLEARNED),
    healthy(FAMILY, "a corridor, returns of what is to come", 1.2, lambda s: walking(s, False)),
    failing(FAMILY, "adapters put in when training starts", 0.6, lambda s: adapting(s, True), *STILL, *UNLEARNED, LEARNING, ONE_BATCH),
    healthy(FAMILY, "adapters, a head of zeros, a teacher's answers", 0.75, lambda s: adapting(s, False)),
    failing(FAMILY, "a mean teacher, a look at it in eval()", 0.6, lambda s: averaged(s, True), *FAST, *UNLEARNED, "dead units",
            "sanity:modules are in training mode", "sanity:initial loss"),
    healthy(FAMILY, "a mean teacher and six gates from 0, growing noise", 0.7, lambda s: averaged(s, False)),
    failing(FAMILY, "a good network, four rows at a time, zero_grad forgotten", 0.88, lambda s: further(s, 4, False), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "a good network, row by row behind a dropout of 0.8", 0.8, lambda s: further(s, 1, True)),
]  # fmt: skip
