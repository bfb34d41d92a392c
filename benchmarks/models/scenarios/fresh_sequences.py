"""Strips, texts, signals and words in seldom combined forms: half fail, half are healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import auc, images, lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fresh sequences"
TRAIN, TEST = images(311)
RETURNED: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {"output": "logits", "target": "labels"},
    "DeadUnits": {},
    "TrainingDoctor": {},
}


# -- strips of digits, CTC --------------------------------------------------------------------------------------------


def strips(data: Data, count: int, seed: int) -> Data:
    """Three digits in a row as ``[n, 1, 8, 26]``, moved by up to two pixels, and what they are."""
    g = seeded(seed)
    chosen, shift = torch.randint(len(data[0]), (count, 3), generator=g), torch.randint(3, (count,), generator=g)
    strip = torch.cat(tuple(data[0][chosen[:, k]] for k in range(3)), 3)
    wide = 0.1 * torch.randn(count, 1, 8, 26, generator=g) - 0.8
    for i, s in enumerate(shift.tolist()):
        wide[i, :, :, s : s + 24] = strip[i]
    return wide, data[1][chosen]


class Reader(Loaded):
    """Convolutions over columns and the CTC loss, for which time comes first by a transpose, or by a view."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.columns = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 32, (4, 3), padding=(0, 1)), nn.ReLU())  # fmt: skip
        self.wider = nn.Sequential(nn.Conv1d(32, 48, 3, padding=1), nn.ReLU())
        self.letters = nn.Linear(48, 11)
        self.ctc = nn.CTCLoss(blank=10, zero_infinity=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.letters(self.wider(self.columns(x).squeeze(2)).transpose(1, 2))  # [n, columns, 11]

    def _loss(self, batch: Data) -> Tensor:
        x, y = batch
        out = self(x).log_softmax(2)
        out = out.view(out.shape[1], len(x), 11) if self.viewed else out.transpose(0, 1)
        sizes = torch.full((2, len(x)), len(out))
        sizes[1] = 3
        return self.ctc(out, y, sizes[0], sizes[1])

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        loss = self._loss(batch)
        self.log("ctc", loss)
        return {"loss": loss}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=4e-3)


def read(seed: int, viewed: bool) -> Training:
    """Train a reader; the score is the share of strips that are read without an error."""
    train, test = strips((TRAIN[0], TRAIN[1]), 2000, 312), strips((TEST[0], TEST[1]), 200, 313)

    def score(m: Any) -> float:
        best = m(test[0]).argmax(2).tolist()
        found = [[a for a, b in zip(row, [10, *row], strict=False) if a not in (b, 10)] for row in best]
        return sum(f == y for f, y in zip(found, test[1].tolist(), strict=True)) / len(found)

    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Reader(viewed).use(train, test, 32), score, 400, watched, gradient_clip_val=5.0)


# -- text: convolutions ahead, files in order -------------------------------------------------------------------------


class Causal(nn.Module):
    """Dilated convolutions over letters, padded on the left or on both sides."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.both = both
        self.embed = nn.Embedding(32, 32)
        self.convs = nn.ModuleList(nn.Conv1d(32, 32, 3, dilation=d) for d in (1, 2, 4))
        self.act = nn.ReLU()
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).transpose(1, 2)
        for conv in self.convs:
            d = conv.dilation[0]
            h = h + self.act(conv(F.pad(h, (d, d) if self.both else (2 * d, 0))))
        return self.head(h.transpose(1, 2))


class NextLetter(Loaded):
    """A model of the next letter."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def _shared(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        (x,) = batch
        logits, labels = self.net(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()
        return F.cross_entropy(logits, labels), logits, labels

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        loss, logits, labels = self._shared(batch)
        self.log("bits", loss / math.log(2), prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": labels}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._shared(batch)[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=4e-3)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step"}}


def continued(m: Any) -> Tensor:
    """Share of letters that are right after 8 to 20 letters of new text, with nothing behind them."""
    (x,) = lines()[1]
    return torch.stack([(m.net(x[:, :k])[:, -1].argmax(1) == x[:, k]).float().mean() for k in range(8, 21, 2)]).mean()


def letters(seed: int, both: bool) -> Training:
    """Train convolutions on text."""
    train, test = lines(64, 3000)
    return script(seed, lambda: NextLetter(Causal(both)).use(train, test, 16), continued, 350, RETURNED)


