"""Trainings of every kind that a module can be of: what observers and dry runs must leave as it is.

Each kind is a small classifier of handwritten digits that keeps state in some way of its own. ``KINDS`` is the table; a
test that has to hold for all modules runs over it.
"""

from __future__ import annotations

import copy
import functools
import random
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
import numpy
import torch
import torchmetrics
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Sampler

from tests.problems import digits, sgd

cross_entropy = nn.functional.cross_entropy
BATCHES, BATCH = 8, 8


class Plain(L.LightningModule):
    """A network with batch norm and dropout, so that whoever disturbs statistics or random numbers is seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = self.network()
        self.echo = nn.Identity()  # what detectors of generators look at
        self.make()

    def network(self) -> nn.Module:
        parts = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)]
        return nn.Sequential(*parts)

    def make(self) -> None:
        """Make what the kind keeps."""

    def touch(self, x: Tensor) -> Any:
        """Do in each step what the kind is about; return what is added to the loss."""
        return 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = cross_entropy(self.net(self.echo(x)), y) + self.touch(x)
        self.log("loss", loss, on_step=self.training, on_epoch=True, prog_bar=True, batch_size=len(x))
        self.log_dict(
            {"largest": loss.detach().clone()}, on_step=False, on_epoch=True, reduce_fx="max", batch_size=len(x)
        )
        return loss

    def sample(self, count: int) -> Tensor:
        return torch.rand(count, 64)

    def learning(self) -> list[Tensor]:
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        return sgd(self.learning(), momentum=0.9)

    def everything(self) -> Any:
        """What the kind keeps beside weights and buffers, to be compared after training."""
        return None


# -- recurrent networks -----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], flat: bool = False, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(8, 6, batch_first=True, **options)
        self.head = nn.Sequential(nn.Linear(6 * (2 if options.get("bidirectional") else 1), 10), nn.ReLU())
        if flat:  # what cuDNN does: all weights are views of one piece of memory
            weights = list(self.rnn.parameters())
            memory, start = torch.cat([w.detach().reshape(-1) for w in weights]), 0
            for w in weights:
                w.data = memory[start : start + w.numel()].view_as(w)
                start += w.numel()

    def forward(self, x: Tensor) -> Tensor:
        self.rnn.flatten_parameters()
        out: Tensor = self.head(self.rnn(x.reshape(-1, 8, 8))[0][:, -1])
        return out


def recurrent(kind: type[nn.RNNBase], **options: Any) -> type[Plain]:
    class Network(Plain):
        def network(self) -> nn.Module:
            return Recurrent(kind, **options)

    return Network


# -- parameters that are kept in plain containers ---------------------------------------------------------------------


@dataclass
class Box:
    weight: nn.Parameter
    more: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    weight: nn.Parameter


CONTAINERS: dict[str, tuple[Callable[[nn.Parameter], Any], Callable[[Any], nn.Parameter]]] = {
    "list": (lambda p: [p], lambda c: c[0]),
    "dict": (lambda p: {"w": p}, lambda c: c["w"]),
    "tuple": (lambda p: (p,), lambda c: c[0]),
    "dataclass": (Box, lambda c: c.weight),
    "slots": (Slotted, lambda c: c.weight),
}


def contained(container: str) -> type[Plain]:
    put, take = CONTAINERS[container]

    class Contained(Plain):
        def make(self) -> None:
            self.held = put(nn.Parameter(torch.ones(64) / 64))

        def touch(self, x: Tensor) -> Any:
            return (x @ take(self.held) - 0.5).square().mean()

        def learning(self) -> list[Tensor]:
            return [*self.parameters(), take(self.held)]

        def everything(self) -> Any:
            return take(self.held).detach().clone()

    return Contained


# -- parametrized, tied, wrapped, checkpointed, compiled ----------------------------------------------------------------


def with_layers(*layers: Callable[[], nn.Module]) -> type[Plain]:
    class Layers(Plain):
        def network(self) -> nn.Module:
            return nn.Sequential(*(layer() for layer in layers))

    return Layers


def weight_norm_by_hook(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's older way, which many published modules still go
        return nn.utils.weight_norm(layer)


class Tied(Plain):
    def network(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
        net[2].weight = net[0].weight
        return net


class LowRank(nn.Module):
    """As LoRA: a frozen layer and a small update beside it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, layer.in_features) / 8)
        self.b = nn.Parameter(torch.zeros(layer.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + x @ self.a.t() @ self.b.t()
        return out


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.part, x, use_reentrant=False)
        out: Tensor = self.head(hidden)
        return out


class Large(Plain):
    """Parameters above the size that a snapshot copies at once; one of them is never trained."""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 520), nn.ReLU(), nn.Linear(520, 520), nn.ReLU(), nn.Linear(520, 10))

    def make(self) -> None:
        self.teacher = nn.Linear(64, 4200).requires_grad_(False)

    @torch.no_grad()
    def touch(self, x: Tensor) -> Any:
        self.teacher.weight.data.mul_(0.99)
        return self.teacher(x).square().mean()


