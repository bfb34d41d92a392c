"""Text, tokens and series: language models, taggers and recurrent networks that someone wrote for a first project."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, Script, adam, lines, script, sgd
from benchmarks.models.trainings import Training

FAMILY = "everyday sequences"
(TEXT,), (HELD,) = lines()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")
FUTURE = "sanity:no look into the future"
UNIGRAM = 2.85  # entropy of the signs


class Attention(nn.Module):
    """A transformer over signs, written by hand; options: the mask, where normalisation is."""

    def __init__(
        self, causal: bool = True, pre: bool = True, layers: int = 2, tied: bool = False, size: int = 32
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(size, 48), nn.Embedding(64, 48)
        make = lambda: nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True, norm_first=pre)  # noqa: E731
        self.blocks = nn.ModuleList(make() for _ in range(layers))
        self.norm, self.out, self.causal = nn.LayerNorm(48), nn.Linear(48, size, bias=not tied), causal
        if tied:
            self.out.weight = self.embed.weight
            nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        h = self.embed(x) + self.place(places)
        mask = places[:, None] < places if self.causal else None
        for block in self.blocks:
            h = block(h, mask)
        return self.out(self.norm(h))


class Convolutions(nn.Module):
    """Convolutions over signs; option: padding on both sides."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.embed, self.out, self.both = nn.Embedding(32, 32), nn.Conv1d(32, 32, 1), both
        self.layers = nn.ModuleList(nn.Conv1d(32, 32, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).transpose(1, 2)
        for layer in self.layers:
            h = h + F.relu(layer(F.pad(h, (1, 1) if self.both else (2, 0))))
        return self.out(h).transpose(1, 2)


class Recurrent(nn.Module):
    """A recurrent network over signs; options: the kind, both directions."""

    def __init__(self, kind: Any = nn.GRU, both: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 32)
        self.net = kind(32, 64, layers, batch_first=True, bidirectional=both)
        self.out = nn.Linear(128 if both else 64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(self.embed(x))[0])


def shifted(s: Script, batch: Any) -> Any:
    """The next sign from those before it."""
    x = batch[0]
    logits = s.model(x[:, :-1])
    return {"loss": F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()), "logits": logits, "target": x[:, 1:]}


def inside(s: Script, batch: Any) -> Tensor:
    """The whole window goes in, and the last output is left out."""
    x = batch[0]
    return F.cross_entropy(s.model(x)[:, :-1].transpose(1, 2), x[:, 1:])


def itself(s: Script, batch: Any) -> Tensor:
    """The target is the input: somebody forgot to shift it."""
    return F.cross_entropy(s.model(batch[0]).transpose(1, 2), batch[0])


def smoothed(s: Script, batch: Any) -> Tensor:
    """The next sign, labels smoothed."""
    x = batch[0]
    return F.cross_entropy(s.model(x[:, :-1]).transpose(1, 2), x[:, 1:], label_smoothing=0.1)


def next_sign(s: Any) -> Tensor:
    """Mean log-likelihood of the last sign of a window that ends before it, as in use: signs are given one by one."""
    total = torch.zeros(())
    for end in (12, 16, 20):
        logits = s.model(HELD[:, :end])[:, -1]
        total = total - F.cross_entropy(logits, HELD[:, end])
    return total / 3


NAMED: dict[str, dict[str, Any]] = {"PredictionCollapse": {}, "TrainingDoctor": {}}


def text(seed: int, model: Any, loss: Any = shifted, optimizer: Any = None, **more: Any) -> Training:
    """Train on text."""
    options = {k: more.pop(k) for k in ("steps", "gradient_clip_val") if k in more}
    detectors = more.pop("detectors", NAMED if loss is shifted else DOCTOR)
    kind = more.pop("kind", Script)
    make = lambda: kind(model(), loss, optimizer or adam(3e-3), (TEXT,), (HELD,), **more)  # noqa: E731
    return script(seed, make, next_sign, detectors=detectors, **options)


# -- sequences that are made up ---------------------------------------------------------------------------------------


def made(count: int, length: int, seed: int, size: int = 10) -> Tensor:
    """Random digits."""
    return torch.randint(1, size, (count, length), generator=torch.Generator().manual_seed(seed))


