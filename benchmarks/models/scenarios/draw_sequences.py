"""Text, series, strips of digits and bits: failures that combine what is seldom combined, and healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded

FAMILY = "drawn sequences"
TRAIN, TEST = images(81)
TEXT, MORE_TEXT = lines(24, 3000)
LEAK, FUTURE, ORDERED = "sanity:samples do not leak", "sanity:no look into the future", "sanity:data are shuffled"


# -- language models --------------------------------------------------------------------------------------------------


class Convolutions(nn.Module):
    """Three dilated convolutions; padded on the left only, or on both sides."""

    def __init__(self, left: bool) -> None:
        super().__init__()
        self.left = left
        self.layers = nn.ModuleList(nn.Conv1d(32, 32, 3, dilation=d) for d in (1, 2, 4))
        self.act = nn.GELU()

    def forward(self, h: Tensor) -> Tensor:
        h = h.transpose(1, 2)
        for conv in self.layers:
            room = 2 * conv.dilation[0]
            h = h + self.act(conv(F.pad(h, (room, 0) if self.left else (room // 2, room // 2))))
        return h.transpose(1, 2)


class Recurrent(nn.Module):
    """One GRU, from left to right or from both sides."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(32, 16 if both else 32, batch_first=True, bidirectional=both)

    def forward(self, h: Tensor) -> Tensor:
        return self.gru(h)[0]


class NextSign(Loaded):
    """A language model of single signs; the rate is warmed up over steps, or over epochs by mistake."""

    def __init__(self, body: nn.Module, lr: float, warm_up: int = 1, interval: str = "step") -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(32, 32), body, nn.Linear(32, 32)
        self.lr, self.warm_up, self.interval = lr, warm_up, interval

    def forward(self, signs: Tensor) -> Tensor:
        return self.head(self.body(self.embed(signs)))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        (signs,) = batch
        logits, labels = self(signs[:, :-1]), signs[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        self.log("ppl", loss.detach().exp(), prog_bar=True)
        return {"loss": loss, "logits": logits.flatten(0, 1), "labels": labels.flatten()}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx)["loss"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": self.interval}}


def bits_after_a_beginning(m: Any) -> Tensor:
    """Return the bits that a sign costs which follows a text that ends before it, with a minus."""
    signs = MORE_TEXT[0]
    cost = [F.cross_entropy(m(signs[:, :k])[:, -1], signs[:, k]) for k in (8, 12, 16, 20)]
    return -torch.stack(cost).mean() / 0.6931


WRITER = {"PredictionCollapse": {"output": "logits", "target": "labels"}, "DeadUnits": {}, "TrainingDoctor": {}}


def writing(seed: int, body: Any, lr: float = 3e-3, steps: int = 250, **more: Any) -> Training:
    """Train on text; the score is minus the bits for the sign after a text that ends."""
    make = lambda: NextSign(body(), lr, **more).use(TEXT, MORE_TEXT, 32)  # noqa: E731
    return script(seed, make, bits_after_a_beginning, steps, WRITER)


# -- copying by deep transformers -------------------------------------------------------------------------------------


class Repeater(L.LightningModule):
    """Eight signs, then the same eight signs: a causal transformer has to look eight places back."""

    def __init__(self, pre: bool, layers: int, lr: float, warm_up: int, steps: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(12, 32), nn.Parameter(0.1 * torch.randn(15, 32))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=pre) for _ in range(layers)
        )
        self.out = nn.Linear(32, 12)
        self.lr, self.warm_up, self.steps = lr, warm_up, steps

    def forward(self, signs: Tensor) -> Tensor:
        h = self.embed(signs) + self.place
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1])
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return self.out(h)

    def train_dataloader(self) -> Any:
        half = torch.randint(12, (self.steps * 32, 8))
        return DataLoader(torch.cat([half, half], 1), batch_size=32)

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[:, :-1])[:, 7:]
        return {"loss": F.cross_entropy(logits.flatten(0, 1), batch[:, 8:].flatten()), "logits": logits.flatten(0, 1),
                "labels": batch[:, 8:].flatten()}  # fmt: skip

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / self.warm_up))
        return [optimizer], [{"scheduler": rise, "interval": "step"}]


def repeating(seed: int, pre: bool, layers: int, lr: float, warm_up: int, steps: int) -> Training:
    """Train to repeat; the score is the share of right signs."""

    def score(m: Any) -> Tensor:
        half = torch.randint(12, (200, 8), generator=seeded(82))
        return (m(torch.cat([half, half], 1)[:, :-1])[:, 7:].argmax(-1) == half).float().mean()

    return script(seed, lambda: Repeater(pre, layers, lr, warm_up, steps), score, steps, WRITER)


