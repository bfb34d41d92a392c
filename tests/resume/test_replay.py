from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from lightning_tricks.numerics.torch_internals import shut_down_iterator
from lightning_tricks.resume.replay import (
    has_persistent_workers,
    on_iterator_start,
    skip_batches,
    unrepeatable,
)


class Counted(list[int]):
    """A data set that counts how often it was asked."""

    asked = 0

    def __getitem__(self, i: Any) -> Any:
        self.asked += 1
        return super().__getitem__(i)


class Lazy(RandomSampler):
    """A sampler of one's own."""


@pytest.mark.parametrize(
    ("settings", "loads"),
    [
        ({"shuffle": True}, False),
        ({"shuffle": True, "drop_last": True}, False),
        ({"sampler": Lazy(range(20))}, True),
        ({"shuffle": True, "num_workers": 1}, True),
    ],
)
def test_the_rest_of_the_epoch_is_the_rest_and_nothing_is_loaded_in_vain(settings: Any, loads: bool) -> None:
    data = Counted(range(20))
    loader: Any = DataLoader(data, 3, **settings)

    def combined() -> Any:
        torch.manual_seed(5)
        both = CombinedLoader([loader], "max_size_cycle")
        iter(both)
        return both

    whole = [batch[0].tolist() for batch, _, _ in _rest(combined())]
    again = combined()
    data.asked = 0
    skip_batches(again, [loader], 4)
    if not settings.get("num_workers"):
        assert (data.asked > 0) is loads
    assert [batch[0].tolist() for batch, _, _ in _rest(again)] == whole[4:]


def _rest(iterator: Any) -> Any:
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return


def test_what_cannot_be_found_again_is_named() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([1])

    class Stateful(list[int]):
        state_dict = load_state_dict = None

    good = DataLoader([1, 2])
    assert unrepeatable([good, Stateful([1, 2])], cycled=True) is None
    assert "Stream is an iterable data set" in str(unrepeatable([DataLoader(Stream())], cycled=False))
    assert "range is not a DataLoader" in str(unrepeatable([range(2)], cycled=False))
    assert "begins again" in str(unrepeatable([good, DataLoader([1])], cycled=True))
    assert unrepeatable([good, DataLoader([1])], cycled=False) is None


def test_beginnings_are_told_until_that_ends() -> None:
    loader, count = CombinedLoader([DataLoader([1, 2])], "max_size_cycle"), [0]

    def begins() -> None:
        count[0] += 1

    end = on_iterator_start(loader, begins)
    assert isinstance(loader, CombinedLoader)
    iter(loader), iter(loader)
    end()
    iter(loader)
    assert count == [2] and type(loader) is CombinedLoader


def test_workers_that_stay_are_known_and_ended() -> None:
    loader = DataLoader([1, 2], num_workers=1, persistent_workers=True)
    assert (
        has_persistent_workers(loader)
        and not has_persistent_workers(DataLoader([1]))
        and not has_persistent_workers([1])
    )
    list(loader)
    shut_down_iterator(loader)
    shut_down_iterator(loader)
    assert loader._iterator is None and [b.tolist() for b in loader] == [[1], [2]]
    shut_down_iterator(loader)
