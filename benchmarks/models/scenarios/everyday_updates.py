"""Mistakes with optimizers, hooks and parts of models that users of Lightning make, and what only resembles them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, DOCTOR, PLAIN, Script, adam, conv, images, noisy, right, script, sgd
from benchmarks.models.trainings import Training

FAMILY = "everyday updates"
TRAIN, TEST = images()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
UNCHANGED = "weights do not change"
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")
LEARN = "sanity:all parameters learn"
BATCH = "sanity:overfits one batch"


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def dense() -> nn.Sequential:
    """An MLP on images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(
    seed: int,
    model: Any = dense,
    loss: Any = crossed,
    optimizer: Any = None,
    *,
    kind: Any = Script,
    data: Any = TRAIN,
    score: Any = None,
    steps: int = 300,
    detectors: Any = None,
    **more: Any,
) -> Training:
    """Train on images of digits."""
    limits = {k: more.pop(k) for k in ("gradient_clip_val", "accumulate_grad_batches") if k in more}
    more.setdefault("val", TEST)
    make = lambda: kind(model(), loss, optimizer or adam(2e-3), data, **more)  # noqa: E731
    return script(seed, make, score or right(TEST), steps, detectors or CLASSES, **limits)


class Replaced(Script):
    """The head is replaced when training begins, after the optimizer was made."""

    def on_train_start(self) -> None:
        self.model[-1] = nn.Linear(16, 10)


class MadeEarly(Script):
    """The optimizer is made in ``__init__``, and the model is replaced after it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.early = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.model = narrow()

    def configure_optimizers(self) -> Any:
        return self.early


def narrow() -> nn.Sequential:
    """An MLP whose features are few."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 4),
        nn.Tanh(),
        nn.Linear(4, 4),
        nn.Tanh(),
        nn.Linear(4, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


def of_a_copy(s: Script) -> Any:
    """An optimizer of a copy of the model."""
    return torch.optim.AdamW(copy.deepcopy(s.model).parameters(), lr=2e-3)


def of_biases(s: Script) -> Any:
    """Two groups, of which that of the weights has a rate of 0 since a setting was not given."""
    weights = [p for p in s.parameters() if p.ndim > 1]
    rest = [p for p in s.parameters() if p.ndim <= 1]
    return torch.optim.SGD([{"params": weights, "lr": 0.0}, {"params": rest}], lr=0.05, momentum=0.9)


class Nothing(Script):
    """The step computes a loss, logs it, and does not return it."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log("train_loss", self.compute(self, batch))


class Manual(Script):
    """Manual optimization of one epoch, in which each image comes seven times; options: what is forgotten."""

    def __init__(self, *args: Any, forgotten: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.automatic_optimization, self.forgotten = False, forgotten
        self.train_data = tuple(d.repeat(7, *[1] * (d.ndim - 1)) for d in self.train_data)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        loss = self.compute(self, batch)
        if self.forgotten != "zero_grad":
            optimizer.zero_grad()
        self.manual_backward(loss)
        if self.forgotten == "zero_grad after":
            optimizer.zero_grad()
        if self.forgotten != "step":
            optimizer.step()
        self.log("train_loss", loss)


class Kept(Script):
    """A hook that was meant to keep gradients for a plot, and keeps them for good."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        return None


class Plateau(Script):
    """ReduceLROnPlateau with the wrong mode: each epoch that is better lowers the rate."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.5)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=1e-3)
        config = {"scheduler": scheduler, "monitor": "seen", "interval": "step", "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.compute(self, batch)
        self.log("seen", loss)
        return loss


def flipped(s: Script, batch: Any) -> Tensor:
    """The mean log-probability of the label, which is to be maximised."""
    return s.model(batch[0]).log_softmax(1).gather(1, batch[1][:, None]).mean()


def accuracy_maximised(s: Script, batch: Any) -> Tensor:
    """One minus the probability of the label, with the minus lost."""
    return 1 + s.model(batch[0]).softmax(1).gather(1, batch[1][:, None]).mean()


class Adapter(nn.Module):
    """A frozen linear layer and a product of two small ones; option: both start at 0."""

    def __init__(self, base: nn.Linear, both: bool, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(
            torch.zeros(rank, base.in_features) if both else 0.1 * torch.randn(rank, base.in_features)
        )
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


def good(steps: int = 400, seed: int = 0, task: Any = TRAIN) -> nn.Sequential:
    """A network that is trained already."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    net = dense()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(task[0]), (64,))
        optimizer.zero_grad()
        F.cross_entropy(net(task[0][chosen]), task[1][chosen]).backward()
        optimizer.step()
    torch.set_rng_state(state)
    return net


def inverted(data: Any) -> Any:
    """The negatives of images, with their labels in another order."""
    return -data[0], (data[1] + 3) % 10


def adapted(both: bool) -> Any:
    """A good network with adapters in its three layers."""

    def make() -> nn.Module:
        net = good()
        for i in (1, 3, 5):
            net[i] = Adapter(net[i], both)
        return net

    return make


def probed() -> nn.Module:
    """A frozen backbone with BatchNorm in eval mode, and a new head."""
    net = good()
    net.requires_grad_(False)
    net[5] = nn.Linear(64, 10)
    return net


def zero_head() -> nn.Module:
    """A good network with a head of zeros."""
    net = good()
    nn.init.zeros_(net[5].weight)
    nn.init.zeros_(net[5].bias)
    return net


class Gated(nn.Module):
    """Residual layers behind a factor that starts at 0; option: that factor is no parameter."""

    def __init__(self, learned: bool, depth: int = 10) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        gates = torch.zeros(depth)
        self.gates = nn.Parameter(gates) if learned else gates

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x.flatten(1))
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h = h + gate * F.relu(layer(h))
        return self.head(h)


