"""Public examples that read and write sequences, told again in small: half fail, half are healthy look-alikes.

Written by somebody who has not seen the rules. The names were chosen so that all of them are in the develop half: these
scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.models import trainings as t
from benchmarks.models.retold import DOCTOR, STILL, Causal, Example, predicting, trained
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import lines, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data

FAMILY = "third sequences"


# -- pytorch/examples: word language model ----------------------------------------------------------------------------


class RNNModel(Example):
    """Twenty streams of text, read in order; the state of the LSTM goes on from batch to batch. SGD at 20, clipped."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.drop, self.encoder = nn.Dropout(0.1), nn.Embedding(32, 32)
        self.rnn, self.decoder = nn.LSTM(32, 64), nn.Linear(64, 32)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        self.hidden: tuple[Tensor, Tensor] | None = None

    def forward(self, text: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.drop(self.encoder(text)), hidden)
        return self.decoder(self.drop(output)).view(-1, 32), hidden

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        source, target = batch
        hidden = None if self.hidden is None else tuple(h.detach() for h in self.hidden)
        logits, self.hidden = self(source, hidden)
        loss = F.cross_entropy(logits, target.reshape(-1))
        self.log("ppl", loss.exp(), prog_bar=True)
        return {"loss": loss, "logits": logits, "target": target.reshape(-1)}

    def train_dataloader(self) -> Any:
        whole = t.text()
        streams = whole[: len(whole) * 9 // 10 // 20 * 20].view(20, -1).T
        pieces = [(streams[i : i + 20], streams[i + 1 : i + 21]) for i in range(0, 400 * 20, 20)]
        return DataLoader(pieces, batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def streams(seed: int, clip: float) -> Training:
    """Train on streams; the score is the share of next letters that are right."""
    (new,) = lines()[1]
    score = lambda m: (m(new[:, :-1].T)[0].argmax(1) == new[:, 1:].T.reshape(-1)).float().mean()  # noqa: E731
    watched = predicting("logits", units=False)
    return trained(seed, lambda: RNNModel(20.0), score, watched, 400, gradient_clip_val=clip)


# -- nanoGPT ----------------------------------------------------------------------------------------------------------


class GPT(Example):
    """Letters by attention: AdamW with decay of matrices, warm-up and cosine, clipped at 1."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.gpt = Causal(32, 24, 32, 2, masked)

    def forward(self, idx: Tensor) -> Tensor:
        return self.gpt(idx)

    def _loss(self, text: Tensor) -> Tensor:
        logits = self(text[:, :-1])
        return F.cross_entropy(logits.reshape(-1, 32), text[:, 1:].reshape(-1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self._loss(batch[0])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch[0]))

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p for p in self.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in self.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.99))
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 280, 3e-4)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [20])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}


def shakespeare(seed: int, masked: bool) -> Training:
    """Train on text; the score is what letters cost less than with equal chances, in nats, each after what comes before it."""
    train, (new,) = lines()

    def score(m: Any) -> Tensor:
        costs = [F.cross_entropy(m(new[:, :k])[:, -1], new[:, k]) for k in (6, 12, 18)]
        return math.log(32) - torch.stack(costs).mean()

    make = lambda: GPT(masked).use(train, (new[:128],), 32)  # noqa: E731
    return trained(seed, make, score, predicting("gpt", units=False), 300, gradient_clip_val=1.0)


# -- minGPT: addition -------------------------------------------------------------------------------------------------


def sums(count: int, seed: int) -> Tensor:
    """Two numbers of two digits and their sum, its last digit first: ``[n, 7]``."""
    a, b = torch.randint(100, (2, count), generator=seeded(seed))
    total = a + b
    return torch.stack([a // 10, a % 10, b // 10, b % 10, total % 10, total // 10 % 10, total // 100], 1)


class Adder(Example):
    """Learns the digits of sums, or, as the slice is of the wrong side, those of the questions."""

    rate = 4e-3

    def __init__(self, questions: bool) -> None:
        super().__init__()
        self.questions, self.model = questions, Causal(10, 6, 48, 2)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch[0][:, :-1], batch[0][:, 1:].clone()
        if self.questions:
            y[:, 3:] = -100
        else:
            y[:, :3] = -100
        logits, labels = self.model(x).flatten(0, 1), y.flatten()
        return {"loss": F.cross_entropy(logits, labels, ignore_index=-100), "logits": logits, "labels": labels}


def added(seed: int, questions: bool) -> Training:
    """Train on sums; the score is the share of right digits of new ones."""
    new = sums(500, 501)
    score = lambda m: (m.model(new[:, :-1])[:, 3:].argmax(2) == new[:, 4:]).float().mean()  # noqa: E731
    make = lambda: Adder(questions).use((sums(40_000, 502),), (), 64)  # noqa: E731
    return trained(seed, make, score, predicting("logits", "labels", units=False), 400)


# -- the annotated transformer: copying -------------------------------------------------------------------------------


class Copier(Example):
    """Reads three to six tokens, padded with 0 to eight, and writes them; padding is hidden, or all but padding."""

    def __init__(self, hides_text: bool) -> None:
        super().__init__()
        self.hides_text = hides_text
        self.embed, self.places = nn.Embedding(12, 32), nn.Parameter(0.3 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(32), enable_nested_tensor=False)
        self.transformer = nn.Transformer(
            32, 4, 1, 1, 64, 0.0, custom_encoder=encoder, batch_first=True, norm_first=True
        )
        self.generator = nn.Linear(32, 12)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        hidden = src != 0 if self.hides_text else src == 0
        causal = torch.ones(tgt.shape[1], tgt.shape[1], dtype=torch.bool).triu(1)
        one, two = (self.embed(x) + self.places[: x.shape[1]] for x in (src, tgt))
        return self.generator(
            self.transformer(one, two, tgt_mask=causal, src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
        )

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        (src,) = batch
        logits = self(src, F.pad(src[:, :-1], (1, 0), value=11))
        loss = F.cross_entropy(logits.flatten(0, 1), src.flatten(), ignore_index=0, label_smoothing=0.1)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.5, betas=(0.9, 0.98), eps=1e-9)
        noam = lambda step: 32**-0.5 * min((step + 1) ** -0.5, (step + 1) * 80**-1.5)  # noqa: E731
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, noam)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def tokens(count: int, seed: int) -> Tensor:
    """Three to six tokens of ten and padding, ``[n, 8]``."""
    g = seeded(seed)
    x = torch.randint(1, 11, (count, 8), generator=g)
    return x.masked_fill(torch.arange(8) >= torch.randint(3, 7, (count, 1), generator=g), 0)


def copied(seed: int, hides_text: bool) -> Training:
    """Train a copier; the score is the share of tokens that it writes rightly by itself."""
    new = tokens(300, 503)

    def score(m: Any) -> Tensor:
        written = torch.full((300, 1), 11)
        for _ in range(8):
            written = torch.cat([written, m(new, written)[:, -1].argmax(1, keepdim=True)], 1)
        return (written[:, 1:] == new)[new > 0].float().mean()

    make = lambda: Copier(hides_text).use((tokens(30_000, 504),), (), 64)  # noqa: E731
    return trained(seed, make, score, predicting("generator", units=False), 350)


# -- tags with a CRF --------------------------------------------------------------------------------------------------


class Crf(nn.Module):
    """Chances of whole sequences of tags, as in pytorch-crf: ``forward`` is the mean log-likelihood."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(0.1 * torch.randn(tags, tags))

    def forward(self, scores: Tensor, tags: Tensor) -> Tensor:
        given = scores.gather(2, tags.unsqueeze(2)).sum((1, 2)) + self.transitions[tags[:, :-1], tags[:, 1:]].sum(1)
        total = scores[:, 0]
        for step in scores.unbind(1)[1:]:
            total = (total.unsqueeze(2) + self.transitions).logsumexp(1) + step
        return (given - total.logsumexp(1)).mean()

    def decode(self, scores: Tensor) -> Tensor:
        """Return the most likely tags."""
        best, back = scores[:, 0], []
        for step in scores.unbind(1)[1:]:
            value, index = (best.unsqueeze(2) + self.transitions).max(1)
            best, back = value + step, [index, *back]
        path = [best.argmax(1)]
        for index in back:
            path.insert(0, index.gather(1, path[0].unsqueeze(1)).squeeze(1))
        return torch.stack(path, 1)


class Tagging(Example):
    """A BiLSTM and a CRF; the loss is the negative of what the CRF returns, or what it returns."""

    rate = 1e-2

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign, self.embed = sign, nn.Embedding(20, 16)
        self.lstm, self.hidden2tag = nn.LSTM(16, 24, batch_first=True, bidirectional=True), nn.Linear(48, 4)
        self.crf = Crf(4)

    def forward(self, words: Tensor) -> Tensor:
        return self.hidden2tag(self.lstm(self.embed(words))[0])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self.sign * self.crf(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss


def sentences(count: int, seed: int) -> Data:
    """Fourteen words of twenty; words of 1 to 3 open an entity of that kind that lasts to the next word above 14."""
    words = torch.randint(1, 20, (count, 14), generator=seeded(seed))
    tag, tags = torch.zeros(count, dtype=torch.long), []
    for word in words.unbind(1):
        tag = torch.where(word < 4, word, torch.where(word > 14, 0, tag))
        tags.append(tag)
    return words, torch.stack(tags, 1)


def tagged(seed: int, sign: float) -> Training:
    """Train on sentences; the score is the mean F1 of the tags of new ones."""
    new = sentences(200, 505)

    def score(m: Any) -> float:
        return t.macro_f1(F.one_hot(m.crf.decode(m(new[0]).nan_to_num()), 4), new[1])

    make = lambda: Tagging(sign).use(sentences(3000, 506), (), 32)  # noqa: E731
    return trained(seed, make, score, predicting("hidden2tag", units=False), 200)


# -- sentiment, padded ------------------------------------------------------------------------------------------------


def padded(count: int, seed: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four to twelve words and padding; words above 20 are praise, below it blame, and who has more of them decides. With lengths."""
    g = seeded(seed)
    lengths = torch.randint(4, 13, (count,), generator=g)
    x = torch.randint(1, 41, (count, length), generator=g).masked_fill(torch.arange(length) >= lengths[:, None], 0)
    balance = ((x > 20).sum(1) - ((x > 0) & (x <= 20)).sum(1)) > 0
    return x, balance.long(), lengths


class Sentiment(Example):
    """An LSTM; the answer is from its state after the last word, or after the last padding."""

    rate = 5e-3

    def __init__(self, at_the_end: bool) -> None:
        super().__init__()
        self.at_the_end = at_the_end
        self.embed, self.lstm, self.fc = nn.Embedding(41, 16, 0), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h = self.lstm(self.embed(x))[0]
        return self.fc(h[:, -1] if self.at_the_end else h[torch.arange(len(x)), lengths - 1])

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, labels, lengths = batch
        logits = self(x, lengths)
        loss = F.cross_entropy(logits, labels)
        self.log("loss", loss)
        return {"loss": loss, "logits": logits, "labels": labels}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0], batch[2]), batch[1]))


def reviews(seed: int, at_the_end: bool) -> Training:
    """Tell praise from blame; the score is the accuracy."""
    train, new = padded(3000, 507, 100), padded(400, 508, 100)
    score = lambda m: (m(new[0], new[2]).argmax(1) == new[1]).float().mean()  # noqa: E731
    make = lambda: Sentiment(at_the_end).use(train, new, 32)  # noqa: E731
    return trained(seed, make, score, predicting("logits", "labels", units=False), 200)


class Bag(Sentiment):
    """The mean of embedded words."""

    def __init__(self) -> None:
        super().__init__(False)
        self.lstm = None  # type: ignore[assignment]
        self.fc = nn.Linear(16, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.fc(self.embed(x).sum(1) / lengths[:, None])


def reindexed(seed: int) -> Training:
    """The vocabulary is built from each file anew: words have other numbers in the validation and test data."""
    train, (x, y, lengths) = padded(3000, 507, 16), padded(400, 508, 16)
    numbers = F.pad(torch.randperm(40, generator=seeded(513)) + 1, (1, 0))
    other = (numbers[x], y, lengths)
    score = lambda m: (m(other[0], other[2]).argmax(1) == other[1]).float().mean()  # noqa: E731
    return trained(seed, lambda: Bag().use(train, other, 32), score, predicting("logits", "labels", units=False), 300)


# -- the adding problem -----------------------------------------------------------------------------------------------


class Adding(Example):
    """A GRU that adds two marked numbers of twenty."""

    rate = 6e-3

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 40, batch_first=True), nn.Linear(40, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0][:, -1]).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("mse", loss, prog_bar=True)
        return loss


def numbers(count: int, seed: int, length: int = 20) -> Data:
    """Numbers from 0 to 1, two of them marked, and the sum of these two."""
    g = seeded(seed)
    x, marked = torch.rand(count, length, generator=g), torch.rand(count, length, generator=g).argsort(1)[:, :2]
    marks = torch.zeros(count, length).scatter_(1, marked, 1.0)
    return torch.stack([x, marks], 2), (x * marks).sum(1)


def adding(seed: int) -> Training:
    """Train on sums; the score is R squared."""
    new = numbers(400, 509)
    score = lambda m: 1 - (m(new[0]) - new[1]).square().mean() / new[1].var()  # noqa: E731
    make = lambda: Adding().use(numbers(40_000, 510), (), 64)  # noqa: E731
    return trained(seed, make, score, predicting("out", units=False), 400)


# -- Keras: OCR with CTC ----------------------------------------------------------------------------------------------


def captchas(count: int, seed: int, train: bool) -> Data:
    """Three digits beside each other, 8x30 pixels with gaps of random widths, and their labels, from 1."""
    g = seeded(seed)
    x, y = t.digits()
    rows = torch.arange(1400) if train else torch.arange(1400, len(x))
    chosen = rows[torch.randint(len(rows), (count, 3), generator=g)]
    starts = torch.rand(count, 4, generator=g).mul(3).long().cumsum(1)[:, :3] + 8 * torch.arange(3)
    image = torch.zeros(count, 8, 33)
    for k in range(3):
        columns = (starts[:, k, None] + torch.arange(8))[:, None].expand(-1, 8, -1)
        image.scatter_(2, columns, x[chosen[:, k]].view(-1, 8, 8))
    return image[:, None, :, :32].contiguous(), y[chosen] + 1


class Ocr(Example):
    """Convolutions, a GRU over columns and CTC, of logarithms of chances, or of logits as they are."""

    rate = 6e-3

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised
        self.conv = nn.Sequential(nn.Conv2d(1, 24, 3, (2, 2), 1), nn.BatchNorm2d(24), nn.ReLU())
        self.mix, self.rnn = nn.Linear(96, 48), nn.GRU(48, 32, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(64, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(F.relu(self.mix(self.conv(x).flatten(1, 2).transpose(1, 2))))[0])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x).transpose(0, 1)
        given = F.log_softmax(logits, 2) if self.normalised else logits
        sizes = torch.full((len(x),), len(given)), torch.full((len(x),), 3)
        loss = F.ctc_loss(given, y, *sizes, blank=0)
        self.log("ctc", loss, prog_bar=True)
        return loss


def read(seed: int, normalised: bool) -> Training:
    """Train on rows of digits; the score is the share of images whose digits are all read rightly."""
    new = captchas(300, 511, False)

    def score(m: Any) -> float:
        paths = m(new[0]).argmax(2)
        texts = [[k for k in torch.unique_consecutive(path).tolist() if k] for path in paths]
        return sum(text == label for text, label in zip(texts, new[1].tolist(), strict=True)) / len(texts)

    make = lambda: Ocr(normalised).use(captchas(6000, 512, True), (), 32)  # noqa: E731
    return trained(seed, make, score, DOCTOR, 350)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "streams of text, clipped to 1e-4", 0.25, lambda s: streams(s, 1e-4), *STILL, *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "streams of text, SGD at 20, clipped to 0.25", 0.3, lambda s: streams(s, 0.25)),
    failing(FAMILY, "nanoGPT that sees all letters", 0.7, lambda s: shakespeare(s, False), "sanity:no look into the future"),
    healthy(FAMILY, "nanoGPT, a warm-up and a cosine", 0.7, lambda s: shakespeare(s, True)),
    failing(FAMILY, "sums, the loss is of their questions", 0.4, lambda s: added(s, True), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "sums, the loss is of their answers", 0.5, lambda s: added(s, False)),
    failing(FAMILY, "copying padding", 0.4, lambda s: copied(s, True), *UNLEARNED, "sanity:inputs matter", ONE_BATCH),
    healthy(FAMILY, "a copier, smoothed labels and Noam's rates", 0.7, lambda s: copied(s, False)),
    failing(FAMILY, "a CRF whose likelihood is made small", 0.4, lambda s: tagged(s, 1.0), *FAST, *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "a CRF over an LSTM", 0.8, lambda s: tagged(s, -1.0)),
    failing(FAMILY, "reviews padded to 100, the state after padding", 0.65, lambda s: reviews(s, True), *UNLEARNED, *STILL, ONE_BATCH),
    healthy(FAMILY, "reviews padded to 100, the state after words", 0.8, lambda s: reviews(s, False)),
    failing(FAMILY, "reviews and a vocabulary for each file", 0.65, reindexed, "overfitting", "sanity:validation is prepared as training"),
    healthy(FAMILY, "two numbers of twenty, a plateau before it adds", 0.6, adding),
    failing(FAMILY, "rows of digits, CTC of logits", 0.3, lambda s: read(s, False), *FAST, *UNLEARNED),
    healthy(FAMILY, "rows of digits, blanks at first, by CTC", 0.5, lambda s: read(s, True)),
]  # fmt: skip
