from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_tricks.dry_run.loaders import is_read_by_position, second_loader, unrepeatable


class Graphs(DataLoader[Any]):
    """As graph loaders do: an ``__iter__`` and a function of their own, batches that are no tensors of the data set."""

    def __init__(self, dataset: Any, neighbours: int, **options: Any) -> None:
        self.neighbours = neighbours
        super().__init__(dataset, collate_fn=self.collate, **options)

    def collate(self, rows: list[Any]) -> dict[str, Any]:
        return {"x": torch.stack([row[0] for row in rows]), "neighbours": self.neighbours}

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield {**batch, "degree": len(batch["x"])}


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_of_the_users_own_class_with_its_own_batches(workers: int) -> None:
    loader = Graphs(TensorDataset(torch.arange(10.0)), 7, batch_size=4, num_workers=workers)
    second = second_loader(loader)
    assert type(second) is Graphs and second.num_workers == 0
    assert [b["degree"] for b in second] == [4, 4, 2] and next(iter(second))["neighbours"] == 7
    assert loader.num_workers == workers, "the first one is as it was"


def test_the_first_iterator_goes_on() -> None:
    loader = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2)
    first = iter(loader)
    next(first)
    assert len(list(second_loader(loader))) == 3
    assert next(first)[0].tolist() == [2.0, 3.0]


def test_persistent_workers_stay_with_the_first() -> None:
    loader = DataLoader(TensorDataset(torch.arange(4.0)), num_workers=1, persistent_workers=True)
    iter(loader)
    inner = loader._iterator
    second = second_loader(loader)
    assert second._iterator is None and not second.persistent_workers
    list(second)
    assert loader._iterator is inner
    assert inner is not None
    inner._shutdown_workers()  # type: ignore[attr-defined]


def test_what_is_no_dataloader_is_iterated_as_it_is() -> None:
    batches = [torch.ones(1)]
    assert second_loader(batches) is batches
    assert unrepeatable(batches) is None


def test_iterable_data_are_repeated_and_not_read_by_position() -> None:
    assert unrepeatable(DataLoader(Rows())) is None
    assert not is_read_by_position(DataLoader(Rows()))


class Rows(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


class Positioned(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("loader", "what"),
    [
        (DataLoader(Positioned()), r"Positioned keeps a position of its own \(state_dict\)"),
        ((i for i in [1]), "generator can be iterated only once"),
        (3, "int cannot be iterated"),
    ],
)
def test_what_cannot_be_repeated_is_named(loader: Any, what: str) -> None:
    found = unrepeatable(loader)
    assert found is not None
    with pytest.raises(ValueError, match=what):
        raise ValueError(found)
