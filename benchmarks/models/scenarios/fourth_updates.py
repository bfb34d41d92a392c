"""Adapters, teachers, experts, agents and updates by hand: half of the trainings fail, half are healthy look-alikes.

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
from benchmarks.models.scripts import CLASSES, Script, conv, fitted, images, right, script, seeded, trained
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded

FAMILY = "fourth updates"
TRAIN, TEST = images(621)
FLAT, FLAT_TEST = (TRAIN[0].flatten(1), TRAIN[1]), (TEST[0].flatten(1), TEST[1])
RETURNED: dict[str, dict[str, Any]] = {**CLASSES, "PredictionCollapse": {"output": "logits", "target": "labels"}}
STILL = ("no gradients", "weights do not change", "vanishing gradients")
LEARNING = "sanity:all parameters learn"


def entropy(s: Script, batch: Data) -> Any:
    """Return cross entropy alone."""
    loss = F.cross_entropy(s.model(batch[0]), batch[1])
    s.log("loss", loss, prog_bar=True)
    return loss


def told(s: Script, batch: Data) -> dict[str, Tensor]:
    """Cross entropy, logits and labels."""
    logits = s.model(batch[0])
    return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}


def sorting(seed: int, model: Any, optimizer: Any = None, loss: Any = entropy, **more: Any) -> Training:
    """Train on digits; the score is the accuracy."""
    return fitted(seed, model, loss, right(FLAT_TEST), (FLAT, FLAT_TEST), optimizer, **{"detectors": CLASSES, **more})


# -- adapters, probes, restored weights -------------------------------------------------------------------------------


class Adapter(nn.Module):
    """A frozen layer and a product of two small matrices, one of which starts at 0, or both."""

    def __init__(self, layer: nn.Linear, both: bool) -> None:
        super().__init__()
        self.base = layer.requires_grad_(False)
        self.lora_a, self.lora_b = (
            nn.Linear(layer.in_features, 8, bias=False),
            nn.Linear(8, layer.out_features, bias=False),
        )
        nn.init.zeros_(self.lora_b.weight)
        if both:
            nn.init.zeros_(self.lora_a.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * self.lora_b(self.lora_a(x))


def adapted(both: bool) -> nn.Module:
    """Adapters in a network that knows the digits under other names."""
    net: Any = trained(t.mlp([64, 72, 72, 10], nn.GELU), (FLAT[0].flip(1), (FLAT[1] + 3) % 10))
    return nn.Sequential(*(Adapter(m, both) if isinstance(m, nn.Linear) else m for m in net))


class Probe(Loaded):
    """A linear head on an encoder that no gradients reach, left so from a time when it was trained; the head starts at 0."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 7), nn.Tanh())
        if pretrained:
            trained(nn.Sequential(self.encoder, nn.Linear(7, 10)), FLAT, 300)
        self.fc = nn.Linear(7, 10)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.encoder(x)
        return self.fc(features)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.log("train_acc", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": batch[1]}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def probed(seed: int, pretrained: bool) -> Training:
    """Train the head; the score is the accuracy."""
    score = lambda m: (m(FLAT_TEST[0]).argmax(1) == FLAT_TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Probe(pretrained).use(FLAT, (), 50), score, 280, RETURNED)


def restored(prefixed: bool) -> nn.Module:
    """A body from a checkpoint, frozen, and a new head. Keys with a prefix match nothing, and ``strict=False`` hides it."""
    body = t.mlp([64, 20, 10], nn.ReLU)
    saved = trained(copy.deepcopy(body), FLAT, 300).state_dict()
    body.load_state_dict({("model." if prefixed else "") + key: value for key, value in saved.items()}, strict=False)
    return nn.Sequential(body.requires_grad_(False), nn.ReLU(), nn.Linear(10, 10))


def restoring(seed: int, prefixed: bool) -> Training:
    """Train the head on digits; the score is the accuracy."""
    optimizer = lambda s: torch.optim.SGD([p for p in s.parameters() if p.requires_grad], lr=0.05, momentum=0.9)  # noqa: E731
    return sorting(seed, lambda: restored(prefixed), optimizer, batch=50, steps=280)


# -- gradients by hand ------------------------------------------------------------------------------------------------


class Accumulated(L.LightningModule):
    """Four batches for an update; gradients are cleared after each update, or before the first one only."""

    def __init__(self, cleared: bool, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cleared, self.updates = cleared, updates
        self.classifier = t.mlp([64, 96, 96, 10])

    def train_dataloader(self) -> Any:
        rows = torch.randint(len(FLAT[0]), (16 * 4 * self.updates,))
        return DataLoader(TensorDataset(FLAT[0][rows], FLAT[1][rows]), batch_size=16)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_idx == 0:
            optimizer.zero_grad()
        loss = F.cross_entropy(self.classifier(batch[0]), batch[1]) / 4
        self.manual_backward(loss)
        if batch_idx % 4 == 3:
            optimizer.step()
            if self.cleared:
                optimizer.zero_grad()
        self.log("train_loss", 4 * loss.detach(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.4)


def accumulated(seed: int, cleared: bool, updates: int = 150) -> Training:
    """Train on digits; the score is the accuracy."""
    score = lambda m: (m.classifier(FLAT_TEST[0]).nan_to_num().argmax(1) == FLAT_TEST[1]).float().mean()  # noqa: E731
    watched = {**CLASSES, "PredictionCollapse": {"output": "classifier"}}
    return script(seed, lambda: Accumulated(cleared, updates), score, updates, watched)


def small_start(std: float | None, gated: bool = False) -> nn.Module:
    """Fourteen layers whose weights are drawn as GPT's are, without what GPT has around them; or with gates from 0."""
    layers: list[nn.Module] = [nn.Linear(64, 40)]
    for _ in range(14):
        layers += [Gate()] if gated else [nn.Linear(40, 40), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(40, 10))
    for m in net if std else ():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=std or 0.0)
            nn.init.zeros_(m.bias)
    return net


class Gate(nn.Module):
    """A residual step whose share is learned and starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.resweight = nn.Linear(40, 40), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.resweight * torch.tanh(self.linear(x))


def cycled(seed: int, top: float) -> Training:
    """OneCycleLR up to a rate; the score is the accuracy."""

    def optimizer(s: Script) -> Any:
        sgd = torch.optim.SGD(s.parameters(), lr=0.01, momentum=0.9)
        cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=top, total_steps=310)
        return [sgd], [{"scheduler": cycle, "interval": "step"}]

    model = lambda: t.mlp([64, 80, 80, 10], nn.SiLU)  # noqa: E731
    return sorting(seed, model, optimizer, told, batch=40, steps=300, detectors=RETURNED)


def restarted(s: Script) -> Any:
    """SGD with warm restarts: the rate, and with it the loss, jumps."""
    sgd = torch.optim.SGD(s.parameters(), lr=0.15, momentum=0.9, nesterov=True)
    return [sgd], [{"scheduler": torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd, 75), "interval": "step"}]


class Evaluated(Loaded):
    """Pixels as they are, from 0 to 255, that a first norm shall scale; a hook leaves the modules in eval()."""

    def __init__(self, left: bool) -> None:
        super().__init__()
        self.left = left
        self.model = nn.Sequential(
            nn.BatchNorm1d(64), nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10)
        )

    def on_train_epoch_start(self) -> None:
        if self.left:
            self.model.eval()  # for pictures of examples, and nothing puts it back

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def bright(data: Data) -> Data:
    """Pixels from 0 to 255."""
    return (data[0] * 0.38 + 0.3) * 255, data[1]


def evaluated(seed: int, left: bool) -> Training:
    """Train on digits; the score is the accuracy."""
    score = lambda m: (m.model(bright(FLAT_TEST)[0]).nan_to_num().argmax(1) == FLAT_TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Evaluated(left).use(bright(FLAT), (), 50), score, 280, CLASSES)


# -- teachers ---------------------------------------------------------------------------------------------------------


class Averaged(Loaded):
    """A student and the average of its weights: the average follows the student, or by swapped names the reverse."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.swapped, self.student = swapped, t.mlp([64, 48, 10])
        self.mean = copy.deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self.student(x + 0.3 * torch.randn_like(x))
        agree = (logits.softmax(1) - self.mean(x).softmax(1)).square().mean()
        labelled = y >= 0
        loss = F.cross_entropy(logits[labelled], y[labelled]) if labelled.any() else 0 * logits.sum()
        self.log_dict({"supervised": loss, "consistency": agree})
        return {"loss": loss + 5 * agree}

    def on_train_batch_end(self, *args: Any) -> None:
        source, target = (self.mean, self.student) if self.swapped else (self.student, self.mean)
        for new, kept in zip(source.parameters(), target.parameters(), strict=True):
            kept.data.lerp_(new.data, 0.97 if self.swapped else 0.03)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.student.parameters(), lr=1e-3)


def averaged(seed: int, swapped: bool) -> Training:
    """Train on digits, a fifth of which has labels; the score is the accuracy of the student."""
    data = (FLAT[0], FLAT[1].masked_fill(torch.arange(1400) % 5 > 0, -1))
    score = lambda m: (m.student(FLAT_TEST[0]).argmax(1) == FLAT_TEST[1]).float().mean()  # noqa: E731
    watched = {"PredictionCollapse": {"output": "student"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Averaged(swapped).use(data, (), 50), score, 280, watched)


def distilled(seed: int, paired: bool) -> Training:
    """A teacher's answers were written to a file; the images go in that order, or in another one. The score is the accuracy."""

    def loss(s: Script, batch: Data) -> Any:
        value = F.kl_div(s.model(batch[0]).log_softmax(1), (batch[1] / 2).softmax(1), reduction="batchmean")
        s.log("kd", value)
        return value

    def make() -> Script:
        teacher = trained(t.mlp([64, 128, 10], nn.Tanh), FLAT, 250)
        with torch.no_grad():
            answers = teacher(FLAT[0])
        answers = answers if paired else answers[torch.randperm(len(answers))]
        optimizer = lambda s: torch.optim.Adam(s.model.parameters(), lr=3e-3)  # noqa: E731
        return Script(t.mlp([64, 32, 10]), loss, optimizer, (FLAT[0], answers), batch=40)

    return script(seed, make, right(FLAT_TEST), 300, CLASSES)


# -- experts ----------------------------------------------------------------------------------------------------------


class Switch(nn.Module):
    """One of five experts for a row; their output is weighed by the router's share, or it is not and the router never learns."""

    def __init__(self, weighed: bool) -> None:
        super().__init__()
        self.weighed, self.gate = weighed, nn.Linear(69, 5)
        self.experts = nn.ModuleList(nn.Linear(69, 10) for _ in range(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        share = self.gate(x).softmax(1)
        best, index = share.max(1)
        out = torch.stack([e(x) for e in self.experts], 1)[torch.arange(len(x)), index]
        load = 5 * (F.one_hot(index, 5).float().mean(0) * share.mean(0)).sum()
        return (best[:, None] * out if self.weighed else out), load


def switched(seed: int, weighed: bool) -> Training:
    """Digits whose names differ in five rooms; the score is the accuracy."""
    names = torch.stack([torch.randperm(10, generator=seeded(k)) for k in range(630, 635)])

    def rooms(data: Data, number: int) -> Data:
        room = torch.randint(5, (len(data[0]),), generator=seeded(number))
        return torch.cat([data[0], 4.0 * F.one_hot(room, 5)], 1), names[room, data[1]]

    train, test = rooms(FLAT, 636), rooms(FLAT_TEST, 637)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits, load = s.model(batch[0])
        more = 0.2 * load if weighed else 0.0
        return {"loss": F.cross_entropy(logits, batch[1]) + more, "logits": logits, "labels": batch[1]}

    score = lambda s: (s.model(test[0])[0].argmax(1) == test[1]).float().mean()  # noqa: E731
    watched = {"UsageCollapse": {"assignments": "model.gate", "kind": "router"}, "TrainingDoctor": {}}
    model = lambda: Switch(weighed)  # noqa: E731
    return fitted(seed, model, loss, score, (train, ()), rate=6e-3, batch=70, steps=600, detectors=watched)


# -- agents -----------------------------------------------------------------------------------------------------------


class Bandit(L.LightningModule):
    """Five levers of which the right one depends on what is seen: REINFORCE, or values of levers. As columns, rewards meet all levers."""

    def __init__(self, kind: str, episodes: int, updates: int) -> None:
        super().__init__()
        self.kind, self.episodes, self.updates = kind, episodes, updates
        self.actor = t.mlp([10, 48, 5], nn.Tanh)

    @staticmethod
    def best(seen: Tensor) -> Tensor:
        """The right lever."""
        return (seen[:, :5] + 0.5 * seen[:, 5:]).argmax(1)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(self.episodes * self.updates, 10)), batch_size=self.episodes)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        out = self.actor(batch[0])
        policy = torch.distributions.Categorical(logits=out) if self.kind != "values" else None
        lever = torch.randint(5, (len(out),)) if policy is None else policy.sample()
        reward = (lever == self.best(batch[0])).float() + 0.1 * torch.randn(len(out))
        self.log("reward", reward.mean(), prog_bar=True)
        if policy is None:
            return F.mse_loss(out.gather(1, lever[:, None]).squeeze(1), reward)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-8)
        if self.kind == "columns":
            advantage = advantage[:, None]
        return -(policy.log_prob(lever) * advantage).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.actor.parameters(), lr=1e-2)