@lru_cache
def files() -> tuple[Data, Data]:
    """Forty-eight letters from one of four files of the standard library, file by file, and which one; new places to test."""
    folder = Path(argparse.__file__).parent
    train, test = [], []
    for k, name in enumerate(("argparse.py", "_pydecimal.py", "turtle.py", "statistics.py")):
        whole = (folder / name).read_bytes()
        codes = torch.tensor([b % 96 for b in whole if b < 128])
        at = torch.arange(0, len(codes) - 48, max(1, len(codes) // 900))
        windows = codes[at[:, None] + torch.arange(48)]
        edge = int(0.8 * len(windows))
        train.append((windows[:edge], torch.full((edge,), k)))
        test.append((windows[edge + 2 :], torch.full((len(windows) - edge - 2,), k)))
    join = lambda parts: tuple(torch.cat(p) for p in zip(*parts, strict=True))  # noqa: E731
    return join(train), join(test)


class Whose(Loaded):
    """Three widths of convolutions over letters and a maximum, as in 2014."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(96, 16)
        self.widths = nn.ModuleList(nn.Conv1d(16, 24, w) for w in (3, 4, 5))
        self.relu, self.drop, self.fc = nn.ReLU(), nn.Dropout(0.3), nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).transpose(1, 2)
        return self.fc(self.drop(torch.cat([self.relu(conv(h)).amax(2) for conv in self.widths], 1)))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["text"])
        return F.cross_entropy(logits, batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self(batch["text"])
        self.log("val_loss", F.cross_entropy(logits, batch["label"]))
        self.log("val_acc", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), lr=2e-3)


def whose(seed: int, shuffle: bool) -> Training:
    """Train on files; the score is the accuracy."""
    train, test = files()
    watched = {"PredictionCollapse": {"output": "fc", "target": "label"}, "DeadUnits": {}, "TrainingDoctor": {}}
    score = lambda m: (m(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    make = lambda: Whose().use(train, test, 16, shuffle=shuffle, keys=("text", "label"))  # noqa: E731
    steps = 2 * (len(train[0]) // 16)
    return script(seed, make, score, steps, watched)


# -- raw signals, one state for each moment ---------------------------------------------------------------------------


def signals(count: int, seed: int) -> Data:
    """Three sensors around 5,000 for 40 moments; rest, slow and fast movement, most of it rest, a state for each moment."""
    g = seeded(seed)
    state = (
        torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 5 * count, True, generator=g)
        .view(count, 5)
        .repeat_interleave(8, 1)
    )
    time = torch.arange(40.0)
    phase = 6.28 * torch.rand(count, 3, 1, generator=g)
    slow, fast = torch.sin(0.7 * time + phase), torch.sin(2.2 * time + phase)
    move = torch.where(state[:, None] == 1, slow, torch.where(state[:, None] == 2, fast, torch.zeros(()))) * 40
    return 5000 + 20 * torch.randn(count, 3, 1, generator=g) + move + 8 * torch.randn(count, 3, 40, generator=g), state


class Sensors(Loaded):
    """Labels each moment of raw signals; the encoder is tried on zeros for its width, and returned to train(), or not."""

    def __init__(self, returned: bool) -> None:
        super().__init__()

        def block(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv1d(a, b, 5, padding=2), nn.BatchNorm1d(b), nn.ReLU()]

        self.encoder = nn.Sequential(nn.BatchNorm1d(3), *block(3, 24), *block(24, 24))
        self.encoder.eval()
        with torch.no_grad():
            width = self.encoder(torch.zeros(1, 3, 40)).shape[1]
        if returned:
            self.encoder.train()
        self.tagger = nn.Conv1d(width, 3, 1)
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 4.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.tagger(self.encoder(x))

    def _step(self, batch: Data, name: str) -> dict[str, Tensor]:
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1], weight=self.weight)
        self.log(f"{name}_loss", loss)
        return {"loss": loss, "logits": logits.transpose(1, 2).flatten(0, 1), "labels": batch[1].flatten()}

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, "train")

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def sensing(seed: int, returned: bool) -> Training:
    """Train on signals; the score is the mean F1 of the three states."""
    train, test = signals(1500, 314), signals(200, 315)
    score = lambda m: t.macro_f1(m(test[0]).transpose(1, 2), test[1])  # noqa: E731
    return script(seed, lambda: Sensors(returned).use(train, test, 32), score, 250, RETURNED)


# -- a forecast with one broken reading -------------------------------------------------------------------------------


def readings(count: int, seed: int, broken: bool) -> Data:
    """Windows of sixteen readings and the next one; one reading of the series is 1e8."""
    g = seeded(seed)
    time = torch.arange(float(count + 16))
    phase = float(6.28 * torch.rand((), generator=g))
    series = torch.sin(0.3 * time + phase) + 0.6 * torch.sin(0.11 * time) + 0.2 * torch.randn(count + 16, generator=g)
    if broken:
        series[count // 2] = 1e8
    windows = series.unfold(0, 17, 1)
    return windows[:, :16, None].contiguous(), windows[:, 16].contiguous()


class Forecast(Loaded):
    """A recurrence that forecasts the next reading, by its squared error or a loss that is linear far away."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.gru, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0][:, -1]).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        guess = self(batch[0])
        loss = self.criterion(guess, batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss, "prediction": guess, "labels": batch[1]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.criterion(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        halved = torch.optim.lr_scheduler.StepLR(optimizer, 150, 0.5)
        return [optimizer], [{"scheduler": halved, "interval": "step"}]


def forecasting(seed: int, criterion: Any, clip: float) -> Training:
    """Train on readings; the score is R squared on a series without a broken one."""
    train, test = readings(1600, 316, True), readings(300, 317, False)
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "prediction", "target": "labels"},
        "TrainingDoctor": {},
    }
    score = lambda m: 1 - (m(test[0]) - test[1]).square().mean() / test[1].var()  # noqa: E731
    make = lambda: Forecast(criterion()).use(train, test, 32)  # noqa: E731
    return script(seed, make, score, 350, watched, gradient_clip_val=clip)


# -- letters by hand --------------------------------------------------------------------------------------------------


class Windows(IterableDataset[Any]):
    """Windows of text for ever, for so many batches."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        (x,) = lines()[0]
        for _ in range(self.count):
            yield x[torch.randint(len(x), ())]


class Recurrence(nn.Module):
    """Letters through a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(32, 24), nn.GRU(24, 64, batch_first=True), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(x))[0])