class SparseEmbedding(Plain):
    def make(self) -> None:
        self.table = nn.Embedding(16, 4, sparse=True)

    def touch(self, x: Tensor) -> Any:
        return self.table((x[:, :4] * 15).long()).square().mean()

    def configure_optimizers(self) -> Any:
        return sgd(self.learning())


class TurnsSparse(Plain):
    """Its table's gradient is dense in one step and sparse in the next."""

    def make(self) -> None:
        self.table, self.steps = nn.Parameter(torch.randn(16, 4)), 0

    def touch(self, x: Tensor) -> Any:
        self.steps += 1
        rows = (x[:, :4] * 15).long()
        return nn.functional.embedding(rows, self.table, sparse=self.steps % 2 == 0).square().mean()

    def configure_optimizers(self) -> Any:
        return sgd(self.learning())


class TwoHeads(Plain):
    """Two tasks take turns: the gradients that are there differ, in shape too, and are equally many."""

    def make(self) -> None:
        self.heads, self.steps = nn.ModuleList([nn.Linear(64, 3), nn.Linear(64, 5)]), 0

    def touch(self, x: Tensor) -> Any:
        self.steps += 1
        return self.heads[self.steps % 2](x).square().mean()


class ChangesType(Plain):
    """A head becomes float64 in mid-training."""

    def make(self) -> None:
        self.head, self.steps = nn.Linear(64, 3), 0

    def touch(self, x: Tensor) -> Any:
        self.steps += 1
        if self.steps == 4:
            self.head.double()
        return self.head(x.to(self.head.weight.dtype)).square().mean().float()

    def configure_optimizers(self) -> Any:
        return sgd(self.learning())


# -- teachers, queues, generators, environments, counters ---------------------------------------------------------------


def momentum_teacher(how: str) -> type[Plain]:
    class Teacher(Plain):
        def make(self) -> None:
            self.student = nn.Linear(64, 4)
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)

        @torch.no_grad()
        def follow(self) -> None:
            for a, b in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                if how == "in place":
                    b.mul_(0.9).add_(a, alpha=0.1)
                elif how == "data":
                    b.data = b.data * 0.9 + a.data * 0.1
                elif how == "data in place":
                    b.data.mul_(0.9).add_(a.data, alpha=0.1)
                elif how == "copy":
                    b.copy_(0.9 * b + 0.1 * a)
                else:
                    b.data, self.spare = (b.data * 0.9 + a.data * 0.1), b.data

        def touch(self, x: Tensor) -> Any:
            self.follow()
            return (self.student(x) - self.teacher(x + 0.1)).square().mean()

    return Teacher


class TensorQueue(Plain):
    def make(self) -> None:
        self.queue, self.pointer = torch.zeros(32, 16), 0

    def touch(self, x: Tensor) -> Any:
        features = self.net[0](x)  # type: ignore[index]
        loss = (features @ self.queue.clone().t()).square().mean()
        self.queue[self.pointer : self.pointer + len(x)] = features.detach()
        self.pointer = (self.pointer + len(x)) % 32
        return 0.1 * loss


