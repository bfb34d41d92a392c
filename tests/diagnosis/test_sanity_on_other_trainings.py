"""SanityCheck on the ways in which other people write a training: none that is healthy may FAIL, and each bug is named.

Batches of every style and losses of every kind, after the documented examples of many libraries.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import WeightedRandomSampler

from tests.diagnosis.problems import (
    D,
    K,
    N,
    T,
    Task,
    V,
    checks,
    classes,
    cross_entropy,
    graph,
    language,
    load,
    mlp,
    network,
    of,
    repeated,
    tagger,
    text,
    warm_up,
    zero_head,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def regression(loss: Callable[[Tensor, Tensor], Any], out: int = 1, target: Any = None) -> Any:
    x, _ = classes()
    y = x[:, 0] - x[:, 1] if target is None else target(x)
    return Task(mlp(out), lambda self, b: loss(self.net(b[0]), b[1])), load(x, y)


Sample = namedtuple("Sample", ["image", "label"])


@dataclass
class Points:
    """A batch that no tree of tensors shows."""

    x: Tensor
    y: Tensor


class BatchEncoding(dict[str, Tensor]):
    """As transformers return it."""


def stacked(rows: Any) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def as_dict() -> Any:
    module = Task(mlp(), lambda self, b: {"loss": F.cross_entropy(self.net(b["x"]), b["y"])})
    return module, load(*classes(), collate=lambda r: dict(zip("xy", stacked(r), strict=True)))


def as_namedtuple() -> Any:
    module = Task(mlp(), lambda self, b: F.cross_entropy(self.net(b.image), b.label))
    return module, load(*classes(), collate=lambda r: Sample(*stacked(r)))


def as_dataclass() -> Any:
    module = Task(mlp(), lambda self, b: F.cross_entropy(self.net(b.x), b.y))
    return module, load(*classes(), collate=lambda r: Points(*stacked(r)))


def with_criterion() -> Any:
    module = Task(mlp(), lambda self, b: self.criterion(self.net(b[0]), b[1]))
    module.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0, 3.0]), label_smoothing=0.1)
    return module, load(*classes())


class Returns(nn.Module):
    """Returns its own loss, as transformers do."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(V, 24), nn.GRU(24, 24, batch_first=True), nn.Linear(24, V)
        self.causal = causal

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.mix(self.embed(input_ids))[0])
        if self.causal:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        else:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def encoded(masked: bool) -> Any:
    def collate(rows: Any) -> BatchEncoding:
        ids = torch.stack([x for (x,) in rows])
        labels = ids.clone()
        if masked:
            hidden = torch.rand(ids.shape) < 0.3
            hidden[0, 0] = True
            ids, labels = ids.masked_fill(hidden, 0), labels.masked_fill(~hidden, -100)
        else:
            labels[:, :2] = -100
        return BatchEncoding(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids))

    module = Task(Returns(causal=not masked), lambda self, b: self.net(**b)["loss"], 1e-2)
    return module, load(text(), collate=collate)


def with_lengths() -> Any:
    def collate(rows: Any) -> Any:
        lengths = torch.tensor([4 + i % 5 for i in range(len(rows))])
        x = nn.utils.rnn.pad_sequence([r[0][:n].float()[:, None] for r, n in zip(rows, lengths, strict=True)], True)
        return x, torch.stack([r[0][0] for r in rows]), lengths

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, V)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.rnn(packed)[1][0][-1])

    return Task(Net(), lambda self, b: F.cross_entropy(self.net(b[0], b[2]), b[1]), 1e-2), load(text(), collate=collate)


def ctc() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(V, 16), nn.Linear(16, V)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x)).log_softmax(-1).transpose(0, 1)  # [T, n, V]

    def step(self: Any, b: Any) -> Tensor:
        sizes = torch.full((len(b[0]),), T), torch.full((len(b[0]),), 3)
        return F.ctc_loss(self.net(b[0]), b[1], *sizes)

    x = text()
    return Task(Net(), step), load(x, 1 + x[:, :3] % (V - 1))