def distilled(temperature: float, stopped: bool = False) -> Any:
    """Kullback-Leibler divergence from a teacher; option: it is the student that gets no gradient."""

    def loss(s: Script, batch: Any) -> Tensor:
        with torch.no_grad():
            teacher = s.teacher(batch[0]) / temperature
        student = s.model(batch[0]) / temperature
        if stopped:
            student = student.detach() + 0 * s.model[1].bias.sum()
        return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean") * temperature**2

    return loss


class MeanTeacher(Script):
    """The student agrees with a moving average of itself, and with labels where there are any."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        student = self.model(x + 0.1 * torch.randn_like(x))
        with torch.no_grad():
            teacher = self.teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
        ramp = min(1.0, self.global_step / 100)
        return F.cross_entropy(student, y, ignore_index=-1) + ramp * F.mse_loss(student.softmax(1), teacher)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mean, own in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
            mean.data.lerp_(own.data, 0.05)


class Hard(Script):
    """A curriculum: at first images that are easy, later all."""

    def train_dataloader(self) -> Any:
        x, y = self.train_data
        easy = x.flatten(1).std(1).argsort(descending=True)
        chosen = torch.cat([easy[:500].repeat(4), easy])
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[chosen], y[chosen]), self.batch)


class Unfreezing(Script):
    """All but the head is frozen for the first 100 updates."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for p in self.model[:5].parameters():
            p.requires_grad_(self.global_step >= 100)


def two_groups(s: Script) -> Any:
    """A smaller rate for the body."""
    body, head = s.model[:5].parameters(), s.model[5].parameters()
    return torch.optim.AdamW([{"params": body, "lr": 1e-4}, {"params": head}], lr=2e-3)


def warmed(s: Script) -> Any:
    """A linear warm-up over a third of the run."""
    optimizer = torch.optim.AdamW(s.parameters(), lr=4e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, 100)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def unlabelled(share: float) -> Any:
    """Most labels are -1."""
    hidden = torch.rand(len(TRAIN[1]), generator=torch.Generator().manual_seed(1)) < share
    return TRAIN[0], TRAIN[1].masked_fill(hidden, -1)


def of_embedding(s: Script, batch: Any) -> Tensor:
    """A centre of each class is drawn closer."""
    z = s.model(batch[0])
    return F.cross_entropy(-torch.cdist(z, s.centres).square(), batch[1])


