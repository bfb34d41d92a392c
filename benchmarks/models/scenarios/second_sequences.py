"""Texts, signals, translations and forecasts as users of forums train them: half fail, half are healthy look-alikes.

Nobody had tuned anything on them when they were written. The names were chosen so that all of them are in the develop half:
these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import Script, fitted, lines, right, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded

FAMILY = "second sequences"
UNITS: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
MODEL: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "TrainingDoctor": {}}
LOGITS: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {"output": "logits", "target": "labels"},
    "TrainingDoctor": {},
}
STILL = ("weights do not change", "no gradients", "vanishing gradients", *UNLEARNED)


def cross_entropy(s: Script, batch: Data) -> Tensor:
    """Of classes in the last dimension."""
    return F.cross_entropy(s.model(batch[0]).flatten(0, -2), batch[1].flatten())


# -- translation ------------------------------------------------------------------------------------------------------


def translations(count: int, seed: int) -> Data:
    """Five letters of twelve, and their translation: the letters backwards, each replaced by its counterpart."""
    x = torch.randint(1, 13, (count, 5), generator=seeded(seed))
    return x, (5 * x.flip(1)) % 13


class Translator(Loaded):
    """A GRU reads, another writes; it is given what it has to write, or what comes before, which becomes its own in time."""

    def __init__(self, shifted: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.embed, self.reader = nn.Embedding(13, 32), nn.GRU(32, 64, batch_first=True)
        self.writer, self.out = nn.GRUCell(32, 64), nn.Linear(64, 13)

    def forward(self, x: Tensor, given: Tensor | None = None, own: float = 1.0) -> Tensor:
        state, outputs = self.reader(self.embed(x))[1][0], []
        last = torch.zeros(len(x), dtype=torch.long)
        for i in range(5):
            if given is not None and not self.shifted:
                last = given[:, i]
            state = self.writer(self.embed(last), state)
            outputs.append(self.out(state))
            written = outputs[-1].argmax(1)
            last = written if given is None else torch.where(torch.rand(len(x)) < own, written, given[:, i])
        return torch.stack(outputs, 1)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(*batch, min(1.0, batch_idx / 500)).flatten(0, 1)
        loss = F.cross_entropy(logits, batch[1].flatten())
        self.log("loss", loss, prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": batch[1].flatten()}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=4e-3)


def translated(seed: int, shifted: bool) -> Training:
    """Train a translator; the score is the share of letters that it writes rightly by itself."""
    new = translations(300, 421)
    score = lambda m: (m(new[0]).argmax(2) == new[1]).float().mean()  # noqa: E731
    make = lambda: Translator(shifted).use(translations(20_000, 422), (), 32)  # noqa: E731
    return script(seed, make, score, 500, LOGITS)


# -- attention --------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Attention over a text of sixteen tokens, of which 0 is padding; answers at its first token.

    Args:
        mask: ``"padding"`` hides what is padded, ``"text"`` the text, ``""`` nothing.
        places: whether tokens have places.
        after: whether norms come after the blocks.
    """

    def __init__(self, tokens: int, classes: int, mask: str = "", places: bool = True, after: bool = False) -> None:
        super().__init__()
        self.mask, self.embed, self.first = mask, nn.Embedding(tokens, 32), nn.Parameter(0.1 * torch.randn(1, 1, 32))
        self.places = nn.Parameter(0.1 * torch.randn(17, 32)) if places else None
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=not after)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.first.expand(len(x), 1, 32), self.embed(x)], 1)
        h = h if self.places is None else h + self.places
        hidden = F.pad(x != 0 if self.mask == "text" else x == 0, (1, 0)) if self.mask else None
        return self.head(self.blocks(h, src_key_padding_mask=hidden)[:, 0])


def reviews(count: int, seed: int, wrong: float = 0.0) -> Data:
    """Two to sixteen of thirty words, then padding; words above 20 are praise, 11 to 20 blame, and who has more of them decides."""
    g = seeded(seed)
    x = torch.randint(1, 31, (count, 16), generator=g)
    x[torch.arange(16) >= torch.randint(2, 17, (count, 1), generator=g)] = 0
    balance = (x > 20).sum(1) - ((x > 10) & (x <= 20)).sum(1)
    return x, torch.where(
        torch.rand(count, generator=g) < wrong, torch.randint(3, (count,), generator=g), balance.sign() + 1
    )


