"""Small trainings that fail or that look as if they did: what the scenarios of the collapse benchmark are made of.

Each takes about a second on one core. Data: scikit-learn's digits, breast cancer and wine, points on a circle, Python's
standard library as text, and token sequences that are made up.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

Step = Callable[["Task", Any, int], Any]


@dataclass
class Training:
    """One training, ready to run.

    Args:
        module: what is trained.
        data: gives one batch per index.
        steps: updates.
        detectors: name of a detector -> its arguments.
        validation: batches to validate on.
        every: steps between two validations.
        score: of the trained module, higher is better; where a rescue can be judged.
        arguments: more for the Trainer.
        callbacks: what the training itself needs.
    """

    module: L.LightningModule
    data: Dataset[Any]
    steps: int
    detectors: dict[str, dict[str, Any]]
    validation: Sequence[Any] = ()
    every: int = 25
    score: Callable[[Any], float] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)


class Task(L.LightningModule):
    """A network with a step and an optimizer, given as functions; rates by step, where they change.

    Args:
        net: the network, ``self.net``.
        step: ``step(task, batch, index)`` returns what ``training_step`` does.
        optimizer: makes one from the parameters.
        rate: step -> factor on the rate, multiplied in by hand as in many scripts.
        schedule: step -> factor, through torch's LambdaLR.
    """

    def __init__(
        self,
        net: nn.Module,
        step: Step,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        rate: Callable[[int], float] | None = None,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.step, self.make, self.rate, self.schedule = net, step, optimizer, rate, schedule

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.rate is not None:
            optimizer: Any = self.optimizers()
            for group in optimizer.param_groups:
                group["lr"] *= self.rate(batch_idx) / (self.rate(batch_idx - 1) if batch_idx else 1.0)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(self, batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        output = self.step(self, batch, batch_idx)
        self.log("val_loss", output["loss"], prog_bar=False)

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.net.parameters())
        if self.schedule is None:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Batches(Dataset[Any]):
    """One batch per index, drawn by a function from a generator that depends on the index and the seed."""

    def __init__(self, count: int, draw: Callable[[torch.Generator, int], Any], seed: int) -> None:
        self.count, self.draw, self.seed = count, draw, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        generator = torch.Generator().manual_seed(100_003 * self.seed + index)
        return self.draw(generator, index)


def loader(data: Dataset[Any]) -> DataLoader[Any]:
    """One item of the data set is one batch."""
    return DataLoader(data, batch_size=None)


def rows(data: Sequence[Tensor], batch: int) -> Callable[[torch.Generator, int], Any]:
    """Draw rows of tensors."""

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.randint(len(data[0]), (batch,), generator=generator)
        return tuple(t[chosen] for t in data)

    return draw


# -- data -------------------------------------------------------------------------------------------------------------


@lru_cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images as rows of 64 numbers, and their labels."""
    bunch = load_digits()
    return torch.tensor(bunch.data / 16.0, dtype=torch.float32), torch.tensor(bunch.target)


@lru_cache
def cancer() -> tuple[Tensor, Tensor]:
    """569 rows of 30 standardised numbers, two classes."""
    bunch = load_breast_cancer()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0), torch.tensor(bunch.target)


@lru_cache
def wine() -> tuple[Tensor, Tensor]:
    """178 rows of 13 standardised numbers, three classes."""
    bunch = load_wine()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0), torch.tensor(bunch.target)


@lru_cache
def text() -> Tensor:
    """Source of the standard library in lower case, 32 signs, no indentation."""
    folder = Path(argparse.__file__).parent
    names = ("argparse.py", "ast.py", "calendar.py", "copy.py", "decimal.py", "difflib.py", "enum.py", "heapq.py")
    source = "".join((folder / n).read_text() for n in names if (folder / n).exists()).lower()
    alphabet = "abcdefghijklmnopqrstuvwxyz ._(),"
    lookup = {c: i for i, c in enumerate(alphabet)}
    letters = " ".join("".join(c if c in lookup else " " for c in source).split())
    return torch.tensor([lookup[c] for c in letters])


def split(data: tuple[Tensor, ...], seed: int, share: float = 0.8) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Divide into training and validation."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(seed))
    cut = int(share * len(order))
    return tuple(t[order[:cut]] for t in data), tuple(t[order[cut:]] for t in data)


# -- classifiers ------------------------------------------------------------------------------------------------------


