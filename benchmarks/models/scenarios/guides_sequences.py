"""Text, sets and series of tutorials, and what goes wrong when a reader adapts them.

Rewritten in small form from documented examples of libraries and courses; nothing is copied. The comment above each scenario
says what kind of example it is from and, for a failing one, which mistake was made. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, PLAIN, Script, adam, fitted, lines, script, seeded
from benchmarks.models.trainings import Training, mlp

FAMILY = "guides sequences"
(TEXT,), (HELD,) = lines()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units")
FOLLOW, ONE_BATCH = "sanity:labels follow from inputs", "sanity:overfits one batch"
FUTURE = "sanity:no look into the future"
train = partial(fitted, rate=2e-3)


# -- a small GPT ------------------------------------------------------------------------------------------------------


class CausalAttention(nn.Module):
    """Attention by hand; option: the axis of its softmax."""

    def __init__(self, width: int, heads: int, axis: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.heads, self.axis = heads, axis

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (p.view(n, length, self.heads, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(~torch.ones(length, length).tril().bool(), -math.inf)
        return self.out((scores.softmax(self.axis) @ v).transpose(1, 2).reshape(n, length, width))


class GPT(nn.Module):
    """Pre-norm blocks, one matrix for signs in and out, small weights on the residual path."""

    def __init__(self, axis: int = -1, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.signs, self.places = nn.Embedding(32, width), nn.Embedding(24, width)
        self.attention = nn.ModuleList(CausalAttention(width, 4, axis) for _ in range(depth))
        feed = lambda: nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))  # noqa: E731
        self.feed = nn.ModuleList(feed() for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.apply(self._start)
        for block, more in zip(self.attention, self.feed, strict=True):
            for layer in (block.out, more[2]):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * depth))
        self.head = nn.Linear(width, 32, bias=False)
        self.head.weight = self.signs.weight

    def _start(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        h = self.signs(x) + self.places(torch.arange(x.shape[1]))
        for i, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            h = h + attention(self.norms[2 * i](h))
            h = h + feed(self.norms[2 * i + 1](h))
        return self.head(self.norms[-1](h))


def gpt_optimizer(warm: int, total: int, peak: float = 1e-2) -> Any:
    """AdamW with decay for matrices alone, a linear warm-up and a cosine to a tenth."""

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    def make(s: Script) -> Any:
        matrices = [p for p in s.parameters() if p.dim() >= 2]
        rest = [p for p in s.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return make


def next_token(s: Script, batch: Any) -> Any:
    """Cross entropy of the next sign; logits and targets in the result."""
    x, y = batch[0][:, :-1], batch[0][:, 1:]
    logits = s.model(x)
    return {"loss": F.cross_entropy(logits.reshape(-1, 32), y.reshape(-1)), "logits": logits, "target": y}


def in_use(s: Any) -> Tensor:
    """Mean log-likelihood of a sign behind 10, 15 or 20 others, when nothing that follows is given."""
    losses = [F.cross_entropy(s.model(HELD[:, :n])[:, -1], HELD[:, n]) for n in (10, 15, 20)]
    return -sum(losses) / 3  # type: ignore[return-value]


NEXT: dict[str, dict[str, Any]] = {"PredictionCollapse": {}, "TrainingDoctor": {}}


def gpt(seed: int, axis: int = -1, warm: int = 20, steps: int = 300) -> Training:
    """Train a small GPT."""
    return train(seed, lambda: GPT(axis), next_token, in_use, ((TEXT,), (HELD,)), gpt_optimizer(warm, steps), steps=steps,
                 gradient_clip_val=1.0, detectors=NEXT)  # fmt: skip


# -- sequences in, sequences out --------------------------------------------------------------------------------------


def signs(count: int, length: int, seed: int, size: int = 10) -> Tensor:
    """Random signs from 1 on."""
    return torch.randint(1, size, (count, length), generator=seeded(seed))


class Places(nn.Module):
    """Sines and cosines ``[length, 1, width]`` for tensors with time first; option: that the batch is first."""

    def __init__(self, width: int, batch_first: bool) -> None:
        super().__init__()
        place, rate = torch.arange(128.0)[:, None], torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        table = torch.stack([(place * rate).sin(), (place * rate).cos()], -1).reshape(128, 1, width)
        self.register_buffer("table", table)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return x + self.table[: x.shape[1]].transpose(0, 1)
        return x + self.table[: x.shape[0]]


class Reverser(nn.Module):
    """An encoder that labels each place; batch first. Option: whether the places know of it."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(10, 32), Places(32, knows)
        self.block = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)
        self.out = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.place(self.embed(x))))


