"""SanityCheck where time comes first: samples lie along the second axis of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.diagnosis.problems import Task, checks

pytestmark = pytest.mark.filterwarnings("ignore")
TIMES = 12


class Tagger(nn.Module):
    """A recurrent network that says a class for each time of each series."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 16, batch_first=batch_first), nn.Linear(16, 2)

    def forward(self, series: Tensor) -> Tensor:
        return self.out(self.rnn(series)[0])  # type: ignore[no-any-return]


class Streamed(IterableDataset[Any]):
    """Samples that cannot be asked for by position."""

    def __init__(self, samples: TensorDataset) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[i] for i in range(len(self.samples)))


def time_first(samples: list[Any]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(column, 1) for column in zip(*samples, strict=True))


def tagging(size: int, *, first: bool, streamed: bool = False) -> DataLoader[Any]:
    """Batches ``[time, samples, ...]``, or the other way round."""
    torch.manual_seed(0)
    x = torch.randn(96, TIMES, 3)
    samples = TensorDataset(x, (x[..., 0].cumsum(1) > 0).long())
    collate = time_first if first else None
    return DataLoader(Streamed(samples) if streamed else samples, size, collate_fn=collate)


def leaks(batch_first: bool, loader: DataLoader[Any]) -> bool:
    def step(self: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.net(b[0]).flatten(0, 1), b[1].flatten())

    return checks(Task(Tagger(batch_first), step), loader)["samples do not leak"].passed is False


@pytest.mark.parametrize("streamed", [False, True], ids=["by position", "streamed"])
@pytest.mark.parametrize("first", [False, True], ids=["samples first", "time first"])
def test_a_recurrent_network_leaks_only_if_it_takes_the_samples_of_the_loader_for_time(
    first: bool, streamed: bool
) -> None:
    assert not leaks(not first, tagging(8, first=first, streamed=streamed))
    assert leaks(first, tagging(8, first=first, streamed=streamed))


@pytest.mark.parametrize("first", [False, True], ids=["samples first", "time first"])
def test_as_many_samples_as_times_are_told_apart(first: bool) -> None:
    assert not leaks(not first, tagging(TIMES, first=first))
    assert leaks(first, tagging(TIMES, first=first))


def test_lengths_lie_along_the_first_axis_beside_series_along_the_second() -> None:
    torch.manual_seed(0)
    series = [torch.randn(int(length), 3) for length in torch.randint(4, TIMES, (96,))]

    def padded(samples: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x = nn.utils.rnn.pad_sequence(samples)
        labels = nn.utils.rnn.pad_sequence([(s[:, 0] > 0).long() for s in samples], padding_value=-100)
        return x, torch.tensor([len(s) for s in samples]), labels

    class Packed(Tagger):
        def forward(self, series: Tensor, lengths: Any = None) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(series, lengths, enforce_sorted=False)
            return self.out(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0])  # type: ignore[no-any-return]

    def step(self: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.net(b[0], b[1]).flatten(0, 1), b[2].flatten())

    found = checks(Task(Packed(False), step), DataLoader(series, 8, collate_fn=padded))  # type: ignore[arg-type]
    assert found["samples do not leak"].passed is not False


def test_a_loader_that_refuses_two_samples_is_not_asked_again() -> None:
    def eight(samples: list[Any]) -> Any:
        assert len(samples) == 8
        return torch.utils.data.default_collate(samples)

    loader = tagging(8, first=False)
    data = DataLoader(loader.dataset, 8, collate_fn=eight, drop_last=True)
    assert not leaks(True, data)
    assert leaks(False, data)


def test_an_output_of_which_the_step_takes_the_last_time_has_labels_all_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(96, TIMES, 3)
    data = DataLoader(TensorDataset(x, (x.sum((1, 2)) > 0).long()), 8)

    def step(self: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.net(b[0])[:, -1], b[1])

    def leak(batch_first: bool) -> bool:
        return checks(Task(Tagger(batch_first), step), data)["samples do not leak"].passed is False

    assert (leak(True), leak(False)) == (False, True)