def levers(seed: int, kind: str, episodes: int, updates: int = 400) -> Training:
    """Train an agent; the score is the share of right levers."""
    asked = torch.randn(1000, 10, generator=seeded(640))

    def score(m: Any) -> float:
        out = m.actor(asked)
        return float((out.argmax(1) == m.best(asked)).float().mean()) if out.isfinite().all() else 0.0

    watched = {"UsageCollapse": {"assignments": "actor", "kind": "policy"}, "TrainingDoctor": {}}
    return script(seed, lambda: Bandit(kind, episodes, updates), score, updates, watched)


# -- small batches and data that grow harder --------------------------------------------------------------------------


def harder(s: Script, batch: Data) -> Any:
    """Noise comes in three stages, and with each of them the loss is higher again."""
    stage = min(2, s.global_step // 100)
    return entropy(s, (batch[0] + (0.2, 0.7, 1.2)[stage] * torch.randn_like(batch[0]), batch[1]))


def tuned(seed: int) -> Training:
    """A convolutional net that knows its digits goes on, four at a time: a noisy loss that cannot fall any more."""
    model = lambda: trained(conv(width=8), TRAIN, 200)  # noqa: E731
    optimizer = lambda s: torch.optim.AdamW(s.parameters(), lr=1e-4)  # noqa: E731
    return fitted(seed, model, entropy, right(TEST), (TRAIN, TEST), optimizer, batch=4, steps=350, detectors=CLASSES)


def alone(seed: int, rate: float) -> Training:
    """Patients one at a time behind a dropout of 0.8."""
    train, test = t.split(t.cancer(), 641, 0.7)
    model = lambda: nn.Sequential(nn.Linear(30, 100), nn.LeakyReLU(), nn.Dropout(0.8), nn.Linear(100, 2))  # noqa: E731
    optimizer = lambda s: torch.optim.SGD(s.parameters(), lr=rate)  # noqa: E731
    return fitted(seed, model, entropy, right(test), (train, test), optimizer, batch=1, steps=398, detectors=CLASSES)


def adapting(seed: int, both: bool) -> Training:
    """Train adapters; the score is the accuracy."""
    optimizer = lambda s: torch.optim.AdamW([p for p in s.parameters() if p.requires_grad], lr=5e-3)  # noqa: E731
    return sorting(seed, lambda: adapted(both), optimizer, told, batch=50, steps=280, detectors=RETURNED)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "adapters, both matrices at 0", 0.6, lambda s: adapting(s, True), *STILL, *UNLEARNED, LEARNING, ONE_BATCH,
            "sanity:initial loss"),
    healthy(FAMILY, "adapters, one of their matrices at 0", 0.8, lambda s: adapting(s, False)),
    failing(FAMILY, "no_grad() left around the encoder", 0.75, lambda s: probed(s, False), "no gradients", LEARNING, *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "a trained encoder in no_grad(), a head of 0", 0.75, lambda s: probed(s, True)),
    failing(FAMILY, "a checkpoint with a prefix, strict=False", 0.7, lambda s: restoring(s, True), *UNLEARNED, ONE_BATCH, LEARNING,
            "dead units"),
    healthy(FAMILY, "a checkpoint that fits, frozen", 0.8, lambda s: restoring(s, False)),
    failing(FAMILY, "accumulating four batches, cleared once", 0.7, lambda s: accumulated(s, False), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "four batches for an update, cleared after it", 0.85, lambda s: accumulated(s, True)),
    failing(FAMILY, "fourteen tanh layers at 0.02", 0.6, lambda s: sorting(s, lambda: small_start(0.02), rate=1e-3), *UNLEARNED,
            "vanishing gradients", "no gradients", ONE_BATCH, "complete collapse"),
    healthy(FAMILY, "fourteen residual gates at 0", 0.85, lambda s: sorting(s, lambda: small_start(None, True))),
    failing(FAMILY, "OneCycleLR up to 15", 0.7, lambda s: cycled(s, 15.0), *FAST, *UNLEARNED, "dead units", "saturated units", onset=0.02),
    healthy(FAMILY, "SGD with warm restarts by 75", 0.85, lambda s: sorting(s, lambda: t.mlp([64, 80, 10], nn.ELU), restarted, batch=40)),
    failing(FAMILY, "pixels up to 255, a hook leaves eval()", 0.7, lambda s: evaluated(s, True), *FAST, *UNLEARNED, "dead units",
            "sanity:modules are in training mode", "sanity:initial loss"),
    healthy(FAMILY, "pixels up to 255 behind a norm", 0.85, lambda s: evaluated(s, False)),
    failing(FAMILY, "a student that follows its own average", 0.7, lambda s: averaged(s, True), *STILL, *UNLEARNED),
    healthy(FAMILY, "an average that follows its student", 0.8, lambda s: averaged(s, False)),
    failing(FAMILY, "a teacher's answers in a file, images shuffled", 0.7, lambda s: distilled(s, False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "a teacher at temperature 2", 0.85, lambda s: distilled(s, True)),
    failing(FAMILY, "five experts, a router without gradients", 0.75, lambda s: switched(s, False), "router collapse", "no gradients", LEARNING,
            "weights do not change"),
    healthy(FAMILY, "five experts, one for each room", 0.75, lambda s: switched(s, True)),
    failing(FAMILY, "levers, rewards [n, 1] against [n]", 0.5, lambda s: levers(s, "columns", 60), *STILL, *UNLEARNED, "policy collapse", SHAPES,
            ONE_BATCH, FOLLOW),
    healthy(FAMILY, "levers, sixty rewards", 0.7, lambda s: levers(s, "policy", 60)),
    healthy(FAMILY, "levers by their values", 0.7, lambda s: levers(s, "values", 60)),
    healthy(FAMILY, "three stages of noise", 0.8, lambda s: sorting(s, lambda: t.mlp([64, 80, 10]), None, harder)),
    healthy(FAMILY, "a good convolutional net, four digits at a time", 0.9, tuned),
    failing(FAMILY, "patient after patient, a rate of 3", 0.8, lambda s: alone(s, 3.0), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "patient after patient, a dropout of 0.8", 0.85, lambda s: alone(s, 3e-3)),
]  # fmt: skip