def random_field() -> Any:
    """A conditional random field over four tags: its loss is the score of all ways less that of the right one."""

    def step(self: Any, b: Any) -> Tensor:
        scores = self.net(b[0].unsqueeze(-1).float() / V)
        right = scores.gather(2, b[1].unsqueeze(-1)).squeeze(-1).sum(1)
        right = right + self.moves[b[1][:, :-1], b[1][:, 1:]].sum(1)
        total = scores[:, 0]
        for t in range(1, T):
            total = (total.unsqueeze(2) + self.moves).logsumexp(1) + scores[:, t]
        return (total.logsumexp(1) - right).mean()

    module = Task(mlp(K, 1), step)
    module.moves = nn.Parameter(torch.zeros(K, K))
    x = text()
    return module, load(x, x % K)


def contrastive(kind: str) -> Any:
    def step(self: Any, b: Any) -> Any:
        x = b[0]
        one, two = (self.net(x + 0.1 * torch.randn_like(x)) for _ in range(2))
        if kind == "SimCLR":
            z = F.normalize(torch.cat([one, two]), dim=1)
            same = torch.arange(len(z)).roll(len(x))
            return F.cross_entropy((z @ z.T / 0.5).fill_diagonal_(-1e9), same)
        if kind == "VICReg":
            spread = F.relu(1 - (one.var(0) + 1e-4).sqrt()).mean()
            return F.mse_loss(one, two) + spread
        if kind == "triplets":
            return F.triplet_margin_loss(one, two, one.roll(1, 0))
        if kind == "negative cosine":
            return -F.cosine_similarity(self.top(one), two.detach()).mean()
        with torch.no_grad():
            aim = self.teacher(x)
        return 2 - 2 * F.cosine_similarity(self.top(one), aim).mean()

    module = Task(mlp(8), step)
    if kind in ("BYOL", "negative cosine"):
        module.top = nn.Linear(8, 8)
    if kind == "BYOL":
        module.teacher = deepcopy(module.net)
    return module, load(*classes())


def clip() -> Any:
    def step(self: Any, b: Any) -> Tensor:
        one, two = F.normalize(self.net(b[0]), dim=1), F.normalize(self.other(b[1]), dim=1)
        logits = self.scale.exp() * one @ two.T
        here = torch.arange(len(logits))
        return (F.cross_entropy(logits, here) + F.cross_entropy(logits.T, here)) / 2

    module = Task(mlp(8), step)
    module.other, module.scale = mlp(8), nn.Parameter(torch.tensor(1.0))
    x, _ = classes()
    return module, load(x, x.flip(1) * 2)


def supervised_contrastive() -> Any:
    def step(self: Any, b: Any) -> Tensor:
        z = F.normalize(self.net(b[0]), dim=1)
        logits = (z @ z.T / 0.5).fill_diagonal_(-1e9)
        same = (b[1][:, None] == b[1]).float().fill_diagonal_(0)
        return -(same * logits.log_softmax(1)).sum(1).div(same.sum(1).clamp(min=1)).mean()

    return Task(mlp(8), step), load(*classes())


def focal(logits: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, y, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).mean()


def several_tasks() -> Any:
    def step(self: Any, b: Any) -> Any:
        h = self.net(b[0])
        parts = F.cross_entropy(self.a(h), b[1]["a"]), F.mse_loss(self.b(h).squeeze(1), b[1]["b"])
        return {"loss": parts[0] + 0.3 * parts[1], "logits": self.a(h).detach()}

    module = Task(mlp(24), step)
    module.a, module.b = nn.Linear(24, K), nn.Linear(24, 1)
    x, y = classes()

    def collate(rows: Any) -> Any:
        x, y = stacked(rows)
        return x, {"a": y, "b": x[:, 0]}

    return module, load(x, y, collate=collate)


def variational() -> Any:
    def step(self: Any, b: Any) -> Tensor:
        mean, log_variance = self.net(b[0]).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return ((self.back(z) - b[0]).square().sum(1) + kl).mean()

    module = Task(mlp(8), step)
    module.back = mlp(D, 4)
    return module, load(*classes())


