from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import torch

from lightning_tricks.diagnosis.memory import Moment, Prospect
from lightning_tricks.diagnosis.memory_looks import MemoryLooks, census_of
from lightning_tricks.dry_run.holdings import Census, Holding
from tests.problems import Classifier, fit

PROSPECT = Prospect(model=1e3, left=1e3)


def losses(count: float) -> Census:
    holding = Holding("module.losses", tensors=count, graphs=count, nodes=10 * count, nbytes=4 * count)
    return Census({"module.losses": holding}, tensors=count)


def kept_for(updates: int, *, cleared: bool) -> MemoryLooks:
    """Look after every third of 10 updates of an epoch."""
    looks = MemoryLooks()
    for update in range(3, updates, 3):
        epoch, batch = divmod(update, 10)
        looks.add(losses(batch if cleared else update), Moment(update, epoch, batch), PROSPECT, [])
    return looks


def test_what_is_kept_over_epochs_grows_and_what_is_cleared_is_suspected_only() -> None:
    (growth,) = kept_for(40, cleared=False).growths
    assert growth.holder == "module.losses" and growth.kind == "graph" and growth.certain
    cleared = [kept_for(updates, cleared=True) for updates in range(4, 40)]
    assert not any(looks.growths for looks in cleared)
    within = MemoryLooks()
    for batch in range(3, 10):
        within.add(losses(batch), Moment(batch, 0, batch), PROSPECT, [])
    assert within.any_suspect and not within.growths
    within.add(losses(12.0), Moment(12, 0, 12), PROSPECT, [], ended=True)
    assert [growth.certain for growth in within.growths] == [True], "after the end nothing is cleared any more"


def test_a_second_look_after_the_same_update_takes_the_place_of_the_first() -> None:
    looks = MemoryLooks()
    for count in (5.0, 2.0):
        looks.add(losses(count), Moment(3, 0, 3), PROSPECT, [])
    assert [(m.update, h.tensors) for m, h in looks._holders["module.losses"]] == [(3, 2.0)]


def test_holders_that_are_gone_are_forgotten_and_histories_are_bounded() -> None:
    looks = MemoryLooks()
    for i in range(100):
        looks.add(losses(1.0), Moment(i, 0, i), PROSPECT, [])
    assert len(looks._holders["module.losses"]) == 16
    assert looks.there
    looks.add(Census(), Moment(101, 0, 101), PROSPECT, [])
    assert not looks.there


def test_after_a_rollback_earlier_looks_do_not_count() -> None:
    looks = kept_for(40, cleared=False)
    looks.forget_holders()
    looks.add(losses(50.0), Moment(40, 4, 0), PROSPECT, [])
    assert looks.growths == [] and looks.census.tensors == 50.0


def test_tensors_of_a_batch_are_followed_without_being_kept_alive() -> None:
    looks, batch = MemoryLooks(), {"x": torch.ones(2)}
    looks.add(Census(), Moment(1, 0, 1), PROSPECT, (batch, None))
    (reference,) = looks._followed
    assert reference() is batch["x"]
    del batch
    assert reference() is None


def test_the_module_the_callbacks_and_the_data_of_a_run_are_looked_through() -> None:
    class Keeps(L.Callback):
        def __init__(self) -> None:
            self.kept: list[Any] = []
            self.found: Census | None = None

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.kept.append(batch[0])
            pl_module.seen_rows = batch[0].clone()
            if batch_idx == 2:
                self.found = census_of(SimpleNamespace(trainer=trainer), {id(batch[0])})  # type: ignore[arg-type]

    keeps = Keeps()
    fit(Classifier(), [keeps], n=24)
    assert keeps.found is not None
    holdings = keeps.found.holdings
    assert holdings["callback Keeps.kept"].tensors == 3 and holdings["callback Keeps.kept"].kept == 1
    assert [h.tensors for name, h in holdings.items() if name.endswith(".seen_rows")] == [1]
    assert math.isfinite(keeps.found.nbytes)