# -- lines of Python's modules ----------------------------------------------------------------------------------------


def source_lines() -> tuple[Data, Data]:
    """Return lines of four modules as 40 bytes and which module each is from, in the order of the files; every tenth is kept back."""
    folder, rows, labels = Path(argparse.__file__).parent, [], []
    for label, name in enumerate(
        (
            "calendar.py",
            "decimal.py" if (folder / "decimal.py").stat().st_size > 9000 else "_pydecimal.py",
            "difflib.py",
            "argparse.py",
        )
    ):
        written = [line.strip() for line in (folder / name).read_text().splitlines() if len(line.strip()) > 20][:500]
        rows += [[min(ord(c), 127) for c in line[:40].ljust(40)] for line in written]
        labels += [label] * len(written)
    x, y = torch.tensor(rows), torch.tensor(labels)
    kept = torch.arange(len(x)) % 10 == 0
    return (x[~kept], y[~kept]), (x[kept], y[kept])


LINES, MORE_LINES = source_lines()


class Stream(IterableDataset[Any]):
    """Lines as they are read from the files, again and again."""

    def __iter__(self) -> Any:
        yield from zip(*LINES, strict=True)


class Author(L.LightningModule):
    """Says which module a line is from, by the mean of embedded pairs of signs."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.EmbeddingBag(4096, 24)
        self.classifier = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pairs((x[:, 1:] * 31 + x[:, :-1] * 1009) % 4096))

    def train_dataloader(self) -> Any:
        return DataLoader(Stream(), batch_size=16)

    def val_dataloader(self) -> Any:
        return DataLoader(list(zip(*MORE_LINES, strict=True)), batch_size=64)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def streamed(seed: int) -> Training:
    """Train on lines in the order of the files; the score is the accuracy."""
    score = lambda m: (m(MORE_LINES[0]).argmax(1) == MORE_LINES[1]).float().mean()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "classifier"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, Author, score, 330, watched)


# -- keywords in source -----------------------------------------------------------------------------------------------


def tagged(signs: Tensor) -> Tensor:
    """Mark the signs of words of more than seven letters; a space is 26 in this alphabet."""
    marks = torch.zeros_like(signs)
    for row, mark in zip(signs.tolist(), marks, strict=True):
        start = 0
        for i, sign in enumerate([*row, 26]):
            if sign >= 26:
                if i - start > 7:
                    mark[start:i] = 1
                start = i + 1
    return marks


class Tagger(Loaded):
    """Marks long words; the first and last signs of a line do not count. The softmax is over classes, or over time."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.embed, self.gru = nn.Embedding(32, 16), nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(48, 2)

    def forward(self, signs: Tensor) -> Tensor:
        return self.tag(self.gru(self.embed(signs))[0])

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        log_p = F.log_softmax(self(batch["signs"]), dim=self.axis)
        return F.nll_loss(log_p.flatten(0, 1), batch["marks"].flatten(), ignore_index=-100)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def tagging(seed: int, axis: int) -> Training:
    """Train on marks; the score is the F1 of the marked signs."""

    def with_marks(signs: Tensor) -> Data:
        marks = tagged(signs)
        marks[:, :4] = marks[:, -4:] = -100
        return signs, marks

    train, test = with_marks(TEXT[0][:1500]), with_marks(MORE_TEXT[0])

    def score(m: Any) -> Tensor:
        guess, marks = m(test[0]).argmax(-1) == 1, test[1]
        counts = marks >= 0
        both = (guess & (marks == 1)).sum()
        return 2 * both / ((guess & counts).sum() + (marks == 1).sum())

    make = lambda: Tagger(axis).use(train, test, 32, keys=("signs", "marks"))  # noqa: E731
    return script(
        seed, make, score, 250, {"PredictionCollapse": {"output": "tag", "target": "marks"}, "TrainingDoctor": {}}
    )


# -- rows and strips of digits ----------------------------------------------------------------------------------------


class Reader(Loaded):
    """Reads a digit in steps with a recurrent network and classifies by the last state."""

    def __init__(
        self, kind: str, width: int, per_step: int, batch_first: bool = True, scale: float = 0.0, lr: float = 3e-3
    ) -> None:
        super().__init__()
        extra: dict[str, Any] = {"nonlinearity": "relu"} if kind == "RNN" else {}
        self.rnn = getattr(nn, kind)(per_step, width, batch_first=batch_first, **extra)
        if scale:
            self.rnn.weight_hh_l0.data.copy_(scale * torch.eye(width))
        self.fc, self.per_step, self.lr = nn.Linear(width, 10), per_step, lr

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x.reshape(len(x), -1, self.per_step))[0][:, -1])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), lr=self.lr)