def mlp(sizes: Sequence[int], act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [nn.BatchNorm1d(b)] if norm else []
            layers.append(act())
    return nn.Sequential(*layers)


def classify(task: Task, batch: Any, index: int) -> Any:
    """Cross entropy; logits in the result."""
    logits = task.net(batch[0])
    return {"loss": F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1)), "logits": logits}


def sgd(lr: float, momentum: float = 0.9, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """SGD."""
    return lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum, **more)


def adam(lr: float, **more: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """AdamW."""
    return lambda p: torch.optim.AdamW(p, lr=lr, **more)


def accuracy(data: tuple[Tensor, ...]) -> Callable[[Any], float]:
    """Share of right answers."""

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        return float((module.net(data[0]).argmax(-1) == data[1]).float().mean())

    return score


CLASSIFIER: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {},
    "DeadUnits": {},
    "TrainingDoctor": {},
}
NO_UNITS = {name: CLASSIFIER[name] for name in ("PredictionCollapse", "TrainingDoctor")}


def classifier(
    seed: int,
    net: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    data: tuple[Tensor, Tensor] | None = None,
    *,
    batch: int = 64,
    steps: int = 400,
    change: Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]] | None = None,
    prepare: Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]] | None = None,
    spoil: Callable[[Any, int], Any] | None = None,
    detectors: dict[str, dict[str, Any]] | None = None,
    step: Step = classify,
    validate: bool = True,
    **more: Any,
) -> Training:
    """Train a classifier.

    Args:
        change: changes all data once, before they are divided.
        prepare: changes the training data once.
        spoil: changes a batch, given its index.
    """
    torch.manual_seed(seed)
    whole = digits() if data is None else data
    train, val = split(whole if change is None else change(whole, seed), seed)
    if prepare is not None:
        train = prepare(train, seed)
    draw = rows(train, batch)
    spoiled = draw if spoil is None else lambda generator, index: spoil(draw(generator, index), index)
    made = net()
    has_units = any(isinstance(m, (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU)) for m in made.modules())
    watched = detectors or (CLASSIFIER if has_units else NO_UNITS)
    task = Task(made, step, optimizer, **more)
    return Training(task, Batches(steps, spoiled, seed), steps, watched, [val] if validate else (), score=accuracy(val))


# -- tokens -----------------------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A transformer that labels tokens, normalised after each block, as the first ones were."""

    def __init__(self, tokens: int = 32, classes: int = 5, width: int = 32, layers: int = 3, pre: bool = False) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Parameter(torch.randn(64, width) * 0.02)
        make = lambda: nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True, norm_first=pre)  # noqa: E731
        self.blocks = nn.ModuleList(make() for _ in range(layers))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def tags(batch: int, length: int = 16, tokens: int = 32, noise: float = 0.05) -> Callable[[torch.Generator, int], Any]:
    """Sequences of tokens, two thirds of which are class 0; a share of the labels is wrong."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randint(tokens, (batch, length), generator=generator)
        wrong = torch.rand(x.shape, generator=generator) < noise
        random = torch.randint(5, x.shape, generator=generator)
        return x, torch.where(wrong, random, torch.where(x >= 20, 1 + x % 4, 0))

    return draw


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean F1 over classes."""
    guess, classes = logits.argmax(-1).reshape(-1), logits.shape[-1]
    labels = labels.reshape(-1)
    scores = []
    for k in range(classes):
        hit = float(((guess == k) & (labels == k)).sum())
        both = float((guess == k).sum() + (labels == k).sum())
        scores.append(2 * hit / both if both else 0.0)
    return sum(scores) / classes


def tagger(
    seed: int,
    lr: float,
    batch: int,
    steps: int = 400,
    net: Callable[[], nn.Module] = Tagger,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    **more: Any,
) -> Training:
    """Train a token classifier."""
    torch.manual_seed(seed)
    held = tags(64, noise=0.0)(torch.Generator().manual_seed(999), 0)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        return macro_f1(module.net(held[0]), held[1])

    task = Task(net(), classify, optimizer or adam(lr), **more)
    return Training(task, Batches(steps, tags(batch), seed), steps, NO_UNITS, score=score)


# -- self-supervised --------------------------------------------------------------------------------------------------


class Siamese(nn.Module):
    """Encoder, projector and predictor for two views."""

    def __init__(
        self, norm: bool = True, width: int = 64, inputs: int = 64, predictor: bool = True, last: bool = True
    ) -> None:
        super().__init__()
        self.encoder = mlp([inputs, 128, width], norm=norm)
        self.projector = nn.Sequential(mlp([width, 128, width], norm=norm))
        if norm and last:
            self.projector.append(nn.BatchNorm1d(width, affine=False))
        self.predictor = mlp([width, 32, width], norm=norm) if predictor else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projector(self.encoder(x))
        return z, self.predictor(z)