def reviewed(seed: int, mask: str, wrong: float) -> Training:
    """Tell praise from blame, with a warm-up."""
    train, new = reviews(3000, 423, wrong), reviews(500, 424)

    def optimizer(s: Script) -> Any:
        made = torch.optim.AdamW(s.parameters(), lr=3e-3)
        warm = torch.optim.lr_scheduler.LinearLR(made, 0.02, total_iters=80)
        return {"optimizer": made, "lr_scheduler": {"scheduler": warm, "interval": "step"}}

    make = lambda: Reader(31, 3, mask)  # noqa: E731
    return fitted(seed, make, cross_entropy, right(new), (train, new), optimizer, detectors=MODEL, steps=300)


def orders(count: int, seed: int) -> Data:
    """Sixteen words, among them one A and one B; which is first."""
    g = seeded(seed)
    x, both = torch.randint(3, 12, (count, 16), generator=g), torch.rand(count, 16, generator=g).argsort(1)[:, :2]
    x.scatter_(1, both, torch.tensor([[1, 2]]).expand(count, 2))
    return x, (both[:, 0] < both[:, 1]).long()


def ordered(seed: int, places: bool) -> Training:
    """Tell which of two words is first."""
    train, new = orders(3000, 425), orders(500, 426)
    make = lambda: Reader(12, 2, places=places)  # noqa: E731
    return fitted(seed, make, cross_entropy, right(new), (train, new), rate=2e-3, detectors=MODEL, steps=400)


def hurried(seed: int) -> Training:
    """Norms after the blocks, a rate of 0.2 and no warm-up."""
    train, new = reviews(3000, 423), reviews(500, 424)
    make = lambda: Reader(31, 3, "padding", after=True)  # noqa: E731
    return fitted(seed, make, cross_entropy, right(new), (train, new), rate=0.2, detectors=MODEL, steps=300)


class Adapted(nn.Module):
    """A frozen linear layer beside a product of two narrow ones, of which one starts at zero, or both do."""

    def __init__(self, layer: nn.Linear, both: bool) -> None:
        super().__init__()
        self.layer, self.down = layer.requires_grad_(False), nn.Parameter(torch.randn(2, layer.in_features) / 6)
        self.up = nn.Parameter(torch.zeros(layer.out_features, 2))
        if both:
            nn.init.zeros_(self.down)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 2 * (x @ self.down.T) @ self.up.T


def counting() -> nn.Sequential:
    """The mean of embedded words through three layers."""
    return nn.Sequential(
        nn.EmbeddingBag(32, 24), nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3)
    )


def adapted(seed: int, both: bool) -> Training:
    """A model that tells praise from blame learns by narrow layers to answer with other classes."""
    train, new = ((x, (y + 1) % 3) for x, y in (reviews(1000, 427), reviews(500, 424)))

    def make() -> nn.Module:
        model, (x, y) = counting(), reviews(5000, 423)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for i in range(0, 5000, 25):
            optimizer.zero_grad()
            F.cross_entropy(model(x[i : i + 25]), y[i : i + 25]).backward()
            optimizer.step()
        layers = (Adapted(m, both) if isinstance(m, nn.Linear) else m.requires_grad_(False) for m in model)
        return nn.Sequential(*layers)

    given = lambda s: torch.optim.AdamW((p for p in s.parameters() if p.requires_grad), lr=5e-3)  # noqa: E731
    return fitted(seed, make, cross_entropy, right(new), (train, new), given, detectors={**MODEL, **UNITS}, steps=300)