def autoencoder(bounded: bool) -> Any:
    x, _ = classes()
    net = nn.Sequential(mlp(4), nn.ReLU(), mlp(D, 4, *([nn.Sigmoid()] if bounded else [])))
    loss = F.binary_cross_entropy if bounded else F.mse_loss
    return Task(net, lambda self, b: loss(self.net(b[0]), b[0])), load((x.sigmoid() * 30 - 15).clamp(0, 1))


def diffusion() -> Any:
    """The last layer begins at zero, and the target is drawn anew each time."""

    def step(self: Any, b: Any) -> Tensor:
        noise, t = torch.randn_like(b[0]), torch.rand(len(b[0]), 1)
        return F.mse_loss(self.net(torch.cat([(1 - t) * b[0] + t * noise, t], 1)), noise)

    net = mlp(D, D + 1)
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    return Task(net, step), load(*classes())


class LowRank(nn.Module):
    """A frozen layer with two small factors beside it, of which one begins at zero."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.down, self.up = nn.Linear(inner.in_features, 2, bias=False), nn.Linear(2, inner.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x))


class ReZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.alpha = nn.Linear(D, D), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.inner(x).relu()


def frozen_backbone() -> Any:
    module, data = network(nn.Sequential(nn.Linear(D, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, K)))
    module.net[:3].requires_grad_(False).eval()
    return module, data


def linear_probe() -> Any:
    """The backbone is not frozen, but called under no_grad; it was trained, so its weights are not those of a new one."""

    def step(self: Any, b: Any) -> Tensor:
        with torch.no_grad():
            h = self.net(b[0])
        return F.cross_entropy(self.head(h), b[1])

    backbone = mlp(24)
    adam = torch.optim.Adam(backbone.parameters(), lr=1e-2)
    for _ in range(50):  # to tell the classes apart, for another task
        x, y = classes()
        adam.zero_grad()
        F.cross_entropy(backbone(x)[:, :K], y).backward()
        adam.step()
    module = Task(backbone, step, 1e-2)
    module.head = nn.Linear(24, K)
    return module, load(*classes())


def few_positives() -> Any:
    x, y = classes()
    y = ((y == 0) & (torch.arange(N) % 20 == 0)).float()
    return Task(mlp(1), lambda self, b: F.binary_cross_entropy_with_logits(self.net(b[0]).squeeze(1), b[1])), load(x, y)


def policy() -> Any:
    """REINFORCE: the loss is no measure of success."""

    def step(self: Any, b: Any) -> Tensor:
        chances = torch.distributions.Categorical(logits=self.net(b[0]))
        action = chances.sample()
        reward = (action == b[1]).float()
        return -(chances.log_prob(action) * (reward - reward.mean())).mean()

    return Task(mlp(), step), load(*classes())


def balanced() -> Any:
    x, y = classes()
    y = (y == 0).long()
    sampler = WeightedRandomSampler(torch.where(y == 1, 3.0, 1.0), N)
    return network(mlp(2))[0], load(x, y, shuffle=False, sampler=sampler)


def windows() -> Any:
    """A series, in its order: each sample is the one before, a step further."""
    series = torch.arange(300) / 20
    rows = (series.sin() + 0.2 * series).unfold(0, 13, 1)
    x, y = rows[:, :12].clone(), rows[:, 12].clone()
    return Task(mlp(1, 12), lambda self, b: F.mse_loss(self.net(b[0]).squeeze(1), b[1])), load(x, y, shuffle=False)


HEALTHY: dict[str, Callable[[], Any]] = {
    "a dict": as_dict,
    "a namedtuple": as_namedtuple,
    "a dataclass": as_dataclass,
    "a criterion with class weights and label smoothing": with_criterion,
    "the model returns its loss": lambda: encoded(masked=False),
    "masked language model": lambda: encoded(masked=True),
    "sequences with lengths": with_lengths,
    "CTC": ctc,
    "conditional random field": random_field,
    **{k: lambda k=k: contrastive(k) for k in ("SimCLR", "VICReg", "triplets", "negative cosine", "BYOL")},
    "CLIP": clip,
    "supervised contrastive": supervised_contrastive,
    "focal loss": lambda: of(focal),
    "hinge loss": lambda: of(F.multi_margin_loss),
    "NLL after log_softmax": lambda: of(F.nll_loss, K, nn.LogSoftmax(1)),
    "NLL of probabilities": lambda: of(lambda p, y: F.nll_loss(p.clamp(min=1e-9).log(), y), K, nn.Softmax(1)),
    "KL divergence": lambda: of(
        lambda z, y: F.kl_div(z.log_softmax(1), F.one_hot(y, K) * 0.8 + 0.05, reduction="batchmean")
    ),
    "summed cross entropy with Adam": lambda: of(lambda z, y: F.cross_entropy(z, y, reduction="sum")),
    "two classes, one logit": lambda: of(
        lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(1), (y > 1).float()), 1
    ),
    "one against all": lambda: of(lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, K).float())),
    "squared error": lambda: regression(lambda p, y: F.mse_loss(p.squeeze(1), y)),
    "Huber loss": lambda: regression(lambda p, y: F.smooth_l1_loss(p, y.unsqueeze(1))),
    "Poisson": lambda: regression(lambda p, y: F.poisson_nll_loss(p.squeeze(1), y.abs().round())),
    "Gaussian likelihood": lambda: regression(
        lambda p, y: F.gaussian_nll_loss(p[:, 0], y, F.softplus(p[:, 1]) + 1e-3), 2
    ),
    "quantiles": lambda: regression(
        lambda p, y: torch.maximum(0.9 * (y[:, None] - p), 0.1 * (p - y[:, None])).mean(), 1
    ),
    "heavy tails": lambda: regression(lambda p, y: F.mse_loss(p.squeeze(1), y), 1, lambda x: x[:, 0] ** 3),
    "several tasks": several_tasks,
    "variational autoencoder": variational,
    "autoencoder": lambda: autoencoder(bounded=False),
    "autoencoder with a sigmoid at its end": lambda: autoencoder(bounded=True),
    "diffusion": diffusion,
    "a head that begins at zero": zero_head,
    "LoRA": lambda: network(nn.Sequential(LowRank(nn.Linear(D, 24)), nn.ReLU(), LowRank(nn.Linear(24, K))), 1e-4),
    "ReZero": lambda: network(nn.Sequential(ReZero(), ReZero(), nn.Linear(D, K))),
    "a frozen backbone in eval mode": frozen_backbone,
    "a linear probe under no_grad": linear_probe,
    "a rate for fine-tuning": lambda: network(mlp(), 1e-6),
    "a warm-up from 0": warm_up,
    "dropout 0.8": lambda: network(nn.Sequential(nn.Linear(D, 24), nn.Dropout(0.8), nn.ReLU(), nn.Linear(24, K))),
    "language model, recurrent": lambda: language("recurrent"),
    "language model, transformer": lambda: language("transformer"),
    "tagger": tagger,
    "graph": graph,
    "few positives": few_positives,
    "policy gradient": policy,
    "a sampler that balances classes": balanced,
    "windows of a series": windows,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_of_any_style_fails_no_check(name: str) -> None:
    torch.manual_seed(0)
    found = checks(*HEALTHY[name]())
    assert not [(c.name, c.evidence, c.fix) for c in found.values() if c.passed is False]


# -- the same, with a bug ---------------------------------------------------------------------------------------------


def sorted_by_label() -> Any:
    x, y = classes()
    order = y.argsort()
    return network(mlp())[0], load(x[order], y[order], shuffle=False)


def sorted_by_target() -> Any:
    x, _ = classes()
    y, order = x[:, 0].sort()
    return Task(mlp(1), lambda self, b: F.mse_loss(self.net(b[0]).squeeze(1), b[1])), load(x[order], y, shuffle=False)


def left_in_eval() -> Any:
    module, data = network(nn.Sequential(nn.Linear(D, 24), nn.Dropout(0.3), nn.ReLU(), nn.Linear(24, K)))
    module.net.eval()
    return module, data


def norm_left_in_eval() -> Any:
    module, data = network(nn.Sequential(nn.Linear(D, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, K)))
    module.net.eval()
    return module, data


def attention_over_the_batch() -> Any:
    """``batch_first`` is forgotten, so sentences look at each other."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(V, 16), nn.Linear(16, K)
            self.attention = nn.MultiheadAttention(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            return self.head((h + self.attention(h, h, h)[0]).mean(1))

    x = text()
    return Task(Net(), lambda self, b: F.cross_entropy(self.net(b[0]), b[1])), load(x, x[:, 0] % K)


class Replaced(Task):
    """The head is replaced after the optimizer was made."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        self.net[2] = nn.Linear(24, K)
        return optimizer


class Uncleared(Task):
    def optimizer_zero_grad(self, *arguments: Any) -> None:
        return None


class Steep(Task):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=30.0)


def slope() -> tuple[Tensor, Tensor]:
    x, _ = classes()
    return x, x[:, 0] - x[:, 1]


def squares(self: Any, b: Any) -> Tensor:
    return F.mse_loss(self.net(b[0]).squeeze(1), b[1])


def binary(*last: nn.Module) -> Any:
    x, y = classes()

    def step(self: Any, b: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.net(b[0]).squeeze(1), b[1])

    return Task(mlp(1, D, *last), step), load(x, (y > 1).float())


BROKEN: dict[str, tuple[Callable[[], Any], str, str]] = {
    "softmax module": (lambda: of(F.cross_entropy, K, nn.Softmax(1)), "initial loss", "softmax was applied twice"),
    "softmax function": (
        lambda: of(lambda z, y: F.cross_entropy(z.softmax(1), y)),
        "initial loss",
        "softmax was applied twice",
    ),
    "softmax over the batch": (
        lambda: of(lambda z, y: F.nll_loss(z.softmax(0).log(), y)),
        "initial loss",
        "a softmax over the samples of a batch",
    ),
    "sigmoid twice": (
        lambda: binary(nn.Sigmoid()),
        "initial loss",
        "sigmoid was applied twice",
    ),
    "flipped sign": (lambda: of(lambda z, y: -F.cross_entropy(z, y)), "initial loss", "minus the cross entropy"),
    "broadcast": (
        lambda: regression(lambda p, y: (p - y).abs().sqrt().mean()),
        "shapes of outputs and labels",
        "makes (16, 16) pairs",
    ),
    "broadcast squares": (lambda: regression(F.mse_loss), "shapes of outputs and labels", "squeeze the prediction"),
    "labels of other copies": (lambda: repeated(False), "shapes of outputs and labels", "repeat_interleave"),
    "no causal mask": (lambda: language("transformer", causal=False), "no look into the future", "a causal mask"),
    "left in eval": (left_in_eval, "modules are in training mode", "net.1"),
    "BatchNorm left in eval": (norm_left_in_eval, "modules are in training mode", "net.1"),
    "sorted labels": (sorted_by_label, "data are shuffled", "shuffle=True"),
    "sorted targets": (sorted_by_target, "data are shuffled", "shuffle=True"),
    "attention over the batch": (attention_over_the_batch, "samples do not leak", "batch_first"),
    "head replaced": (
        lambda: (Replaced(mlp(), cross_entropy), load(*classes())),
        "all parameters learn",
        "net.2.weight",
    ),
    "gradients kept": (
        lambda: (Uncleared(mlp(), cross_entropy), load(*classes())),
        "all parameters learn",
        "gradients are never cleared",
    ),
    "rate too high": (lambda: (Steep(mlp(1), squares), load(*slope())), "overfits one batch", "NaN or inf"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bug_is_found_and_named(name: str) -> None:
    torch.manual_seed(0)
    make, row, words = BROKEN[name]
    check = checks(*make())[row]
    assert check.mark == "FAIL", check
    assert words in f"{check.evidence} {check.fix}"
