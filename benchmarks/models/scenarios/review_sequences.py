"""Language models, recurrent networks and tokens with bugs that code reviews find, and trainings that resemble them.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing. The text is Python's own source.
"""

from __future__ import annotations

import keyword
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut

FAMILY = "review sequences"
LENGTH = 24
(TRAIN,), (TEST,) = lines(LENGTH + 1, 3000)
LOGITS: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "logits"}, "DeadUnits": {}, "TrainingDoctor": {}}


def next_sign(m: Any) -> Tensor:
    """Return the accuracy for the sign behind each text: whatever looks ahead has nothing to look at there."""
    return (m(TEST[:, :LENGTH])[:, -1].argmax(-1) == TEST[:, LENGTH]).float().mean()


# -- transformers on text ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention by torch's function, and two linear layers; norms in front."""

    def __init__(self, width: int, mask: str) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (h.unflatten(-1, (4, -1)).transpose(1, 2) for h in self.qkv(self.one(x)).chunk(3, -1))
        if self.mask == "is_causal":
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # True stands for "may be looked at" here, unlike in nn.MultiheadAttention
            upper = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu()
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=upper)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.two(x))


class Gpt(Loaded):
    """A small GPT with a short convolution before its blocks; its embedding may be its last layer too, and its logits may reach the loss with classes second."""

    def __init__(self, mask: str = "is_causal", tied: bool = False, moved: bool = False, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(32, width), nn.Embedding(LENGTH, width)
        self.short = nn.Conv1d(width, width, 3)
        self.blocks = nn.Sequential(Block(width, mask), Block(width, mask))
        self.norm, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 32, bias=False)
        if tied:
            self.lm_head.weight = self.tokens.weight
        else:
            nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        self.moved = moved

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        x = x + self.short(F.pad(x.mT, (2, 0))).mT
        return self.lm_head(self.norm(self.blocks(x)))

    def _loss(self, batch: Data) -> tuple[Tensor, Tensor]:
        (ids,) = batch
        logits, labels = self(ids[:, :-1]), ids[:, 1:]
        if self.moved:  # "cross_entropy wants the classes second"
            logits = logits.transpose(1, 2)
        return F.cross_entropy(logits.reshape(-1, 32), labels.reshape(-1)), logits

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss, _ = self._loss(batch)
        self.log("train/loss", loss)
        self.log("train/perplexity", loss.exp())
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch)[0])

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
            lr=1e-2,
            betas=(0.9, 0.95),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 40))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def gpt(seed: int, steps: int = 250, **options: Any) -> Training:
    """Train on text; the score is the accuracy for the next sign."""
    watched: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "lm_head"}, "DeadUnits": {}, "TrainingDoctor": {}}  # fmt: skip
    make = lambda: Gpt(**options).use((TRAIN,), (TEST,), 32)  # noqa: E731
    return script(seed, make, next_sign, steps, watched, gradient_clip_val=1.0)


# -- recurrent networks on text ---------------------------------------------------------------------------------------


class Writer(nn.Module):
    """An embedding, a recurrent network and a linear layer."""

    def __init__(self, cell: Any, width: int) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(32, 24), cell(24, width, batch_first=True), nn.Linear(width, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(ids))[0])


class Clipped(L.LightningModule):
    """Manual optimization of a plain network at a high rate; gradients are clipped behind the backward pass or before it."""

    def __init__(self, before: bool, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.before, self.steps = before, steps
        self.writer = Writer(nn.RNN, 64)
        with torch.no_grad():
            self.writer.rnn.weight_hh_l0.copy_(1.3 * torch.eye(64))

    def forward(self, ids: Tensor) -> Tensor:
        return self.writer(ids)

    def train_dataloader(self) -> Any:
        rows = torch.randint(len(TRAIN), (16 * self.steps,))
        return DataLoader(TensorDataset(TRAIN[rows]), batch_size=16)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        ids = batch[0]
        optimizer: Any = self.optimizers()
        logits = self(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        if self.before:
            nn.utils.clip_grad_norm_(self.parameters(), 0.25)
            optimizer.zero_grad()
            self.manual_backward(loss)
        else:
            optimizer.zero_grad()
            self.manual_backward(loss)
            nn.utils.clip_grad_norm_(self.parameters(), 0.25)
        optimizer.step()
        self.log("loss", loss.detach(), prog_bar=True)
        return {"loss": loss.detach(), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=3.0)


def clipped(seed: int, before: bool, steps: int = 300) -> Training:
    """Train by manual optimization; the score is the accuracy for the next sign."""
    return script(seed, lambda: Clipped(before, steps), next_sign, steps, LOGITS)


class Restarted(Loaded):
    """An LSTM whose rate falls along a cosine, again and again, down to a smallest rate."""

    def __init__(self, smallest: float) -> None:
        super().__init__()
        self.smallest = smallest
        self.model = Writer(nn.LSTM, 64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0][:, :-1])
        return {"loss": F.cross_entropy(logits.mT, batch[0][:, 1:]), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0][:, :-1]).mT, batch[0][:, 1:]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 40, 2, eta_min=self.smallest)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "rate"}}