class ArrayQueue(Plain):
    def make(self) -> None:
        self.memory, self.filled = numpy.zeros((32, 16), dtype=numpy.float32), 0

    def touch(self, x: Tensor) -> Any:
        features = self.net[0](x)  # type: ignore[index]
        loss = (features @ torch.from_numpy(self.memory.copy()).t()).square().mean()
        self.memory[self.filled % 32] = features[0].detach().numpy()
        self.filled += 1
        return 0.1 * loss


class DequeQueue(Plain):
    def make(self) -> None:
        self.recent: deque[Tensor] = deque(maxlen=3)

    def touch(self, x: Tensor) -> Any:
        features = self.net[0](x)  # type: ignore[index]
        loss = sum(((features - old).square().mean() for old in self.recent), torch.zeros(()))
        self.recent.append(features.detach().mean(0))
        return 0.1 * loss


def own_generator(make_one: Callable[[], Any], draw: Callable[[Any], float]) -> type[Plain]:
    class Noisy(Plain):
        def make(self) -> None:
            self.noise = make_one()

        def touch(self, x: Tensor) -> Any:
            return self.net(x + 0.1 * draw(self.noise)).square().mean()

        def everything(self) -> Any:
            return draw(self.noise)

    return Noisy


class World:
    """An environment as reinforcement learning has it: plain attributes and a generator."""

    episodes = 0

    def __init__(self) -> None:
        self.state, self.rng, self.trajectory = numpy.zeros(3), numpy.random.default_rng(5), [0.0]

    def step(self, action: float) -> float:
        self.state = 0.9 * self.state + action + self.rng.normal(size=3)
        self.trajectory.append(float(self.state.sum()))
        World.episodes += self.trajectory[-1] > 2
        return self.trajectory[-1]


class Acts(Plain):
    def make(self) -> None:
        self.world = World()
        self.replay: deque[Any] = deque(maxlen=20)

    def touch(self, x: Tensor) -> Any:
        value = self.net(x).mean()
        reward = self.world.step(float(value.detach()))
        self.replay.append((float(value.detach()), reward))
        target = sum(r for _, r in self.replay) / len(self.replay)
        return (value - 0.1 * target).square()

    def everything(self) -> Any:
        return [*self.world.trajectory, self.world.rng.random(), len(self.replay), World.episodes]


GLOBAL_RNG = numpy.random.default_rng(7)
GLOBAL_CACHE: dict[int, float] = {}


def augmented(x: Tensor) -> Tensor:
    """As a function at the top of a script: it draws from a global generator, and fills a global table."""
    GLOBAL_CACHE[len(GLOBAL_CACHE)] = float(x.sum())
    return x + 0.1 * float(GLOBAL_RNG.normal())


class UsesGlobals(Plain):
    def touch(self, x: Tensor) -> Any:
        return self.net(augmented(x)).square().mean() + 0.01 * len(GLOBAL_CACHE)

    def everything(self) -> Any:
        return len(GLOBAL_CACHE), float(GLOBAL_RNG.random())


class Counting(nn.Module):
    """Counts its calls, and remembers what it saw: its output depends on both."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, {}  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.setdefault(len(x), []).append(float(x.detach().mean()))
        out: Tensor = x * (1 + 0.01 * self.calls)
        return out


class MakesLater(Plain):
    """Makes what it needs at the first step."""

    def touch(self, x: Tensor) -> Any:
        if not hasattr(self, "centre"):
            self.centre = x.mean(0) + torch.rand(64)
        self.centre = 0.9 * self.centre + 0.1 * x.mean(0)
        return (self.net(x - self.centre)).square().mean()


def makes_in(hook: str) -> type[Plain]:
    class InHook(Plain):
        def touch(self, x: Tensor) -> Any:
            return self.made * self.net(x).square().mean()  # type: ignore[operator]

    def method(self: Any, *_: Any) -> None:
        self.made = getattr(self, "made", 0.5) * 1.01 + 0.01 * float(torch.rand(()))

    setattr(InHook, hook, method)
    return InHook


class Metrics(Plain):
    def make(self) -> None:
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(10, average="micro")
        self.mean = torchmetrics.MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(self.echo(x))
        self.accuracy(logits, y)
        self.mean.update(logits.detach().mean())
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return cross_entropy(logits, y) * (1 + 0.1 * self.mean.compute())


class OwnEMA(L.Callback):
    """A callback that keeps an average of the weights, and pulls the weights to it."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.average = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for name, p in pl_module.named_parameters():
            self.average[name].lerp_(p, 0.1)
            p.lerp_(self.average[name], 0.05)


