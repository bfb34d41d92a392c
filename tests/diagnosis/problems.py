"""What several tests of diagnosis train or compare: modules, data and functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import SanityCheck
from tests.problems import trainer

N, D, K, T, V = 192, 12, 4, 10, 16


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classes() -> tuple[Tensor, Tensor]:
    """Four groups of points."""
    y = torch.randint(K, (N,), generator=numbers())
    centres = 2 * torch.randn(K, D, generator=numbers(1))
    return centres[y] + torch.randn(N, D, generator=numbers(2)), y


def text() -> Tensor:
    """Sequences in which each token follows from the one before."""
    start = torch.randint(V, (N, 1), generator=numbers())
    return (start + 3 * torch.arange(T)) % V


class Task(L.LightningModule):
    """A network, a step and a rate."""

    def __init__(self, net: nn.Module, step: Callable[[Any, Any], Any], lr: float = 3e-3) -> None:
        super().__init__()
        self.net, self.step, self.lr = net, step, lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(self, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)


def mlp(out: int = K, into: int = D, *last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(into, 24), nn.ReLU(), nn.Linear(24, out), *last)


def load(*tensors: Tensor, collate: Any = None, **more: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), 16, collate_fn=collate, **{"shuffle": True, **more})


def of(loss: Callable[[Tensor, Tensor], Any], out: int = K, *last: nn.Module) -> Any:
    """A training of four classes with a loss of its own."""
    return Task(mlp(out, D, *last), lambda self, b: loss(self.net(b[0]), b[1])), load(*classes())


def network(net: nn.Module, lr: float = 3e-3) -> Any:
    return Task(net, lambda self, b: F.cross_entropy(self.net(b[0]), b[1]), lr), load(*classes())


def zero_head() -> Any:
    net = mlp()
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    return network(net)


def warm_up() -> Any:
    class Warm(Task):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 50, 1.0))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Warm(mlp(), lambda self, b: F.cross_entropy(self.net(b[0]), b[1])), load(*classes())


def language(kind: str, causal: bool = True) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(V, 24), nn.Linear(24, V)
            self.body: nn.Module = nn.GRU(24, 24, batch_first=True, bidirectional=False)
            if kind == "transformer":
                self.body = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            if kind == "transformer":
                mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if causal else None
                return self.head(self.body(h, src_mask=mask, is_causal=causal))
            return self.head(self.body(h)[0])

    def step(self: Any, b: Any) -> Tensor:
        x, y = (b[0][:, :-1], b[0][:, 1:]) if len(b) == 1 else b
        return F.cross_entropy(self.net(x).flatten(0, 1), y.flatten())

    tokens = (text(),) if kind == "transformer" else (text()[:, :-1], text()[:, 1:])
    return Task(Net(), step, 1e-2), load(*tokens)


def tagger() -> Any:
    """Both directions, as it should be for tags."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(V, 16), nn.Linear(32, K)
            self.rnn = nn.GRU(16, 16, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0])

    x = text()
    y = x.roll(-1, 1) % K
    return Task(Net(), lambda self, b: F.cross_entropy(self.net(b[0]).transpose(1, 2), b[1]), 1e-2), load(x, y)


def graph() -> Any:
    """One graph, the same in each step; a part of its nodes has labels."""
    x, y = classes()
    adjacency = (y[:, None] == y).float() / N

    def step(self: Any, b: Any) -> Tensor:
        logits = self.net(b["adjacency"] @ b["x"])
        return F.cross_entropy(logits[b["mask"]], b["y"][b["mask"]])

    batch = {"x": x, "y": y, "adjacency": adjacency, "mask": torch.arange(N) % 3 == 0}
    return Task(mlp(), step), DataLoader([batch], batch_size=None)


def checks(module: Any, data: Any, **more: Any) -> dict[str, Any]:
    check = SanityCheck()
    torch.manual_seed(0)
    trainer([check], max_steps=1).fit(module, data, **more)
    assert check.checks
    return {c.name: c for c in check.checks}


GROUPS = ("initial_loss", "overfit_batch", "input_matters", "sample_independence")


def failed_of(group: str, module: Any, data: Any) -> dict[str, str]:
    """What fails in one group of experiments: {row: evidence}; they must have been run."""
    check = SanityCheck(**{name: name == group for name in GROUPS})  # type: ignore[arg-type]
    torch.manual_seed(0)
    trainer([check], max_steps=1).fit(module, data)
    assert check.checks
    return {c.name: c.evidence for c in check.checks if c.passed is False}


def repeated(right: bool) -> Any:
    """Two copies of each sample, and the labels of others."""

    def step(self: Any, b: Any) -> Tensor:
        x = b[0].repeat_interleave(2, 0)
        y = b[1].repeat_interleave(2) if right else b[1].repeat(2)
        return F.cross_entropy(self.net(x + 0.01 * torch.randn_like(x)), y)

    return Task(mlp(), step), load(*classes())


def cross_entropy(self: Any, b: Any) -> Tensor:
    return F.cross_entropy(self.net(b[0]), b[1])
