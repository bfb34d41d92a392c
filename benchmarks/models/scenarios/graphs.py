"""Graph networks, full batch: every step sees the same graph, of which few nodes have a label that counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Training

Graph = tuple[Tensor, Tensor, Tensor]  # features [n, d], adjacency [n, n] of zeros and ones, labels [n]


@lru_cache
def neighbours(count: int = 500, k: int = 6) -> Graph:
    """Digits, each joined to its nearest ones; their pixels are noisy, so that the graph helps."""
    generator = torch.Generator().manual_seed(17)
    x, y = t.digits()
    chosen = torch.randperm(len(x), generator=generator)[:count]
    x, y = x[chosen], y[chosen]
    near = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(k, largest=False).indices
    joined = torch.zeros(count, count).scatter(1, near, 1.0)
    return x + 0.4 * torch.randn(x.shape, generator=generator), torch.maximum(joined, joined.T), y


@lru_cache
def communities(count: int = 400, groups: int = 4) -> Graph:
    """Four groups whose members are joined ten times more often; the features say little."""
    generator = torch.Generator().manual_seed(19)
    y = torch.arange(count) % groups
    chance = torch.where(y[:, None] == y, 0.10, 0.01)
    upper = (torch.rand(count, count, generator=generator) < chance).float().triu(1)
    x = 0.5 * F.one_hot(y, 16).float() + torch.randn(count, 16, generator=generator)
    return x, upper + upper.T, y


def normalised(joined: Tensor) -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2."""
    with_self = joined + torch.eye(len(joined))
    scale = with_self.sum(1).rsqrt()
    return scale[:, None] * with_self * scale


class Convolution(nn.Module):
    """A linear map and the mean over neighbours; options: what came in, or the first features, are added."""

    def __init__(self, width: int, residual: bool, norm: bool) -> None:
        super().__init__()
        self.linear, self.residual = nn.Linear(width, width), residual
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, h: Tensor, joined: Tensor) -> Tensor:
        out = F.relu(joined @ self.linear(self.norm(h)))
        return h + out if self.residual else out


class GraphNetwork(nn.Module):
    """Graph convolutions between two linear layers."""

    def __init__(
        self, inputs: int, classes: int, depth: int, *, residual: bool = False, norm: bool = False, width: int = 32
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(Convolution(width, residual, norm) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width) if norm else nn.Identity(), nn.Linear(width, classes))

    def forward(self, x: Tensor, joined: Tensor) -> Tensor:
        h = F.relu(self.enter(x))
        for layer in self.layers:
            h = layer(h, joined)
        return self.head(h)


class GraphAttention(nn.Module):
    """Two layers of attention over neighbours."""

    def __init__(self, inputs: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(width, width)])
        self.ask = nn.ParameterList(nn.Parameter(0.1 * torch.randn(2, width)) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, joined: Tensor) -> Tensor:
        for layer, ask in zip(self.layers, self.ask, strict=True):
            h = layer(x)
            logits = F.leaky_relu((h @ ask[0])[:, None] + h @ ask[1], 0.2)
            x = F.elu(logits.masked_fill(joined == 0, -1e9).softmax(1) @ h)
        return self.head(x)


class NodeClassification(L.LightningModule):
    """Classifies nodes; the batch is the whole graph, always the same."""

    def __init__(self, net: nn.Module, lr: float, decay: float) -> None:
        super().__init__()
        self.net, self.lr, self.decay = net, lr, decay

    def forward(self, graph: dict[str, Tensor]) -> Tensor:
        return self.net(graph["x"], graph["adjacency"])

    def training_step(self, graph: dict[str, Tensor], batch_idx: int) -> Any:
        logits = self(graph)
        labels = graph["y"].masked_fill(~graph["train"], -100)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

    def validation_step(self, graph: dict[str, Tensor], batch_idx: int) -> None:
        mask = ~graph["train"]
        self.log("val_loss", F.cross_entropy(self(graph)[mask], graph["y"][mask]), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.decay)


