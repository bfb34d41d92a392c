"""A fit whose detectors look at outputs of a million numbers a sample, without a parameter for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

import lightning_tricks as lt
from tests.distributed.counting import held_bytes
from tests.problems import Memory, sgd, trainer

EVERY, BATCH, BATCHES, PIXELS = 4, 8, 9, 64

DETECTORS: dict[str, Callable[[], Any]] = {
    "DeadUnits": lambda: lt.DeadUnits(["wide"], every_n_steps=EVERY),
    "GenerationDrift": lambda: lt.GenerationDrift(num_samples=64),
    "ModeCollapse": lambda: lt.ModeCollapse("generator", every_n_steps=EVERY),
    "PosteriorCollapse": lambda: lt.PosteriorCollapse("wide", "wide", every_n_steps=EVERY),
    "PredictionCollapse": lambda: lt.PredictionCollapse("wide", every_n_steps=EVERY),
    "RepresentationCollapse": lambda: lt.RepresentationCollapse("wide", every_n_steps=EVERY),
    "UsageCollapse": lambda: lt.UsageCollapse("wide", kind="router", every_n_steps=EVERY),
}


class Repeated(nn.ReLU):
    """Writes a sample several times, as an activation layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.times = -(-width // PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().repeat(1, self.times)


class WideClassifier(L.LightningModule):
    """A classifier with a layer of very many outputs, of which the loss uses the first ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.wide, self.generator = nn.Linear(PIXELS, PIXELS), Repeated(width), nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.generator(self.sample(len(batch[0])))
        return nn.functional.cross_entropy(self.wide(self.first(batch[0][:, :PIXELS])), batch[1])

    def sample(self, count: int) -> Tensor:
        return torch.rand(count, PIXELS).repeat(1, self.wide.times)

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters())


class Samples(Dataset[Any]):
    """Labelled points, written as often as the layer writes its input."""

    def __init__(self, width: int) -> None:
        self.times = -(-width // PIXELS)
        self.x, self.y = torch.rand(BATCH * BATCHES, PIXELS), torch.arange(BATCH * BATCHES) % 10

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i].repeat(self.times), self.y[i]


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operation makes, in bytes, and how many operations there are."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = [t.untyped_storage().nbytes() for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.nbytes, self.operations = max([self.nbytes, *made]), self.operations + 1
        return result


class Held(L.Callback):
    """Notes the most bytes that tricks hold at the begin of a batch."""

    def __init__(self) -> None:
        self.most = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.most = max(self.most, held_bytes(trainer, pl_module))


def measured(name: str | None, width: int) -> tuple[int, int, int, dict[str, float]]:
    """Fit; return the most bytes held between two batches, the largest tensor made, the operations, the last values."""
    held, largest, logger = Held(), Largest(), Memory()
    tricks = [] if name is None else [DETECTORS[name]()]
    with warnings.catch_warnings(), largest:
        warnings.simplefilter("ignore")
        t = trainer([*tricks, held], max_epochs=2, logger=logger, log_every_n_steps=EVERY)
        t.fit(WideClassifier(width), DataLoader(Samples(width), BATCH))
    return held.most, largest.nbytes, largest.operations, {k: v for _, row in logger.rows for k, v in row.items()}
