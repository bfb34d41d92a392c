"""Good models that go on, students, teachers, curricula, experts, graphs and agents.

Written as ``wide_classification.py`` is, with names in the develop half: these scenarios are for development and verify
nothing.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, PLAIN, images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, ONE_BATCH, UNLEARNED, Data, Loaded, adamw, cut, plain, rmsprop

FAMILY = "wide adaptation"
TRAIN, TEST = images(21)
TURNED, TURNED_TEST = ((x.rot90(1, (2, 3)), y) for x, y in (TRAIN, TEST))
UNITS: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "net"}, "DeadUnits": {}, "TrainingDoctor": {}}


# -- a good network goes on -------------------------------------------------------------------------------------------


def fresh() -> nn.Sequential:
    """Make a network for digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


@lru_cache
def _trained() -> dict[str, Tensor]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = fresh()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()
    torch.set_rng_state(state)
    return net.state_dict()


def good() -> nn.Sequential:
    """Return a network that knows upright digits."""
    net = fresh()
    net.load_state_dict(_trained())
    return net


class Adapter(nn.Module):
    """A frozen layer and a product of two small matrices, one of which starts with zeros."""

    def __init__(self, layer: nn.Linear, rank: int = 6) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.a.T @ self.b.T


def adapted() -> nn.Sequential:
    """Wrap all layers of the good network."""
    return nn.Sequential(*(Adapter(m) if isinstance(m, nn.Linear) else m for m in good()))


def frozen() -> nn.Sequential:
    """Freeze all but a new head."""
    net = good().requires_grad_(False)
    net[-1] = nn.Linear(64, 10)
    return net