class Reader(nn.Module):
    """One answer for a sequence, from the last state, the first place or the mean; options: padding masked, or the rest."""

    def __init__(self, how: str = "mean", classes: int = 2, mask: str = "", size: int = 10) -> None:
        super().__init__()
        self.embed, self.how, self.mask = nn.Embedding(size, 32), how, mask
        self.place = nn.Parameter(0.1 * torch.randn(64, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.gru, self.out = nn.GRU(32, 48, batch_first=True), nn.Linear(48 if how == "last" else 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        if self.how == "last":
            return self.out(self.gru(h)[0][:, -1])
        padding = {"": None, "right": x == 0, "inverted": x != 0}[self.mask]
        h = self.block(h + self.place[: x.shape[1]], src_key_padding_mask=padding)
        if self.how == "first":
            return self.out(h[:, 0])
        return self.out(h.mean(1))


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def clipped_words(s: Script, batch: Any) -> Tensor:
    """Cross entropy of sequences all of whose signs are the unknown one, since the vocabulary is empty."""
    return F.cross_entropy(s.model(batch[0].clamp(max=1)), batch[1])


def padded(x: Tensor, seed: int = 9) -> Tensor:
    """Zeros from some place on; the first sign stays."""
    ends = torch.randint(4, x.shape[1] + 1, (len(x), 1), generator=torch.Generator().manual_seed(seed))
    return torch.where(torch.arange(x.shape[1]) < ends, x, 0)


def reading(seed: int, model: Any, rule: Any, *, x: Tensor | None = None, loss: Any = crossed, **more: Any) -> Training:
    """Train a reader of sequences on a rule."""
    x = made(4000, 12, 1) if x is None else x
    y = rule(x)
    options = {k: more.pop(k) for k in ("steps", "detectors", "gradient_clip_val") if k in more}
    optimizer = more.pop("optimizer", adam(2e-3))
    test = (x[3200:], y[3200:])

    def score(s: Any) -> Tensor:
        shown = test[0].clamp(max=1) if loss is clipped_words else test[0]
        return (s.model(shown).argmax(-1) == test[1]).float().mean()

    make = lambda: Script(model(), loss, optimizer, (x[:3200], y[:3200]), test, **more)  # noqa: E731
    return script(seed, make, score, **options)


def more_nines(x: Tensor) -> Tensor:
    """Whether the sum is above its middle."""
    total = x.sum(1)
    return (total > total.median()).long()


def first_sign(x: Tensor) -> Tensor:
    """The first sign."""
    return x[:, 0]


class Tags(nn.Module):
    """A label for each sign, from it and the one before."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed, self.gru, self.out = nn.Embedding(10, 32), nn.GRU(32, 48, batch_first=True), nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.embed(x))[0])


def tag_loss(s: Script, batch: Any) -> Any:
    """Cross entropy of labels, padding is left out."""
    logits = s.model(batch[0])
    return {"loss": F.cross_entropy(logits.transpose(1, 2), batch[1], ignore_index=-100), "logits": logits}


def named_entities(seed: int, loss: Any = tag_loss) -> Training:
    """Nine signs of ten are outside; the others depend on the sign before."""
    x = padded(made(3000, 12, 3))
    y = torch.where((x == 9) & (x.roll(1, 1) > 4), 1 + x.roll(1, 1) % 3, 0).masked_fill(x == 0, -100)
    train, test = (x[:2400], y[:2400]), (x[2400:], y[2400:])

    def score(s: Any) -> Tensor:
        guess, there = s.model(test[0]).argmax(-1), test[1] > 0
        return (guess == test[1])[there].float().mean()

    make = lambda: Script(Tags(4), loss, adam(3e-3), train, test)  # noqa: E731
    return script(seed, make, score, detectors=NAMED)


class Adding(nn.Module):
    """Adds two marked numbers of a long sequence; a recurrent network that forgets, or one that does not."""

    def __init__(self, kind: Any, width: int = 32, gain: float = 0.0) -> None:
        super().__init__()
        self.net, self.out = kind(2, width, batch_first=True), nn.Linear(width, 1)
        if gain:
            nn.init.orthogonal_(self.net.weight_hh_l0, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x)[0][:, -1]).squeeze(-1)


def adding(seed: int, kind: Any, length: int, optimizer: Any = None, gain: float = 0.0, **more: Any) -> Training:
    """The sum of two marked numbers."""
    generator = torch.Generator().manual_seed(12)
    values = torch.rand(4000, length, generator=generator)
    marks = torch.zeros(4000, length)
    half = length // 2
    marks.scatter_(1, torch.randint(half, (4000, 1), generator=generator), 1.0)
    marks.scatter_(1, torch.randint(half, (4000, 1), generator=generator) + half, 1.0)
    x, y = torch.stack([values, marks], -1), (values * marks).sum(1) - 1
    train, test = (x[:3200], y[:3200]), (x[3200:], y[3200:])

    def score(s: Any) -> Tensor:
        return 1 - (s.model(test[0]) - test[1]).square().mean() / test[1].var()

    loss = lambda s, b: F.mse_loss(s.model(b[0]), b[1])  # noqa: E731
    make = lambda: Script(Adding(kind, gain=gain), loss, optimizer or adam(5e-3), train, test, batch=64)  # noqa: E731
    return script(seed, make, score, **more)


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "a transformer on windows of text", -2.4, lambda s: text(s, Attention)),
    healthy(FAMILY, "a transformer, the whole window goes in", -2.4, lambda s: text(s, Attention, inside)),
    healthy(FAMILY, "a transformer with one matrix for signs in and out", -2.7, lambda s: text(s, lambda: Attention(tied=True), steps=600)),
    healthy(FAMILY, "smoothed signs", -2.5, lambda s: text(s, Recurrent, smoothed)),
    healthy(FAMILY, "causal convolutions on text", -2.4, lambda s: text(s, lambda: Convolutions(both=False))),
    healthy(FAMILY, "LSTM of two layers on text, clipped", -2.7,
            lambda s: text(s, lambda: Recurrent(nn.LSTM, layers=2), optimizer=adam(1e-2), gradient_clip_val=0.5)),
    failing(FAMILY, "a transformer on text, the mask forgotten", -2.5, lambda s: text(s, lambda: Attention(causal=False), inside), FUTURE),
    failing(FAMILY, "convolutions padded on both sides", -2.5, lambda s: text(s, lambda: Convolutions(both=True), inside), FUTURE),
    failing(FAMILY, "a recurrent network in both directions on text", -2.5, lambda s: text(s, lambda: Recurrent(both=True)), FUTURE),
    failing(FAMILY, "targets that were not shifted", -2.5, lambda s: text(s, Attention, itself), FUTURE),
    failing(FAMILY, "a transformer on text, AdamW 0.3", -2.4, lambda s: text(s, Attention, optimizer=adam(0.3)),
            *FAST, *UNRELATED, "sanity:overfits one batch", twin="a transformer on windows of text"),
    failing(FAMILY, "a post-norm transformer of six layers, SGD 1", -2.5,
            lambda s: text(s, lambda: Attention(pre=False, layers=6), optimizer=sgd(1.0)),
            *FAST, *UNRELATED, "vanishing gradients", "sanity:overfits one batch"),
    failing(FAMILY, "an LSTM on text, SGD 1e-5", -2.7, lambda s: text(s, lambda: Recurrent(nn.LSTM), optimizer=sgd(1e-5)), *UNRELATED,
            twin="LSTM of two layers on text, clipped"),
    healthy(FAMILY, "is the sum large", 0.9, lambda s: reading(s, Reader, more_nines)),
    failing(FAMILY, "a vocabulary of unknown words", 0.8, lambda s: reading(s, Reader, more_nines, loss=clipped_words),
            *UNRELATED, "sanity:inputs matter", "sanity:overfits one batch"),
    healthy(FAMILY, "padding masked, the first place answers", 0.8, lambda s: reading(
        s, lambda: Reader("first", mask="right"), more_nines, x=padded(made(4000, 12, 1)))),
    failing(FAMILY, "the mask of padding the wrong way round", 0.8, lambda s: reading(
        s, lambda: Reader("first", mask="inverted"), more_nines, x=padded(made(4000, 12, 1))),
        "non-finite values", *UNRELATED, "sanity:initial loss", "sanity:overfits one batch", "sanity:inputs matter"),
    healthy(FAMILY, "the first sign is asked for at the end", 0.9, lambda s: reading(
        s, lambda: Reader("last", 10), first_sign, x=made(4000, 6, 1), optimizer=adam(1e-2), steps=400)),
    healthy(FAMILY, "names among many other words", 0.6, lambda s: named_entities(s)),
    healthy(FAMILY, "two numbers of twelve added, after a plateau", 0.5, lambda s: adding(s, nn.GRU, 12, steps=700)),
    failing(FAMILY, "two numbers of 120 added, a plain recurrent network", 0.3, lambda s: adding(s, nn.RNN, 120, adam(1e-3)),
            *UNRELATED, "vanishing gradients"),
    failing(FAMILY, "a recurrent network that explodes, SGD 0.1", 0.3,
            lambda s: adding(s, lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), 60, sgd(0.1), gain=1.6), *FAST, *UNRELATED,
            "sanity:initial loss", "sanity:overfits one batch"),
]  # fmt: skip
