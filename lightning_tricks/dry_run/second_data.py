"""The training data of a dry run: batches of second loaders, so that those of the run stay where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lightning_tricks.dry_run.isolated import copied
from lightning_tricks.dry_run.loaders import second_loader, unrepeatable
from lightning_tricks.dry_run.places import SHORT
from lightning_tricks.dry_run.roots import of_loaders
from lightning_tricks.dry_run.snapshot import taken
from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.lightning_internals import (
    before_batch_transfer,
    call_strategy_hook,
    combined_loader,
    loader_mode,
)
from lightning_tricks.numerics.trees import tree_leaves, tree_map

_MOST_EMPTY = 1000  # batches of None in a row


class SecondData:
    """Second loaders over the data of a Trainer, of the user's own class."""

    def __init__(self, trainer: Any, owner: str) -> None:
        loaders = combined_loader(trainer.fit_loop)
        self._trainer, self._owner = trainer, owner
        self._mode = loader_mode(loaders)
        self._loaders = tree_map(second_loader, loaders.iterables)
        self._data: Iterator[Any] = iter(())
        self._held: Iterator[Any] | None = None

    def restart(self) -> None:
        """Begin with the first batch again, and let go of those that were held."""
        self.rewind()
        self._held = None

    def rewind(self) -> None:
        """Begin with the first batch again."""
        self._data = self._batches()

    def _batches(self) -> Iterator[Any]:
        """Cycle over the data as often as needed; batches of None are left out, as Lightning does."""
        empty = 0
        most = int(self.batches_per_epoch) if math.isfinite(self.batches_per_epoch) else None
        while True:
            served = False
            # no further than Lightning goes: a loader may have more batches than its length says, or fail behind them
            for batch, _, _ in islice(CombinedLoader(self._loaders, self._mode), most):
                served = True
                empty = empty + 1 if batch is None else 0
                if batch is not None:
                    yield batch
            if not served or empty > _MOST_EMPTY:
                raise TrickError(f"{self._owner}: the training data are empty.")

    def hold(self, batches: list[Any]) -> None:
        """Let the batches from now on be these, again and again, until ``restart``."""
        self._held = cycle(batches)

    def next_batch(self) -> Any:
        """Return the next batch, on the device."""
        if self._held is not None:
            return tree_map(copied, next(self._held))  # (training_step may write to it)
        batch = next(self._data)
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = before_batch_transfer(self._trainer.lightning_module, batch)
        return call_strategy_hook(self._trainer, "batch_to_device", batch, dataloader_idx=0)

    @property
    def loaders(self) -> list[Any]:
        """The second loaders: whoever reads their data by position leaves no trace either."""
        return tree_leaves(self._loaders)

    @property
    def batches_per_epoch(self) -> float:
        """How many batches one pass over the data has; inf where that is not known."""
        return float(self._trainer.num_training_batches)

    @contextmanager
    def validation_loaders(self) -> Iterator[list[Any]]:
        """Give second loaders of the validation data, those that can be read without a trace; all is put back.

        Raises:
            NotRestorableError: the data of one cannot be put back; nothing was read.
        """
        loaders = [x for x in tree_leaves(self._trainer.val_dataloaders) if isinstance(x, DataLoader)]
        if len(loaders) == 0 or any(unrepeatable(x) is not None for x in loaders):
            yield []
            return
        roots = of_loaders("val_dataloader", loaders)
        with taken(lambda: roots, limits=SHORT):
            yield [second_loader(loader) for loader in loaders]
