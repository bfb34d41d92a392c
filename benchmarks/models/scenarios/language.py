"""Language models and tasks on sequences of tokens: tiny transformers on Python's source, and tasks with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Training, mlp

SIGNS = 32  # of the text
MASK = 24  # the token after the last sign of the grammar
CONTEXT = 32


class Attention(nn.Module):
    """Self-attention with several heads; ``sharpness`` multiplies the logits."""

    def __init__(self, width: int, heads: int, causal: bool, sharpness: float) -> None:
        super().__init__()
        self.heads, self.causal, self.scale = heads, causal, sharpness / math.sqrt(width // heads)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """A transformer block, normalised before its parts (``pre``) or after them."""

    def __init__(self, width: int, heads: int, causal: bool, pre: bool, sharpness: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, causal, sharpness)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2, self.pre = nn.LayerNorm(width), nn.LayerNorm(width), pre

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed(x))


class Transformer(nn.Module):
    """Embeddings, blocks and a head."""

    def __init__(
        self,
        tokens: int = SIGNS,
        width: int = 32,
        layers: int = 2,
        *,
        classes: int | None = None,
        heads: int = 4,
        causal: bool = True,
        pre: bool = True,
        tied: bool = False,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Embedding(64, width)
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.place.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads, causal, pre, sharpness) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.head = nn.Linear(width, classes or tokens, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


# -- models of text ---------------------------------------------------------------------------------------------------


class CharacterModel(L.LightningModule):
    """Predicts the next sign."""

    def __init__(self, net: nn.Module, lr: float, warmup: int = 0, momentum: float | None = None) -> None:
        super().__init__()
        self.net, self.lr, self.warmup, self.momentum = net, lr, warmup, momentum

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), y.flatten()), "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x).flatten(0, 1), y.flatten()))

    def configure_optimizers(self) -> Any:
        if self.momentum is not None:
            optimizer: Any = torch.optim.SGD(self.parameters(), self.lr, self.momentum)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), self.lr, betas=(0.9, 0.95), weight_decay=0.01)
        if not self.warmup:
            return optimizer
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / self.warmup))
        return [optimizer], [{"scheduler": rise, "interval": "step"}]


def windows(held: bool, batch: int, length: int = CONTEXT) -> Callable[[torch.Generator, int], Any]:
    """Draw pieces of the text and the same pieces one sign later; the last fifth is held out."""
    whole = t.text()
    cut = int(0.8 * len(whole))
    piece = whole[cut:] if held else whole[:cut]

    def draw(generator: torch.Generator, index: int) -> Any:
        starts = torch.randint(len(piece) - length - 1, (batch, 1), generator=generator)
        both = piece[starts + torch.arange(length + 1)]
        return both[:, :-1], both[:, 1:]

    return draw


def held_out(batch: int = 64) -> Any:
    """One batch of the text that training does not see."""
    return windows(True, batch)(torch.Generator().manual_seed(77), 0)


@torch.no_grad()
def bits_of_writing(module: Any) -> float:
    """Minus bits per sign on held-out text, each sign predicted from nothing but the signs before it."""
    module.eval()
    x, y = held_out()
    losses = [F.cross_entropy(module.net(x[:, : i + 1])[:, -1], y[:, i]) for i in range(3, CONTEXT, 4)]
    return -float(torch.stack(losses).mean()) / math.log(2)


WATCHED: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "PredictionCollapse": {}, "DeadUnits": {}}


def model_of_text(
    seed: int,
    net: Callable[[], nn.Module],
    lr: float = 6e-3,
    steps: int = 400,
    spoil: Callable[[Any, torch.Generator, int], Any] | None = None,
    **more: Any,
) -> Training:
    """Train a model of text on batches of 16 windows."""
    torch.manual_seed(seed)
    draw = windows(False, 16)
    spoiled = draw if spoil is None else lambda generator, index: spoil(draw(generator, index), generator, index)
    module = CharacterModel(net(), lr, **more)
    watched = {**WATCHED, "RepresentationCollapse": {"layer": ["net.blocks.0", "net.blocks.1"]}}
    return Training(
        module, Batches(steps, spoiled, seed), steps, watched, [held_out()], every=50, score=bits_of_writing
    )


def mixed_up(start: int, stop: int) -> Callable[[Any, torch.Generator, int], Any]:
    """From one step to another the loader gives signs in random order, as from a damaged file."""

    def spoil(batch: Any, generator: torch.Generator, index: int) -> Any:
        if not start <= index < stop:
            return batch
        both = torch.cat([batch[0], batch[1][:, -1:]], 1)
        both = both.flatten()[torch.randperm(both.numel(), generator=generator)].reshape(both.shape)
        return both[:, :-1], both[:, 1:]

    return spoil


class MaskedModel(L.LightningModule):
    """Fills in a share of the signs, which are hidden from it; all others have the label -100."""

    def __init__(self, net: nn.Module, lr: float, share: float = 0.15) -> None:
        super().__init__()
        self.net, self.lr, self.share = net, lr, share

    def hide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.rand(x.shape, device=x.device) < self.share
        return x.masked_fill(hidden, MASK), x.masked_fill(~hidden, -100)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, labels = self.hide(batch["input_ids"])
        logits = self.net(inputs)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits, "labels": labels}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels = self.hide(batch["input_ids"])
        self.log("val_loss", F.cross_entropy(self.net(inputs).flatten(0, 1), labels.flatten()))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), self.lr)


def grammar(batch: int, length: int = 20, signs: int = 24) -> Callable[[torch.Generator, int], Any]:
    """Sequences in which three of four signs decide the next one, and one of four is followed by anything."""
    follows = torch.randperm(signs, generator=torch.Generator().manual_seed(5))

    def draw(generator: torch.Generator, index: int) -> Any:
        sequence = [torch.randint(signs, (batch,), generator=generator)]
        for _ in range(length - 1):
            free = torch.rand(batch, generator=generator) < 0.25
            anything = torch.randint(signs, (batch,), generator=generator)
            sequence.append(torch.where(free, anything, follows[sequence[-1]]))
        return {"input_ids": torch.stack(sequence, 1)}

    return draw


@torch.no_grad()
def filled_in(module: Any) -> float:
    """Share of held-out signs that are filled in rightly, one hidden at a time; 1 in 24 without the neighbours."""
    module.eval()
    x, right = grammar(256)(torch.Generator().manual_seed(78), 0)["input_ids"], []
    for place in range(4, 16, 2):
        inputs = x.clone()
        inputs[:, place] = MASK
        right.append((module.net(inputs)[:, place].argmax(-1) == x[:, place]).float())
    return float(torch.cat(right).mean())


def masked_model(seed: int, lr: float, steps: int = 400) -> Training:
    """Train a masked language model on batches that are dicts."""
    torch.manual_seed(seed)
    module = MaskedModel(Transformer(MASK + 1, classes=24, causal=False), lr)
    val = grammar(64)(torch.Generator().manual_seed(79), 0)
    watched = {"TrainingDoctor": {}, "PredictionCollapse": {"target": "labels"}, "DeadUnits": {}}
    data = Batches(steps, grammar(32), seed)
    return Training(module, data, steps, watched, [val], every=50, score=filled_in)


class Author(CharacterModel):
    """A model of text whose training data may become its own text, generation by generation.

    Args:
        own: share of its own text from the second epoch on.
        temperature: of sampling.
    """

    def __init__(self, own: float, temperature: float, seed: int, per_epoch: int = 100) -> None:
        super().__init__(Transformer(), 6e-3)
        self.own, self.temperature, self.seed, self.per_epoch = own, temperature, seed, per_epoch

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Write texts of as many signs as the context has, each from four signs of real text."""
        out = windows(False, count, 4)(torch.Generator().manual_seed(self.current_epoch), 0)[0]
        while out.shape[1] < CONTEXT + 1:
            logits = self.net(out)[:, -1] / self.temperature
            out = torch.cat([out, torch.distributions.Categorical(logits=logits).sample()[:, None]], 1)
        return out

    def train_dataloader(self) -> Any:
        draw = windows(False, 16)
        written = self.sample(128) if self.current_epoch and self.own else None

        def mixed(generator: torch.Generator, index: int) -> Any:
            if written is None or index % 10 >= 10 * self.own:
                return draw(generator, index)
            rows = written[torch.randint(len(written), (16,), generator=generator)]
            return rows[:, :-1], rows[:, 1:]

        return t.loader(Batches(self.per_epoch, mixed, self.seed + 1000 * self.current_epoch))


