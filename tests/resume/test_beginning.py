from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from lightning_tricks.resume.beginning import Beginning, split_by_owner


class Order(Sampler[int]):
    def __init__(self) -> None:
        self.order, self.rounds = [0, 1, 2], 0

    def __iter__(self) -> Any:
        return iter(self.order)

    def __len__(self) -> int:
        return 3


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen, self.untouched = nn.Linear(1, 1), 0, "as it was made"


def run() -> Any:
    loader = DataLoader([1, 2, 3], sampler=Order())  # type: ignore[arg-type]
    loop = SimpleNamespace(_combined_loader=SimpleNamespace(flattened=[loader]))
    return SimpleNamespace(fit_loop=loop, datamodule=None, lightning_module=Counts())


def sampler_of(trainer: Any) -> Order:
    return trainer.fit_loop._combined_loader.flattened[0].sampler


def test_what_has_changed_is_put_into_another_run_and_all_else_is_as_that_made_it() -> None:
    trainer, beginning = run(), Beginning()
    beginning.look_at_data(trainer)
    beginning.look_at_module(trainer.lightning_module)
    sampler_of(trainer).order.reverse()
    trainer.lightning_module.seen = 7
    trainer.lightning_module.net.weight.requires_grad_(False)
    values, lost = beginning.changed(trainer)
    assert lost == []
    assert beginning.changed_in_data(trainer)[0] == {k: v for k, v in values.items() if k.startswith("loader")}

    other, again = run(), Beginning()
    again.look_at_data(other)
    again.look_at_module(other.lightning_module)
    sampler_of(other).rounds = 99  # of an epoch that the resumed run begins with, and shall not count
    other.lightning_module.untouched = "by the resume"
    assert again.put(other, values) == []
    assert (sampler_of(other).order, sampler_of(other).rounds) == ([2, 1, 0], 0)
    assert (other.lightning_module.seen, other.lightning_module.untouched) == (7, "as it was made")
    assert not other.lightning_module.net.weight.requires_grad


def test_it_is_the_first_look_that_counts() -> None:
    trainer, beginning = run(), Beginning()
    for rounds in range(3):
        sampler_of(trainer).rounds = rounds
        beginning.look_at_data(trainer)
    values, _ = beginning.changed_in_data(trainer)
    assert [named for named in values.values()] == [{"rounds": 2}]


def test_before_anybody_has_looked_nothing_has_changed_and_nothing_is_put_back() -> None:
    trainer, beginning = run(), Beginning()
    assert beginning.changed(trainer) == ({}, [])
    assert beginning.put(trainer, {"module": {"seen": 3}}) == []
    assert trainer.lightning_module.seen == 0


def test_values_are_those_of_the_data_or_of_the_module() -> None:
    values = {"loader 0": 1, "datamodule": 2, "module": 3, "module.net": 4, "": 5}
    assert split_by_owner(values) == ({"loader 0": 1, "datamodule": 2}, {"module": 3, "module.net": 4, "": 5})


def test_places_that_are_gone_are_named() -> None:
    trainer, beginning = run(), Beginning()
    beginning.look_at_module(trainer.lightning_module)
    assert beginning.put(trainer, {"module.gone": {"table": torch.ones(1)}}) == ["module.gone"]
