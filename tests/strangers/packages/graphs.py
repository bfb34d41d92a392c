"""Graphs: loaders of torch_geometric, with a module as its documentation writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from tests.strangers.stranger import QUIET, Stranger


def _graph(seed: int, nodes: int) -> Any:
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(nodes, (2, 3 * nodes), generator=generator)
    x = torch.randn(nodes, 6, generator=generator)
    return Data(x=x, edge_index=edges, y=(x.sum(1) > 0).long())


def _graphs() -> list[Any]:
    return [_graph(i, 5 + i % 4) for i in range(32)]


class _GraphNetwork(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GraphSAGE

        self.gnn = GraphSAGE(6, 16, num_layers=2, out_channels=2, dropout=0.1, norm="BatchNorm")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.gnn(batch.x, batch.edge_index)
        loss = nn.functional.cross_entropy(logits, batch.y)
        self.log("train_loss", loss, batch_size=batch.num_nodes, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def _fit(loader: Any, callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None) -> None:
    trainer = L.Trainer(callbacks=callbacks, **{**QUIET, "max_epochs": 2, **arguments})
    trainer.fit(_GraphNetwork(), loader, ckpt_path=checkpoint)


def small_graphs(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    from torch_geometric.data.lightning import LightningDataset

    L.seed_everything(0, verbose=False)
    _fit(LightningDataset(_graphs(), batch_size=4, num_workers=0), callbacks, arguments, checkpoint)


def parts_of_one_graph(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    from torch_geometric.loader import RandomNodeLoader

    L.seed_everything(0, verbose=False)
    _fit(RandomNodeLoader(_graph(0, 80), num_parts=6, shuffle=True), callbacks, arguments, checkpoint)


def batches_of_changing_size(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    from torch_geometric.loader import DataLoader, DynamicBatchSampler

    L.seed_everything(0, verbose=False)
    graphs = _graphs()
    sampler = DynamicBatchSampler(graphs, max_num=30, mode="node", shuffle=True, num_steps=6)
    _fit(DataLoader(graphs, batch_sampler=sampler), callbacks, arguments, checkpoint)


def cached_batches(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    """A loader that is not a ``DataLoader``, and that keeps the batches of its first pass for all others."""
    from torch_geometric.loader import CachedLoader, DataLoader

    L.seed_everything(0, verbose=False)
    loader = CachedLoader(DataLoader(_graphs(), batch_size=4, shuffle=True), device=torch.device("cpu"))
    _fit(loader, callbacks, arguments, checkpoint)


_GEOMETRIC: dict[str, Any] = {
    "package": "torch-geometric",
    "imports": ("torch_geometric", "torch_geometric.loader", "torch_geometric.data.lightning"),
}
_ONE_GRAPH: dict[str, Any] = {  # parts of it are no samples: each holds some of the nodes
    "conflicts": {"GradientAccumulation": "holds tensors whose first dimensions differ"},
    "arguments": {"GradientAccumulation": {"weight": "equal"}},
}

STRANGERS = (
    Stranger("torch-geometric LightningDataset", small_graphs, **_GEOMETRIC),
    Stranger("torch-geometric RandomNodeLoader", parts_of_one_graph, **_GEOMETRIC, **_ONE_GRAPH),
    Stranger("torch-geometric DynamicBatchSampler", batches_of_changing_size, **_GEOMETRIC),
    Stranger("torch-geometric CachedLoader", cached_batches, saved_at=8, **_GEOMETRIC),  # (the last of an epoch)
)