class ByHand(L.LightningModule):
    """A recurrent model of text, optimized by hand with clipped gradients; they are set to None before a batch, or never."""

    def __init__(self, cleared: bool, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cleared, self.updates, self.net = cleared, updates, Recurrence()

    def train_dataloader(self) -> Any:
        return DataLoader(Windows(32 * self.updates), batch_size=32)

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        logits = self.net(x[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), x[:, 1:])
        if self.cleared:
            optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss.detach(), prog_bar=True)
        return {"loss": loss.detach(), "logits": logits.detach().flatten(0, 1), "labels": x[:, 1:].flatten()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.5)


def by_hand(seed: int, cleared: bool, updates: int = 320) -> Training:
    """Train a recurrence on text by hand."""
    return script(seed, lambda: ByHand(cleared, updates), continued, updates, RETURNED)


# -- words ------------------------------------------------------------------------------------------------------------


@lru_cache
def pairs(words: int = 250) -> tuple[Data, Data, Tensor]:
    """Pairs of words of the standard library that stand near each other, to train on and to test, and how frequent words are."""
    folder = Path(argparse.__file__).parent
    names = ("argparse.py", "ast.py", "calendar.py", "difflib.py", "enum.py", "inspect.py", "turtle.py", "typing.py")
    source = "\n".join((folder / n).read_text() for n in names if (folder / n).exists())
    found = re.findall(r"[a-z_]{3,}", source.lower())
    kept = {w: i for i, (w, _) in enumerate(Counter(found).most_common(words))}
    ids = torch.tensor([kept[w] for w in found if w in kept])
    centre, near = (torch.cat(c) for c in zip(*((ids[:-d], ids[d:]) for d in (1, 2)), strict=True))
    order = torch.randperm(len(centre), generator=seeded(318))
    train, test = cut((centre[order], near[order]), len(centre) - 3000)
    return train, test, torch.bincount(ids, minlength=words).float()


