from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tricks.collapse.structure import falls_with_depth, labels_of_rows
from lightning_tricks.collapse.sums import add_features, add_rows, centre, measured_features, read_features


def measured(features: Tensor, label: Tensor) -> dict[str, float]:
    mean: dict[str, Tensor] = {}
    add_rows(mean, features)
    gathered: dict[str, Tensor] = {}
    for part, own in zip(features.tensor_split(3), label.tensor_split(3), strict=True):
        add_features(gathered, part, centre(mean), own)
    return read_features(measured_features(gathered).tolist())[0]


def points(classes: int, width: int, noise: float) -> tuple[Tensor, Tensor]:
    """Features that lie at one point per class, as neural collapse makes them."""
    torch.manual_seed(0)
    label = torch.randint(classes, (480,))
    corners = torch.linalg.qr(torch.randn(width, width)).Q[:classes]
    return corners[label] + noise * torch.randn(480, width), label


def test_features_of_classes_can_have_no_more_than_their_number_less_1() -> None:
    features, label = points(5, 64, 1e-4)
    seen = measured(features, label)
    assert seen["effective_rank"] == pytest.approx(4.0, rel=0.3)
    assert seen["rank_share"] > 0.9
    unlabelled = measured(features, torch.full_like(label, -1))
    assert unlabelled["rank_share"] == pytest.approx(seen["effective_rank"] / 64)


def test_labels_that_do_not_explain_few_dimensions_excuse_nothing() -> None:
    torch.manual_seed(1)
    features = torch.randn(480, 3) @ torch.randn(3, 64)
    seen = measured(features, torch.randint(10, (480,)))
    assert seen["rank_share"] == pytest.approx(seen["effective_rank"] / 64)


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_classes_on_one_line_are_a_collapse_and_classes_in_a_few_directions_are_none(classes: int) -> None:
    _, label = points(classes, 64, 0.0)
    line = torch.randn(classes, 1)[label] @ torch.randn(1, 64)
    assert measured(line, label)["_rank_share"] < 0.05
    # the means of a network with ReLU lie in few directions, with some spread within the classes
    means = torch.randn(classes, classes) * torch.linspace(3, 1, classes)
    few = (means[label] + 0.5 * torch.randn(480, classes)) @ torch.randn(classes, 64)
    seen = measured(few, label)
    assert seen["_rank_share"] > 0.5 > 3 * seen["effective_rank"] / 64


def test_a_half_that_is_constant_is_no_collapse_of_the_other() -> None:
    """An encoder's [mean, log variance]: the log variance lies at -5, and hardly varies."""
    torch.manual_seed(2)
    both = torch.cat([torch.randn(480, 8), -5 + 1e-3 * torch.randn(480, 8)], 1)
    seen = measured(both, torch.full((480,), -1))
    assert seen["sphere_variance"] < 0.1
    assert seen["_sphere_variance"] > 0.9
    assert seen["_rank_share"] > 0.9
    gone = measured(both.clone().fill_(3.0) + 1e-4 * torch.randn(480, 16), torch.full((480,), -1))
    assert gone["_sphere_variance"] < 0.01


def test_labels_are_spread_over_tokens_and_views() -> None:
    label = torch.tensor([4, 7])
    assert labels_of_rows(label, 2, 6).tolist() == [4, 4, 4, 7, 7, 7]  # type: ignore[union-attr]
    assert labels_of_rows(label, 6, 6).tolist() == [4, 7, 4, 7, 4, 7]  # type: ignore[union-attr]
    assert labels_of_rows(torch.tensor([[1, 2], [3, 4]]), 2, 4).tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert labels_of_rows(label, 3, 3) is None
    assert labels_of_rows(torch.zeros(0, dtype=torch.int64), 3, 3) is None


@pytest.mark.parametrize(
    ("values", "falls"),
    [
        ([0.9, 0.6, 0.3, 0.05], True),
        ([0.9, 0.6, 0.7, 0.1, 0.15], True),
        ([0.9, 0.8, 0.7, 0.6], False),
        ([0.1, 0.05, 0.9, 0.9], False),
        ([0.5], False),
    ],
)
def test_a_fall_with_depth_is_to_less_than_half_and_in_most_pairs(values: list[float], falls: bool) -> None:
    assert falls_with_depth(values) is falls