def warm_cosine(lr: float, warm: int, total: int) -> Any:
    """Adam with a warm-up and a cosine, as in a course's notebook."""

    def make(s: Script) -> Any:
        optimizer = torch.optim.Adam(s.parameters(), lr=lr)
        rate = lambda e: 0.5 * (1 + math.cos(math.pi * e / total)) * min(1.0, (e + 1) / warm)  # noqa: E731
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return make


def each_place(s: Script, batch: Any) -> Tensor:
    """Cross entropy of all places."""
    x, y = batch
    return F.cross_entropy(s.model(x).flatten(0, 1), y.flatten())


def noam(warm: int) -> Any:
    """Adam whose rate rises for so many updates and falls with the root of their number, for a width of 32."""

    def make(s: Script) -> Any:
        optimizer = torch.optim.Adam(s.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
        rate = lambda n: 32**-0.5 * min((n + 1) ** -0.5, (n + 1) * warm**-1.5)  # noqa: E731
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}]

    return make


def reverse(seed: int, knows: bool = True, optimizer: Any = None) -> Training:
    """Sequences of eight signs, the other way round."""
    x = signs(3000, 8, 21)
    data = ((x[:2400], x[:2400].flip(1)), (x[2400:], x[2400:].flip(1)))

    def score(s: Any) -> Tensor:
        # one at a time, as in use
        return torch.cat([s.model(row[None]).argmax(-1) == row.flip(0) for row in data[1][0][:150]]).float().mean()

    return train(seed, lambda: Reverser(knows), each_place, score, data, optimizer or warm_cosine(4e-3, 40, 400), steps=400, batch=64,
                 gradient_clip_val=5.0, detectors=PLAIN)  # fmt: skip


class Translator(nn.Module):
    """A recurrent encoder and a decoder; options: attention, and whether the decoder starts with the encoder's state."""

    def __init__(self, attention: bool, passed: bool) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(12, 32, padding_idx=0), nn.Embedding(12, 32, padding_idx=0)
        self.encoder = nn.GRU(32, 64, batch_first=True)
        self.decoder = nn.GRU(32, 64, batch_first=True)
        self.attention, self.passed = attention, passed
        self.out = nn.Linear(128 if attention else 64, 12)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        states, last = self.encoder(self.source(x))
        h, _ = self.decoder(self.target(given), last if self.passed else torch.zeros_like(last))
        if self.attention:
            scores = h @ states.transpose(1, 2) / 8
            weights = scores.masked_fill((x == 0)[:, None], -math.inf).softmax(-1)
            h = torch.cat([h, weights @ states], -1)
        return self.out(h)