def reading(seed: int, *args: Any, steps: int = 300, clip: float | None = None, **more: Any) -> Training:
    """Train to read digits; the score is the accuracy."""
    make = lambda: Reader(*args, **more).use(TRAIN, TEST, 32)  # noqa: E731
    extra = {} if clip is None else {"gradient_clip_val": clip}
    score = lambda m: (m(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, make, score, steps, {"PredictionCollapse": {"output": "fc"}, "TrainingDoctor": {}}, **extra)


def strips(data: Data, count: int, seed: int) -> Data:
    """Three digits side by side, and which they are."""
    chosen = torch.randint(len(data[0]), (count, 3), generator=seeded(seed))
    return data[0][chosen].permute(0, 2, 3, 1, 4).reshape(count, 1, 8, 24), data[1][chosen]


class Strips(Loaded):
    """Convolution, GRU, CTC; the encoder's output is detached, or not."""

    def __init__(self, detached: bool, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, width, (8, 5), stride=(1, 2), padding=(0, 2)), nn.ReLU())
        self.decoder = nn.Linear(width, 11)
        self.ctc, self.detached = nn.CTCLoss(blank=10), detached

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x).squeeze(2).permute(2, 0, 1)
        return self.decoder(h.detach() if self.detached else h).log_softmax(-1)

    def _loss(self, batch: Data) -> Tensor:
        log_p = self(batch[0])
        n = len(batch[0])
        return self.ctc(log_p, batch[1], torch.full((n,), len(log_p)), torch.full((n,), 3))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def in_strips(seed: int, detached: bool, width: int) -> Training:
    """Train on strips; the score is the share of strips whose first and last digits are read."""
    train, test = strips(TRAIN, 1500, 83), strips(TEST, 200, 84)

    def score(m: Any) -> Tensor:
        best, right = m(test[0]).argmax(-1).T, 0
        for row, label in zip(best, test[1], strict=True):
            read = [int(c) for c in torch.unique_consecutive(row) if c != 10]
            right += bool(read) and read[0] == int(label[0]) and read[-1] == int(label[2])
        return torch.tensor(right / len(best))

    make = lambda: Strips(detached, width).use(train, test, 32)  # noqa: E731
    return script(seed, make, score, 400, {"DeadUnits": {}, "TrainingDoctor": {}})


# -- series -----------------------------------------------------------------------------------------------------------


def sensors(count: int, seed: int, scale: float) -> Data:
    """Six sensors over 30 times; the answer is how the first and the fourth go together."""
    g = seeded(seed)
    x = torch.randn(count, 30, 6, generator=g)
    together = torch.randn(count, 1, generator=g)
    x[..., 3] = together * x[..., 0] + 0.5 * x[..., 3]
    return x, scale * together.squeeze(1)