class ReZero(nn.Module):
    """Sixteen layers behind gates of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(64, 48), nn.Linear(48, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(48, 48), nn.ReLU()) for _ in range(16))
        self.gates = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x.flatten(1))
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h = h + gate * layer(h)
        return self.out(h)


def zero_head() -> nn.Sequential:
    """Make a convolutional network whose last layer starts with zeros."""
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2), nn.BatchNorm2d(12), nn.SiLU(), nn.Conv2d(12, 24, 2), nn.BatchNorm2d(24), nn.SiLU(),
        nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


class Going(Loaded):
    """Trains what may be trained; the schedule of the rate and what is done to images are options."""

    def __init__(
        self, net: nn.Module, optimizer: Any, restarts: int = 0, harder: int = 0, replaced: bool = False
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.restarts, self.harder, self.replaced = net, optimizer, restarts, harder, replaced

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_start(self) -> None:
        if self.replaced:
            self.net[-1] = nn.Linear(64, 10)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        if self.harder:  # the images get noisier from update to update
            x = x + 1.8 * min(1.0, self.global_step / self.harder) * torch.randn_like(x)
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if not self.restarts:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, self.restarts)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def going(
    seed: int,
    net: Any,
    optimizer: Any,
    train: Data = TRAIN,
    test: Data = TEST,
    *,
    batch: int = 32,
    steps: int = 300,
    **more: Any,
) -> Training:
    """Train on; the score is the accuracy."""
    score = lambda m: (m(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    watched = (
        UNITS
        if any(isinstance(m, nn.ReLU) for m in net().modules())
        else {**PLAIN, "PredictionCollapse": {"output": "net"}}
    )
    return script(seed, lambda: Going(net(), optimizer, **more).use(train, test, batch), score, steps, watched)


def bottles() -> tuple[Data, Data]:
    """178 wines of three kinds, shuffled, standardised."""
    x, y = load_wine(return_X_y=True)
    rows, kinds = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    order = torch.randperm(len(rows), generator=seeded(4))
    return cut((((rows - rows.mean(0)) / rows.std(0))[order], kinds[order]), 130)


def dropping() -> nn.Sequential:
    """Make a network that drops four numbers of five."""
    return nn.Sequential(
        nn.Linear(13, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.8), nn.Linear(64, 3)
    )


# -- students and teachers --------------------------------------------------------------------------------------------


class Student(Loaded):
    """Learns from the softened answers of a teacher; labels are in the batch, unused; option: arguments swapped."""

    def __init__(self, temperature: float = 3.0, swapped: bool = False) -> None:
        super().__init__()
        self.swapped = swapped
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.LayerNorm(24), nn.Tanh(), nn.Linear(24, 10))
        self.teacher, self.temperature = good().eval().requires_grad_(False), temperature

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, _ = batch
        with torch.no_grad():
            soft = (self.teacher(x) / self.temperature).softmax(1)
        log_probability = (self.student(x) / self.temperature).log_softmax(1)
        pair = (soft, log_probability) if self.swapped else (log_probability, soft)
        return {"loss": F.kl_div(*pair, reduction="batchmean") * self.temperature**2}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9, nesterov=True)


class MeanTeacher(Loaded):
    """Eight labels for each class, and agreement with a moving average on all other images; its weight is ramped up."""

    def __init__(self) -> None:
        super().__init__()
        self.student = fresh()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.few = torch.cat([torch.where(TRAIN[1] == c)[0][:8] for c in range(10)])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        (x,) = batch
        chosen = self.few[torch.randint(len(self.few), (16,))]
        supervised = F.cross_entropy(self.student(TRAIN[0][chosen]), TRAIN[1][chosen])
        with torch.no_grad():
            target = self.teacher(x + 0.2 * torch.randn_like(x)).softmax(1)
        consistency = F.mse_loss(self.student(x + 0.2 * torch.randn_like(x)).softmax(1), target)
        weight = 20 * min(1.0, self.global_step / 200) ** 2
        self.log_dict({"supervised": supervised, "consistency": consistency, "weight": weight})
        return supervised + weight * consistency

    def on_before_zero_grad(self, _: Any) -> None:
        for mine, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            theirs.data.mul_(0.98).add_(mine.data, alpha=0.02)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.student.parameters(), lr=1e-3)


def taught(seed: int, kind: Any, train: Data, batch: int, steps: int) -> Training:
    """Train a student; the score is its accuracy."""
    score = lambda m: (m.student(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: kind().use(train, batch=batch), score, steps, {**DOCTOR, "DeadUnits": {}})


# -- experts and graphs -----------------------------------------------------------------------------------------------


def regimes(count: int = 4000) -> Data:
    """Rows, and a linear function of them that is another one in each of four quarters."""
    g = seeded(95)
    x = torch.randn(count, 8, generator=g)
    maps = torch.randn(2, 8, generator=g)
    maps = torch.cat([maps, -maps.flip(0)])
    y = (x * maps[(x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()]).sum(1)
    return x, (y - y.mean()) / y.std()


class Experts(Loaded):
    """Four small experts, one for each row, behind a router; a loss that balances has a weight of either sign."""

    def __init__(self, balance: float) -> None:
        super().__init__()
        self.balance = balance
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 1) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        chance = self.router(x).softmax(1)
        chosen = chance.argmax(1)
        outputs = torch.cat([expert(x) for expert in self.experts], 1)
        rows = torch.arange(len(x))
        weight = chance[rows, chosen]
        share = F.one_hot(chosen, 4).float().mean(0)
        return outputs[rows, chosen] * weight, 4 * (share * chance.mean(0)).sum()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        y, balance = self(batch[0])
        self.log("balance", balance)
        return F.mse_loss(y, batch[1]) + self.balance * balance

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-2)


def experts(seed: int, balance: float) -> Training:
    """Train experts; the score is R squared."""
    train, test = cut(regimes(), 3200)
    score = lambda m: 1 - (m(test[0])[0] - test[1]).square().mean() / test[1].var()  # noqa: E731
    watched = {**DOCTOR, "UsageCollapse": {"assignments": "router", "kind": "router"}}
    return script(seed, lambda: Experts(balance).use(train, batch=64), score, 500, watched)


def citations() -> tuple[Tensor, Tensor, Tensor]:
    """240 texts of four subjects that cite mostly their own, as a normalised matrix; noisy words; subjects."""
    g = seeded(97)
    y = torch.arange(240) % 4
    chance = torch.where(y[:, None] == y, 0.12, 0.01)
    edges = torch.triu((torch.rand(240, 240, generator=g) < chance).float(), 1)
    edges = edges + edges.T + torch.eye(240)
    scale = edges.sum(1).rsqrt()
    words = torch.randn(240, 16, generator=g) + 0.8 * F.one_hot(y, 16)
    return words, scale[:, None] * edges * scale, y


class Graph(Loaded):
    """A graph convolutional network on one graph; 40 of 240 nodes have a label; the whole graph is a batch."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16 if i == 0 else 32, 32) for i in range(depth))
        self.output = nn.Linear(32, 4)
        self.words, self.edges, self.subjects = citations()
        self.known = torch.arange(240) < 40

    def train_dataloader(self) -> Any:
        return DataLoader([(self.words, self.edges, self.subjects, self.known)], batch_size=None)

    def val_dataloader(self) -> Any:
        return DataLoader([(self.words, self.edges, self.subjects, ~self.known)], batch_size=None)

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            h = F.relu(layer(edges @ h))
        return self.output(h)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        words, edges, subjects, mask = batch
        return F.cross_entropy(self(words, edges)[mask], subjects[mask])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=5e-4)


