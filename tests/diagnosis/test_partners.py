"""SanityCheck on labels that belong to other rows than their inputs; more trainings of it are in other files."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.problems import Task, checks, load, repeated

pytestmark = pytest.mark.filterwarnings("ignore")


def test_labels_in_the_order_of_their_copies_pass() -> None:
    assert "shapes of outputs and labels" not in checks(*repeated(right=True))
    assert checks(*repeated(right=False))["shapes of outputs and labels"].passed is False


def test_rows_that_are_nodes_of_a_graph_are_not_asked_about() -> None:
    """Every row depends on its neighbours there, so that the gradients of other rows change with an input."""

    class Neighbours(Task):
        """Takes the input of the next row for each label, which is a fault unless the batch relates its rows."""

    def step(self: Task, b: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return F.cross_entropy(self.net(b[0].roll(1, 0)), b[-1])

    torch.manual_seed(0)
    x, y = torch.randn(256, 8), torch.randint(4, (256,))
    found = checks(Neighbours(nn.Linear(8, 4), step), load(x, y))
    assert found["shapes of outputs and labels"].passed is False
    graph = [(torch.randn(32, 8), torch.eye(32).roll(1, 0), torch.randint(4, (32,))) for _ in range(8)]
    related = checks(Neighbours(nn.Linear(8, 4), step), torch.utils.data.DataLoader(graph, batch_size=None))
    assert "shapes of outputs and labels" not in related


class Streams(nn.Module):
    """PyTorch's word language model: ``[time, streams]``."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.table, self.rnn, self.out = nn.Embedding(9, 16), nn.LSTM(16, 32, batch_first=batch_first), nn.Linear(32, 9)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.table(text))[0]).flatten(0, 1)


def read_in_order(flat: bool) -> torch.utils.data.DataLoader[object]:
    """Twelve steps of twenty streams; the targets are one step further, flat as in the example or not."""
    text = (torch.arange(20) + 4 * torch.arange(12 * 8 + 1)[:, None] + torch.randint(3, (97, 20))) % 9
    pairs = [(text[i : i + 12], text[i + 1 : i + 13]) for i in range(0, 96, 12)]
    return torch.utils.data.DataLoader([(x, y.reshape(-1) if flat else y) for x, y in pairs], batch_size=None)


@pytest.mark.parametrize("flat", [True, False])
def test_a_network_for_which_time_comes_first_does_not_leak(flat: bool) -> None:
    def step(self: Task, b: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return F.cross_entropy(self.net(b[0]), b[1].reshape(-1))

    torch.manual_seed(0)
    assert checks(Task(Streams(), step), read_in_order(flat))["samples do not leak"].passed is None


def test_a_network_that_takes_the_batch_for_time_leaks_also_where_windows_overlap() -> None:
    def step(self: Task, b: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return F.cross_entropy(self.net(b[0]), b[1].reshape(-1))

    torch.manual_seed(0)
    series = (4 * torch.arange(300) + torch.randint(3, (300,))) % 9
    windows = series.unfold(0, 13, 1)
    overlapping = torch.utils.data.TensorDataset(windows[:, :-1], windows[:, 1:])
    loader = torch.utils.data.DataLoader(overlapping, batch_size=16)  # in order, so that rows follow one another too
    assert checks(Task(Streams(), step), loader)["samples do not leak"].passed is False
    assert checks(Task(Streams(batch_first=True), step), loader)["samples do not leak"].passed is True
