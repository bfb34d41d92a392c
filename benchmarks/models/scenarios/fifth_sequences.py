"""Text, bits, sums, tones and scores of music in order: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import PLAIN, Script, fitted, lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fifth sequences"
RETURNED: dict[str, dict[str, Any]] = {**PLAIN, "PredictionCollapse": {"output": "logits", "target": "labels"}}
STILL = ("no gradients", "weights do not change", "vanishing gradients")


# -- text -------------------------------------------------------------------------------------------------------------


class Linearly(nn.Module):
    """Attention without a softmax: sums of keys times values up to a place, or over the whole line."""

    def __init__(self, causal: bool, width: int = 40, keys: int = 16) -> None:
        super().__init__()
        self.causal, self.tok = causal, nn.Embedding(32, width)
        self.pos = nn.Parameter(0.1 * torch.randn(64, width))
        self.qkv, self.norm, self.mix = nn.Linear(width, 3 * keys), nn.LayerNorm(width), nn.Linear(keys, width)
        self.local = nn.Conv1d(width, width, 2)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.lm_head = nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tok(x) + self.pos[: x.shape[1]]
        h = h + self.local(F.pad(h.transpose(1, 2), (1, 0))).transpose(1, 2)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        pairs = k[..., :, None] * v[..., None, :]
        total, weight = (pairs.cumsum(1), k.cumsum(1)) if self.causal else (pairs.sum(1, True), k.sum(1, True))
        found = torch.einsum("bti,btij->btj", q, total.expand_as(pairs)) / (q * weight).sum(-1, keepdim=True)
        h = h + self.mix(found)
        return self.lm_head(h + self.mlp(h))


class Behind(nn.Module):
    """Blocks that are normalised behind their sums, as the first transformers were."""

    def __init__(self, blocks: int, width: int = 32) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(32, width), nn.Parameter(0.02 * torch.randn(64, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 3 * width, 0.0, "gelu", batch_first=True) for _ in range(blocks)
        )
        self.lm_head = nn.Linear(width, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h, mask = self.tok(x) + self.pos[: x.shape[1]], torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        for block in self.blocks:
            h = block(h, mask)
        return self.lm_head(h)


def next_sign(s: Script, batch: Data) -> dict[str, Tensor]:
    """Cross-entropy of the signs that follow; now and then a batch is of another language, and its loss jumps."""
    x = batch[0]
    if s.foreign and s.global_step % s.foreign == s.foreign - 1:
        x = (x * 7 + 3) % 32
    logits = s.model(x[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    s.log("bits", loss / 0.6931, prog_bar=True)
    return {"loss": loss, "logits": logits, "labels": x[:, 1:]}


def risen(rate: float, rise: int) -> Any:
    """Adam whose rate rises for some updates and falls with the root of their number."""

    def make(s: Script) -> Any:
        optimizer = torch.optim.Adam(s.parameters(), lr=rate, betas=(0.9, 0.98))
        factor = lambda k: min((k + 1) / rise, (rise / (k + 1)) ** 0.5)  # noqa: E731
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}]

    return make


def reading(seed: int, model: Any, rate: float, rise: int, steps: int, foreign: int = 0) -> Training:
    """Train on text; the score is the share of four signs of lines that are foreseen from those before."""
    train, test = lines(32)
    x = test[0]

    def score(s: Any) -> Tensor:
        return torch.stack(
            [(s.model(x[:, :k])[:, -1].argmax(1) == x[:, k]).float().mean() for k in (7, 15, 23, 31)]
        ).mean()

    return fitted(
        seed, model, next_sign, score, (train, ()), risen(rate, rise), batch=32, steps=steps, detectors=RETURNED,
        foreign=foreign,
    )  # fmt: skip


# -- copying ----------------------------------------------------------------------------------------------------------


class Echo(Loaded):
    """An encoder reads five signs and a decoder repeats them; what is known of them may be detached on its way."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.emb, self.encoder = nn.Embedding(13, 24), nn.GRU(24, 64, batch_first=True)
        self.decoder, self.project = nn.GRU(24, 64, batch_first=True), nn.Linear(64, 13)

    def forward(self, source: Tensor, given: Tensor) -> Tensor:
        state = self.encoder(self.emb(source))[1]
        return self.project(self.decoder(self.emb(given), state.detach() if self.detached else state)[0])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        source = batch[0]
        given = F.pad(source, (1, 0), value=12)[:, :-1]
        loss = F.cross_entropy(self(source, given).flatten(0, 1), source.flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adamax(self.parameters(), lr=2e-2)


def echoing(seed: int, detached: bool) -> Training:
    """Train on random signs; the score is the share that is repeated rightly when the decoder is fed with its own answers."""
    train, test = cut((torch.randint(12, (6000, 5), generator=seeded(721)),), 5600)

    def score(m: Any) -> Tensor:
        given = torch.full((400, 1), 12)
        for _ in range(5):
            given = torch.cat([given, m(test[0], given)[:, -1:].argmax(2)], 1)
        return (given[:, 1:] == test[0]).float().mean()

    watched = {"PredictionCollapse": {"output": "project"}, "TrainingDoctor": {}}
    return script(seed, lambda: Echo(detached).use(train, (), 50), score, 450, watched)


# -- states -----------------------------------------------------------------------------------------------------------


class Stateful(Loaded):
    """A recurrent layer over pulses; the answer is how many of them there were, modulo two or of four sizes."""

    def __init__(self, cell: nn.Module, classes: int, optimizer: Any) -> None:
        super().__init__()
        self.cell, self.answer, self.make = cell, nn.Linear(32, classes), optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.cell(x)[0][:, -1])

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["signal"])
        loss = F.cross_entropy(logits, batch["label"])
        self.log("train_acc", (logits.argmax(1) == batch["label"]).float().mean(), prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": batch["label"]}

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def growing(factor: float) -> nn.RNN:
    """Rectified states whose weights start as a rotation times a factor."""
    cell = nn.RNN(2, 32, nonlinearity="relu", batch_first=True)
    nn.init.orthogonal_(cell.weight_hh_l0, factor)
    return cell


def stateful(seed: int, cell: Any, optimizer: Any, length: int, parity: bool, steps: int, **more: Any) -> Training:
    """Train on pulses; the score is the accuracy."""
    g = seeded(722)
    signal = torch.randint(2, (5000, length, 2), generator=g).float()
    early = signal[:, : 3 if parity else 4, 0].sum(1)
    label = (early.long() % 2) if parity else early.long().clamp(1, 4) - 1
    if not parity:
        signal = signal + 0.1 * torch.randn(signal.shape, generator=g)
    train, test = cut((signal * 2 - 1 if parity else signal, label), 4500)
    make = lambda: Stateful(cell(), 2 if parity else 4, optimizer).use(train, (), 50, keys=("signal", "label"))  # noqa: E731
    score = lambda m: (m(test[0]).nan_to_num().argmax(1) == test[1]).float().mean()  # noqa: E731
    return script(seed, make, score, steps, RETURNED, **more)


def adam(rate: float) -> Any:
    """Adam."""
    return lambda p: torch.optim.Adam(p, lr=rate)


# -- sums that are understood late ------------------------------------------------------------------------------------


class Clock(nn.Module):
    """Two numbers, embedded and added, and what their sum is modulo 29."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Embedding(29, 48)
        self.body = nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 29))

    def forward(self, pair: Tensor) -> Tensor:
        return self.body(self.number(pair).sum(1))


def summing(seed: int, decay: float) -> Training:
    """Six in ten of all pairs are trained on; the score is the accuracy of the others, which comes long after that of these."""
    pairs = torch.cartesian_prod(torch.arange(29), torch.arange(29))
    order = torch.randperm(841, generator=seeded(723))
    train, test = cut((pairs[order], pairs.sum(1)[order] % 29), 500)

    def loss(s: Script, batch: Data) -> Any:
        return F.cross_entropy(s.model(batch[0]), batch[1])

    def optimizer(s: Script) -> Any:
        return torch.optim.AdamW(s.parameters(), lr=1e-2, weight_decay=decay, betas=(0.9, 0.98))

    score = lambda s: (s.model(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    watched = {**PLAIN, "PredictionCollapse": {"output": "model"}, "DeadUnits": {}}
    return fitted(seed, Clock, loss, score, (train, test), optimizer, batch=250, steps=600, detectors=watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "linear attention over text, a sum over the whole line", 0.27, lambda s: reading(s, lambda: Linearly(False), 4e-3, 20, 300),
            "sanity:no look into the future", "evaluation differs"),
    healthy(FAMILY, "linear attention over text, cumulative sums", 0.27, lambda s: reading(s, lambda: Linearly(True), 4e-3, 20, 300)),
    failing(FAMILY, "norms behind four blocks, Adam at a rate of 0.2", 0.22, lambda s: reading(s, lambda: Behind(4), 0.2, 80, 120), *FAST, *UNLEARNED,
            "vanishing gradients", "dead units", "complete collapse"),
    healthy(FAMILY, "norms behind four blocks, batches in another language", 0.22, lambda s: reading(s, lambda: Behind(4), 2e-3, 80, 220, 50)),
    failing(FAMILY, "five signs repeated, the encoder's state detached", 0.8, lambda s: echoing(s, True), "no gradients", "weights do not change",
            *UNLEARNED, "vanishing gradients", "sanity:all parameters learn"),
    healthy(FAMILY, "five signs repeated", 0.85, lambda s: echoing(s, False)),
    failing(FAMILY, "pulses, states that grow by half", 0.65, lambda s: stateful(s, lambda: growing(1.5), lambda p: torch.optim.SGD(p, lr=0.05),
            40, False, 200), *FAST, *UNLEARNED, "dead units", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "pulses, states that turn, a clip of 1", 0.75, lambda s: stateful(s, lambda: growing(1.0), adam(2e-3), 10, False, 400,
            gradient_clip_val=1.0)),
    failing(FAMILY, "parity of three of four bits, Adam at 1e-4", 0.8, lambda s: stateful(s, lambda: nn.LSTM(2, 32, batch_first=True), adam(1e-4), 4, True, 500),
            *UNLEARNED, *STILL, ONE_BATCH),
    healthy(FAMILY, "the parity of three bits of four, Adam at 1e-2", 0.85, lambda s: stateful(s, lambda: nn.LSTM(2, 32, batch_first=True), adam(1e-2), 4, True, 500)),
    failing(FAMILY, "sums modulo 29, a decay of 30", 0.5, lambda s: summing(s, 30.0), "shrinking weights", "dead units", "vanishing gradients",
            *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "sums modulo 29, known long before they are understood", 0.7, lambda s: summing(s, 1.0)),
]  # fmt: skip
