"""SanityCheck on whether labels belong to their inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.diagnosis.problems import Task, checks, cross_entropy, mlp
from tests.problems import digits

pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "labels follow from inputs"


def follow(x: Tensor, y: Tensor, lr: float = 1e-2) -> Any:
    module = Task(mlp(int(y.max()) + 1, x.shape[1]), cross_entropy, lr)
    return checks(module, DataLoader(TensorDataset(x, y), 32, shuffle=True))[NAME]


def pictures() -> tuple[Tensor, Tensor]:
    x, y = digits(1280).tensors
    return x, y


def test_labels_that_were_shuffled_apart_fail_and_noisy_ones_pass() -> None:
    x, y = pictures()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    assert follow(x, y).passed
    assert follow(x, y[order]).passed is False
    noisy = torch.where(torch.rand(len(y), generator=torch.Generator().manual_seed(1)) < 0.5, y[order], y)
    assert follow(x, noisy).passed


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_a_weak_signal_in_noise_is_not_called_wrong(slope: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1280, 20, generator=generator)
    y = (torch.randn(1280, generator=generator) + slope * x[:, 0] > 0).long()
    assert follow(x, y).passed is None


def test_inputs_that_are_numbers_of_things_have_no_neighbours() -> None:
    x = torch.randint(50, (640, 2), generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + x[:, 1]) % 7

    def step(self: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.net(F.one_hot(b[0], 50).flatten(1).float()), b[1])

    found = checks(Task(mlp(7, 100), step), DataLoader(TensorDataset(x, y), 32))[NAME]
    assert found.passed is not False


def contrasted(x: Tensor, other: Tensor, tower: torch.nn.Module, batch: int) -> Any:
    """Tell the partner of each sample among those of its batch, with one tower for each of the two inputs."""

    def step(self: Any, b: Any) -> Tensor:
        one, two = F.normalize(self.net(b[0]), dim=1), F.normalize(self.other(b[1]), dim=1)
        return F.cross_entropy(10 * one @ two.T, torch.arange(len(one)))

    module = Task(mlp(16, 64), step, 1e-2)
    module.other = tower
    return checks(module, DataLoader(TensorDataset(x, other), batch, shuffle=True))[NAME]


def two_towers(apart: bool) -> Any:
    x, y = pictures()
    words = F.one_hot(y, 10).float() + 0.1 * torch.randn(len(y), 10, generator=torch.Generator().manual_seed(0))
    if apart:
        words = words[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    return contrasted(x, words, mlp(16, 10), 32)


def test_two_inputs_that_were_shuffled_apart_fail() -> None:
    assert two_towers(apart=False).passed
    assert two_towers(apart=True).passed is False


def captioned(apart: bool) -> Any:
    """Pictures and three words about each: its class, and two that say nothing."""
    x, y = pictures()
    generator = torch.Generator().manual_seed(0)
    words = torch.stack([y, *(10 + torch.randint(20, (2, len(y)), generator=generator))], 1)
    if apart:
        words = words[torch.randperm(len(y), generator=generator)]
    return contrasted(x, words, torch.nn.EmbeddingBag(30, 16), 64)


def test_captions_of_a_few_words_that_were_shuffled_apart_fail() -> None:
    assert captioned(apart=False).passed
    assert captioned(apart=True).passed is False


def beside(kind: str) -> Any:
    """Pictures and a second input that has nothing to do with them, and that the training needs all the same."""
    x, _ = pictures()
    generator = torch.Generator().manual_seed(0)
    if kind == "style":
        other = x[torch.randperm(len(x), generator=generator)]
    else:
        other = torch.randint(5, (len(x), 3), generator=generator)

    def step(self: Any, b: Any) -> Tensor:
        content, second = b[0], b[1]
        if kind == "style":
            made = self.net(torch.cat([content, second], 1))
            size = (made.mean(1) - second.mean(1)).square() + (made.std(1) - second.std(1)).square()
            return F.mse_loss(made[:, 16:48], content[:, 16:48]) + size.mean()
        hidden = self.net(torch.cat([content, F.one_hot(second, 5).flatten(1).float()], 1))
        loss = F.mse_loss(hidden[:, :64], content)
        return loss + sum(F.cross_entropy(hidden[:, 64 + 5 * i : 69 + 5 * i], second[:, i]) for i in range(3))

    style = kind == "style"
    net = torch.nn.Sequential(
        torch.nn.Linear(128 if style else 79, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64 if style else 79)
    )
    return checks(Task(net, step, 1e-2), DataLoader(TensorDataset(x, other), 32, shuffle=True)).get(NAME)


@pytest.mark.parametrize("kind", ["style", "categories"])
def test_two_inputs_that_need_not_belong_together_do_not_fail(kind: str) -> None:
    found = beside(kind)
    assert found is None or found.passed is not False