# -- recurrences ------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Embeds tokens, or takes numbers, through an LSTM; answers after the last, or at each."""

    def __init__(
        self, tokens: int, outputs: int, *, each: bool = False, batch_first: bool = True, both: bool = False
    ) -> None:
        super().__init__()
        self.each, self.embed = each, nn.Embedding(tokens, 24) if tokens else nn.Linear(1, 24)
        self.lstm = nn.LSTM(24, 48, batch_first=batch_first, bidirectional=both)
        self.head = nn.Linear(96 if both else 48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lstm(self.embed(x))[0]
        return self.head(h if self.each else h[:, -1])


def batches_first(seed: int) -> Training:
    """Batches come first and the LSTM expects time to."""
    train, new = orders(3000, 425), orders(500, 426)
    make = lambda: Recurrent(12, 2, batch_first=False)  # noqa: E731
    return fitted(seed, make, cross_entropy, right(new), (train, new), rate=3e-3, detectors=MODEL, steps=400)


def names(count: int, seed: int, pieces: bool, by_piece: bool = True) -> Data:
    """Twenty words; a word after a title (1 to 3) is a name of that kind. Long words may be two pieces, with a label each, or one."""
    g = seeded(seed)
    words = torch.randint(1, 20, (count, 20), generator=g)
    words = torch.where((words < 4) & (torch.rand(words.shape, generator=g) < 0.4), 10, words)
    labels = torch.where(words < 4, words, 0).roll(1, 1)
    labels[:, 0] = 0
    sizes = (1 + (words > 9).long()).tolist() if pieces else torch.ones_like(words).tolist()
    at = torch.tensor([[i for i, size in enumerate(row) for _ in range(size)][:20] for row in sizes])
    second = F.pad(at[:, 1:] == at[:, :-1], (1, 0))
    return words.gather(1, at).masked_fill(second, 20), labels.gather(1, at) if by_piece else labels


def named(seed: int, by_piece: bool) -> Training:
    """Find names among pieces of words; the score is the mean F1."""
    train, new = names(2000, 428, True, by_piece), names(300, 429, True)
    score = lambda m: t.macro_f1(m.model(new[0]), new[1])  # noqa: E731
    make = lambda: Recurrent(21, 4, each=True, both=True)  # noqa: E731
    return fitted(seed, make, cross_entropy, score, (train, new), rate=5e-3, detectors=MODEL, steps=250)


def letters(seed: int, ahead: int, rate: float, steps: int, **more: Any) -> Training:
    """A model of text whose labels are the next letters, or those it is given; the score is the share of next letters that are right."""
    (x,), (new,) = lines()

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        (text,) = batch
        inputs, labels = (text[:, :-1], text[:, 1:].flatten()) if ahead else (text, text.flatten())
        logits = s.model(inputs).flatten(0, 1)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

    score = lambda m: (m.model(new[:, :-1]).argmax(2) == new[:, 1:]).float().mean()  # noqa: E731
    make = lambda: Recurrent(32, 32, each=True)  # noqa: E731
    optimizer = lambda s: torch.optim.SGD(s.parameters(), lr=rate, momentum=0.9)  # noqa: E731
    return fitted(seed, make, loss, score, ((x,), (new,)), optimizer, detectors=LOGITS, steps=steps, **more)


def unknown(seed: int, capitals: bool) -> Training:
    """Tell praise from blame; three words in ten are not in the vocabulary, or, as texts are in capitals, none is."""
    (x, y), (a, b) = reviews(3000, 430, 0.1), reviews(500, 424)
    seen = lambda text: torch.where(text > 0, 31 if capitals else torch.where(text % 10 > 6, 31, text), 0)  # noqa: E731
    x, a = seen(x), seen(a)
    return fitted(seed, counting, cross_entropy, right((a, b)), ((x, y), (a, b)), rate=5e-3, detectors=MODEL, steps=300)


# -- signals ----------------------------------------------------------------------------------------------------------


def sounds(count: int, seed: int) -> Data:
    """Tones of four heights as 16-bit samples ``[n, 1, 256]``, in noise."""
    g = seeded(seed)
    y, time = torch.randint(4, (count,), generator=g), torch.arange(256.0)
    pitch = 0.2 * 1.5 ** y.float().unsqueeze(1) * (1 + 0.05 * torch.randn(count, 1, generator=g))
    wave = torch.sin(pitch * time + 6.28 * torch.rand(count, 1, generator=g)) + 0.7 * torch.randn(
        count, 256, generator=g
    )
    return (8000 * wave).unsqueeze(1), y


def heard(seed: int, divisions: int) -> Training:
    """Tell tones apart; samples are divided by their maximum once, or again; parts of them are silenced."""

    def loss(s: Script, batch: Data) -> Tensor:
        x = batch[0]
        if s.training and divisions == 1:
            at = int(torch.randint(192, ()))
            x = torch.cat([x[..., :at], torch.zeros_like(x[..., :64]), x[..., at + 64 :]], 2)
        return F.cross_entropy(s.model(x), batch[1])

    def make() -> nn.Module:
        layers = [nn.Conv1d(1, 16, 17, 4), nn.ReLU(), nn.Conv1d(16, 32, 5, 2), nn.ReLU(), nn.AdaptiveMaxPool1d(1)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 4))

    train, new = ((x / 32768**divisions, y) for x, y in (sounds(2000, 431), sounds(400, 432)))
    return fitted(seed, make, loss, right(new), (train, new), rate=2e-3, detectors={**MODEL, **UNITS}, steps=250)