def graph(seed: int, depth: int, steps: int) -> Training:
    """Train on a graph; the score is the accuracy at nodes without a label."""
    score = lambda m: (m(m.words, m.edges).argmax(1) == m.subjects)[~m.known].float().mean()  # noqa: E731
    layers = [f"layers.{i}" for i in sorted({0, depth // 2, depth - 1})]
    return script(seed, lambda: Graph(depth), score, steps, {**DOCTOR, "RepresentationCollapse": {"layer": layers}})


# -- agents -----------------------------------------------------------------------------------------------------------

BEST = torch.tensor([2, 0, 3, 1, 2, 1, 0, 3])  # the action that pays in each of eight rooms


class Reinforce(Loaded):
    """A policy for eight rooms, learnt from sampled actions; a moving baseline, a bonus for entropy."""

    def __init__(self, lr: float, sign: float = 1.0, bonus: float = 0.01) -> None:
        super().__init__()
        self.lr, self.sign, self.bonus, self.baseline = lr, sign, bonus, 0.0
        self.policy = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))

    def train_dataloader(self) -> Any:
        return DataLoader(torch.eye(8).repeat(400, 1), batch_size=20, shuffle=True)

    def training_step(self, state: Tensor, batch_idx: int) -> Tensor:
        distribution = torch.distributions.Categorical(logits=self.policy(state))
        action = distribution.sample()
        reward = (action == BEST[state.argmax(1)]).float() + 0.3 * torch.randn(len(state))
        advantage = reward - self.baseline
        self.baseline = 0.95 * self.baseline + 0.05 * float(reward.mean())
        self.log("reward", reward.mean())
        gain = (distribution.log_prob(action) * advantage).mean() + self.bonus * distribution.entropy().mean()
        return -self.sign * gain

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def agent(seed: int, **more: Any) -> Training:
    """Train a policy; the score is the chance of the action that pays."""
    score = lambda m: m.policy(torch.eye(8)).softmax(1)[torch.arange(8), BEST].mean()  # noqa: E731
    watched = {**DOCTOR, "UsageCollapse": {"assignments": "policy", "kind": "policy"}}
    return script(seed, lambda: Reinforce(**more), score, 400, watched)


class DeepQ(Loaded):
    """Values of a corridor of ten places, from replayed steps; a target network that is copied now and then."""

    def __init__(self, optimizer: Any, copied: int) -> None:
        super().__init__()
        self.optimizer, self.copied = optimizer, copied
        self.q = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 2))
        self.target = copy.deepcopy(self.q).requires_grad_(False)

    def train_dataloader(self) -> Any:
        place, action = torch.randint(9, (16000,)), torch.randint(2, (16000,))
        after = (place + 2 * action - 1).clamp(min=0)
        rows = [F.one_hot(place, 10).float(), action, (after == 9).float(), F.one_hot(after, 10).float()]
        return DataLoader(list(zip(*rows, strict=True)), batch_size=32, shuffle=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state, action, reward, after = batch
        if self.global_step % self.copied == 0:
            self.target.load_state_dict(self.q.state_dict())
        with torch.no_grad():
            goal = reward + 0.9 * (1 - reward) * self.target(after).amax(1)
        value = self.q(state).gather(1, action[:, None]).squeeze(1)
        self.log("mean_q", value.mean())
        return F.mse_loss(value, goal)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.q.parameters())


