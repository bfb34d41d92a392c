"""What a step can reach: the module, and by its Trainer optimizers, schedulers, loaders, callbacks and loops."""

from __future__ import annotations

import abc
import random
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn

from lightning_tricks import GradientMonitor
from lightning_tricks.dry_run.roots import held_generators, roots_of
from lightning_tricks.dry_run.snapshot import Snapshot
from tests.problems import Classifier, digits, trainer


class Endless:
    """A loader whose length is no whole number, and which is not to be asked for its truth."""

    def __iter__(self) -> Any:
        return iter(torch.utils.data.DataLoader(digits(16), 8))

    def __len__(self) -> Any:
        return float("inf")


class Abstract(Classifier, abc.ABC):
    """Classes made by ABCMeta hold an object in C."""


class Watcher(L.Callback):
    def __init__(self, seen: dict[str, Any]) -> None:
        self.seen = seen

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        roots = roots_of(trainer, {"batch": batch})
        self.seen.update(roots=roots, snapshot=Snapshot(roots))


def seen_in(module: Any, loader: Any, **arguments: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    t = trainer([Watcher(seen), GradientMonitor()], max_steps=1, **arguments)
    t.fit(module, loader)
    return seen | {"trainer": t}


def test_everything_is_there_once_and_our_own_callbacks_are_not() -> None:
    module, loader = Abstract(), torch.utils.data.DataLoader(digits(16), 8)
    seen = seen_in(module, loader)
    roots, t = seen["roots"], seen["trainer"]
    assert roots.model["module"] is module
    assert roots.model["batch"] is not None
    assert roots.trained["optimizer 0"] is t.optimizers[0]
    assert roots.data["train_dataloader 0"] is loader
    assert [type(c).__name__ for name, c in roots.data.items() if name.startswith("callback")] == ["Watcher"]
    assert {"trainer", "fit_loop", "epoch_loop"} <= set(roots.surfaces)


def test_a_loader_of_an_unknown_kind_has_to_be_put_back_completely() -> None:
    loader = Endless()
    seen = seen_in(Classifier(), loader)
    assert seen["roots"].model["train_dataloader 0"] is loader
    assert "train_dataloader 0" not in seen["roots"].data


def test_generators_wherever_they_are() -> None:
    module = nn.Module()
    module.rngs = {"noise": (random.Random(1),)}  # type: ignore[assignment]
    data = torch.utils.data.TensorDataset(torch.ones(1))
    data.rng = torch.Generator()  # type: ignore[attr-defined]
    assert list(held_generators({"module": module}, {"0.dataset": data})) == [
        "module.rngs['noise'][0]",
        "0.dataset.rng",
    ]