class Series(Loaded):
    """A convolution over time and a mean; the axes are exchanged by permute, or the numbers are viewed in another shape."""

    def __init__(self, view: bool, scale: float) -> None:
        super().__init__()
        self.view, self.scale = view, scale
        self.net = nn.Sequential(
            nn.Conv1d(6, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(32, 32, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 1),
        )
        self.criterion = nn.HuberLoss(delta=scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 6, 30) if self.view else x.permute(0, 2, 1)
        return self.net(x).squeeze(-1)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        prediction = self(batch[0]) * self.scale
        return {"loss": self.criterion(prediction, batch[1]), "prediction": prediction}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.criterion(self(batch[0]) * self.scale, batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def measuring(seed: int, view: bool, scale: float = 1.0) -> Training:
    """Train on sensors; the score is R squared."""
    train, test = sensors(1500, 85, scale), sensors(400, 86, scale)
    score = lambda m: 1 - (m(test[0]) * scale - test[1]).square().mean() / test[1].var()  # noqa: E731
    make = lambda: Series(view, scale).use(train, test, 32)  # noqa: E731
    return script(
        seed, make, score, 350, {"PredictionCollapse": {"output": "prediction"}, "DeadUnits": {}, "TrainingDoctor": {}}
    )


# -- bits -------------------------------------------------------------------------------------------------------------


class Growing(IterableDataset[Any]):
    """Bits and their running parity; the rows get longer in stages, or have one length."""

    def __init__(self, lengths: tuple[int, ...], per_stage: int) -> None:
        self.lengths, self.per_stage = lengths, per_stage

    def __iter__(self) -> Any:
        for length in self.lengths:
            for _ in range(self.per_stage):
                bits = torch.randint(2, (64, length))
                yield bits.float().unsqueeze(-1), bits.cumsum(1) % 2


class Parity(L.LightningModule):
    """A GRU that says after each bit whether the ones so far are odd; only the last answer is trained, or all are."""

    def __init__(self, lengths: tuple[int, ...], per_stage: int, last: bool) -> None:
        super().__init__()
        self.data, self.last = Growing(lengths, per_stage), last
        self.gru, self.odd = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, bits: Tensor) -> Tensor:
        return self.odd(self.gru(bits)[0])

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=None)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits, labels = self(batch[0]), batch[1]
        if self.last:
            logits, labels = logits[:, -1:], labels[:, -1:]
        logits, labels = logits.flatten(0, 1), labels.flatten()
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def parity(seed: int, lengths: tuple[int, ...], per_stage: int, last: bool) -> Training:
    """Train on parity; the score is the share of right answers after the last bit."""

    def score(m: Any) -> Tensor:
        bits = torch.randint(2, (500, lengths[-1]), generator=seeded(87))
        return (m(bits.float().unsqueeze(-1))[:, -1].argmax(-1) == bits.sum(1) % 2).float().mean()

    watched = {"PredictionCollapse": {"output": "logits", "target": "labels"}, "TrainingDoctor": {}}
    return script(seed, lambda: Parity(lengths, per_stage, last), score, len(lengths) * per_stage, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "signs of a text, read from both sides", -3.6, lambda s: writing(s, lambda: Recurrent(True), 1e-2), FUTURE, "overfitting",
            "evaluation differs"),
    failing(FAMILY, "convolutions over text, padded on both sides", -3.6, lambda s: writing(s, lambda: Convolutions(False), 5e-3), FUTURE,
            "overfitting", "evaluation differs"),
    healthy(FAMILY, "text by convolutions, padded on the left", -3.6, lambda s: writing(s, lambda: Convolutions(True), 5e-3)),
    failing(FAMILY, "a warm-up of 4,000 epochs", -4.3, lambda s: writing(s, lambda: Recurrent(False), 3e-3, 250, warm_up=4000, interval="epoch"),
            "weights do not change", *UNLEARNED, "vanishing gradients", "sanity:all parameters learn"),
    healthy(FAMILY, "four layers with norms before, warmed up", 0.7, lambda s: repeating(s, True, 4, 3e-3, 60, 250)),
    failing(FAMILY, "eight layers with norms behind, no warm-up", 0.3, lambda s: repeating(s, False, 8, 0.03, 1, 120), *UNLEARNED,
            "vanishing gradients", "learning rate too high", "no gradients", "dead units", ONE_BATCH),
    failing(FAMILY, "lines streamed file by file", 0.55, streamed, ORDERED, *UNLEARNED, "loss spikes", "divergence", "overfitting"),
    healthy(FAMILY, "long words in text, borders ignored", 0.7, lambda s: tagging(s, -1)),
    failing(FAMILY, "long words, a softmax over time", 0.5, lambda s: tagging(s, 1), *UNLEARNED, "sanity:initial loss", ONE_BATCH,
            "sanity:shapes of outputs and labels"),
    failing(FAMILY, "digits in rows, batch_first forgotten", 0.75, lambda s: reading(s, "GRU", 48, 8, batch_first=False), LEAK, *UNLEARNED, FOLLOW,
            ONE_BATCH, "overfitting", "evaluation differs"),
    failing(FAMILY, "a recurrence of 1.5 times the identity", 0.5, lambda s: reading(s, "RNN", 32, 2, scale=1.5, lr=1e-2, steps=200), *FAST,
            *UNLEARNED, "dead units", "vanishing gradients", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "an identity recurrence, gradients clipped", 0.75, lambda s: reading(s, "RNN", 48, 4, scale=1.0, lr=1e-3, steps=400, clip=1.0)),
    healthy(FAMILY, "strips of digits, blanks at first", 0.6, lambda s: in_strips(s, False, 48)),
    failing(FAMILY, "strips of digits, the encoder detached", 0.4, lambda s: in_strips(s, True, 5), "weights do not change", "no gradients", *UNLEARNED,
            "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "sensors with answers in thousands", 0.7, lambda s: measuring(s, False, 3000.0)),
    failing(FAMILY, "sensors, time viewed as channels", 0.45, lambda s: measuring(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "parity, a long plateau and a drop", 0.9, lambda s: parity(s, (16,), 350, False)),
    healthy(FAMILY, "parity of rows that get longer", 0.9, lambda s: parity(s, (2, 3, 4, 5, 6), 110, True)),
]  # fmt: skip
