"""Graphs: convolutions, a graph autoencoder and graph classification with torch-geometric."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.strangers.trainings.training import Ready, Training


def _communities(nodes: int = 300, classes: int = 4) -> Any:
    """One graph of communities whose nodes have noisy features; half of them are held out."""
    from torch_geometric.data import Data
    from torch_geometric.utils import stochastic_blockmodel_graph, to_undirected

    generator = torch.Generator().manual_seed(0)
    sizes = [nodes // classes] * classes
    chances = torch.full((classes, classes), 0.01) + 0.09 * torch.eye(classes)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    edges = to_undirected(stochastic_blockmodel_graph(sizes, chances))
    torch.set_rng_state(state)
    y = torch.arange(classes).repeat_interleave(nodes // classes)
    centres = torch.randn(classes, 16, generator=generator)
    x = 0.5 * centres[y] + torch.randn(nodes, 16, generator=generator)
    known = torch.rand(nodes, generator=generator) < 0.5
    return Data(x=x, edge_index=edges, y=y, train_mask=known, test_mask=~known)


class _GCN(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.convs = nn.ModuleList(GCNConv(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs[:-1]:
            x = conv(x, edge_index).relu()
        return self.convs[-1](x, edge_index)  # type: ignore[no-any-return]


class _Nodes(L.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, data: Any, batch_idx: int) -> Tensor:
        out = self.model(data.x, data.edge_index)
        return F.cross_entropy(out[data.train_mask], data.y[data.train_mask])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=5e-4)


def nodes(depth: int) -> Ready:
    """The whole graph in each batch."""
    from torch_geometric.loader import DataLoader

    data = _communities()
    module = _Nodes(_GCN([16] + [32] * (depth - 1) + [4]))

    @torch.no_grad()
    def score() -> float:
        module.eval()
        right = module.model(data.x, data.edge_index).argmax(1) == data.y
        return float(right[data.test_mask].float().mean())

    return Ready(module, DataLoader([data], 1), score, trainer={"max_epochs": 120})


class _Rings(L.LightningModule):
    """Whether a graph has a ring in it: GIN and a sum over the nodes."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GIN, global_add_pool

        self.gin, self.head, self.pool = GIN(4, 32, 3, norm="batch_norm"), nn.Linear(32, 2), global_add_pool

    def forward(self, data: Any) -> Tensor:
        return self.head(self.pool(self.gin(data.x, data.edge_index), data.batch))  # type: ignore[no-any-return]

    def training_step(self, data: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(data), data.y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def _graphs(number: int, seed: int) -> list[Any]:
    """Trees, and trees with one more edge that closes a triangle."""
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(seed)
    graphs = []
    for index in range(number):
        size = int(torch.randint(8, 14, (), generator=generator))
        parents = [int(torch.randint(node, (), generator=generator)) for node in range(1, size)]
        edges = [(node + 1, parent) for node, parent in enumerate(parents)]
        if index % 2:
            first = next(node for node in range(2, size) if parents[node - 1] != 0)
            edges.append((first, parents[parents[first - 1] - 1]))
        pairs = torch.tensor([*edges, *[(b, a) for a, b in edges]]).T
        x = torch.cat([torch.ones(size, 1), torch.randn(size, 3, generator=generator)], 1)
        graphs.append(Data(x=x, edge_index=pairs, y=torch.tensor([index % 2])))
    return graphs


def rings() -> Ready:
    from torch_geometric.loader import DataLoader

    module = _Rings()

    @torch.no_grad()
    def score() -> float:
        module.eval()
        batch = next(iter(DataLoader(_graphs(300, 1), 300)))
        return float((module(batch).argmax(1) == batch.y).float().mean())

    return Ready(module, DataLoader(_graphs(640, 0), 32, shuffle=True), score, trainer={"max_epochs": 12})


class _Latent(nn.Module):
    """A mean and a log standard deviation of each node, as the package's example has them."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv, self.mu, self.logstd = GCNConv(16, 32), GCNConv(32, 8), GCNConv(32, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x, edge_index).relu()
        return self.mu(x, edge_index), self.logstd(x, edge_index)


class _Links(L.LightningModule):
    def __init__(self, share: float) -> None:
        super().__init__()
        from torch_geometric.nn import VGAE

        self.model, self.share = VGAE(_Latent()), share

    def training_step(self, data: Any, batch_idx: int) -> Tensor:
        z = self.model.encode(data.x, data.edge_index)
        loss = self.model.recon_loss(z, data.edge_index) + self.share * self.model.kl_loss()
        self.log("train_loss", loss)
        return loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def links(share: float) -> Ready:
    """Scored by how well the latent means tell the communities: nodes of one have neighbours of it."""
    from torch_geometric.loader import DataLoader

    data = _communities()
    module = _Links(share)

    @torch.no_grad()
    def score() -> float:
        module.eval()
        z = module.model.encode(data.x, data.edge_index)
        nearest = torch.cdist(z, z).fill_diagonal_(float("inf")).topk(10, largest=False).indices
        spread = float(z.var(0).mean())
        return float((data.y[nearest] == data.y[:, None]).float().mean()) if spread > 1e-3 else 0.25

    return Ready(module, DataLoader([data], 1), score, trainer={"max_epochs": 120})


_PACKAGE = ("torch_geometric",)
_LAYERS = {"RepresentationCollapse": {"layer": ["model.convs.0", "model.convs.8", "model.convs.14"]}}
_POSTERIOR = {"PosteriorCollapse": {"mean": "model.encoder.mu", "log_variance": "model.encoder.logstd"}}

TRAININGS = (
    Training("torch-geometric: communities", lambda: nodes(2), _PACKAGE, 0.8, activations=False),
    Training("torch-geometric: rings", rings, _PACKAGE, 0.8, {"PredictionCollapse": {"output": "head", "target": "y"}}),
    Training("torch-geometric: links", lambda: links(1 / 300), _PACKAGE, 0.5, _POSTERIOR, activations=False),
    Training(
        "torch-geometric: sixteen layers",
        lambda: nodes(16),
        _PACKAGE,
        0.8,
        _LAYERS,
        activations=False,
        mistake="sixteen graph convolutions without a residual connection",
    ),
    Training(
        "torch-geometric: links, sum of KL",
        lambda: links(10.0),
        _PACKAGE,
        0.5,
        _POSTERIOR,
        activations=False,
        mistake="the KL term has a weight of 10 in place of one over the number of nodes",
    ),
)