def corridor(seed: int, optimizer: Any, copied: int, steps: int = 500) -> Training:
    """Train values; the score is the share of places from which the way to the end is known, and roughly how long it is."""
    values = 0.9 ** torch.arange(8.0, -1.0, -1.0)

    def known(m: Any) -> Tensor:
        q = m.q(torch.eye(10)[:9])
        return ((q.argmax(1) == 1) & ((q[:, 1] - values).abs() < 0.3)).float().mean()

    return script(seed, lambda: DeepQ(optimizer, copied), known, steps, {**DOCTOR, "DeadUnits": {}})


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "adapters of rank 6 for turned digits", 0.7, lambda s: going(s, adapted, adamw(5e-3), TURNED, TURNED_TEST)),
    healthy(FAMILY, "sixteen layers behind gates of 0", 0.8, lambda s: going(s, ReZero, plain(0.05, momentum=0.9))),
    healthy(FAMILY, "a frozen body, a new head, batches of 8", 0.85, lambda s: going(s, frozen, rmsprop(1e-3), batch=8)),
    failing(FAMILY, "a head that the optimizer does not know", 0.6,
            lambda s: going(s, frozen, rmsprop(1e-3), batch=8, replaced=True), "weights do not change", *UNLEARNED, "no gradients",
            "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "a last layer of zeros behind BatchNorm", 0.8, lambda s: going(s, zero_head, adamw(3e-3), batch=40)),
    healthy(FAMILY, "a good network goes on, batches of 4", 0.9, lambda s: going(s, good, plain(2e-3, momentum=0.9), batch=4, steps=350)),
    failing(FAMILY, "a good network, batches of 4, a rate of 0.5", 0.9,
            lambda s: going(s, good, plain(0.5, momentum=0.9), batch=4, steps=350), *FAST, *UNLEARNED, "dead units",
            twin="a good network goes on, batches of 4"),
    healthy(FAMILY, "one wine at a time, dropout of 0.8", 0.8,
            lambda s: going(s, dropping, adamw(1e-3), *bottles(), batch=1, steps=700)),
    failing(FAMILY, "single wines, AdamW 0.3", 0.8,
            lambda s: going(s, dropping, adamw(0.3), *bottles(), batch=1, steps=700), *FAST, *UNLEARNED, "dead units",
            twin="one wine at a time, dropout of 0.8"),
    healthy(FAMILY, "digits in growing noise", 0.8, lambda s: going(s, fresh, adamw(2e-3), harder=300, steps=350)),
    healthy(FAMILY, "a cosine that starts again every 70 updates", 0.85,
            lambda s: going(s, fresh, plain(0.3), restarts=70, steps=350, batch=48)),
    failing(FAMILY, "a cosine that starts again every 70 updates, rate 8", 0.85,
            lambda s: going(s, fresh, plain(8.0), restarts=70, steps=350, batch=48), *FAST, *UNLEARNED, "dead units",
            twin="a cosine that starts again every 70 updates"),
    healthy(FAMILY, "a student of softened answers, labels unused", 0.85, lambda s: taught(s, Student, TRAIN, 64, 300)),
    failing(FAMILY, "a student, arguments of the divergence swapped", 0.7, lambda s: taught(
        s, lambda: Student(swapped=True), TRAIN, 64, 300), "non-finite values", "divergence", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "eight labels for a digit and a mean teacher", 0.7, lambda s: taught(s, MeanTeacher, TRAIN[:1], 64, 350)),
    healthy(FAMILY, "four linear experts, balanced", 0.35, lambda s: experts(s, 0.2)),
    failing(FAMILY, "four linear experts, balance subtracted", 0.3, lambda s: experts(s, -0.5), "router collapse", *UNLEARNED),
    healthy(FAMILY, "citations, two layers", 0.75, lambda s: graph(s, 2, 100)),
    failing(FAMILY, "citations, a network of depth 24", 0.5, lambda s: graph(s, 24, 100), "oversmoothing", *UNLEARNED, *("complete collapse", "dimensional collapse", "vanishing gradients")),
    healthy(FAMILY, "eight rooms, sampled actions", 0.7, lambda s: agent(s, lr=0.01)),
    failing(FAMILY, "eight rooms, the wrong sign", 0.2, lambda s: agent(s, lr=0.01, sign=-1.0), "policy collapse", "divergence"),
    healthy(FAMILY, "a corridor of ten places, values rise", 0.7, lambda s: corridor(s, adamw(3e-3), 25)),
    failing(FAMILY, "corridor without a target network, SGD 6", 0.5, lambda s: corridor(s, plain(6.0), 1), *FAST, "dead units"),
]  # fmt: skip