def restarted(seed: int, smallest: float) -> Training:
    """Train with restarts of the rate; the score is the accuracy for the next sign."""
    make = lambda: Restarted(smallest).use((TRAIN,), (TEST,), 32)  # noqa: E731
    return script(seed, make, next_sign, 280, LOGITS)


class Streamed(IterableDataset[Any]):
    """Lines as they come, 160 an epoch, a buffer of them shuffled; it may start at its first line for each epoch."""

    def __init__(self, from_the_start: bool) -> None:
        self.from_the_start, self.place = from_the_start, 0

    def __iter__(self) -> Any:
        if self.from_the_start:
            self.place = 0
        buffer: list[Tensor] = []
        for _ in range(160):
            buffer.append(TRAIN[self.place % len(TRAIN)])
            self.place += 1
            if len(buffer) > 128:
                yield (buffer.pop(int(torch.randint(len(buffer), (1,)))),)
        for index in torch.randperm(len(buffer)).tolist():
            yield (buffer[index],)


class Stream(Loaded):
    """A GRU on a text that is streamed."""

    def __init__(self, from_the_start: bool) -> None:
        super().__init__()
        self.gru = Writer(nn.GRU, 64)
        self.stream = Streamed(from_the_start)

    def forward(self, ids: Tensor) -> Tensor:
        return self.gru(ids)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        ids = batch[0]
        logits = self(ids[:, :-1])
        return {"loss": F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), "logits": logits}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        ids = batch[0]
        self.log("val_loss", F.cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)

    def train_dataloader(self) -> Any:
        return DataLoader(self.stream, batch_size=16)


def bits(m: Any) -> Tensor:
    """Return the information about the next sign in bits, for text that is new: five less the cross entropy."""
    return 5 - F.cross_entropy(m(TEST[:, :-1]).flatten(0, 1), TEST[:, 1:].flatten()) / 0.6931


def streaming(seed: int, from_the_start: bool) -> Training:
    """Train on a stream of ten batches an epoch."""
    make = lambda: Stream(from_the_start).use((TRAIN,), (TEST,), 16)  # noqa: E731
    return script(seed, make, bits, 400, LOGITS, check_val_every_n_epoch=8)


# -- digits row by row, behind them nothing ---------------------------------------------------------------------------


def padded() -> tuple[Data, Data]:
    """Rows of digits as a sequence of eight, and 40 rows of zeros behind them, as in a batch with one long sequence."""
    (x, y), (x2, y2) = images(221)
    return tuple((F.pad(a.squeeze(1), (0, 0, 0, 40)), torch.full((len(a),), 8), b) for a, b in ((x, y), (x2, y2)))  # type: ignore[return-value]


class Rows(Loaded):
    """A plain recurrent network that answers from its last output, or from the output at the last row."""

    def __init__(self, by_length: bool) -> None:
        super().__init__()
        self.by_length = by_length
        self.rnn, self.classifier = nn.RNN(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        outputs, _ = self.rnn(x)
        last = outputs[torch.arange(len(x)), lengths - 1] if self.by_length else outputs[:, -1]
        return self.classifier(last)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["rows"], batch["lengths"]), batch["digit"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch["rows"], batch["lengths"]), batch["digit"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), lr=1e-3)


def by_rows(seed: int, by_length: bool) -> Training:
    """Train on rows of digits; the score is the accuracy."""
    train, test = padded()
    watched = {"PredictionCollapse": {"output": "classifier", "target": "digit"}, "TrainingDoctor": {}}
    make = lambda: Rows(by_length).use(train, test, 32, keys=("rows", "lengths", "digit"))  # noqa: E731
    score = lambda m: (m(*test[:2]).argmax(1) == test[2]).float().mean()  # noqa: E731
    return script(seed, make, score, 300, watched)


# -- what kind of word a sign is in -----------------------------------------------------------------------------------


