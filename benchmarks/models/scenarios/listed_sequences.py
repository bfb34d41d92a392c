"""Text, codes, signals and translations: half of the trainings fail, half are healthy look-alikes.

Written from a list of families and mistakes, not from what the rules do. The names were chosen so that all of them are in
the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import PLAIN, Script, fitted, lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut

FAMILY = "listed sequences"
RETURNED: dict[str, dict[str, Any]] = {**PLAIN, "PredictionCollapse": {"output": "logits", "target": "labels"}}


# -- transformers on text ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention and a feed-forward part, normalised before or after."""

    def __init__(self, width: int, pre: bool, causal: bool) -> None:
        super().__init__()
        self.pre, self.causal = pre, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (p.unflatten(2, (4, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, 2))
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attend(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attend(x))
        return self.ln_2(x + self.mlp(x))


class SmallGPT(nn.Module):
    """Tokens and places, blocks, logits."""

    def __init__(
        self, depth: int = 2, width: int = 48, pre: bool = True, causal: bool = True, tokens: int = 32
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(64, width)
        self.blocks = nn.Sequential(*(Block(width, pre, causal) for _ in range(depth)))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.ln_f(self.blocks(self.wte(x) + self.wpe.weight[: x.shape[1]])))


def following(s: Any) -> Tensor:
    """Accuracy of the sign behind a window, which no mask is needed for."""
    _, (test,) = lines()
    return torch.stack(
        [(s.model(test[:, :k])[:, -1].argmax(1) == test[:, k]).float().mean() for k in (11, 17, 23)]
    ).mean()


def next_sign(s: Script, batch: Data) -> dict[str, Tensor]:
    """Cross entropy of the next sign."""
    logits, labels = s.model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten()
    loss = F.cross_entropy(logits, labels)
    s.log("train/loss", loss, prog_bar=True)
    return {"loss": loss, "logits": logits, "labels": labels}


def warmed(lr: float, updates: int, total: int, **more: Any) -> Callable[[Script], Any]:
    """AdamW with a linear warm-up and a cosine to a tenth."""

    def factor(step: int) -> float:
        past = max(0.0, min(1.0, (step - updates) / (total - updates)))
        return min((step + 1) / updates, 0.55 + 0.45 * math.cos(math.pi * past))

    def make(s: Script) -> Any:
        optimizer = torch.optim.AdamW(s.parameters(), lr=lr, betas=(0.9, 0.95), **more)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}]

    return make


def writing(
    seed: int, model: Any = SmallGPT, optimizer: Any = None, loss: Any = next_sign, steps: int = 250, **more: Any
) -> Training:
    """Train a model of text; the score is the accuracy of signs behind windows."""
    train, test = lines()
    return fitted(
        seed, model, loss, following, (train, test), optimizer, batch=32, steps=steps, detectors=RETURNED, **more
    )


def damaged(s: Script, batch: Data) -> dict[str, Tensor]:
    """In three places of the run two batches are not text but noise; the loss jumps and comes back."""
    x = torch.randint(32, batch[0].shape) if s.global_step in (80, 81, 130, 131, 170) else batch[0]
    return next_sign(s, (x,))


# -- long memory ------------------------------------------------------------------------------------------------------


def recalled(count: int, length: int, seed: int) -> Data:
    """One of four signs, and much noise behind it: the sign is asked for at the end."""
    g = seeded(seed)
    x, y = torch.randn(count, length, 8, generator=g), torch.randint(4, (count,), generator=g)
    x[:, 0] = 0
    x[torch.arange(count), 0, y] = 4.0
    return x, y


