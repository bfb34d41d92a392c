"""What a callback costs on a network of very many layers or parameter groups: calls at the begin, at a step, at a log."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import lightning_tricks as lt
from benchmarks.growth import CLASSES, WIDTH, Calls, learnable
from benchmarks.quiet import loggers_silent

EVERY = 4  # updates between two logs; the batches 2 and 7 of the counts below are not logged and logged
_QUIET, _LOGGED, _BATCHES = 5, 7, 9
PARTS = ("start", "quiet", "logged", "end")

CALLBACKS: dict[str, Callable[[], Any]] = {
    "DeadUnits": lambda: lt.DeadUnits(every_n_steps=EVERY),
    "ExactResume": lt.ExactResume,
    "FP32Islands": lambda: lt.FP32Islands(["*"]),
    "GenerationDrift": lambda: lt.GenerationDrift(num_samples=32),
    "GradientAccumulation": lambda: lt.GradientAccumulation(1, lr_scaling="linear"),
    "GradientClip": lambda: lt.GradientClip(lt.AdaGC(), per="layer"),
    "GradientMonitor": lambda: lt.GradientMonitor(update_ratio=True),
    "LRFinder": lambda: lt.LRFinder(num_steps=10),
    "LRSchedule": lambda: lt.LRSchedule("cosine", warmup=2),
    "LossScaleGuard": lt.LossScaleGuard,
    "MemoryDoctor": lambda: lt.MemoryDoctor(every_n_steps=EVERY),
    "ModeCollapse": lambda: lt.ModeCollapse("generator", every_n_steps=EVERY),
    "PosteriorCollapse": lambda: lt.PosteriorCollapse("head", "head", every_n_steps=EVERY),
    "PrecisionDoctor": lambda: lt.PrecisionDoctor(every_n_steps=EVERY),
    "PredictionCollapse": lambda: lt.PredictionCollapse("head", every_n_steps=EVERY),
    "ProgressMetrics": lt.ProgressMetrics,
    "RepresentationCollapse": lambda: lt.RepresentationCollapse("generator", every_n_steps=EVERY),
    "ResumeGuard": lt.ResumeGuard,
    "SanityCheck": lambda: lt.SanityCheck(overfit_batch=False),
    "TrainingDoctor": lambda: lt.TrainingDoctor(reference_batch=True, every_n_steps=EVERY),
    "UsageCollapse": lambda: lt.UsageCollapse("head", every_n_steps=EVERY),
}


class Wide(L.LightningModule):
    """Many small residual layers; optionally many parameter groups.

    Args:
        layers: linear layers with a ReLU each.
        groups: parameter groups, over which the layers are divided.
    """

    def __init__(self, layers: int, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.groups = groups
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(layers))
        self.generator, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x) / len(self.layers)
        return self.head(self.generator(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def sample(self, count: int) -> Tensor:
        return self.generator(torch.randn(count, WIDTH))

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        groups = [{"params": parameters[i :: self.groups]} for i in range(self.groups)]
        return torch.optim.AdamW(groups, lr=1e-3)


class _Stations(L.Callback):
    """Reads the count of calls at the begin of each batch."""

    def __init__(self, calls: Calls) -> None:
        self.calls, self.rows = calls, [calls.total]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(self.calls.total)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.rows.append(self.calls.total)


def counted(tricks: Sequence[Any], layers: int, folder: Path, groups: int = 1, names: bool = False) -> dict[str, Any]:
    """Fit nine batches, and count the calls of Python and C functions until the first batch, at an update that is not
    logged, at one that is, and after the last batch.

    Args:
        tricks: callbacks.
        layers: of the network.
        folder: for the logs.
        groups: of parameters.
        names: also by the name of the function, of this package's.
    """
    calls = Calls(names)
    stations = _Stations(calls)
    module = Wide(layers, groups)
    with warnings.catch_warnings(), loggers_silent():
        warnings.simplefilter("ignore")
        with calls:
            trainer = L.Trainer(
                accelerator="cpu", max_epochs=1, callbacks=[*tricks, stations], logger=CSVLogger(folder, "csv"),
                log_every_n_steps=EVERY, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder,
            )  # fmt: skip
            trainer.fit(module, DataLoader(learnable(4 * _BATCHES), 4))
    rows = [0, *stations.rows[1:], calls.total]
    steps = [b - a for a, b in itertools.pairwise(rows)]
    found = {"start": steps[0], "quiet": steps[1 + _QUIET], "logged": steps[1 + _LOGGED], "end": steps[-1]}
    return {**found, "names": dict(calls.by_name.most_common(200))} if names else found


def added(name: str, layers: int, folder: Path, groups: int = 1) -> dict[str, int]:
    """Return the calls that one callback adds to a fit."""
    without, with_it = counted([], layers, folder, groups), counted([CALLBACKS[name]()], layers, folder, groups)
    return {part: with_it[part] - without[part] for part in PARTS}