def author(seed: int, own: float, temperature: float = 1.0, epochs: int = 5) -> Training:
    """Train a writer; one epoch is one generation."""
    torch.manual_seed(seed)
    module = Author(own, temperature, seed)
    more = {"max_epochs": epochs, "reload_dataloaders_every_n_epochs": 1}
    watched = {**WATCHED, "GenerationDrift": {"num_samples": 64}}
    steps = epochs * module.per_epoch
    return Training(module, Batches(0, lambda g, i: None, 0), steps, watched, score=bits_of_writing, arguments=more)


# -- tasks with known answers -----------------------------------------------------------------------------------------


class Answers(L.LightningModule):
    """Learns labels of tokens by cross entropy; places with the label -100 do not count."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        self.log("train_loss", loss)
        return {"loss": loss, "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1)))

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def share_right(batch: tuple[Tensor, Tensor]) -> Callable[[Any], float]:
    """Share of right answers where there is a label."""

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        guess, asked = module.net(batch[0]).argmax(-1), batch[1] != -100
        return float((guess == batch[1])[asked].float().mean())

    return score


def many(draw: Callable[[torch.Generator, int], Any], seed: int, batches: int = 8) -> tuple[Tensor, Tensor]:
    """Draw some batches that training does not see, as one."""
    x, y = zip(*(draw(torch.Generator().manual_seed(10**6 + 10 * seed + i), 0) for i in range(batches)), strict=True)
    return torch.cat(x), torch.cat(y)


def answers(
    seed: int,
    net: Callable[[], nn.Module],
    draw: Callable[[torch.Generator, int], Any],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int,
    held: tuple[Tensor, Tensor] | None = None,
    every: int = 50,
) -> Training:
    """Train a network on a task that gives one label per place."""
    torch.manual_seed(seed)
    val = held or many(draw, seed)
    module = Answers(net(), optimizer)
    return Training(module, Batches(steps, draw, seed), steps, WATCHED, [val], every=every, score=share_right(val))


def copying(batch: int, length: int = 8, signs: int = 12) -> Callable[[torch.Generator, int], Any]:
    """Random signs, a stop, and the same signs again; the first half is not asked for."""

    def draw(generator: torch.Generator, index: int) -> Any:
        word = torch.randint(signs, (batch, length), generator=generator)
        whole = torch.cat([word, torch.full((batch, 1), signs), word], 1)
        labels = whole[:, 1:].clone()
        labels[:, :length] = -100
        return whole[:, :-1], labels

    return draw


def parity(batch: int, bits: int, asked: int) -> Callable[[torch.Generator, int], Any]:
    """Is the number of ones among the first bits odd?"""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randint(2, (batch, bits), generator=generator)
        return 2.0 * x - 1.0, x[:, :asked].sum(1) % 2

    return draw


class Sum(nn.Module):
    """Embeddings of two numbers, added, and two layers."""

    def __init__(self, modulus: int, width: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(modulus, width), mlp([width, hidden, modulus])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.embed(x).sum(1))


def modular(seed: int, modulus: int, share: float, decay: float, steps: int, lr: float = 3e-3) -> Training:
    """Addition modulo a number, full batch: a share of all pairs is known, the others are asked for at the end."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    labels, cut = pairs.sum(1) % modulus, int(share * len(pairs))
    known, asked = (pairs[:cut], labels[:cut]), (pairs[cut:], labels[cut:])
    optimizer = t.adam(lr, weight_decay=decay, betas=(0.9, 0.98))
    return answers(seed, lambda: Sum(modulus), lambda g, i: known, optimizer, steps, asked, every=100)


