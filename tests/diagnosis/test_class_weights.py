"""Weights of classes that make rare classes rarer, of a sampler and of a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.diagnosis.class_weights import counted_less
from lightning_tricks.diagnosis.loss_calls import LossCall
from tests.diagnosis.problems import Task, checks, load, mlp


def labels(*sizes: int) -> Tensor:
    made = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    return made[torch.randperm(len(made), generator=torch.Generator().manual_seed(0))]


def call(weight: Tensor | None, of: Tensor, name: str = "cross_entropy") -> LossCall:
    return LossCall(name, torch.zeros(8, 3), of[:8], {"weight": weight})


SIZES = [(240, 16), (150, 80, 26), (200, 40, 10, 6)]


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("sizes", SIZES)
def test_counts_in_place_of_one_over_them(sizes: tuple[int, ...], name: str) -> None:
    own = labels(*sizes)
    for weight in (torch.tensor(sizes).float(), torch.tensor(sizes) / sum(sizes)):
        found = counted_less([call(weight, own, name)], own)
        assert found is not None
        assert found.passed is False
        assert f"class {len(sizes) - 1} rarer" in found.evidence


@pytest.mark.parametrize("sizes", SIZES)
def test_weights_that_make_up_for_rarity_are_left_alone(sizes: tuple[int, ...]) -> None:
    own, n = labels(*sizes), torch.tensor(sizes).float()
    balanced = compute_class_weight("balanced", classes=np.arange(len(sizes)), y=own.numpy())
    effective = (1 - 0.999) / (1 - 0.999**n)  # Cui et al., 2019
    for weight in (torch.tensor(balanced), 1 / n, n.rsqrt(), effective, torch.ones(len(n)), 1 - n / n.sum(), None):
        assert counted_less([call(weight, own)], own) is None


def test_weights_of_equally_frequent_classes_are_a_wish() -> None:
    own = labels(90, 84, 82)
    assert counted_less([call(torch.tensor([3.0, 2.0, 1.0]), own)], own) is None


def test_a_class_that_is_ignored_and_labels_beyond_the_weights_say_nothing() -> None:
    own = labels(200, 40, 16)
    assert counted_less([call(torch.tensor([1.0, 2.0, 0.0]), own)], own) is None
    assert counted_less([call(torch.tensor([2.0, 1.0]), own)], own) is None
    assert counted_less([call(torch.tensor([0.9, 0.1]), own, "mse_loss")], own) is None


@pytest.mark.parametrize("right", [True, False])
def test_sanity_check_names_it(right: bool) -> None:
    own = labels(230, 26)
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(1)) + own[:, None]
    shares = torch.bincount(own) / len(own)
    weight = 1 / shares if right else shares
    module = Task(mlp(2, 12), lambda self, b: F.cross_entropy(self.net(b[0]), b[1], weight=weight))
    found = checks(module, load(x, own))
    assert ("class weights" in found) != right
