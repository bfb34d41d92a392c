"""Language models and recurrent networks: warm-up, spikes, grokking, copying, parity, plateaus, forgetting, explosions.

Written as ``wide_classification.py`` is, with names in the develop half: these scenarios are for development and verify
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import lines, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, adamw, cut, plain, rmsprop

FAMILY = "wide sequences"
(TEXT,), (HELD,) = lines(33, 3000)


# -- language models --------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """Attention written out, and a feed-forward part; the norm comes first or last."""

    def __init__(self, width: int, heads: int, first: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.first, self.causal = heads, first, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def attend(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(out.transpose(1, 2).reshape(n, length, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


class LanguageModel(nn.Module):
    """A small decoder."""

    def __init__(
        self, tokens: int = 32, width: int = 48, depth: int = 2, first: bool = True, causal: bool = True
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(64, width)
        self.layers = nn.ModuleList(Layer(width, 4, first, causal) for _ in range(depth))
        self.final = nn.LayerNorm(width) if first else nn.Identity()
        self.lm_head = nn.Linear(width, tokens, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        for layer in self.layers:
            h = layer(h)
        return self.lm_head(self.final(h))


class Windows(IterableDataset):  # type: ignore[type-arg]
    """Batches of input_ids and labels without an end; option: after how many batches one is of random signs."""

    def __init__(self, batch: int, broken: int) -> None:
        self.batch, self.broken = batch, broken

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        index = 0
        while True:
            index += 1
            x = TEXT[torch.randint(len(TEXT), (self.batch,))]
            if self.broken and index % self.broken == 0:
                x = torch.randint(32, x.shape)
            yield {"input_ids": x[:, :-1], "labels": x[:, 1:]}


class Pretraining(Loaded):
    """Trains a decoder with a warm-up through LambdaLR; batches are dictionaries, the perplexity is logged."""

    def __init__(self, model: nn.Module, lr: float, warmup: int, batch: int, broken: int = 0) -> None:
        super().__init__()
        self.model, self.lr, self.warmup = model, lr, warmup
        self.windows = Windows(batch, broken)

    def train_dataloader(self) -> Any:
        return DataLoader(self.windows, batch_size=None)

    def val_dataloader(self) -> Any:
        return DataLoader([{"input_ids": HELD[:200, :-1], "labels": HELD[:200, 1:]}], batch_size=None)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.model(batch["input_ids"])
        return F.cross_entropy(logits.view(-1, logits.size(-1)), batch["labels"].reshape(-1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        self.log("train_ppl", loss.detach().exp(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.compute_loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def continued(module: Any) -> Tensor:
    """Mean log-likelihood of the next sign, given only what is before it."""
    ends = (10, 17, 24, 32)
    return -torch.stack([F.cross_entropy(module.model(HELD[:, :e])[:, -1], HELD[:, e]) for e in ends]).mean()


def written(
    seed: int,
    lr: float,
    *,
    warmup: int = 0,
    batch: int = 16,
    steps: int = 400,
    broken: int = 0,
    clip: float = 1.0,
    **model: Any,
) -> Training:
    """Train a decoder on text."""
    make = lambda: Pretraining(LanguageModel(**model), lr, warmup, batch, broken)  # noqa: E731
    watched = {"PredictionCollapse": {"output": "model.lm_head", "target": "labels"}, "TrainingDoctor": {}}
    return script(seed, make, continued, steps, watched, gradient_clip_val=clip, val_check_interval=50)


# -- made-up sequences ------------------------------------------------------------------------------------------------


class Lagged(Loaded):
    """Says at each place which sign was there five places ago; nothing is asked of the first five."""

    def __init__(self, lr: float = 3e-3) -> None:
        super().__init__()
        self.lr, self.model = lr, LanguageModel(12, 32, 1)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        (x,) = batch
        logits = self.model(x)
        target = torch.full_like(x, -100)
        target[:, 5:] = x[:, :-5]
        return {"loss": F.cross_entropy(logits.transpose(1, 2), target), "logits": logits, "target": target}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx)["loss"])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def lagged(seed: int) -> Training:
    """Train on copies of random signs."""
    x = torch.randint(12, (6000, 20), generator=seeded(71))
    train, test = (x[:5000],), (x[5000:],)
    score = lambda m: (m.model(test[0])[:, 5:].argmax(-1) == test[0][:, :-5]).float().mean()  # noqa: E731
    return script(
        seed, lambda: Lagged().use(train, test, 64), score, 500, {"PredictionCollapse": {}, "TrainingDoctor": {}}
    )


class Classifier(Loaded):
    """A network, a cross-entropy, an optimizer: the shortest of modules."""

    def __init__(self, net: nn.Module, optimizer: Any) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def train_dataloader(self) -> Any:
        if self.batch < len(self.train_set):
            return super().train_dataloader()
        return DataLoader([self.train_set[:]], batch_size=None)  # the full batch

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def classified(
    seed: int,
    net: Any,
    optimizer: Any,
    data: Data,
    *,
    rows: int,
    batch: int,
    steps: int,
    clip: float | None = None,
    units: bool = False,
) -> Training:
    """Train a network on rows with a label; the score is the accuracy."""
    train, test = cut(data, rows)
    watched = {"PredictionCollapse": {"output": "net"}, "TrainingDoctor": {}, **({"DeadUnits": {}} if units else {})}
    score = lambda m: (m(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    return script(
        seed,
        lambda: Classifier(net(), optimizer).use(train, test, batch),
        score,
        steps,
        watched,
        gradient_clip_val=clip,
    )


class Sum(nn.Module):
    """Two numbers by one embedding, added up, and two layers: for sums modulo a prime."""

    def __init__(self, prime: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(prime, 64)
        self.layers = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, prime))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x).flatten(1))


def sums(prime: int) -> Data:
    """All pairs of numbers and their sums modulo a prime, shuffled."""
    pairs = torch.cartesian_prod(torch.arange(prime), torch.arange(prime))
    pairs = pairs[torch.randperm(len(pairs), generator=seeded(73))]
    return pairs, pairs.sum(1) % prime


def bits(width: int, of: int, count: int = 8000) -> Data:
    """Rows of -1 and 1, and whether the product of the first few is positive."""
    x = torch.randint(2, (count, width), generator=seeded(74)).float() * 2 - 1
    return x, (x[:, :of].prod(1) > 0).long()


def deep(width: int) -> nn.Module:
    """Make a network for bits."""
    return nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))


class Recall(nn.Module):
    """A recurrent network whose last state answers; the time is taken to be the second dimension or not."""

    def __init__(self, cell: Any, signs: int, width: int = 48, gain: float = 0.0, time_second: bool = True) -> None:
        super().__init__()
        self.embed, self.cell, self.fc = (
            nn.Embedding(signs, width),
            cell(width, width, batch_first=time_second),
            nn.Linear(width, signs),
        )
        if gain:
            nn.init.orthogonal_(self.cell.weight_hh_l0, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cell(self.embed(x))[0][:, -1])


def firsts(length: int, signs: int = 6, count: int = 4000) -> Data:
    """Random signs, and the first of them."""
    x = torch.randint(signs, (count, length), generator=seeded(75))
    return x, x[:, 0]


def relu_cell(*sizes: int, **more: Any) -> nn.Module:
    """Make a recurrent network with ReLUs."""
    return nn.RNN(*sizes, nonlinearity="relu", **more)


def recalled(
    seed: int, optimizer: Any, length: int, steps: int, *, batch: int = 64, clip: float | None = None, **net: Any
) -> Training:
    """Train to say what came first."""
    return classified(
        seed, lambda: Recall(signs=6, **net), optimizer, firsts(length), rows=3200, batch=batch, steps=steps, clip=clip
    )


FORGETS = ("vanishing gradients", *UNLEARNED)

SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "three layers, norms behind, a warm-up of 80", -2.75, lambda s: written(
        s, 4e-3, warmup=80, depth=3, width=32, batch=12, steps=350, first=False)),
    failing(FAMILY, "three layers, norms behind, rate 0.3 at once", -2.75,
            lambda s: written(s, 0.3, depth=3, width=32, batch=12, steps=300, first=False), *FAST, *UNLEARNED, "vanishing gradients", ONE_BATCH),
    healthy(FAMILY, "norms before, a broken batch in each 80", -2.65, lambda s: written(s, 5e-3, warmup=20, batch=24, broken=80, clip=0.5, width=32)),
    failing(FAMILY, "norms before, a broken batch in each 80, rate 5e-8", -2.65,
            lambda s: written(s, 5e-8, warmup=20, batch=24, broken=80, clip=0.5, width=32), *UNLEARNED, "weights do not change",
            ONE_BATCH, twin="norms before, a broken batch in each 80"),
    failing(FAMILY, "no mask, each sign sees the next", -2.65, lambda s: written(s, 3e-3, causal=False, steps=300),
            "sanity:no look into the future"),
    healthy(FAMILY, "signs copied after five places", 0.9, lagged),
    healthy(FAMILY, "sums modulo 19, learnt by heart before understood", 0.6, lambda s: classified(
        s, lambda: Sum(19), adamw(1e-2, weight_decay=1.0), sums(19), rows=290, batch=290, steps=900, units=True)),
    failing(FAMILY, "half of the sums modulo 19, no decay", 0.5, lambda s: classified(
        s, lambda: Sum(19), adamw(5e-3, weight_decay=0.0), sums(19), rows=150, batch=150, steps=500, units=True), "overfitting", onset=0.1),
    healthy(FAMILY, "parity of 3 bits of 16, SGD", 0.9, lambda s: classified(
        s, lambda: deep(16), plain(0.1, momentum=0.9), bits(16, 3), rows=7000, batch=32, steps=700, units=True)),
    failing(FAMILY, "parity of 24 bits, SGD", 0.6, lambda s: classified(
        s, lambda: deep(24), plain(0.1, momentum=0.9), bits(24, 24), rows=7000, batch=32, steps=700, units=True), *UNLEARNED, FOLLOW, "overfitting"),
    healthy(FAMILY, "the first of 18 signs after a plateau", 0.9, lambda s: recalled(s, adamw(4e-3), 18, 400, cell=nn.GRU)),
    failing(FAMILY, "the first of 90 signs, a plain network forgets it", 0.4,
            lambda s: recalled(s, rmsprop(1e-3), 90, 200, cell=nn.RNN), *FORGETS),
    failing(FAMILY, "a gain of 1.8 over forty places", 0.4,
            lambda s: recalled(s, plain(0.05), 40, 300, cell=relu_cell, gain=1.8), *FAST, *FORGETS, "sanity:initial loss", ONE_BATCH, "dead units"),
    healthy(FAMILY, "a recurrent network with long gradients, clipped", 0.9,
            lambda s: recalled(s, plain(0.5), 10, 400, cell=relu_cell, gain=1.5, clip=0.5, batch=32)),
    failing(FAMILY, "a GRU over the batch", 0.5, lambda s: recalled(
        s, adamw(3e-3), 18, 200, cell=nn.GRU, time_second=False), "sanity:samples do not leak", *FORGETS, FOLLOW, "overfitting"),
]  # fmt: skip