# -- what hides: state that is not where one looks for it --------------------------------------------------------------


@functools.lru_cache
def drawn_once(size: int) -> Tensor:
    return torch.rand(size)


class Cached(Plain):
    """The first call draws."""

    def touch(self, x: Tensor) -> Any:
        return (self.net(x * drawn_once(64))).square().mean()

    def everything(self) -> Any:
        return drawn_once(64)


class BoundMethod(Plain):
    """Holds a method of an object, and not the object."""

    def make(self) -> None:
        self.draw = random.Random(0).random

    def touch(self, x: Tensor) -> Any:
        return self.draw() * self.net(x).square().mean()

    def everything(self) -> Any:
        return self.draw()


class SpawnedSeeds(Plain):
    def make(self) -> None:
        self.rng = numpy.random.default_rng(0)

    def touch(self, x: Tensor) -> Any:
        return float(self.rng.spawn(1)[0].random()) * self.net(x).square().mean()

    def everything(self) -> Any:
        return float(self.rng.spawn(1)[0].random())


class WrittenFile(Plain):
    """An array in a file, and one that is read-only but for the moment in which it is written to."""

    def make(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            self.table = numpy.memmap(file.name, mode="w+", dtype="f8", shape=(4,))
        self.locked = numpy.ones(4)
        self.locked.setflags(write=False)

    def touch(self, x: Tensor) -> Any:
        self.table += 0.1
        self.locked.setflags(write=True)
        self.locked *= 1.1
        self.locked.setflags(write=False)
        return float(self.table[0] + self.locked[0]) * self.net(x).square().mean()

    def everything(self) -> Any:
        return self.table.tolist(), self.locked.tolist()


class Jitter:
    def __init__(self) -> None:
        self.rng = random.Random(1)


class OnTheClass(Plain):
    jitter = Jitter()

    def touch(self, x: Tensor) -> Any:
        return self.jitter.rng.random() * self.net(x).square().mean()


def halve(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.mul_(0.5)


class HooksInTime(Plain):
    """Puts hooks on its parameters when training begins."""

    def on_train_start(self) -> None:
        for p in self.parameters():
            p.register_post_accumulate_grad_hook(halve)


class Carries(Plain):
    """Keeps a row of its state with the graph in it, until the batch is over."""

    def make(self) -> None:
        self.cell = nn.GRUCell(64, 64)
        self.state = torch.zeros(2, BATCH, 64)
        self.row = self.state[1]

    def touch(self, x: Tensor) -> Any:
        self.row[:] = self.cell(x, self.row.detach().clone())
        return self.net(self.row).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.state = self.state.detach()
        self.row = self.state[1]


class InnerLoss(nn.Module):
    def __init__(self, log: Any) -> None:
        super().__init__()
        self.write = log

    def forward(self, loss: Tensor) -> Tensor:
        self.write("inner", loss, on_epoch=True, batch_size=BATCH)
        return loss


class GivesItsLogAway(Plain):
    """A loss that was handed ``self.log``, and writes by it."""

    def make(self) -> None:
        self.loss = InnerLoss(self.log)

    def touch(self, x: Tensor) -> Any:
        return self.loss(self.net(x).square().mean())


class HoldsAFile(Plain):
    """A global file, which is written to, so that no dry run may happen."""

    def make(self) -> None:
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def touch(self, x: Tensor) -> Any:
        self.file.write("x")
        return 0.0

    def everything(self) -> Any:
        with self.file:  # (what is left open is complained about whenever it is collected)
            return self.file.tell()


# -- what is reached by the Trainer -----------------------------------------------------------------------------------


class StepsItsScheduler(Plain):
    def touch(self, x: Tensor) -> Any:
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.optimizers().param_groups[0]["momentum"] *= 0.99  # type: ignore[union-attr]
        return 0.0

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self.learning(), momentum=0.9)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": decay, "frequency": 1000}]


class OwnData(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.rng = numpy.random.default_rng(1)

    def train_dataloader(self) -> Any:
        return shuffled()


class DrawsFromItsData(Plain):
    def touch(self, x: Tensor) -> Any:
        return float(self.trainer.datamodule.rng.random()) * self.net(x).square().mean()  # type: ignore[attr-defined]


class CountsOnTheTrainer(Plain):
    def touch(self, x: Tensor) -> Any:
        self.trainer.seen = getattr(self.trainer, "seen", 0) + 1  # type: ignore[attr-defined]
        self.trainer.fit_loop.seen = getattr(self.trainer.fit_loop, "seen", 0) + 1  # type: ignore[attr-defined]
        return 0.01 * (self.trainer.seen + self.trainer.fit_loop.seen) * self.net(x).square().mean()  # type: ignore[attr-defined]


class Curriculum(L.Callback):
    def __init__(self) -> None:
        self.difficulty, self.seen = [0.5], 0


class AsksItsCallback(Plain):
    def touch(self, x: Tensor) -> Any:
        found = next(c for c in self.trainer.callbacks if isinstance(c, Curriculum))  # type: ignore[attr-defined]
        found.seen += 1
        found.difficulty.append(found.difficulty[-1] * 1.05)
        return found.difficulty[-1] * found.seen * 0.01 * self.net(x).square().mean()


class FastLoader:
    """As published in many repositories: an iterator that begins anew in its ``__iter__``."""

    def __init__(self) -> None:
        rows = digits(BATCH * BATCHES)
        self.x, self.y = torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    def __iter__(self) -> Any:
        self.order, self.i = torch.randperm(len(self.x)), 0
        return self

    def __next__(self) -> Any:
        if self.i >= len(self.x):
            raise StopIteration
        taken = self.order[self.i : self.i + BATCH]
        self.i += BATCH
        return self.x[taken], self.y[taken]

    def __len__(self) -> int:
        return BATCHES


# -- what a step may do with autograd ---------------------------------------------------------------------------------


class Differentiates(Plain):
    """Asks for the derivative by its inputs, as physics-informed networks do."""

    def touch(self, x: Tensor) -> Any:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return slope.square().mean()


class PerSample(Plain):
    """Runs its network under ``torch.vmap`` and ``torch.func``."""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

    def touch(self, x: Tensor) -> Any:
        slopes = torch.func.vmap(torch.func.jacrev(lambda row: self.net(row).square().sum()))(x)
        return 0.1 * slopes.square().mean()


# -- the loop ---------------------------------------------------------------------------------------------------------


class SometimesNone(Plain):
    def make(self) -> None:
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        return None if self.steps % 3 == 1 else super().training_step(batch, batch_idx)


class OtherName(Plain):
    def training_step(self, batch: Any, nb_batch: int) -> Any:
        return super().training_step(batch, 0) * (1 + 0.1 * nb_batch)


class OneArgument(Plain):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().training_step(batch, 0)


class WritesToBatch(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].sub_(0.1).mul_(1.5)
        return super().training_step(batch, batch_idx)


class Manual(Plain):
    def make(self) -> None:
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class TwoOptimizers(Plain):
    def make(self) -> None:
        self.automatic_optimization = False
        self.critic = nn.Linear(10, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            self.toggle_optimizer(optimizer)
            loss = super().training_step(batch, batch_idx) + sign * self.critic(self.net(batch[0])).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [sgd(self.net.parameters()), sgd(self.critic.parameters())]


class Drawing(Dataset[Any]):
    """Draws from a generator of its own, and remembers what it gave."""

    def __init__(self) -> None:
        self.rows, self.rng, self.given = digits(BATCH * BATCHES), random.Random(3), {}  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        x, y = self.rows[index]
        self.given[index] = self.given.get(index, 0) + 1
        return x + 0.1 * self.rng.random() * self.given[index], y


class ShufflesItself(Sampler[int]):
    """Shuffles its own array in place."""

    def __init__(self) -> None:
        self.order, self.rng = numpy.arange(BATCH * BATCHES), numpy.random.default_rng(1)

    def __iter__(self) -> Iterator[int]:
        self.rng.shuffle(self.order)
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)


class OwnLoader(DataLoader[Any]):
    """As a graph loader: batches that only its own ``__iter__`` makes."""

    def __iter__(self) -> Iterator[Any]:
        for x, y in super().__iter__():
            yield x.flip(1), y


def nothing_now_and_then(rows: list[Any]) -> Any:
    return None if int(rows[0][1]) in (0, 4) else torch.utils.data.default_collate(rows)


def shuffled() -> DataLoader[Any]:
    return DataLoader(digits(BATCH * BATCHES), BATCH, shuffle=True)


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Args:
        make: the module.
        data: its loader.
        callbacks: of the user, made anew for each training.
        refused_by: dry runs that refuse it by name, with a part of the message.
        arguments: of the Trainer.
    """

    make: Callable[[], Plain]
    data: Callable[[], Any] = shuffled
    callbacks: Callable[[], list[Any]] = list
    refused_by: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


_MANUAL = {"LRFinder": "manual optimization"}

KINDS: dict[str, Kind] = {
    "a plain network": Kind(Plain),
    "LSTM": Kind(recurrent(nn.LSTM)),
    "GRU, two layers, both directions": Kind(recurrent(nn.GRU, num_layers=2, bidirectional=True)),
    "RNN": Kind(recurrent(nn.RNN)),
    "LSTM, weights in one piece as with cuDNN": Kind(recurrent(nn.LSTM, flat=True)),
    **{f"a parameter in a {name}": Kind(contained(name)) for name in CONTAINERS},
    "weight norm by parametrization": Kind(
        with_layers(
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64, 16)), nn.ReLU, lambda: nn.Linear(16, 10)
        )
    ),
    "weight norm by hook": Kind(
        with_layers(lambda: weight_norm_by_hook(nn.Linear(64, 16)), nn.ReLU, lambda: nn.Linear(16, 10))
    ),
    "spectral norm by parametrization": Kind(
        with_layers(
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16)), nn.ReLU, lambda: nn.Linear(16, 10)
        )
    ),
    "spectral norm by hook": Kind(
        with_layers(lambda: nn.utils.spectral_norm(nn.Linear(64, 16)), nn.ReLU, lambda: nn.Linear(16, 10))
    ),
    "tied weights": Kind(Tied),
    "a wrapped layer": Kind(with_layers(lambda: LowRank(nn.Linear(64, 16)), nn.ReLU, lambda: nn.Linear(16, 10))),
    "activation checkpointing": Kind(with_layers(Checkpointed, nn.ReLU)),
    "a compiled submodule": Kind(
        with_layers(
            lambda: torch.compile(nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16)), backend="eager"),  # type: ignore[arg-type,return-value]
            nn.ReLU,
            lambda: nn.Linear(16, 10),
        )
    ),
    "large parameters": Kind(Large),
    "a sparse embedding": Kind(SparseEmbedding),
    "a gradient that turns sparse": Kind(TurnsSparse),
    "two heads that take turns": Kind(TwoHeads),
    "a head that changes its type": Kind(ChangesType),
    **{
        f"a momentum teacher, {how}": Kind(momentum_teacher(how))
        for how in ("in place", "data", "data in place", "copy", "swap")
    },
    "a queue as tensor": Kind(TensorQueue),
    "a queue as array": Kind(ArrayQueue),
    "a queue as deque": Kind(DequeQueue),
    "a generator of torch": Kind(
        own_generator(lambda: torch.Generator().manual_seed(1), lambda g: float(torch.rand((), generator=g)))
    ),
    "a generator of numpy": Kind(own_generator(lambda: numpy.random.default_rng(1), lambda g: float(g.random()))),
    "a RandomState": Kind(own_generator(lambda: numpy.random.RandomState(1), lambda g: float(g.rand()))),
    "a random.Random": Kind(own_generator(lambda: random.Random(1), lambda g: g.gauss(0, 1))),
    "an environment": Kind(Acts),
    "globals of the script": Kind(UsesGlobals),
    "counters and caches on submodules": Kind(
        with_layers(lambda: nn.Linear(64, 16), Counting, nn.ReLU, lambda: nn.Linear(16, 10))
    ),
    "attributes made at the first step": Kind(MakesLater),
    **{
        f"attributes made in {hook}": Kind(makes_in(hook))
        for hook in ("on_train_start", "on_train_epoch_start", "on_train_batch_start")
    },
    "torchmetrics": Kind(Metrics),
    "an average of weights by a callback": Kind(Plain, callbacks=lambda: [OwnEMA()]),
    "Lightning's average of weights": Kind(Plain, callbacks=lambda: [EMAWeightAveraging(decay=0.9)]),
    "Lightning's fine-tuning": Kind(
        type("Backbone", (Plain,), {"make": lambda self: setattr(self, "backbone", self.net[0])}),
        callbacks=lambda: [BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01)],
    ),
    "manual optimization": Kind(Manual, refused_by=_MANUAL),
    "two optimizers": Kind(TwoOptimizers, refused_by=_MANUAL),
    "a step that returns None now and then": Kind(SometimesNone),
    "batches of None": Kind(
        Plain, data=lambda: DataLoader(digits(BATCH * BATCHES), BATCH, collate_fn=nothing_now_and_then)
    ),
    "a second argument of another name": Kind(OtherName),
    "a step without second argument": Kind(OneArgument),
    "a step that writes to its batch": Kind(WritesToBatch),
    "a data set that draws and remembers": Kind(Plain, data=lambda: DataLoader(Drawing(), BATCH)),
    "a sampler that shuffles itself": Kind(
        Plain, data=lambda: DataLoader(digits(BATCH * BATCHES), BATCH, sampler=ShufflesItself())
    ),
    "a loader of its own class": Kind(Plain, data=lambda: OwnLoader(digits(BATCH * BATCHES), BATCH, shuffle=True)),
    "a function with a cache": Kind(Cached),
    "a method of an object": Kind(BoundMethod),
    "seeds that a generator spawns": Kind(SpawnedSeeds),
    "arrays in files, and locked ones": Kind(WrittenFile),
    "a generator on the class": Kind(OnTheClass),
    "hooks put on in time": Kind(HooksInTime),
    "a state that carries its graph": Kind(Carries),
    "a loss that writes the log": Kind(GivesItsLogAway),
    "an open file": Kind(HoldsAFile),
    "a scheduler that the step steps": Kind(StepsItsScheduler),
    "a generator of the datamodule": Kind(DrawsFromItsData, data=OwnData),
    "counters on the Trainer": Kind(CountsOnTheTrainer),
    "a callback that the step asks": Kind(AsksItsCallback, callbacks=lambda: [Curriculum()]),
    "an iterator that begins anew": Kind(Plain, data=FastLoader),
    "a step that differentiates by its inputs": Kind(Differentiates),
    "a step under vmap": Kind(PerSample),
    "accumulation": Kind(Plain, arguments={"accumulate_grad_batches": 3}),
    "bf16": Kind(Plain, arguments={"precision": "bf16-mixed"}),
}
assert WeightAveraging is not None


def reset_globals() -> None:
    """Make the globals of this file as they were when it was imported."""
    global GLOBAL_RNG
    GLOBAL_RNG = numpy.random.default_rng(7)
    GLOBAL_CACHE.clear()
    World.episodes = 0
    drawn_once.cache_clear()
    OnTheClass.jitter.rng.seed(1)