def views(data: Tensor, batch: int, noise: float = 0.25) -> Callable[[torch.Generator, int], Any]:
    """Two views of the same rows: noise and masked numbers."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = data[torch.randint(len(data), (batch,), generator=generator)]
        pair = []
        for _ in range(2):
            kept = torch.rand(x.shape, generator=generator) > 0.3
            pair.append((x + noise * torch.randn(x.shape, generator=generator)) * kept)
        return tuple(pair)

    return draw


def simsiam(stop: bool = True) -> Step:
    """Negative cosine of predictor and projector of the other view."""

    def step(task: Task, batch: Any, index: int) -> Any:
        (z1, p1), (z2, p2) = (task.net(x) for x in batch)
        if stop:
            z1, z2 = z1.detach(), z2.detach()
        return {"loss": -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2}

    return step


def vicreg(variance: float = 25.0, covariance: float = 1.0) -> Step:
    """Invariance, variance and covariance."""

    def step(task: Task, batch: Any, index: int) -> Any:
        z1, z2 = (task.net(x)[0] for x in batch)
        loss = 25.0 * F.mse_loss(z1, z2)
        for z in (z1, z2):
            centred = z - z.mean(0)
            matrix = centred.T @ centred / (len(z) - 1)
            loss = loss + variance * F.relu(1 - (centred.var(0) + 1e-4).sqrt()).mean() / 2
            loss = loss + covariance * (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1] / 2
        return {"loss": loss}

    return step


def barlow(redundancy: float = 0.02) -> Step:
    """Cross-correlation of two views towards the identity."""

    def step(task: Task, batch: Any, index: int) -> Any:
        z1, z2 = (task.net(x)[0] for x in batch)
        z1, z2 = ((z - z.mean(0)) / (z.std(0) + 1e-5) for z in (z1, z2))
        c = z1.T @ z2 / len(z1)
        on = (c.diagonal() - 1).square().sum()
        return {"loss": on + redundancy * (c.square().sum() - c.diagonal().square().sum())}

    return step


EMBEDDING: dict[str, dict[str, Any]] = {
    "RepresentationCollapse": {"layer": "net.projector"},
    "TrainingDoctor": {},
}


def siamese(
    seed: int,
    step: Step,
    *,
    net: Callable[[], nn.Module] = Siamese,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    steps: int = 400,
    data: Tensor | None = None,
    batch: int = 128,
    **more: Any,
) -> Training:
    """Train two views of digits to agree."""
    torch.manual_seed(seed)
    inputs = digits()[0] if data is None else data
    task = Task(net(), step, optimizer or sgd(0.05, weight_decay=1e-4), **more)
    return Training(task, Batches(steps, views(inputs, batch), seed), steps, EMBEDDING)


def low_rank(rank: int, width: int = 64, count: int = 1500) -> Tensor:
    """Rows that fill few dimensions."""
    generator = torch.Generator().manual_seed(7)
    factors = torch.randn(count, rank, generator=generator)
    return torch.tanh(factors @ torch.randn(rank, width, generator=generator) / rank**0.5)


# -- generators -------------------------------------------------------------------------------------------------------


class Adversarial(L.LightningModule):
    """A GAN with two optimizers and manual optimization.

    Args:
        size: numbers in a sample.
        rates: of generator and discriminator.
        penalty: weight of the gradient penalty at real samples (R1); 0 for none.
        critics: updates of the discriminator for one of the generator.
    """

    def __init__(
        self,
        size: int = 2,
        rates: tuple[float, float] = (1e-3, 1e-3),
        penalty: float = 0.0,
        width: int = 64,
        hinge: bool = False,
        critics: int = 1,
        betas: tuple[float, float] = (0.5, 0.9),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = mlp([8, width, width, size])
        self.discriminator = mlp([size, width, width, 1], act=lambda: nn.LeakyReLU(0.2))
        self.rates, self.penalty, self.hinge, self.critics, self.betas = rates, penalty, hinge, critics, betas

    def _loss(self, scores: Tensor, real: bool) -> Tensor:
        sign = 1.0 if real else -1.0
        return F.relu(1 - sign * scores).mean() if self.hinge else F.softplus(-sign * scores).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        one, two = self.optimizers()  # type: ignore[misc]
        x = batch[0]
        made = self.generator(torch.randn(len(x), 8))
        x = x.detach().requires_grad_(self.penalty > 0)
        scores = self.discriminator(x)
        loss = self._loss(scores, True) + self._loss(self.discriminator(made.detach()), False)
        if self.penalty:
            (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
            loss = loss + self.penalty / 2 * slope.square().sum(1).mean()
        two.zero_grad()
        self.manual_backward(loss)
        two.step()
        if batch_idx % self.critics == 0:
            fooled = self.discriminator(made)
            loss = -fooled.mean() if self.hinge else F.softplus(-fooled).mean()
            one.zero_grad()
            self.manual_backward(loss)
            one.step()

    def configure_optimizers(self) -> Any:
        parts = zip((self.generator, self.discriminator), self.rates, strict=True)
        return [torch.optim.Adam(m.parameters(), lr=lr, betas=self.betas) for m, lr in parts]


def circle(batch: int, modes: int = 8) -> Callable[[torch.Generator, int], Any]:
    """Points around so many places on a circle."""

    def draw(generator: torch.Generator, index: int) -> Any:
        which = torch.randint(modes, (batch,), generator=generator)
        angle = 2 * math.pi * which / modes
        centre = torch.stack([angle.cos(), angle.sin()], 1) * 2
        return (centre + 0.05 * torch.randn(batch, 2, generator=generator),)

    return draw


GENERATOR: dict[str, dict[str, Any]] = {
    "ModeCollapse": {"generator": "generator"},
    "TrainingDoctor": {},
}


def adversarial(seed: int, draw: Callable[[torch.Generator, int], Any], steps: int = 600, **arguments: Any) -> Training:
    """Train a GAN."""
    torch.manual_seed(seed)
    return Training(Adversarial(**arguments), Batches(steps, draw, seed), steps, GENERATOR)


# -- language models and recursion ------------------------------------------------------------------------------------


class Bigram(L.LightningModule):
    """A model of the next token from the three before it, that can write; its own text may become its data.

    Args:
        temperature: epoch -> temperature of ``sample``.
        source: ``"real"``, ``"replace"`` (from the second epoch on its own text only) or ``"accumulate"``.
        lr: rate of AdamW.
        per_epoch: updates.
        length: tokens of a generated text.
    """

    def __init__(
        self,
        source: str = "real",
        temperature: Callable[[int], float] = lambda epoch: 1.0,
        lr: float = 0.01,
        per_epoch: int = 40,
        length: int = 64,
        seed: int = 0,
        fresh: bool = True,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(32, 16), nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32))
        self.source, self.temperature, self.lr = source, temperature, lr
        self.per_epoch, self.length, self.seed, self.fresh = per_epoch, length, seed, fresh
        self._pool: list[Tensor] = []
        self._start = {k: v.clone() for k, v in self.net.state_dict().items()}

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Write ``count`` texts."""
        real = text()
        places = torch.randint(len(real) - 4, (count,))
        out = [real[places + i] for i in range(3)]
        for _ in range(self.length - 3):
            logits = self.net(torch.stack(out[-3:], 1)) / self.temperature(self.current_epoch)
            out.append(torch.distributions.Categorical(logits=logits).sample())
        return torch.stack(out, 1)

    def train_dataloader(self) -> Any:
        real = text()
        generator = torch.Generator().manual_seed(self.seed)
        corpus = real[: 256 * self.length].reshape(-1, self.length)
        if self.source != "real" and self.current_epoch > 0:
            self._pool.append(self.sample(256))
            corpus = torch.cat([corpus, *self._pool]) if self.source == "accumulate" else self._pool[-1]
            if self.fresh:
                self.net.load_state_dict(self._start)
        else:
            self._pool = []

        def draw(_: torch.Generator, index: int) -> Any:
            return (corpus[torch.randint(len(corpus), (16,), generator=generator)],)

        return loader(Batches(self.per_epoch, draw, self.seed))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0]
        windows = x.unfold(1, 4, 1).reshape(-1, 4)
        logits = self.net(windows[:, :3])
        return {"loss": F.cross_entropy(logits, windows[:, 3]), "logits": logits, "target": windows[:, 3]}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


WRITER: dict[str, dict[str, Any]] = {"GenerationDrift": {"num_samples": 128}}


def writer(seed: int, epochs: int = 10, **arguments: Any) -> Training:
    """Train a writer; one epoch is one generation."""
    torch.manual_seed(seed)
    module = Bigram(seed=seed, **arguments)
    more = {"max_epochs": epochs, "reload_dataloaders_every_n_epochs": 1}
    return Training(module, Batches(0, lambda g, i: None, 0), epochs * module.per_epoch, WRITER, arguments=more)
