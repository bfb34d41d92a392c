"""SanityCheck on whether labels belong to their inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import SanityCheck
from tests.diagnosis.problems import Task, checks, cross_entropy, mlp
from tests.problems import digits, trainer

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


def test_labels_that_are_all_one_class_fail() -> None:
    x, _ = pictures()
    module = Task(mlp(5, 64), cross_entropy)
    same = DataLoader(TensorDataset(x, torch.full((len(x),), 4)), 32)
    found = checks(module, same)[NAME]
    assert found.passed is False
    assert "are 4, of 5 classes" in found.evidence


def two_classes(y: Tensor, *, forms: str = "one", **more: Any) -> Any:
    """Return the row for inputs with labels of 0 and 1."""
    x = torch.randn(len(y), 64, generator=torch.Generator().manual_seed(2))
    if forms == "two":
        module = Task(mlp(2, 64), cross_entropy)
    elif forms == "several":
        module = Task(mlp(3, 64), lambda s, b: F.binary_cross_entropy_with_logits(s.net(b[0]), b[1]))
        y = y[:, None].float() * torch.ones(3)
    else:
        module = Task(mlp(1, 64), lambda s, b: F.binary_cross_entropy_with_logits(s.net(b[0]).squeeze(1), b[1]))
        y = y.float()
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, drop_last=True)
    check = SanityCheck()
    trainer([check], max_steps=1, **more).fit(module, loader)
    return next((c for c in check.checks if c.name == NAME), None)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("forms", ["one", "two", "several"])
def test_two_classes_of_which_only_one_is_in_all_the_data_fail(value: int, forms: str) -> None:
    found = two_classes(torch.full((1290,), value), forms=forms)
    assert found.passed is False
    assert f"labels are {value}, of 2 classes" in found.evidence or forms == "several"


@pytest.mark.parametrize("forms", ["one", "two", "several"])
def test_one_label_of_another_class_anywhere_in_the_data_is_enough(forms: str) -> None:
    labels = torch.zeros(1280).long()
    labels[777] = 1
    found = two_classes(labels, forms=forms)
    assert found is None or found.passed is not False


def test_one_class_in_a_part_of_the_data_says_nothing_about_the_rest() -> None:
    found = two_classes(torch.zeros(1290).long(), limit_train_batches=10)
    assert found is None or found.passed is not False


def test_a_residual_that_has_to_be_zero_everywhere_is_no_class() -> None:
    x = torch.randn(1280, 6, generator=torch.Generator().manual_seed(2))
    module = Task(mlp(1, 6), lambda s, b: F.mse_loss(s.net(b[0]).squeeze(1), b[1]))
    found = checks(module, DataLoader(TensorDataset(x, torch.zeros(1280)), 32)).get(NAME)
    assert found is None or found.passed is not False


def test_inputs_that_are_numbers_of_things_have_no_neighbours() -> None:
    x = torch.randint(50, (640, 2), generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + x[:, 1]) % 7

    def step(self: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.net(F.one_hot(b[0], 50).flatten(1).float()), b[1])

    found = checks(Task(mlp(7, 100), step), DataLoader(TensorDataset(x, y), 32))[NAME]
    assert found.passed is not False


def two_towers(apart: bool) -> Any:
    x, y = pictures()
    words = F.one_hot(y, 10).float() + 0.1 * torch.randn(len(y), 10, generator=torch.Generator().manual_seed(0))
    if apart:
        words = words[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]

    def step(self: Any, b: Any) -> Tensor:
        one, two = F.normalize(self.net(b[0]), dim=1), F.normalize(self.other(b[1]), dim=1)
        return F.cross_entropy(10 * one @ two.T, torch.arange(len(one)))

    module = Task(mlp(16, 64), step, 1e-2)
    module.other = mlp(16, 10)
    return checks(module, DataLoader(TensorDataset(x, words), 32, shuffle=True))[NAME]


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

    def step(self: Any, b: Any) -> Tensor:
        one, two = F.normalize(self.net(b[0]), dim=1), F.normalize(self.words(b[1]), dim=1)
        return F.cross_entropy(10 * one @ two.T, torch.arange(len(one)))

    module = Task(mlp(16, 64), step, 1e-2)
    module.words = torch.nn.EmbeddingBag(30, 16)
    return checks(module, DataLoader(TensorDataset(x, words), 64, shuffle=True))[NAME]


def test_captions_of_a_few_words_that_were_shuffled_apart_fail() -> None:
    assert captioned(apart=False).passed
    assert captioned(apart=True).passed is False