def phrases(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two to five signs, padded with 0, and their translation: others in reverse order, between 10 (start) and 11 (end)."""
    x = signs(count, 5, seed)
    length = torch.randint(2, 6, (count, 1), generator=seeded(seed + 1))
    order = torch.arange(5)
    back = x.gather(1, (length - 1 - order).clamp(min=0)) * 7 % 10
    y = torch.cat([torch.full((count, 1), 10), torch.where(order < length, back, 0), torch.zeros(count, 1).long()], 1)
    return torch.where(order < length, x, 0), y.scatter(1, length + 1, 11)


PHRASES = phrases(4000, 31), phrases(300, 35)


def teacher_forced(s: Script, batch: Any) -> Tensor:
    """Cross entropy of the next sign of the translation; padding is ignored."""
    x, y = batch
    return F.cross_entropy(s.model(x, y[:, :-1]).transpose(1, 2), y[:, 1:], ignore_index=0)


def translated(s: Any) -> Tensor:
    """Share of phrases that are translated without an error, sign by sign."""
    x, y = PHRASES[1]
    made = torch.full((len(x), 1), 10)
    for _ in range(6):
        made = torch.cat([made, s.model(x, made)[:, -1].argmax(-1, keepdim=True)], 1)
    return ((made == y) | (y == 0)).all(1).float().mean()


# -- sets and bags ----------------------------------------------------------------------------------------------------


def odd_sets(count: int, seed: int, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Sets of eight images, seven of which are the same digit; where the other one is."""
    g = seeded(seed)
    images, labels = (d[first:last] for d in t.digits())
    by_class = [images[labels == k] for k in range(10)]
    x, y = torch.empty(count, 8, 64), torch.randint(8, (count,), generator=g)
    for i in range(count):
        one, other = torch.randperm(10, generator=g)[:2].tolist()
        x[i] = by_class[one][torch.randint(len(by_class[one]), (8,), generator=g)]
        x[i, y[i]] = by_class[other][torch.randint(len(by_class[other]), (1,), generator=g)]
    return x, y


class OddOne(nn.Module):
    """A transformer without places that gives one logit for each member of a set."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Dropout(0.1), nn.Linear(64, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.out = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.enter(x))).squeeze(-1)


def odd_one(seed: int) -> Training:
    """Find the one that is not like the others."""
    data = odd_sets(2500, 41, 0, 1400), odd_sets(300, 42, 1400, 1797)
    loss = lambda s, b: F.cross_entropy(s.model(b[0]), b[1])  # noqa: E731
    score = lambda s: (s.model(data[1][0]).argmax(1) == data[1][1]).float().mean()  # noqa: E731
    return train(
        seed, OddOne, loss, score, data, warm_cosine(3e-3, 30, 350), steps=350, detectors=PLAIN, gradient_clip_val=2.0
    )


class BagsOfWords(L.LightningModule):
    """Four topics of news by the mean of their words: SGD at 5, a gradient clipped to 0.1, a tenth of the rate later.

    Args:
        running: whether offsets are running sums of the lengths, or the lengths.
    """

    def __init__(self, running: bool) -> None:
        super().__init__()
        self.bag, self.fc, self.running = nn.EmbeddingBag(200, 32), nn.Linear(32, 4), running
        nn.init.uniform_(self.bag.weight, -0.5, 0.5)
        nn.init.uniform_(self.fc.weight, -0.5, 0.5)
        nn.init.zeros_(self.fc.bias)

    @staticmethod
    def news(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Words ``[n, 24]``, how many of them are there, and the topic; a topic likes some words more than others."""
        g = seeded(seed)
        taste = torch.randn(4, 200, generator=seeded(51)).mul(0.8).exp()
        y = torch.randint(4, (count,), generator=g)
        return torch.multinomial(taste[y], 24, True, generator=g), torch.randint(6, 25, (count,), generator=g), y

    def collate(self, batch: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Put all words one behind the other."""
        words = torch.cat([w[:n] for w, n, _ in batch])
        lengths = torch.tensor([0, *(int(n) for _, n, _ in batch[:-1])])
        return words, lengths.cumsum(0) if self.running else lengths, torch.stack([y for *_, y in batch])

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        return self.fc(self.bag(words, offsets))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        words, offsets, topic = batch
        logits = self(words, offsets)
        loss = F.cross_entropy(logits, topic)
        self.log("accu", (logits.argmax(1) == topic).float().mean(), prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        words, offsets, topic = batch
        self.log("val_loss", F.cross_entropy(self(words, offsets), topic), batch_size=len(topic))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.news(3200, 52)), 32, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.news(400, 53)), 32, collate_fn=self.collate)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=5.0)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.1)]

    def score(self) -> float:
        """Accuracy on news that were not trained on, one by one."""
        rows = zip(*self.news(400, 54), strict=True)
        return sum(int(self(w[:n], torch.tensor([0])).argmax()) == int(y) for w, n, y in rows) / 400


def bags(seed: int, running: bool = True) -> Training:
    """Train a bag of words."""
    watched = {"PredictionCollapse": {"output": "fc"}, "TrainingDoctor": {}}
    return script(seed, lambda: BagsOfWords(running), lambda m: m.score(), 400, watched, gradient_clip_val=0.1)


# -- series ------------------------------------------------------------------------------------------------------------


def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """24 values of two waves with a little noise, and the eight that follow."""
    g = seeded(seed)
    time = torch.arange(32.0)
    period, phase = 6 + 10 * torch.rand(2, count, 1, generator=g), 7 * torch.rand(2, count, 1, generator=g)
    high = 0.5 + torch.rand(2, count, 1, generator=g)
    x = (high * torch.sin(2 * math.pi * time / period + phase)).sum(0) + 0.05 * torch.randn(count, 32, generator=g)
    return x[:, :24], x[:, 24:]


WAVES = waves(3000, 61), waves(400, 62)


class Beats(nn.Module):
    """Blocks each of which takes its part away from the past and adds its part to the forecast."""

    def __init__(self, blocks: int = 4, width: int = 64) -> None:
        super().__init__()
        sizes = [24, width, width, 32]
        self.blocks = nn.ModuleList(mlp(sizes) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        forecast = torch.zeros(len(x), 8)
        for block in self.blocks:
            past, future = block(x).split([24, 8], 1)
            x, forecast = x - past, forecast + future
        return forecast


class Likely(nn.Module):
    """A mean and a spread for each of the next eight values; option: what makes the spread positive."""

    def __init__(self, positive: Any) -> None:
        super().__init__()
        self.gru, self.mean, self.spread, self.positive = (
            nn.GRU(1, 48, batch_first=True),
            nn.Linear(48, 8),
            nn.Linear(48, 8),
            positive,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gru(x.unsqueeze(-1))[1][0]
        return self.mean(h), self.positive(self.spread(h))


def likelihood(s: Script, batch: Any) -> Tensor:
    """Negative log-likelihood of a normal distribution."""
    mean, spread = s.model(batch[0])
    return -torch.distributions.Normal(mean, spread, validate_args=False).log_prob(batch[1]).mean()


def forecast_r2(s: Any) -> Tensor:
    """R squared of the forecast, or of its mean."""
    guess = s.model(WAVES[1][0])
    guess = guess[0] if isinstance(guess, tuple) else guess
    value = 1 - (guess - WAVES[1][1]).square().mean() / WAVES[1][1].var()
    return torch.nan_to_num(value, nan=-1.0)


BOTH = dict(data=PHRASES, score=translated, loss=teacher_forced, optimizer=adam(5e-3), steps=350, batch=64)

SCENARIOS: list[Scenario] = [
    # the smallest GPT: warm-up, cosine, decay for matrices, a clipped gradient
    healthy(FAMILY, "a small GPT, warm-up and cosine", -2.65, lambda s: gpt(s)),
    # the same with the warm-up of a run of 600,000 updates
    failing(FAMILY, "a small GPT, warm-up of 20,000 updates", -2.65, lambda s: gpt(s, warm=20_000), *UNRELATED,
            "vanishing gradients", "weights do not change"),
    # the same with attention written anew: its softmax is over queries
    failing(FAMILY, "a small GPT, softmax over the wrong axis", -2.65, lambda s: gpt(s, axis=-2), FUTURE, *UNRELATED),
    # course notebook on transformers: sequences are reversed
    healthy(FAMILY, "a transformer reverses sequences", 0.9, reverse),
    # the same with the tutorial's encoding for time first: each sample of the batch gets one place
    failing(FAMILY, "places of the batch in reversed sequences", 0.6, lambda s: reverse(s, knows=False), *UNRELATED, FOLLOW, ONE_BATCH),
    # the same notebook: the odd one of a set, without places
    healthy(FAMILY, "one of eight that is not like the others", 0.7, odd_one),
    # tutorial on classifying news: SGD at 5, a gradient clipped to 0.1
    healthy(FAMILY, "bags of words, a rate of 5", 0.8, bags),
    # the same with a collate function that gives lengths for offsets
    failing(FAMILY, "topics by bags of words, lengths for offsets", 0.7, lambda s: bags(s, False), *UNRELATED, FOLLOW, ONE_BATCH),
    # tutorial on translation with attention, teacher forcing and padding
    healthy(FAMILY, "a translation with attention", 0.8, lambda s: train(s, lambda: Translator(True, True), **BOTH, detectors=DOCTOR)),
    # the same without attention: the decoder gets new zeros and not the encoder's state
    failing(FAMILY, "translation, the decoder starts from zeros", 0.3, lambda s: train(
        s, lambda: Translator(False, False), **BOTH, detectors=PLAIN), *UNRELATED, "no gradients", "weights do not change",
        "sanity:all parameters learn", "sanity:inputs matter", ONE_BATCH),
    # library for forecasts: blocks of residuals
    healthy(FAMILY, "N-BEATS on waves", 0.7, lambda s: train(
        s, Beats, lambda m, b: F.l1_loss(m.model(b[0]), b[1]), forecast_r2, WAVES, adam(2e-3), steps=400, batch=64, detectors=PLAIN)),
    # the same library: a forecast with a distribution, whose loss falls below 0
    healthy(FAMILY, "a probabilistic forecast of waves", 0.7, lambda s: train(
        s, lambda: Likely(lambda r: F.softplus(r) + 1e-3), likelihood, forecast_r2, WAVES, adam(5e-3), steps=400, batch=64, detectors=DOCTOR)),
    # the same with another function that makes the spread positive, but not always
    failing(FAMILY, "a spread that a ReLU may set to 0", 0.5, lambda s: train(
        s, lambda: Likely(F.relu), likelihood, forecast_r2, WAVES, adam(5e-3), steps=300, batch=64, detectors=DOCTOR),
        "non-finite values", "divergence", "dead units", "sanity:initial loss", ONE_BATCH),
    # annotated transformer: the rate of Noam, with a warm-up of 4 updates for one of 4,000
    failing(FAMILY, "Noam's schedule, warm-up of 4 updates", 0.6, lambda s: reverse(s, optimizer=noam(4)), *FAST, *UNRELATED, ONE_BATCH),
]  # fmt: skip