def tagged(length: int = 30) -> tuple[Data, Data]:
    """Words of the text up to a length that varies: signs, lengths, and for each sign the kind of its word (-100: none)."""
    letters = "".join("abcdefghijklmnopqrstuvwxyz ._(),"[i] for i in t.text()[:60_000].tolist())
    words, tags = letters.split(" "), []
    for word in words:
        kind = 1 if word in keyword.kwlist else 2 if "(" in word else 3 if "_" in word or "." in word else 0
        tags += [kind] * len(word) + [0]
    labels, g = torch.tensor(tags[: len(letters)]), seeded(222)
    count = 1600
    starts = torch.randint(len(letters) - length, (count,), generator=g)
    lengths = torch.randint(8, length + 1, (count,), generator=g)
    place = torch.arange(length)
    x, y = t.text()[starts[:, None] + place], labels[starts[:, None] + place]
    absent = place >= lengths[:, None]
    return cut((x.masked_fill(absent, 0), lengths, y.masked_fill(absent, -100)), 1300)


class Words(Loaded):
    """A GRU in both directions over packed sequences, which have to be sorted; so are their tags, or they are not."""

    def __init__(self, tags_too: bool) -> None:
        super().__init__()
        self.tags_too = tags_too
        self.embed, self.gru = nn.Embedding(32, 16), nn.GRU(16, 32, batch_first=True, bidirectional=True)
        self.tagger = nn.Linear(64, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True)
        return self.tagger(pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0])

    def common(self, batch: Data) -> dict[str, Tensor]:
        x, lengths, tags = batch
        lengths, order = lengths.sort(descending=True)
        if self.tags_too or not self.training:
            tags = tags[order]
        logits = self(x[order], lengths)
        return {"loss": F.cross_entropy(logits.mT, tags), "logits": logits, "tags": tags}

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        return self.common(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.common(batch)["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def words(seed: int, tags_too: bool) -> Training:
    """Train on kinds of words; the score is the F1, averaged over the kinds."""
    train, test = tagged()
    order = test[1].argsort(descending=True)
    x, lengths, tags = (d[order] for d in test)

    def score(m: Any) -> float:
        known = tags >= 0
        return t.macro_f1(m(x, lengths)[known], tags[known])

    watched = {"PredictionCollapse": {"output": "logits", "target": "tags"}, "TrainingDoctor": {}}
    return script(seed, lambda: Words(tags_too).use(train, test, 32), score, 150, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a mask of True for what is hidden, SDPA", 0.26, lambda s: gpt(s, mask="upper"), "sanity:no look into the future",
            "repetition", "evaluation differs"),
    healthy(FAMILY, "SDPA with is_causal, a warm-up", 0.26, gpt),
    failing(FAMILY, "text, logits transposed and then flattened", 0.25, lambda s: gpt(s, moved=True), *UNLEARNED, FOLLOW, SHAPES, ONE_BATCH),
    healthy(FAMILY, "one matrix for signs in and out, loss 20 at first", 0.28, lambda s: gpt(s, tied=True)),
    failing(FAMILY, "text, clipped before the backward pass", 0.25, lambda s: clipped(s, True), *FAST, *UNLEARNED, "saturated units"),
    healthy(FAMILY, "text, clipped between backward and step", 0.25, lambda s: clipped(s, False)),
    failing(FAMILY, "an LSTM, eta_min taken for a factor", 0.34, lambda s: restarted(s, 0.5), *FAST, *UNLEARNED, "saturated units"),
    healthy(FAMILY, "an LSTM on text, restarts ever later", 0.34, lambda s: restarted(s, 1e-5)),
    failing(FAMILY, "a stream, the same lines in each epoch", 1.2, lambda s: streaming(s, True), "overfitting"),
    healthy(FAMILY, "a stream that goes on in each epoch", 1.2, lambda s: streaming(s, False)),
    failing(FAMILY, "rows of digits, outputs[:, -1] behind padding", 0.5, lambda s: by_rows(s, False), *UNLEARNED, "vanishing gradients",
            ONE_BATCH),
    healthy(FAMILY, "rows of digits, the output at their length", 0.8, lambda s: by_rows(s, True)),
    failing(FAMILY, "packed words, tags as they were", 0.45, lambda s: words(s, False), *UNLEARNED, FOLLOW, ONE_BATCH, "evaluation differs"),
    healthy(FAMILY, "packed words, tags sorted as they are", 0.65, lambda s: words(s, True)),
]  # fmt: skip
