"""Recurrent networks and transformers that people asked about in forums and issue trackers, and their repaired versions.

Rewritten from the subjects of threads and tutorials, on made-up signs. The comment above
each scenario says what kind of report it is from. The names were chosen so that all of them are in the develop half: these
scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import everyday_sequences as sequences
from benchmarks.models.scripts import DOCTOR, Script, adam, halves, script, sgd
from benchmarks.models.trainings import Training

FAMILY = "forum sequences"
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
LEAK, BATCH = "sanity:samples do not leak", "sanity:overfits one batch"
SIGNS = sequences.made(4000, 12, 1)
SHORT = sequences.padded(SIGNS)


def crossed(s: Script, batch: Any) -> Any:
    """Cross entropy; logits are returned."""
    logits = s.model(batch[0])
    return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}


def read(seed: int, model: Any, rule: Any, x: Tensor = SIGNS, optimizer: Any = None, **more: Any) -> Training:
    """Train a reader of sequences on a rule."""
    train, test = halves((x, rule(x)))
    options = {k: more.pop(k) for k in ("steps", "detectors", "gradient_clip_val") if k in more}
    score = more.pop("score", lambda s: (s.model(test[0]).argmax(-1) == test[1]).float().mean())
    make = lambda: Script(model(), more.pop("loss", crossed), optimizer or adam(3e-3), train, test, **more)  # noqa: E731
    return script(seed, make, score, **options)


class Sentiment(nn.Module):
    """An LSTM of two layers in both directions; option: how its last states are put together."""

    def __init__(self, by_view: bool) -> None:
        super().__init__()
        self.embed, self.by_view = nn.Embedding(10, 24), by_view
        self.lstm = nn.LSTM(24, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(96 if by_view else 48, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(self.embed(x))
        return self.fc(h.view(len(x), -1) if self.by_view else torch.cat([h[-2], h[-1]], 1))


class Packed(nn.Module):
    """A GRU on packed sequences; option: they are sorted by length, and nobody sorts them back."""

    def __init__(self, sort: bool) -> None:
        super().__init__()
        self.embed, self.gru, self.fc, self.sort = (
            nn.Embedding(10, 24),
            nn.GRU(24, 48, batch_first=True),
            nn.Linear(48, 2),
            sort,
        )

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x > 0).sum(1)
        if self.sort:
            lengths, order = lengths.sort(descending=True)
            x = x[order]
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=self.sort)
        return self.fc(self.gru(packed)[1][0])


class Last(nn.Module):
    """A plain recurrent network on short sequences in long rows; option: read at the end of the row or of the sequence."""

    def __init__(self, at_end: bool) -> None:
        super().__init__()
        self.embed, self.rnn, self.fc, self.at_end = (
            nn.Embedding(10, 24),
            nn.RNN(24, 48, batch_first=True),
            nn.Linear(48, 2),
            at_end,
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.rnn(self.embed(x))[0]
        return self.fc(out[:, -1] if self.at_end else out[torch.arange(len(x)), (x > 0).sum(1) - 1])


LONG_ROWS = F.pad(SHORT, (0, 28))


def heavy(x: Tensor) -> Tensor:
    """Whether the sum is above the median."""
    return (x.sum(1) > x.sum(1).median()).long()


def swapped(count: int = 4000) -> Tensor:
    """Signs from 1 to 7 with one 8 and one 9 among them."""
    x = sequences.made(count, 12, 6, 8)
    places = torch.rand(count, 12, generator=torch.Generator().manual_seed(7)).argsort(1)
    return x.scatter(1, places[:, :1], 8).scatter(1, places[:, 1:2], 9)


def nine_first(x: Tensor) -> Tensor:
    """Whether the 9 comes before the 8."""
    return ((x == 9).float().argmax(1) < (x == 8).float().argmax(1)).long()


class Encoder(nn.Module):
    """torch's encoder layer; options: batch first, places, and whether the last place or the mean is read."""

    def __init__(self, batch_first: bool = True, places: bool = True, last: bool = False, classes: int = 2) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(10, 32), last
        self.place = nn.Parameter(0.3 * torch.randn(12, 32), requires_grad=places)
        if not places:
            self.place.data.zero_()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=batch_first, norm_first=True) for _ in range(2)
        )
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place
        for layer in self.layers:
            h = layer(h)
        return self.fc(h[:, -1] if self.last else h.mean(1))