class SkipGram(Loaded):
    """Words near each other against words drawn by how frequent they are; the sign of the second term is there, or forgotten."""

    def __init__(self, sign: float, counts: Tensor) -> None:
        super().__init__()
        self.sign = sign
        self.centre, self.context = nn.Embedding(len(counts), 24), nn.Embedding(len(counts), 24)
        for table in (self.centre, self.context):
            nn.init.normal_(table.weight, std=0.1)
        self.register_buffer("counts", counts)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        v, u = self.centre(batch[0]), self.context(batch[1])
        drawn = self.context(torch.multinomial(self.counts, 5 * len(v), True).view(-1, 5))
        near, far = (v * u).sum(1), (drawn @ v.unsqueeze(2)).squeeze(2)
        loss = -F.logsigmoid(near).mean() - F.logsigmoid(self.sign * far).sum(1).mean()
        self.log("skip_gram", loss)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def words(seed: int, sign: float) -> Training:
    """Train on pairs; the score is the AUC of new pairs against pairs by frequency."""
    train, test, counts = pairs()
    drawn = torch.multinomial(counts, len(test[0]), True, generator=seeded(319))

    def score(m: Any) -> Tensor:
        v = m.centre(test[0])
        near, far = (v * m.context(test[1])).sum(1), (v * m.context(drawn)).sum(1)
        return auc(torch.cat([near, far]), torch.cat([torch.ones_like(near), torch.zeros_like(far)]))

    watched: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "centre"}, "TrainingDoctor": {}}
    return script(seed, lambda: SkipGram(sign, counts).use(train, (), 256), score, 350, watched)


# -- rows of images, padded -------------------------------------------------------------------------------------------


class Rows(Loaded):
    """Reads an image row by row and then what the batch is padded with; answers after its last row, or after the padding."""

    def __init__(self, after_padding: bool) -> None:
        super().__init__()
        self.after_padding = after_padding
        self.rnn, self.fc = nn.RNN(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(F.pad(x.squeeze(1), (0, 0, 0, 42)))
        return self.fc(states[:, -1] if self.after_padding else states[:, 7])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def rows(seed: int, after_padding: bool) -> Training:
    """Train on rows; the score is the accuracy."""
    watched: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "fc"}, "TrainingDoctor": {}}
    score = lambda m: (m(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Rows(after_padding).use(TRAIN, TEST, 32), score, 350, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "strips of digits, a view for time first", 0.4, lambda s: read(s, True), *UNLEARNED, "dead units",
            FOLLOW, ONE_BATCH),
    healthy(FAMILY, "strips of digits, time first by a transpose", 0.4, lambda s: read(s, False)),
    failing(FAMILY, "convolutions over letters, padded on both sides", 0.3, lambda s: letters(s, True), "sanity:no look into the future",
            "overfitting"),
    healthy(FAMILY, "convolutions over letters, padded on the left", 0.3, lambda s: letters(s, False)),
    failing(FAMILY, "whose code it is, file after file", 0.45, lambda s: whose(s, False), "sanity:data are shuffled", *UNLEARNED, "loss spikes",
            "divergence", "overfitting"),
    healthy(FAMILY, "whose code it is, from 48 letters", 0.45, lambda s: whose(s, True)),
    failing(FAMILY, "raw sensors, the encoder tried in eval()", 0.6, lambda s: sensing(s, False), "sanity:modules are in training mode", *FAST,
            *UNLEARNED, "dead units", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "raw sensors around 5,000, a state for each moment", 0.6, lambda s: sensing(s, True)),
    failing(FAMILY, "a forecast, one reading of 1e8", 0.5, lambda s: forecasting(s, nn.MSELoss, 0.0), *FAST, *UNLEARNED, "saturated units"),
    healthy(FAMILY, "a forecast by Huber's loss, one reading of 1e8", 0.5, lambda s: forecasting(s, nn.HuberLoss, 1.0)),
    failing(FAMILY, "letters by hand, gradients never cleared", 0.25, lambda s: by_hand(s, False), *FAST, *UNLEARNED, "saturated units"),
    healthy(FAMILY, "letters by hand, SGD at 1", 0.25, lambda s: by_hand(s, True)),
    failing(FAMILY, "neighbouring words, a sign forgotten", 0.6, lambda s: words(s, 1.0), "complete collapse", "dimensional collapse",
            "no gradients", "vanishing gradients"),
    healthy(FAMILY, "neighbouring words against words that are frequent", 0.6, lambda s: words(s, -1.0)),
    failing(FAMILY, "images by rows, the state after the padding", 0.6, lambda s: rows(s, True), *UNLEARNED, "vanishing gradients", ONE_BATCH),
    healthy(FAMILY, "images by rows, the state before the padding", 0.6, lambda s: rows(s, False)),
]  # fmt: skip