def nodes(
    seed: int,
    graph: Callable[[], Graph],
    net: Callable[[int, int], nn.Module],
    *,
    lr: float = 1e-2,
    decay: float = 5e-4,
    labelled: float = 0.2,
    steps: int = 200,
    prepare: Callable[[Tensor], Tensor] = normalised,
    layer: str | list[str] = "net.enter",
    spoil: Callable[[Graph, torch.Generator], Graph] | None = None,
) -> Training:
    """Train on one graph; score: accuracy on the nodes without a label."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, joined, y = graph() if spoil is None else spoil(graph(), generator)
    train = torch.rand(len(y), generator=generator) < labelled
    whole = {"x": x, "adjacency": prepare(joined), "y": y, "train": train}

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        return float((module(whole).argmax(-1) == y)[~train].float().mean())

    detectors: dict[str, dict[str, Any]] = {
        "TrainingDoctor": {},
        "PredictionCollapse": {"target": "labels"},
        "RepresentationCollapse": {"layer": layer},
    }
    module = NodeClassification(net(x.shape[1], int(y.max()) + 1), lr, decay)
    data = Batches(steps, lambda g, i: whole, seed)
    return Training(module, data, steps, detectors, [whole], every=25, score=score)


def every_second(depth: int) -> list[str]:
    """Names of layers at several depths."""
    return [f"net.layers.{i}" for i in range(0, depth, max(1, depth // 6))]


def other_order(graph: Graph, generator: torch.Generator) -> Graph:
    """The edges are numbered in another order than the nodes."""
    order = torch.randperm(len(graph[2]), generator=generator)
    return graph[0], graph[1][order][:, order], graph[2]


def raw(joined: Tensor) -> Tensor:
    """Sums over neighbours."""
    return joined + torch.eye(len(joined))


DIGITS, GROUPS = 0.7, 0.5  # by chance: 0.1 and 0.25

SCENARIOS: list[Scenario] = [
    healthy(
        "graphs",
        "graph network of depth 2 on digits",
        DIGITS,
        lambda s: nodes(s, neighbours, lambda i, k: GraphNetwork(i, k, 2), layer=every_second(2)),
    ),
    failing(
        "graphs",
        "graph network of depth 24 on digits",
        DIGITS,
        lambda s: nodes(s, neighbours, lambda i, k: GraphNetwork(i, k, 24), layer=every_second(24), steps=120),
        "oversmoothing",
        "complete collapse",
        "dimensional collapse",
        "vanishing gradients",
        "prediction collapse",
        "inputs ignored",
    ),
    healthy(
        "graphs",
        "graph network of depth 24 with residuals",
        DIGITS,
        lambda s: nodes(
            s,
            neighbours,
            lambda i, k: GraphNetwork(i, k, 24, residual=True, norm=True),
            layer=every_second(24),
            lr=2e-3,
            steps=120,
        ),
    ),
    healthy(
        "graphs",
        "communities, one node of ten has a label",
        GROUPS,
        lambda s: nodes(s, communities, lambda i, k: GraphNetwork(i, k, 2), labelled=0.1, layer=every_second(2)),
    ),
    failing(
        "graphs",
        "communities, depth 24",
        GROUPS,
        lambda s: nodes(s, communities, lambda i, k: GraphNetwork(i, k, 24), layer=every_second(24), steps=120),
        "oversmoothing",
        "complete collapse",
        "dimensional collapse",
        "vanishing gradients",
        "prediction collapse",
        "inputs ignored",
        twin="communities, one node of ten has a label",
    ),
    healthy(
        "graphs",
        "attention over neighbours",
        DIGITS,
        lambda s: nodes(s, neighbours, GraphAttention, layer=["net.layers.0", "net.layers.1"]),
    ),
    failing(
        "graphs",
        "communities, sums over neighbours, rate 1",
        GROUPS,
        lambda s: nodes(s, communities, lambda i, k: GraphNetwork(i, k, 6), prepare=raw, lr=1.0, layer=every_second(6)),
        "divergence",
        "learning rate too high",
        "loss spikes",
        "non-finite values",
        "dead units",
        "prediction collapse",
        "inputs ignored",
    ),
    failing(
        "graphs",
        "digits, edges numbered in another order",
        DIGITS,
        lambda s: nodes(s, neighbours, lambda i, k: GraphNetwork(i, k, 2), spoil=other_order, layer=every_second(2)),
        "overfitting",
        "labels do not follow from inputs",
        "oversmoothing",
    ),
]