class Masked(nn.Module):
    """Attention by hand with a mask of padding; option: what is put where there is padding."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.embed, self.qkv, self.fc, self.value = nn.Embedding(10, 32), nn.Linear(32, 96), nn.Linear(32, 2), value

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(x)).chunk(3, 2)
        scores = (q @ k.transpose(1, 2) / 32**0.5).masked_fill((x == 0)[:, None], self.value)
        h = scores.softmax(-1) @ v
        return self.fc((h * (x > 0).unsqueeze(-1)).sum(1) / 6)


def with_empty() -> Tensor:
    """Sequences of which one in three hundred is empty."""
    x = SHORT.clone()
    x[150::300] = 0
    return x


# -- connectionist temporal classification ----------------------------------------------------------------------------


def spoken(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three signs of five, each of which is to be seen for some frames, under noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(1, 6, (count, 3), generator=g)
    lengths = torch.randint(3, 6, (count, 3), generator=g)
    starts = lengths.cumsum(1) - lengths + 1
    frames = torch.arange(16)
    inside = (frames >= starts[..., None]) & (frames < (starts + lengths - 1)[..., None])
    x = (inside[..., None] * F.one_hot(y, 6)[:, :, None]).sum(1).float()
    return x + 0.3 * torch.randn(x.shape, generator=g), y


SPOKEN = spoken(1600, 1), spoken(300, 2)


class Listener(nn.Module):
    """A GRU over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(6, 32, batch_first=True, bidirectional=True), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(x)[0])


def ctc(logs: bool) -> Any:
    """CTC loss of log-probabilities; option: the logits were taken for such."""

    def loss(s: Script, batch: Any) -> Tensor:
        out = s.model(batch[0])
        out = (out.log_softmax(2) if logs else out).transpose(0, 1)
        n = len(batch[0])
        return F.ctc_loss(out, batch[1], torch.full((n,), 16), torch.full((n,), 3))

    return loss


def understood(s: Any) -> Tensor:
    """Share of test sequences that the best path spells right."""
    best = s.model(SPOKEN[1][0]).argmax(2).tolist()
    right = 0
    for path, y in zip(best, SPOKEN[1][1].tolist(), strict=True):
        right += [a for i, a in enumerate(path) if a and (i == 0 or path[i - 1] != a)] == y
    return torch.tensor(right / len(best))


def listen(seed: int, loss: Any, **more: Any) -> Training:
    """Train on frames."""
    return script(
        seed, lambda: Script(Listener(), loss, adam(1e-2), SPOKEN[0], SPOKEN[1]), understood, detectors=DOCTOR, **more
    )


# -- forecasts --------------------------------------------------------------------------------------------------------


class Forecast(nn.Module):
    """The next number of a series."""

    def __init__(self, kind: Any = nn.RNN) -> None:
        super().__init__()
        self.rnn, self.fc = kind(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0]).squeeze(-1)