def names(*some: Sequence[str]) -> tuple[str, ...]:
    """Join lists of causes."""
    return tuple(dict.fromkeys(name for one in some for name in one))


NO_LEARNING = ("labels do not follow from inputs", "inputs ignored", "prediction collapse")
TOO_HIGH = ("learning rate too high", "divergence", "loss spikes", "non-finite values")

BITS = -3.7  # 4.43 from the frequencies of signs alone, 3.77 from one sign before

SCENARIOS: list[Scenario] = [
    healthy("language", "pre-norm transformer", BITS, lambda s: model_of_text(s, Transformer)),
    healthy(
        "language",
        "post-norm transformer with warm-up",
        BITS,
        lambda s: model_of_text(s, lambda: Transformer(pre=False), warmup=100),
    ),
    failing(
        "language",
        "post-norm transformer without warm-up, ten times the rate",
        BITS,
        lambda s: model_of_text(s, lambda: Transformer(pre=False, layers=3), lr=6e-2),
        *TOO_HIGH[:3],
        "inputs ignored",
        "prediction collapse",
        "vanishing gradients",
        "complete collapse",
        "dimensional collapse",
        twin="post-norm transformer with warm-up",
    ),
    healthy("language", "tied embeddings", BITS, lambda s: model_of_text(s, lambda: Transformer(tied=True))),
    healthy(
        "language",
        "a loss spike from five damaged batches",
        BITS,
        lambda s: model_of_text(s, Transformer, spoil=mixed_up(200, 205)),
    ),
    failing(
        "language",
        "damaged text from half of the run on",
        BITS,
        lambda s: model_of_text(s, Transformer, spoil=mixed_up(200, 400)),
        *NO_LEARNING,
        "divergence",
        "loss spikes",
        onset=0.5,
        twin="pre-norm transformer",
    ),
    failing(
        "language",
        "language model without a causal mask",
        BITS,
        lambda s: model_of_text(s, lambda: Transformer(causal=False)),
        "sanity:no look into the future",
    ),
    healthy("language", "masked language model", 0.5, lambda s: masked_model(s, 5e-3)),
    failing(
        "language",
        "masked language model, rate 0.3",
        0.5,
        lambda s: masked_model(s, 0.3, 300),
        *TOO_HIGH[:3],
        "inputs ignored",
        "prediction collapse",
        twin="masked language model",
    ),
    failing(
        "language",
        "a transformer on its own text at 0.6",
        BITS,
        lambda s: author(s, 1.0, 0.6),
        "recursive collapse",
        "repetition",
        onset=0.2,
    ),
    healthy("language", "three tenths of the text are its own", BITS, lambda s: author(s, 0.3, 1.0)),
    healthy(
        "language",
        "copying",
        0.8,
        lambda s: answers(s, lambda: Transformer(13), copying(32), t.adam(5e-3), 300),
    ),
    failing(
        "language",
        "copying, attention logits times 500",
        0.8,
        lambda s: answers(s, lambda: Transformer(13, sharpness=500.0), copying(32), t.adam(5e-3), 300),
        *NO_LEARNING,
        "vanishing gradients",
        twin="copying",
    ),
    healthy(
        "language",
        "parity of three bits among twelve",
        0.9,
        lambda s: answers(s, lambda: mlp([12, 64, 2]), parity(64, 12, 3), t.sgd(0.1), 800),
    ),
    failing(
        "language",
        "parity of twenty bits",
        0.9,
        lambda s: answers(s, lambda: mlp([20, 64, 2]), parity(64, 20, 20), t.sgd(0.1), 800),
        *NO_LEARNING,
    ),
    healthy("language", "modular addition, late generalisation", 0.9, lambda s: modular(s, 23, 0.6, 1.0, 1500)),
    failing(
        "language",
        "modular addition, a third known, no decay",
        0.9,
        lambda s: modular(s, 23, 0.3, 0.0, 800),
        "overfitting",
        onset=0.1,
    ),
]