class Reader(Loaded):
    """A recurrent net and the answer from its last state, SGD with momentum, as homework has it."""

    def __init__(self, rnn: nn.Module, optimizer: Callable[[Any], Any], classes: int = 4) -> None:
        super().__init__()
        self.rnn, self.fc, self.make = rnn, nn.LazyLinear(classes), optimizer
        self.fc(torch.zeros(1, int(rnn.hidden_size)))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        out = self(batch[0])
        self.log_dict(
            {"val_loss": F.cross_entropy(out, batch[1]), "val_acc": (out.argmax(1) == batch[1]).float().mean()}
        )

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def remembering(
    seed: int, rnn: Callable[[], nn.Module], optimizer: Callable[[Any], Any], length: int, steps: int = 250, **more: Any
) -> Training:
    """Train on signs to recall; the score is the accuracy."""
    train, test = recalled(1500, length, 421), recalled(400, length, 422)
    watched = {"PredictionCollapse": {"output": "fc"}, "TrainingDoctor": {}}
    score = lambda m: (m(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Reader(rnn(), optimizer).use(train, test, 32), score, steps, watched, **more)


def exploding() -> nn.Module:
    """Rectified states whose weights begin at 1.3 times a rotation."""
    rnn = nn.RNN(8, 32, nonlinearity="relu", batch_first=True)
    nn.init.orthogonal_(rnn.weight_hh_l0, 1.3)
    return rnn


# -- rules ------------------------------------------------------------------------------------------------------------


def parity(count: int, bits: int, seed: int) -> Data:
    """Signs of -1 and 1; the label is the parity of the first three of them."""
    x = torch.randint(2, (count, bits), generator=seeded(seed)).float()
    return 2 * x - 1, (x[:, :3].sum(1) % 2).long()


def even(seed: int) -> Training:
    """Parity of three bits of twenty-four by a wide net and SGD: the loss stays for long, and then falls."""
    train, test = parity(6000, 24, 423), parity(800, 24, 424)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits = s.model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}

    score = lambda s: (s.model(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    optimizer = lambda s: torch.optim.SGD(s.parameters(), lr=0.1, momentum=0.9)  # noqa: E731
    model = lambda: t.mlp([24, 128, 2])  # noqa: E731
    return fitted(seed, model, loss, score, (train, test), optimizer, batch=64, steps=700, detectors=RETURNED)


def sums(seed: int) -> Training:
    """Addition modulo 23, three quarters of the table, a strong decay: what was not seen is right long after what was."""
    a, b = torch.arange(23 * 23) // 23, torch.arange(23 * 23) % 23
    order = torch.randperm(23 * 23, generator=seeded(425))
    pairs, answers = torch.stack([a, b], 1)[order], ((a + b) % 23)[order]
    train, test = cut((pairs, answers), 400)

    def loss(s: Script, batch: Data) -> Any:
        value = F.cross_entropy(s.model(batch[0]), batch[1])
        s.log("loss", value)
        return value

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(23, 48), nn.Flatten(), nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 23))

    score = lambda s: (s.model(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    optimizer = lambda s: torch.optim.AdamW(s.parameters(), lr=5e-3, weight_decay=1.0, betas=(0.9, 0.98))  # noqa: E731
    return fitted(seed, model, loss, score, (train, test), optimizer, batch=400, steps=900,
                  detectors={"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}})  # fmt: skip


def copying(seed: int) -> Training:
    """Eight signs, a mark, and the same eight signs again: only the second half can be known."""

    def draw(count: int, source: int) -> Data:
        half = torch.randint(1, 12, (count, 8), generator=seeded(source))
        return (torch.cat([half, torch.zeros(count, 1, dtype=torch.long), half], 1),)

    (test,) = draw(300, 427)
    score = lambda s: (s.model(test[:, :-1])[:, 8:].argmax(2) == test[:, 9:]).float().mean()  # noqa: E731
    model = lambda: SmallGPT(2, 48, tokens=12)  # noqa: E731
    return fitted(seed, model, next_sign, score, (draw(6000, 426), (test,)), warmed(4e-3, 30, 450), batch=48, steps=450,
                  detectors=RETURNED)  # fmt: skip


# -- labels of tokens -------------------------------------------------------------------------------------------------


def entities(count: int, seed: int) -> Data:
    """Forty words, one in ten a name; a name behind a title (words 0 and 1) is a person, another one a place."""
    g = seeded(seed)
    x = torch.randint(40, (count, 20), generator=g)
    name = (torch.rand(count, 20, generator=g) < 0.1) & (torch.arange(20) > 0)
    x = torch.where(name, torch.randint(40, 60, x.shape, generator=g), x)
    titled = name & (torch.rand(count, 20, generator=g) < 0.5)
    before = titled.roll(-1, 1) & ~name & (torch.arange(20) < 19)
    x = torch.where(before, torch.randint(2, x.shape, generator=g), x)
    title = F.pad(x[:, :-1] < 2, (1, 0))
    return x, torch.where(x >= 40, torch.where(title, 1, 2), 0)


class Tagger(Loaded):
    """Reads both ways; time may come first in the logits and last in the labels."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(60, 24)
        self.lstm, self.tag = nn.LSTM(24, 24, bidirectional=True), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.tag(self.lstm(self.embedding(x.T))[0])

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        out = self(batch[0])  # [time, batch, tags]
        logits = out.reshape(-1, 3) if self.kind == "viewed" else out.transpose(0, 1).reshape(-1, 3)
        labels = batch[1].reshape(-1)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def tagging(seed: int, kind: str) -> Training:
    """Train a tagger; the score is the mean F1 of the three tags."""
    test = entities(200, 429)
    score = lambda m: t.macro_f1(m(test[0]).transpose(0, 1), test[1])  # noqa: E731
    return script(seed, lambda: Tagger(kind).use(entities(2500, 428), (), 32), score, 220, RETURNED)


# -- translation ------------------------------------------------------------------------------------------------------


class Translator(L.LightningModule):
    """Reads four signs and padding, and writes them backwards in another alphabet; the state between is passed on, or detached."""

    def __init__(self, fault: str, updates: int) -> None:
        super().__init__()
        self.fault, self.updates = fault, updates
        self.source, self.target = nn.Embedding(10, 32), nn.Embedding(11, 32)
        self.encoder, self.decoder = nn.GRU(32, 96, batch_first=True), nn.GRU(32, 96, batch_first=True)
        self.generator = nn.Linear(96, 10)
        self.register_buffer("dictionary", torch.randperm(10, generator=seeded(430)))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        _, state = self.encoder(F.pad(self.source(x), (0, 0, 0, 6)))
        if self.fault == "detached":
            state = state.detach()
        begun = F.pad(told[:, :-1], (1, 0), value=10)
        return self.generator(self.decoder(self.target(begun), state)[0])

    def train_dataloader(self) -> Any:
        x = torch.randint(10, (48 * self.updates, 4))
        y = self.dictionary[x.flip(1)]
        y = y[torch.randperm(len(y))] if self.fault == "shuffled" else y
        return DataLoader(TensorDataset(x, y), batch_size=48, shuffle=True)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(*batch)
        loss = F.cross_entropy(logits.permute(0, 2, 1), batch[1])
        self.log("loss", loss)
        return {"loss": loss, "logits": logits.flatten(0, 1), "labels": batch[1].flatten()}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=4e-3)


def translating(seed: int, fault: str = "", updates: int = 350) -> Training:
    """Train a translator; the score is the share of signs that are right given the ones before."""
    x = torch.randint(10, (400, 4), generator=seeded(431))

    def score(m: Any) -> Tensor:
        y = m.dictionary[x.flip(1)]
        return (m(x, y).argmax(2) == y).float().mean()

    return script(seed, lambda: Translator(fault, updates), score, updates, RETURNED)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "a small GPT, is_causal left out", 0.2, lambda s: writing(s, lambda: SmallGPT(causal=False), warmed(3e-3, 30, 250)),
            "sanity:no look into the future", "repetition", "evaluation differs"),
    healthy(FAMILY, "a small GPT, warm-up and a cosine to a tenth", 0.22, lambda s: writing(s, optimizer=warmed(3e-3, 30, 250, weight_decay=0.1))),
    healthy(FAMILY, "six post-norm blocks, a long warm-up", 0.22, lambda s: writing(s, lambda: SmallGPT(6, 32, pre=False),
            warmed(2e-3, 120, 300), steps=300)),
    failing(FAMILY, "four blocks on text, a rate of 0.3", 0.22, lambda s: writing(s, lambda: SmallGPT(4, 32), rate=0.3), *FAST, *UNLEARNED,
            "saturated units", "dead units"),
    failing(FAMILY, "two blocks on text, a rate of 1e-5", 0.2, lambda s: writing(s, lambda: SmallGPT(2, 32), rate=1e-5), *UNLEARNED,
            "vanishing gradients", "weights do not change"),
    healthy(FAMILY, "text with five batches of noise in it", 0.22, lambda s: writing(s, optimizer=warmed(4e-3, 20, 250), loss=damaged)),
    failing(FAMILY, "a sign 90 steps ago, tanh states", 0.5, lambda s: remembering(s, lambda: nn.RNN(8, 32, batch_first=True),
            t.sgd(0.05, 0.9), 90, 200), *UNLEARNED, "vanishing gradients"),
    failing(FAMILY, "a sign 60 steps ago, states that grow", 0.6, lambda s: remembering(s, exploding, t.sgd(0.05), 60, 200), *FAST,
            *UNLEARNED, "dead units", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "a sign 15 steps ago, a GRU that needs its time", 0.8, lambda s: remembering(s, lambda: nn.GRU(8, 32, batch_first=True),
            t.adam(6e-3), 15, 500)),
    healthy(FAMILY, "parity of 3 bits of 24 by SGD", 0.9, even),
    healthy(FAMILY, "sums modulo 23, right after they are known", 0.7, sums),
    healthy(FAMILY, "eight signs twice, half of them by chance", 0.8, copying),
    failing(FAMILY, "names with titles, time first in the logits", 0.5, lambda s: tagging(s, "viewed"), *UNLEARNED, FOLLOW, SHAPES, ONE_BATCH),
    healthy(FAMILY, "titled names, nine words in ten are none", 0.8, lambda s: tagging(s, "")),
    failing(FAMILY, "backwards in another alphabet, sources shuffled", 0.4, lambda s: translating(s, "shuffled"), *UNLEARNED, FOLLOW, ONE_BATCH),
    failing(FAMILY, "backwards in another alphabet, state.detach()", 0.8, lambda s: translating(s, "detached"), "no gradients", *UNLEARNED,
            "vanishing gradients", "weights do not change", "sanity:all parameters learn"),
    healthy(FAMILY, "written backwards in another alphabet", 0.8, translating),
]  # fmt: skip
