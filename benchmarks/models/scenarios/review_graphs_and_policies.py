"""Experts, graphs, decisions, adapters, teachers and curricula with bugs of code reviews, and trainings that resemble them.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, UNLEARNED, Data, Loaded

FAMILY = "review graphs and policies"
TRAIN, TEST = images(231)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
LOGITS: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "logits"}, "DeadUnits": {}, "TrainingDoctor": {}}


def right(m: Any) -> Tensor:
    """Return the share of right digits."""
    return (m(FLAT_TEST).argmax(1) == TEST[1]).float().mean()


# -- experts ----------------------------------------------------------------------------------------------------------


def regimes(count: int, seed: int) -> Data:
    """Four regimes by the signs of two numbers, and in each one another linear answer."""
    g = seeded(seed)
    x = torch.randn(count, 8, generator=g)
    slopes = 2 * torch.randn(4, 8, generator=seeded(232))
    slopes = slopes - slopes.mean(0)  # so that one linear answer explains little
    regime = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    return x, ((x * slopes[regime]).sum(1) + 0.1 * torch.randn(count, generator=g)) / 6


class Experts(Loaded):
    """Linear experts weighed by a router; the list may hold one expert eight times."""

    def __init__(self, repeated: bool) -> None:
        super().__init__()
        self.router = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
        self.experts = nn.ModuleList([nn.Linear(8, 1)] * 8 if repeated else [nn.Linear(8, 1) for _ in range(8)])

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.cat([expert(x) for expert in self.experts], dim=1)
        return (self.router(x).softmax(dim=1) * answers).sum(dim=1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        prediction = self(batch["features"])
        loss = F.smooth_l1_loss(prediction, batch["answer"])
        self.log_dict({"loss": loss, "mae": (prediction - batch["answer"]).abs().mean()})
        return {"loss": loss, "prediction": prediction}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.smooth_l1_loss(self(batch["features"]), batch["answer"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.RAdam(self.parameters(), lr=2e-2)


def experts(seed: int, repeated: bool) -> Training:
    """Train on regimes; the score is R squared."""
    train, (x, y) = regimes(4000, 233), regimes(1500, 234)
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "prediction", "target": "answer"},
        "UsageCollapse": {"assignments": "router", "kind": "router"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    make = lambda: Experts(repeated).use(train, (x, y), 64, keys=("features", "answer"))  # noqa: E731
    return script(seed, make, lambda m: 1 - (m(x) - y).square().mean() / y.var(), 400, watched)


# -- tumours as a graph -----------------------------------------------------------------------------------------------


class Neighbourhood(L.LightningModule):
    """Layers over the graph of nearest tumours, all nodes at once; one node of eight has a label.

    Args:
        depth: layers.
        decay: weight decay, added to the gradients as Adam does.
        rate: of Adam.
    """

    def __init__(self, depth: int, decay: float, rate: float, steps: int) -> None:
        super().__init__()
        self.decay, self.rate, self.steps = decay, rate, steps
        x, self.y = t.cancer()
        near = torch.cdist(x, x).topk(7, largest=False).indices
        a = torch.zeros(len(x), len(x)).scatter_(1, near, 1.0)
        a = ((a + a.T) > 0).float()
        self.a, self.x = a / a.sum(1, keepdim=True), x
        self.seen = torch.rand(len(x), generator=seeded(235)) < 0.125
        self.held_out = ~self.seen
        self.enter, self.leave = nn.Linear(30, 24), nn.Linear(24, 2)
        self.layers = nn.ModuleList(nn.Linear(24, 24) for _ in range(depth))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = first = self.act(self.enter(x))
        for layer in self.layers:
            mixed = 0.8 * self.a @ h + 0.2 * first
            h = self.act(0.5 * mixed + 0.5 * layer(mixed))
        return self.leave(F.dropout(h, 0.3, self.training))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])[self.seen]
        return {"loss": F.cross_entropy(logits, self.y[self.seen]), "logits": logits, "labels": self.y[self.seen]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0])[self.held_out], self.y[self.held_out]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.rate, weight_decay=self.decay)

    def train_dataloader(self) -> Any:
        return t.loader(t.Batches(self.steps, lambda g, i: (self.x,), 0))

    def val_dataloader(self) -> Any:
        return t.loader(t.Batches(1, lambda g, i: (self.x,), 0))


def neighbourhood(seed: int, depth: int, decay: float, rate: float, steps: int = 150) -> Training:
    """Train on the graph; the score is the accuracy of the other nodes, averaged over both classes."""

    def score(m: Any) -> Tensor:
        guess, y = m(m.x)[m.held_out].argmax(1), m.y[m.held_out]
        return torch.stack([(guess[y == k] == k).float().mean() for k in (0, 1)]).mean()

    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "logits", "target": "labels"},
        "RepresentationCollapse": {"layer": f"layers.{depth - 1}"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    make = lambda: Neighbourhood(depth, decay, rate, steps)  # noqa: E731
    return script(seed, make, score, steps, watched, val_check_interval=50)


# -- a walk over a grid -----------------------------------------------------------------------------------------------

MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
GOAL = torch.tensor([4, 4])


class Replay(IterableDataset[Any]):
    """Plays on a grid of 5 by 5 from anywhere, and draws from what was played; -0.04 a move, and 1 at the goal."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.memory = network, deque(maxlen=1500)
        self.place, self.moves, self.played = torch.randint(5, (2,)), 0, 0

    @torch.no_grad()
    def play(self) -> None:
        chance = max(0.1, 1 - self.played / 800)
        greedy = float(torch.rand(())) > chance
        action = int(self.network(encoded(self.place)).argmax()) if greedy else int(torch.randint(4, (1,)))
        new = (self.place + MOVES[action]).clamp(0, 4)
        done = bool((new == GOAL).all())
        self.memory.append((encoded(self.place), torch.tensor(action), torch.tensor(1.0 if done else -0.04), encoded(new), torch.tensor(float(done))))  # fmt: skip
        self.played, self.moves = self.played + 1, self.moves + 1
        self.place = new
        if done or self.moves > 30:
            self.place, self.moves = torch.randint(5, (2,)), 0

    def __iter__(self) -> Any:
        while True:
            for _ in range(100 if not self.memory else 2):
                self.play()
            rows = torch.randint(len(self.memory), (48,)).tolist()
            yield tuple(torch.stack(column) for column in zip(*(self.memory[i] for i in rows), strict=True))


