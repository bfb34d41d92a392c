"""SanityCheck on labels that are all the same: a mistake, or the order of the inputs holds the answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import SanityCheck
from tests.diagnosis.problems import Task, checks, cross_entropy, load, mlp
from tests.problems import digits, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "labels follow from inputs"


def pictures() -> tuple[Tensor, Tensor]:
    x, y = digits(1280).tensors
    return x, y


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


class Scores(nn.Module):
    """One number for each choice, and of two choices the difference; the network sees one choice at a time."""

    def __init__(self, net: nn.Module, embedded: int = 0, *, difference: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(embedded, 8) if embedded else nn.Identity()
        self.net, self.difference = net, difference

    def forward(self, choices: Tensor) -> Tensor:
        scores: Tensor = self.net(self.table(choices).flatten(2)).squeeze(-1)
        return scores[:, 0] - scores[:, 1] if self.difference else scores


def choices(kind: str) -> tuple[Tensor, Tensor]:
    """Return inputs whose order says which one is right, and labels that are all the same."""
    generator = torch.Generator().manual_seed(5)
    if kind == "words":
        wrong = torch.randint(20, 40, (640, 3, 4), generator=generator)
        right = torch.randint(0, 25, (640, 1, 4), generator=generator)
        return torch.cat([right, wrong], 1), torch.zeros(640).long()
    x = torch.randn(640, 2 if kind == "pairs" else 3, 6, generator=generator)
    order = x[..., 0].argsort(1, descending=True)
    x = x.gather(1, order[..., None].expand_as(x))
    return x, torch.ones(640) if kind == "pairs" else torch.zeros(640).long()


@pytest.mark.parametrize("kind", ["pairs", "numbers", "words"])
def test_labels_that_are_all_the_same_since_the_right_choice_stands_first_do_not_fail(kind: str) -> None:
    x, y = choices(kind)
    net = Scores(mlp(1, 32 if kind == "words" else 6), 40 if kind == "words" else 0, difference=kind == "pairs")
    losses = {"pairs": F.binary_cross_entropy_with_logits}
    module = Task(net, lambda s, b: losses.get(kind, F.cross_entropy)(s.net(b[0]), b[1]))
    found = checks(module, load(x, y)).get(NAME)
    assert found is None or found.passed is not False


@pytest.mark.parametrize("kind", ["numbers", "words"])
def test_a_network_that_sees_all_choices_at_once_is_right_by_the_first_place_alone(kind: str) -> None:
    x, y = choices(kind)
    x = F.one_hot(x, 40).float() if kind == "words" else x
    module = Task(nn.Sequential(nn.Flatten(), mlp(x.shape[1], x[0].numel())), cross_entropy)
    assert checks(module, load(x, y))[NAME].passed is False


def overlap(self: Any, b: Any) -> Tensor:
    """An entropy and Dice, as of masks."""
    logits = self.net(b[0])
    p = logits.sigmoid()
    dice = 1 - (2 * (p * b[1]).sum() + 1) / (p.sum() + b[1].sum() + 1)
    entropy: Tensor = F.binary_cross_entropy_with_logits(logits, b[1])
    return entropy + dice


@pytest.mark.parametrize("spots", [0, 1])
def test_masks_that_are_empty_everywhere_fail_also_in_a_sum_of_losses(spots: int) -> None:
    x = torch.randn(320, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    masks = torch.zeros_like(x)
    masks[300:][:spots, 0, 2, 2] = 1
    module = Task(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1)), overlap)
    found = checks(module, load(x, masks)).get(NAME)
    assert (found is not None and found.passed is False) == (spots == 0)


def test_labels_of_one_class_beside_negatives_that_the_step_draws_do_not_fail() -> None:
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(0, 40, (640,), generator=generator)
    items = (users // 4 * 6 + torch.randint(0, 6, (640,), generator=generator)) % 60

    def step(self: Any, b: Any) -> Tensor:
        drawn = torch.randint(0, 60, b[1].shape)
        right, wrong = (self.net(torch.stack([b[0], 40 + i], 1)).prod(1).sum(1) for i in (b[1], drawn))
        first: Tensor = F.binary_cross_entropy_with_logits(right, b[2])
        return first + F.binary_cross_entropy_with_logits(wrong, 1 - b[2])

    found = checks(Task(nn.Embedding(100, 8), step), load(users, items, torch.ones(640))).get(NAME)
    assert found is None or found.passed is not False