# -- forecasts --------------------------------------------------------------------------------------------------------


def loads(count: int, seed: int) -> Data:
    """Two days of a load by the hour and the next six hours, with holidays and heavy tails: ``[n, 48, 1]``, ``[n, 6]``."""
    g = seeded(seed)
    start, time = torch.randint(168, (count, 1), generator=g), torch.arange(54.0)
    hour = start + time
    level = 0.5 * torch.randn(count, 1, generator=g)
    noise = torch.randn(count, 54, generator=g) / torch.rand(count, 54, generator=g).clamp(min=0.05).sqrt()
    x = level + torch.sin(hour * 6.28 / 24) + 0.4 * torch.sin(hour * 6.28 / 168) + 0.15 * noise
    return x[:, :48, None].contiguous(), x[:, 48:].contiguous()


def forecast(seed: int, loss: Any, outputs: int, middle: Any, optimizer: Any = None, rate: float = 4e-3) -> Training:
    """Train on loads; the score is R squared of the middle forecast."""
    train, new = loads(2000, 434), loads(400, 435)
    score = lambda m: 1 - (middle(m.model(new[0])) - new[1]).square().mean() / new[1].var()  # noqa: E731
    make = lambda: Recurrent(0, outputs)  # noqa: E731
    return fitted(seed, make, loss, score, (train, new), optimizer, rate, detectors=MODEL, steps=250)


def quantiles(s: Script, batch: Data) -> Tensor:
    """Pinball loss of three quantiles of six hours."""
    error = batch[1].unsqueeze(2) - s.model(batch[0]).view(-1, 6, 3)
    share = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(share * error, (share - 1) * error).mean()


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a translator that reads what it has to write", 0.5, lambda s: translated(s, False), "sanity:no look into the future",
            "evaluation differs"),
    healthy(FAMILY, "a translator given its own words in time", 0.6, lambda s: translated(s, True)),
    failing(FAMILY, "attention to padding only", 0.6, lambda s: reviewed(s, "text", 0.0), *UNLEARNED, "non-finite values", ONE_BATCH,
            "sanity:inputs matter"),
    healthy(FAMILY, "praise and blame, padded, one in five by chance", 0.75, lambda s: reviewed(s, "padding", 0.2)),
    failing(FAMILY, "which word is first, no token has a place", 0.65, lambda s: ordered(s, False), *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "which word is first, after a plateau", 0.85, lambda s: ordered(s, True)),
    failing(FAMILY, "norms after the blocks and a rate of 0.2", 0.6, hurried, *FAST, *UNLEARNED, "dead units"),
    failing(FAMILY, "two narrow layers that both start at zero", 0.6, lambda s: adapted(s, True), *STILL, "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "narrow layers beside frozen ones", 0.65, lambda s: adapted(s, False)),
    failing(FAMILY, "an LSTM that is given batches for time", 0.65, batches_first, *UNLEARNED, "sanity:samples do not leak", ONE_BATCH),
    failing(FAMILY, "names in pieces, labels by word", 0.6, lambda s: named(s, False), *UNLEARNED, FOLLOW, "overfitting", ONE_BATCH),
    healthy(FAMILY, "names after titles, long words in pieces", 0.8, lambda s: named(s, True)),
    failing(FAMILY, "letters, each its own label", 0.2, lambda s: letters(s, 0, 0.5, 300), "sanity:no look into the future", *UNLEARNED),
    healthy(FAMILY, "letters by an LSTM, gradients clipped to 0.1", 0.3, lambda s: letters(s, 1, 3.0, 400, gradient_clip_val=0.1)),
    failing(FAMILY, "a vocabulary without capitals, a text of them", 0.55, lambda s: unknown(s, True), *UNLEARNED, "sanity:inputs matter", ONE_BATCH,
            FOLLOW),
    healthy(FAMILY, "three words in ten are unknown", 0.6, lambda s: unknown(s, False)),
    failing(FAMILY, "samples divided by 32768 twice", 0.5, lambda s: heard(s, 2), *UNLEARNED, "sanity:inputs matter", ONE_BATCH,
            "vanishing gradients"),
    healthy(FAMILY, "tones in noise, a quarter of them silenced", 0.85, lambda s: heard(s, 1)),
    healthy(FAMILY, "three quantiles of a load, heavy tails", 0.5, lambda s: forecast(s, quantiles, 18, lambda o: o.view(-1, 6, 3)[..., 1])),
]  # fmt: skip