def encoded(place: Tensor) -> Tensor:
    """Return one number for each place of the grid."""
    return F.one_hot(5 * place[0] + place[1], 25).float()


class Walker(L.LightningModule):
    """Double Q-learning with a target network that follows slowly; at the end of a walk nothing comes, or only there."""

    def __init__(self, done: str) -> None:
        super().__init__()
        self.done = done
        self.q = t.mlp([25, 64, 4])
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.replay = Replay(self.q)

    def train_dataloader(self) -> Any:
        return DataLoader(self.replay, batch_size=None)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        states, actions, rewards, new, done = batch
        go_on = done if self.done == "as a factor" else 1 - done
        with torch.no_grad():
            best = self.q(new).argmax(1, keepdim=True)
            wanted = rewards + 0.95 * go_on * self.target(new).gather(1, best).squeeze(1)
        loss = F.smooth_l1_loss(self.q(states).gather(1, actions[:, None]).squeeze(1), wanted)
        self.log("td_error", loss)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.q.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.q.parameters(), lr=5e-3)


def walking(seed: int, done: str) -> Training:
    """Train on the grid; the score is the share of places from which the greedy walk is as short as possible."""

    def score(m: Any) -> float:
        found = 0
        starts = [torch.tensor([a, b]) for a in range(5) for b in range(5) if (a, b) != (4, 4)]
        for start in starts:
            place = start
            for _ in range(int((GOAL - start).sum())):
                place = (place + MOVES[int(m.q(encoded(place)).argmax())]).clamp(0, 4)
            found += bool((place == GOAL).all())
        return found / len(starts)

    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "q", "kind": "policy"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Walker(done), score, 500, watched)


# -- teachers ---------------------------------------------------------------------------------------------------------


class Student(Loaded):
    """A small student of a large teacher; temperature and share of the teacher are arguments of a helper.

    Args:
        exchanged: whether the two arguments are given the other way round.
        temperature: of both softmaxes.
        share: of the teacher's answers in the loss.
    """

    def __init__(self, exchanged: bool, temperature: float = 4.0, share: float = 0.7) -> None:
        super().__init__()
        self.arguments = (share, temperature) if exchanged else (temperature, share)
        self.student = t.mlp([64, 24, 10])
        self.teacher = t.mlp([64, 128, 128, 10])
        optimizer = torch.optim.Adam(self.teacher.parameters(), lr=3e-3)
        for _ in range(60):
            rows = torch.randint(len(FLAT), (128,))
            optimizer.zero_grad()
            F.cross_entropy(self.teacher(FLAT[rows]), TRAIN[1][rows]).backward()
            optimizer.step()
        self.teacher.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)

    @staticmethod
    def distillation(student: Tensor, teacher: Tensor, y: Tensor, temperature: float, alpha: float) -> Tensor:
        soft = F.kl_div(
            F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="batchmean"
        )
        return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student, y)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x)
        return {"loss": self.distillation(logits, self.teacher(x), y, *self.arguments), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.distillation(self(batch[0]), self.teacher(batch[0]), batch[1], *self.arguments))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.student.parameters(), lr=5e-3)


# -- adapters ---------------------------------------------------------------------------------------------------------


