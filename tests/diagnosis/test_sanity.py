from __future__ import annotations

import math

import numpy
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from lightning_tricks.diagnosis import sanity


@pytest.mark.parametrize(
    ("loss", "passed"), [(2.303, True), (2.9, True), (3.6, False), (0.9, False), (math.nan, False), (40.0, False)]
)
def test_the_first_loss_is_that_of_knowing_nothing(loss: float, passed: bool) -> None:
    assert sanity.initial_loss(loss, [5.0] * 10).passed is passed


def test_a_loss_that_is_more_than_the_cross_entropy_of_the_labels_is_not_judged_by_them() -> None:
    assert sanity.initial_loss(103.0, [8.0, 8.0], entropy=0.69).passed is None
    assert sanity.initial_loss(103.0, [8.0, 8.0], entropy=103.0).passed is False
    assert sanity.initial_loss(0.9, [5.0] * 10, entropy=2.3).passed is False


def test_the_bias_that_labels_imply_is_that_of_their_frequencies() -> None:
    found = sanity.initial_loss(0.69, [95.0, 5.0])
    entropy = -(0.95 * math.log(0.95) + 0.05 * math.log(0.05))
    assert found.passed
    assert f"[{math.log(0.95):.2f}, {math.log(0.05):.2f}] would start at {entropy:.3f}" in found.evidence


def test_a_regression_is_compared_with_answering_the_mean() -> None:
    target = torch.tensor([98.0, 100.0, 102.0])
    assert sanity.initial_regression(3.0, target).passed
    far = sanity.initial_regression(10_000.0, target)
    assert far.passed is None
    assert "output bias to the mean 100" in far.fix
    assert sanity.initial_regression(math.inf, target).passed is False


@pytest.mark.parametrize(
    ("losses", "passed"),
    [
        ([2.3 * 0.9**i for i in range(60)], True),
        ([2.3] * 60, False),
        ([2.3 - 0.01 * i for i in range(60)], None),
        ([2.3, 5.0, math.nan], False),
        ([], False),
    ],
)
def test_a_batch_is_learnt_by_heart_or_not(losses: list[float], passed: bool | None) -> None:
    assert sanity.overfits(losses).passed is passed
    assert sanity.overfits(losses).mark == {True: "pass", False: "FAIL", None: "?"}[passed]


def test_a_negative_loss_can_be_overfitted_too() -> None:
    assert sanity.overfits([-0.01, -0.5, -0.9], floor=-1.0).passed


@pytest.mark.parametrize("loss", [torch.nn.functional.mse_loss, torch.nn.functional.l1_loss])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_broadcast_loss_is_found(loss: torch.nn.Module) -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(8, 1), torch.randn(8)
    wrong, right = float(loss(prediction, target)), float(loss(prediction.squeeze(1), target))
    found = sanity.broadcasts(prediction, target, wrong)
    assert found is not None
    assert found.passed is False
    assert "(8, 1) against targets (8,) are broadcast to (8, 8)" in found.evidence
    assert sanity.broadcasts(prediction, target, right) is None
    assert sanity.broadcasts(prediction.squeeze(1), target, right) is None


def test_neighbours_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    x, y = bunch.data[:300], bunch.target[:300]
    model = KNeighborsClassifier(2, algorithm="brute").fit(x, y)
    nearest = model.kneighbors(x, return_distance=False)[:, 1]
    z, share = sanity.neighbours_agree(torch.tensor(x), torch.tensor(y))
    assert share == pytest.approx((y[nearest] == y).mean())
    assert z > 20
    shuffled = numpy.random.default_rng(0).permutation(y)
    assert abs(sanity.neighbours_agree(torch.tensor(x), torch.tensor(shuffled))[0]) < 3


def test_labels_are_judged_from_neighbours_first() -> None:
    assert sanity.labels_follow(10.0, 0.9, None).passed
    assert sanity.labels_follow(0.0, 0.1, None).passed is None
    assert sanity.labels_follow(0.0, 0.1, 0.4).passed
    assert sanity.labels_follow(0.0, 0.1, -0.2).passed is False


def test_who_takes_part() -> None:
    arrive = sanity.gradients_arrive
    assert arrive([], [], [], []).passed
    assert arrive(["a"], [], [], []).evidence == "no gradient: a"
    assert arrive([], ["a"], ["b"], []).evidence == "gradient 0 everywhere: a; frozen: b"
    assert arrive([], [], [], ["a"]).fix == "pass self.parameters() to the optimizer"
    assert "and 3 more" in arrive([f"p{i}" for i in range(9)], [], [], []).evidence


def test_leaks_are_told_from_batch_norm() -> None:
    assert sanity.independence(0.1, 0.1, []).passed is False
    assert sanity.independence(0.0, 0.1, []).passed is None
    assert sanity.independence(0.0, 0.1, ["bn"]).passed
    assert sanity.independence(0.0, 0.0, ["bn"]).evidence == "in eval mode 0"
    assert sanity.input_matters(0.0).passed is False
    assert sanity.units_live([]).passed
