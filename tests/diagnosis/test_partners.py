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