class LoRA(nn.Module):
    """A frozen linear layer and a change of low rank, nothing at first."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * x @ self.a.T @ self.b.T


class Adapting(Loaded):
    """A network of upright digits becomes one of digits on their side; adapters are put in by setup() or when training starts."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-3)
        for _ in range(60):
            rows = torch.randint(len(FLAT), (128,))
            optimizer.zero_grad()
            F.cross_entropy(self.net(FLAT[rows]), TRAIN[1][rows]).backward()
            optimizer.step()

    def setup(self, stage: str) -> None:
        if not self.late:
            self.adapt()

    def on_train_start(self) -> None:
        if self.late:
            self.adapt()

    def adapt(self) -> None:
        for i in (0, 2, 4):
            self.net[i] = LoRA(self.net[i], 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1], label_smoothing=0.05), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=5e-3)


def turned(x: Tensor) -> Tensor:
    """Return images on their side."""
    return x.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1)


def adapting(seed: int, late: bool) -> Training:
    """Train on turned digits; the score is the accuracy for them."""
    x = turned(FLAT_TEST)
    make = lambda: Adapting(late).use((turned(FLAT), TRAIN[1]), (x, TEST[1]), 32)  # noqa: E731
    return script(seed, make, lambda m: (m(x).argmax(1) == TEST[1]).float().mean(), 300, LOGITS)


# -- curricula --------------------------------------------------------------------------------------------------------


class Curriculum(Loaded):
    """Two digits at first, two more from time to time; residual layers with gates of 0 and a last layer of zeros.

    Args:
        clock: what is counted: ``"updates"``, or ``"epochs"``, of which a run of this length has few.
        each: after how many of them two digits are added.
    """

    def __init__(self, clock: str, each: int) -> None:
        super().__init__()
        self.clock, self.each = clock, each
        self.enter, self.head = nn.Linear(64, 48), nn.Linear(48, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(48, 48), nn.ReLU()) for _ in range(4))
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(4))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h = h + gate * layer(h)
        return self.head(h)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        time = self.global_step if self.clock == "updates" else self.current_epoch
        known = min(10, 2 + 2 * (time // self.each))
        x, y = x[y < known], y[y < known]
        logits = self(x)
        self.log("digits", float(known))
        return {"loss": F.cross_entropy(logits, y), "logits": logits, "labels": y}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer)}}


def learning(seed: int, clock: str, each: int) -> Training:
    """Train on more and more digits; the score is the accuracy for all of them."""
    watched = {"PredictionCollapse": {"output": "logits", "target": "labels"}, "DeadUnits": {}, "TrainingDoctor": {}}
    make = lambda: Curriculum(clock, each).use((FLAT, TRAIN[1]), (FLAT_TEST, TEST[1]), 64)  # noqa: E731
    return script(seed, make, right, 400, watched)


def student(seed: int, exchanged: bool) -> Training:
    """Train a student; the score is the accuracy."""
    make = lambda: Student(exchanged).use((FLAT, TRAIN[1]), (FLAT_TEST, TEST[1]), 64)  # noqa: E731
    return script(seed, make, right, 300, LOGITS)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a list of one expert, eight times", 0.6, lambda s: experts(s, True), "no gradients", "vanishing gradients", "weights do not change",
            "router collapse", "sanity:all parameters learn", *UNLEARNED),
    healthy(FAMILY, "a list of eight linear experts", 0.8, lambda s: experts(s, False)),
    failing(FAMILY, "tumours as a graph, decay of 5 for 5e-4", 0.7, lambda s: neighbourhood(s, 4, 5.0, 1e-2), "shrinking weights", "complete collapse",
            "oversmoothing", "dead units", *UNLEARNED),
    healthy(FAMILY, "a graph of tumours, 24 layers that keep the first", 0.85, lambda s: neighbourhood(s, 24, 5e-4, 3e-3, 100)),
    failing(FAMILY, "a grid, done where 1 - done belongs", 0.5, lambda s: walking(s, "as a factor"), "policy collapse", *UNLEARNED),
    healthy(FAMILY, "a walk over a grid, a slow target", 0.8, lambda s: walking(s, "taken off")),
    failing(FAMILY, "distillation, alpha and temperature exchanged", 0.6, lambda s: student(s, True), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "a student of a large teacher at temperature 4", 0.85, lambda s: student(s, False)),
    failing(FAMILY, "adapters that come after the optimizer", 0.6, lambda s: adapting(s, True), "weights do not change", *UNLEARNED, "no gradients",
            "sanity:all parameters learn"),
    healthy(FAMILY, "adapters for digits on their side", 0.75, lambda s: adapting(s, False)),
    failing(FAMILY, "a curriculum that counts epochs", 0.6, lambda s: learning(s, "epochs", 40), "overfitting", "evaluation differs",
            *UNLEARNED),
    healthy(FAMILY, "a curriculum that counts updates, gates of 0", 0.85, lambda s: learning(s, "updates", 50)),
]  # fmt: skip