def nearest_centre(s: Any) -> Tensor:
    """Accuracy by the nearest centre."""
    return (torch.cdist(s.model(TEST[0]), s.centres).argmin(1) == TEST[1]).float().mean()


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "the head is replaced as training starts", 0.85,
            lambda s: train(s, narrow, kind=Replaced, optimizer=adam(3e-3), detectors=PLAIN), LEARN, *UNRELATED),
    failing(FAMILY, "the optimizer is made before the model is replaced", 0.8, lambda s: train(s, narrow, kind=MadeEarly, detectors=PLAIN),
            LEARN, BATCH, "no gradients", UNCHANGED, *UNRELATED),
    failing(FAMILY, "an optimizer of a copy of the model", 0.8, lambda s: train(s, optimizer=of_a_copy), LEARN, BATCH,
            "no gradients", UNCHANGED, *UNRELATED),
    failing(FAMILY, "a rate of 0 for all weights", 0.8, lambda s: train(s, optimizer=of_biases), LEARN, BATCH, *UNRELATED),
    failing(FAMILY, "training_step returns nothing", 0.8, lambda s: train(s, kind=Nothing, detectors=CLASSES), LEARN, BATCH,
            "no gradients", UNCHANGED, *UNRELATED),
    failing(FAMILY, "manual optimization without step", 0.8, lambda s: train(s, kind=Manual, forgotten="step"), LEARN, BATCH,
            "no gradients", UNCHANGED, *UNRELATED),
    failing(FAMILY, "manual optimization, zero_grad behind backward", 0.8,
            lambda s: train(s, kind=Manual, forgotten="zero_grad after"), LEARN, BATCH, "no gradients", *UNRELATED),
    failing(FAMILY, "manual optimization without zero_grad, SGD 0.1", 0.85,
            lambda s: train(s, kind=Manual, forgotten="zero_grad", optimizer=sgd(0.1)), LEARN, *FAST, *UNRELATED),
    healthy(FAMILY, "manual optimization", 0.85, lambda s: train(s, kind=Manual, optimizer=sgd(0.1))),
    failing(FAMILY, "gradients kept for a plot", 0.85, lambda s: train(s, kind=Kept, optimizer=sgd(0.1)),
            LEARN, *FAST, *UNRELATED),
    failing(FAMILY, "the rate falls whenever the loss does", 0.8, lambda s: train(s, kind=Plateau), UNCHANGED, *UNRELATED),
    failing(FAMILY, "the log-probability is minimised", 0.8, lambda s: train(s, loss=flipped, optimizer=sgd(0.02)),
            BATCH, "sanity:initial loss", *FAST, *UNRELATED),
    failing(FAMILY, "the probability of the label is minimised", 0.8, lambda s: train(s, loss=accuracy_maximised),
            BATCH, "vanishing gradients", *UNRELATED),
    failing(FAMILY, "adapters both of which start at 0", 0.8,
            lambda s: train(s, adapted(True), data=inverted(TRAIN), val=inverted(TEST), score=right(inverted(TEST))),
            LEARN, BATCH, "no gradients", *UNRELATED, "divergence"),
    healthy(FAMILY, "adapters of which one starts at 0", 0.8,
            lambda s: train(s, adapted(False), data=inverted(TRAIN), val=inverted(TEST), score=right(inverted(TEST)))),
    healthy(FAMILY, "ten layers behind gates of 0", 0.85, lambda s: train(s, lambda: Gated(True), detectors=PLAIN)),
    healthy(FAMILY, "a frozen body and a new head", 0.85, lambda s: train(s, probed)),
    healthy(FAMILY, "a head of zeros on a good body, SGD", 0.85, lambda s: train(s, zero_head, optimizer=sgd(0.01))),
    healthy(FAMILY, "a good network goes on, batches of two", 0.85, lambda s: train(s, good, optimizer=sgd(1e-4), batch=2)),
    healthy(FAMILY, "a good network goes on at once with other noise", 0.85, lambda s: train(
        s, good, loss=lambda m, b: crossed(m, (b[0] + 0.5 * torch.randn_like(b[0]), b[1])), optimizer=adam(1e-4))),
    failing(FAMILY, "a good network, AdamW 0.3", 0.85, lambda s: train(s, good, optimizer=adam(0.3)), *FAST, *UNRELATED,
            BATCH, twin="a good network goes on, batches of two"),
    healthy(FAMILY, "a student of a good teacher, temperature 4", 0.85,
            lambda s: train(s, loss=distilled(4.0), teacher=good().requires_grad_(False))),
    failing(FAMILY, "a student without gradients", 0.85,
            lambda s: train(s, loss=distilled(2.0, stopped=True), teacher=good().requires_grad_(False)),
            LEARN, BATCH, "no gradients", "vanishing gradients", *UNRELATED),
    healthy(FAMILY, "a moving average of the student, one label of ten", 0.7,
            lambda s: train(s, kind=MeanTeacher, data=unlabelled(0.9), batch=64, detectors=CLASSES, steps=400)),
    healthy(FAMILY, "easy images first", 0.85, lambda s: train(s, kind=Hard, steps=330)),
    healthy(FAMILY, "the body thaws after 100 updates", 0.85, lambda s: train(s, kind=Unfreezing)),
    healthy(FAMILY, "a smaller rate for a good body", 0.85, lambda s: train(s, good, optimizer=two_groups)),
    healthy(FAMILY, "a warm-up over a third of the run", 0.85, lambda s: train(s, optimizer=warmed)),
    healthy(FAMILY, "dropout of 0.8, two images in a batch", 0.75, lambda s: train(
        s, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 10)), batch=2, steps=700)),
    healthy(FAMILY, "classes by the nearest of ten centres", 0.85, lambda s: train(
        s, loss=of_embedding, score=nearest_centre, detectors=DOCTOR, centres=nn.Parameter(torch.randn(10, 10)))),
    healthy(FAMILY, "a third of the labels wrong, learnt to the end", 0.6, lambda s: train(
        s, conv, data=(TRAIN[0], noisy(TRAIN[1], 0.33)), val=(), steps=500)),
]  # fmt: skip