def waves(count: int, seed: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """A sine of period ten under noise: the series, the next numbers, and those without noise."""
    g = torch.Generator().manual_seed(seed)
    phase = 6.2832 * torch.rand(count, 1, generator=g)
    clean = torch.sin(phase + 0.62832 * torch.arange(31))
    x = clean + noise * torch.randn(clean.shape, generator=g)
    return x[:, :-1, None], x[:, 1:], clean[:, 1:]


def ramps(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Straight lines."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, generator=g) + torch.arange(22) * 0.05 * (1 + torch.rand(count, 1, generator=g))
    return x[:, :-1, None], x[:, 1:], x[:, 1:]


def squares(s: Script, batch: Any) -> Tensor:
    """Mean squared error of each next number."""
    return F.mse_loss(s.model(batch[0]), batch[1])


def forecast(seed: int, data: tuple[Any, Any], optimizer: Any, kind: Any = nn.RNN, **more: Any) -> Training:
    """Train on series; score: share of the variance of the last number, without noise, that is explained."""
    train, (x, _, clean) = data
    last = clean[:, -1]
    score = lambda s: 1 - (s.model(x)[:, -1] - last).square().mean() / last.var()  # noqa: E731
    return script(
        seed, lambda: Script(Forecast(kind), squares, optimizer, train, data[1]), score, detectors=DOCTOR, **more
    )


# -- translation -----------------------------------------------------------------------------------------------------


class Translator(nn.Module):
    """Encoder and decoder; the decoder gets a start sign and the signs before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 32), nn.Linear(64, 10)
        self.encoder, self.decoder = nn.GRU(32, 64, batch_first=True), nn.GRU(32, 64, batch_first=True)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.out(self.decoder(self.embed(given), self.encoder(self.embed(x))[1])[0])


def translated(shift: bool) -> Any:
    """Cross entropy of the signs backwards; option: the decoder is given what it has to say."""

    def loss(s: Script, batch: Any) -> Tensor:
        (x,) = batch
        y = x.flip(1)
        given = F.pad(y[:, :-1], (1, 0)) if shift else y
        return F.cross_entropy(s.model(x, given).transpose(1, 2), y)

    return loss


BACKWARDS = SIGNS[:3200, :4], SIGNS[3200:, :4]


def spelled(s: Any) -> Tensor:
    """Share of right signs when each is given the model's own ones before it."""
    x, given = BACKWARDS[1], torch.zeros(len(BACKWARDS[1]), 1, dtype=torch.long)
    for _ in range(4):
        given = torch.cat([given, s.model(x, given)[:, -1:].argmax(-1)], 1)
    return (given[:, 1:] == x.flip(1)).float().mean()


def translate(seed: int, shift: bool) -> Training:
    """Train to say signs backwards."""
    make = lambda: Script(Translator(), translated(shift), adam(5e-3), (BACKWARDS[0],), (BACKWARDS[1],), batch=64)  # noqa: E731
    return script(seed, make, spelled, 400, DOCTOR)


def names(x: Tensor) -> Tensor:
    """Which of three alphabets a name prefers."""
    return (F.one_hot(x % 3, 3).sum(1) + torch.tensor([0.2, 0.1, 0.0])).argmax(1)


def padded_tags(s: Script, batch: Any) -> Tensor:
    """Cross entropy of all tags, padding counts as one."""
    return F.cross_entropy(s.model(batch[0]).transpose(1, 2), batch[1])


class Tags(nn.Module):
    """A tag for each sign, from it and the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.out = nn.Embedding(10, 32), nn.GRU(32, 48, batch_first=True), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.embed(x))[0])


def tagged(seed: int) -> Training:
    """Rows of forty places of which about eight are no padding."""
    x = F.pad(SHORT, (0, 28))
    y = torch.where(x > 0, 1 + (x + x.roll(1, 1)) % 3, 0)
    train, test = halves((x, y))
    there = test[1] > 0
    score = lambda s: (s.model(test[0]).argmax(-1) == test[1])[there].float().mean()  # noqa: E731
    return script(seed, lambda: Script(Tags(), padded_tags, adam(5e-3), train, test), score, 400, DOCTOR)


SCENARIOS: list[Scenario] = [
    # Stack Overflow: h_n of a bidirectional LSTM put together with view, which mixes the samples of a batch
    failing(FAMILY, "last states of both directions by view", 0.8, lambda s: read(s, lambda: Sentiment(True), heavy), *UNRELATED,
            LEAK, "overfitting", BATCH),
    # the repaired code: the last two states are concatenated
    healthy(FAMILY, "last states of both directions", 0.85, lambda s: read(s, lambda: Sentiment(False), heavy)),
    # PyTorch issue on sorting for packed sequences: what is sorted and what is not are out of step
    failing(FAMILY, "packed sequences, labels in the old order", 0.8, lambda s: read(s, lambda: Packed(True), heavy, SHORT),
            *UNRELATED, LEAK, "sanity:labels follow from inputs", "sanity:shapes of outputs and labels", "overfitting"),
    # the repaired code: enforce_sorted=False
    healthy(FAMILY, "packed sequences, no order enforced", 0.85, lambda s: read(s, lambda: Packed(False), heavy, SHORT)),
    # PyTorch forum: out[:, -1] of padded rows is the state after much padding
    failing(FAMILY, "the state after much padding", 0.75, lambda s: read(s, lambda: Last(True), heavy, LONG_ROWS),
            *UNRELATED, "vanishing gradients", BATCH, "sanity:inputs matter", "sanity:initial loss"),
    # the repaired code: the state at the last sign
    healthy(FAMILY, "the state before the padding", 0.85, lambda s: read(s, lambda: Last(False), heavy, LONG_ROWS)),
    # PyTorch forum: nn.TransformerEncoder on [batch, time], attention runs over the batch
    failing(FAMILY, "attention over the batch, not over time", 0.5, lambda s: read(
        s, lambda: Encoder(False, last=True, classes=10), sequences.first_sign), *UNRELATED, LEAK, "overfitting", BATCH),
    # the repaired code: batch_first=True
    healthy(FAMILY, "attention over time", 0.9, lambda s: read(s, lambda: Encoder(True, last=True, classes=10), sequences.first_sign)),
    # Stack Overflow: a transformer without positional encoding does not learn about order
    failing(FAMILY, "the order of two signs without places", 0.8, lambda s: read(s, lambda: Encoder(places=False), nine_first, swapped()), *UNRELATED,
            BATCH, "overfitting", "sanity:labels follow from inputs"),
    # the repaired code
    healthy(FAMILY, "the order of two signs, places given", 0.9, lambda s: read(s, lambda: Encoder(), nine_first, swapped())),
    # PyTorch issue: NaN from attention when all keys of a row are masked with -inf
    failing(FAMILY, "an empty sequence among masked ones", 0.8, lambda s: read(s, lambda: Masked(-torch.inf), heavy, with_empty(), adam(1e-2), steps=400),
            "non-finite values", "divergence", BATCH),
    # the repaired code: a large negative number in place of -inf
    healthy(FAMILY, "an empty sequence, masked with -1e9", 0.8, lambda s: read(s, lambda: Masked(-1e9), heavy, with_empty(), adam(1e-2), steps=400)),
    # issue of a Keras CTC model: predicts blanks alone for a while, then learns
    healthy(FAMILY, "blanks alone at first, then signs", 0.8, lambda s: listen(s, ctc(True))),
    # PyTorch forum: the CTC loss is negative, since logits were not passed through log_softmax
    failing(FAMILY, "a CTC loss of logits, below 0", 0.8, lambda s: listen(s, ctc(False)), "divergence", *UNRELATED, "complete collapse",
            "sanity:overfits one batch", "sanity:initial loss"),
    # MXNet forum: a recurrent network on a sine with noise of the same size, the loss stops at the noise
    healthy(FAMILY, "a sine in noise of its size", 0.6, lambda s: forecast(s, (waves(1500, 1, 1.0), waves(300, 2, 1.0)), adam(3e-3), steps=400)),
    # Cross Validated: an LSTM that needs long for a straight line
    healthy(FAMILY, "an LSTM on straight lines", 0.9, lambda s: forecast(s, (ramps(1000, 1), ramps(300, 2)), adam(3e-3), nn.LSTM, steps=400)),
    # PyTorch forum: the decoder is given the target without a shift, and writes nonsense by itself
    failing(FAMILY, "a decoder fed with the answer", 0.8, lambda s: translate(s, False), "sanity:no look into the future"),
    # PyTorch tutorial on translation with teacher forcing
    healthy(FAMILY, "a decoder with teacher forcing", 0.8, lambda s: translate(s, True)),
    # PyTorch tutorial on names: one name in a batch, plain SGD, a loss that jumps
    healthy(FAMILY, "names, one by one", 0.6, lambda s: read(
        s, lambda: sequences.Reader("last", 3), names, optimizer=sgd(0.02, 0.5), batch=1, steps=900)),
    # Stack Overflow: an accuracy of 85 % at once, since padding counts; it goes on to learn
    healthy(FAMILY, "tags, padding counts as one", 0.85, tagged),
]  # fmt: skip
