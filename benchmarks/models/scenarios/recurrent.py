"""Recurrent networks: exploding and forgetting ones, long plateaus, carried states and frozen reservoirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios.styles import Plain
from benchmarks.models.trainings import Batches, Training, accuracy, macro_f1, rows, split

TOO_HIGH = ("learning rate too high", "divergence", "loss spikes", "non-finite values")
NO_LEARNING = ("labels do not follow from inputs", "inputs ignored", "prediction collapse", "vanishing gradients")


class Reader(nn.Module):
    """A recurrent layer whose last state, or all of whose states, go to a linear head.

    Args:
        cell: ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``, already made.
        outputs: of the head.
        last: whether only the last state counts.
        tokens: where the inputs are tokens, how many there are.
    """

    def __init__(self, cell: nn.RNNBase, outputs: int, last: bool = True, tokens: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, cell.input_size) if tokens else nn.Identity()
        self.memory, self.last = cell, last
        self.head = nn.Linear(cell.hidden_size * (2 if cell.bidirectional else 1), outputs)

    def forward(self, x: Tensor) -> Tensor:
        states = self.memory(self.embed(x))[0]
        return self.head(states[:, -1] if self.last else states)


def watched(output: str = "net.head") -> dict[str, dict[str, Any]]:
    """Return what a user would switch on for a recurrent network."""
    return {"TrainingDoctor": {}, "PredictionCollapse": {"output": output}}


# -- digits, pixel by pixel -------------------------------------------------------------------------------------------


def plain(width: int, gain: float, inputs: int = 1, nonlinearity: str = "tanh") -> Callable[[], nn.RNN]:
    """Make a plain recurrent layer whose recurrent weights are an orthogonal matrix times a number."""

    def make() -> nn.RNN:
        layer = nn.RNN(inputs, width, nonlinearity=nonlinearity, batch_first=True)
        nn.init.orthogonal_(layer.weight_hh_l0, gain)
        nn.init.zeros_(layer.bias_hh_l0)
        nn.init.zeros_(layer.bias_ih_l0)
        return layer

    return make


def pixels(
    seed: int,
    cell: Callable[[], nn.RNNBase],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int = 400,
    at_once: int = 1,
    clip: float | None = None,
) -> Training:
    """Classify digits that are read a few pixels at a time."""
    torch.manual_seed(seed)
    x, y = t.digits()
    train, val = split((x.reshape(len(x), -1, at_once), y), seed)
    module = Plain(Reader(cell(), 10), F.cross_entropy, optimizer)
    more = {"max_steps": steps, **({"gradient_clip_val": clip} if clip else {})}
    data = Batches(steps, rows(train, 32), seed)
    return Training(module, data, steps, watched(), [val], every=50, score=accuracy(val), arguments=more)


# -- memory -----------------------------------------------------------------------------------------------------------


def recall(batch: int, delay: int, signs: int = 6) -> Callable[[torch.Generator, int], Any]:
    """Which sign came first? After it come many that are without meaning."""

    def draw(generator: torch.Generator, index: int) -> Any:
        first = torch.randint(signs, (batch, 1), generator=generator)
        noise = torch.randint(signs, (batch, delay), generator=generator) + signs
        return torch.cat([first, noise], 1), first[:, 0]

    return draw


def remembering(cell: type[nn.RNNBase] = nn.LSTM, bias: float = 0.0, width: int = 32) -> Reader:
    """Make a reader; ``bias`` is that of the forget gates of an LSTM."""
    layer = cell(8, width, batch_first=True)
    if bias:
        layer.bias_ih_l0.data[width : 2 * width] = bias
        layer.bias_hh_l0.data[width : 2 * width] = 0.0
    return Reader(layer, 6, tokens=12)


class Forgetful(nn.Module):
    """A GRU unrolled by hand in which each state is cut from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(12, 8), nn.GRUCell(8, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.embed(x)
        h = torch.zeros(len(x), 32, device=x.device)
        for i in range(x.shape[1]):
            h = self.cell(inputs[:, i], h.detach())
        return self.head(h)


def memory(
    seed: int,
    net: Callable[[], nn.Module],
    delay: int,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int = 400,
) -> Training:
    """Train a network to remember the first sign."""
    torch.manual_seed(seed)
    val = recall(512, delay)(torch.Generator().manual_seed(10**6 + seed), 0)
    module = Plain(net(), F.cross_entropy, optimizer)
    data = Batches(steps, recall(32, delay), seed)
    return Training(module, data, steps, watched(), [val], every=50, score=accuracy(val))


def addition(batch: int, length: int) -> Callable[[torch.Generator, int], Any]:
    """The sum of two marked numbers among many."""

    def draw(generator: torch.Generator, index: int) -> Any:
        numbers = torch.rand(batch, length, generator=generator)
        half = length // 2
        first = torch.randint(half, (batch,), generator=generator)
        second = half + torch.randint(length - half, (batch,), generator=generator)
        marks = F.one_hot(first, length) + F.one_hot(second, length)
        return torch.stack([numbers, marks.float()], -1), (numbers * marks).sum(1, keepdim=True)

    return draw


def explained(batch: Any) -> Callable[[Any], float]:
    """R squared on held-out data."""

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        rest = (module.net(batch[0]) - batch[1]).square().sum()
        return 1.0 - float(rest / (batch[1] - batch[1].mean(0)).square().sum())

    return score


def adding(seed: int, cell: Callable[[], nn.RNNBase], lr: float, length: int = 24, steps: int = 500) -> Training:
    """Train on the adding problem, with clipping by the Trainer."""
    torch.manual_seed(seed)
    val = addition(512, length)(torch.Generator().manual_seed(10**6 + seed), 0)
    module = Plain(Reader(cell(), 1), F.mse_loss, lambda p: torch.optim.Adam(p, lr))
    data, more = Batches(steps, addition(32, length), seed), {"max_steps": steps, "gradient_clip_val": 1.0}
    return Training(module, data, steps, watched(), [val], every=50, score=explained(val), arguments=more)


# -- a tagger with padding --------------------------------------------------------------------------------------------


def padded(batch: int, longest: int = 20) -> Callable[[torch.Generator, int], Any]:
    """Sentences of 5 to 20 tokens; a token's class depends on the token after it; padding is 0, with the label -100."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randint(1, 21, (batch, longest), generator=generator)
        after = torch.cat([x[:, 1:], torch.zeros(batch, 1, dtype=torch.long)], 1)
        y = torch.where(x > 15, 1 + (after + x) % 2, 0)
        over = torch.arange(longest) >= torch.randint(5, longest + 1, (batch, 1), generator=generator)
        y[:, :-1] = torch.where(over[:, 1:], 0, y[:, :-1])
        return {"tokens": x.masked_fill(over, 0), "tags": y.masked_fill(over, -100)}

    return draw


class TagsWithPadding(L.LightningModule):
    """A bidirectional tagger."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Reader(nn.LSTM(16, 24, batch_first=True, bidirectional=True), 3, last=False, tokens=21)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch["tokens"])
        loss = F.cross_entropy(logits.transpose(1, 2), batch["tags"], ignore_index=-100)
        return {"loss": loss, "logits": logits.detach()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch["tokens"])
        self.log("val_loss", F.cross_entropy(logits.transpose(1, 2), batch["tags"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def tags_with_padding(seed: int, steps: int = 300) -> Training:
    """Train the bidirectional tagger."""
    torch.manual_seed(seed)
    val = padded(128)(torch.Generator().manual_seed(10**6 + seed), 0)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        real = val["tags"] != -100
        return macro_f1(module.net(val["tokens"])[real], val["tags"][real])

    detectors = {"TrainingDoctor": {}, "PredictionCollapse": {"target": "tags"}}
    return Training(TagsWithPadding(), Batches(steps, padded(32), seed), steps, detectors, [val], score=score)


# -- text with a carried state ----------------------------------------------------------------------------------------


class Carried(L.LightningModule):
    """A GRU on one long text in eight streams: truncated backpropagation, the state is carried on from batch to batch."""

    def __init__(self, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__()
        self.net = Reader(nn.GRU(32, 64, batch_first=True), 32, last=False, tokens=32)
        self.optimizer = optimizer
        self.state: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        states, h = self.net.memory(self.net.embed(x), self.state)
        self.state = h.detach()
        logits = self.net.head(states)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), y.flatten()), "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]).flatten(0, 1), batch[1].flatten()))

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def carried(seed: int, optimizer: Callable[[Any], torch.optim.Optimizer], steps: int = 400) -> Training:
    """Train on the text in order, from another place for each seed."""
    torch.manual_seed(seed)
    whole, streams, length = t.text(), 16, 24
    cut = int(0.8 * len(whole))
    step = cut // streams
    begin = 997 * seed

    def piece(generator: torch.Generator, index: int) -> Any:
        starts = (begin + step * torch.arange(streams) + length * index) % (cut - length - 1)
        both = whole[starts[:, None] + torch.arange(length + 1)]
        return both[:, :-1], both[:, 1:]

    held = whole[cut : cut + 64 * 65].reshape(64, 65)
    val = held[:, :-1], held[:, 1:]

    @torch.no_grad()
    def bits(module: Any) -> float:
        module.eval()
        return -float(F.cross_entropy(module.net(val[0]).flatten(0, 1), val[1].flatten())) / math.log(2)

    return Training(
        Carried(optimizer), Batches(steps, piece, seed), steps, watched("logits"), [val], every=50, score=bits
    )


# -- a reservoir ------------------------------------------------------------------------------------------------------


class Reservoir(nn.Module):
    """An echo state network: only the readout learns; ``radius`` is that of the frozen recurrent weights."""

    def __init__(self, radius: float, width: int = 100) -> None:
        super().__init__()
        self.memory = nn.RNN(1, width, batch_first=True)
        recurrent = torch.randn(width, width) / math.sqrt(width)
        self.memory.weight_hh_l0.data = radius * recurrent / torch.linalg.eigvals(recurrent).abs().max()
        self.memory.weight_ih_l0.data.uniform_(-0.5, 0.5)
        self.memory.requires_grad_(False)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            states = self.memory(x)[0]
        return self.head(states[:, 10:])


def delayed_product(batch: int, length: int = 60) -> Callable[[torch.Generator, int], Any]:
    """A noise and, as the target, a sum of what it was two, three and four steps ago."""

    def draw(generator: torch.Generator, index: int) -> Any:
        u = torch.rand(batch, length, 1, generator=generator) - 0.5
        return u, (u[:, 8:-2] + u[:, 7:-3] - u[:, 6:-4]) * 1.5

    return draw


def reservoir(seed: int, radius: float, steps: int = 400) -> Training:
    """Train the readout."""
    torch.manual_seed(seed)
    val = delayed_product(64)(torch.Generator().manual_seed(10**6 + seed), 0)
    module = Plain(Reservoir(radius), F.mse_loss, lambda p: torch.optim.Adam(p, 1e-2))
    data = Batches(steps, delayed_product(16), seed)
    return Training(module, data, steps, watched(), [val], every=50, score=explained(val))


SCENARIOS: list[Scenario] = [
    healthy(
        "recurrent",
        "digits by four pixels, orthogonal recurrent weights",
        0.6,
        lambda s: pixels(s, plain(64, 1.0, 4), t.adam(2e-3), at_once=4, clip=1.0, steps=500),
    ),
    failing(
        "recurrent",
        "digits pixel by pixel, recurrent weights times 0.1",
        0.6,
        lambda s: pixels(s, plain(48, 0.1), t.sgd(0.02), steps=300),
        *NO_LEARNING,
        twin="digits by four pixels, orthogonal recurrent weights",
    ),
    failing(
        "recurrent",
        "digits by rows, plain recurrent network, SGD 3 without clipping",
        0.6,
        lambda s: pixels(s, plain(64, 1.5, 8), t.sgd(3.0), at_once=8),
        *TOO_HIGH,
        "saturated units",
        "inputs ignored",
        "prediction collapse",
        twin="digits by four pixels, orthogonal recurrent weights",
    ),
    healthy(
        "recurrent",
        "LSTM with forget bias 4 remembers for 40 steps",
        0.9,
        lambda s: memory(s, lambda: remembering(bias=4.0), 40, t.adam(1e-2), 400),
    ),
    failing(
        "recurrent",
        "plain recurrent network forgets within 40 steps",
        0.9,
        lambda s: memory(s, lambda: remembering(nn.RNN), 40, t.adam(1e-3), 400),
        *NO_LEARNING,
        twin="LSTM with forget bias 4 remembers for 40 steps",
    ),
    failing(
        "recurrent",
        "states detached at every step",
        0.9,
        lambda s: memory(s, Forgetful, 15, t.adam(5e-3), 300),
        *NO_LEARNING,
    ),
    healthy(
        "recurrent",
        "adding problem, long plateau",
        0.8,
        lambda s: adding(s, lambda: nn.GRU(2, 32, batch_first=True), 1e-2),
    ),
    failing(
        "recurrent",
        "adding problem, rate 3",
        0.8,
        lambda s: adding(s, lambda: nn.GRU(2, 32, batch_first=True), 3.0, steps=300),
        *TOO_HIGH,
        "inputs ignored",
        "prediction collapse",
        "saturated units",
        twin="adding problem, long plateau",
    ),
    healthy("recurrent", "bidirectional tagger with padding", 0.85, tags_with_padding),
    healthy("recurrent", "GRU on text, state carried over", -3.6, lambda s: carried(s, t.adam(5e-3))),
    failing(
        "recurrent",
        "GRU on text, state carried over, SGD 30",
        -3.6,
        lambda s: carried(s, t.sgd(30.0)),
        *TOO_HIGH,
        "saturated units",
        "inputs ignored",
        "prediction collapse",
        twin="GRU on text, state carried over",
    ),
    healthy("recurrent", "echo state network, frozen reservoir", 0.8, lambda s: reservoir(s, 0.9)),
    failing(
        "recurrent",
        "echo state network in chaos, radius 30",
        0.8,
        lambda s: reservoir(s, 30.0),
        "saturated units",
        "labels do not follow from inputs",
        "inputs ignored",
        "prediction collapse",
    ),
]
