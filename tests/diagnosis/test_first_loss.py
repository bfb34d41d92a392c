from __future__ import annotations

import math

import pytest
import torch

from lightning_tricks.diagnosis import first_loss


@pytest.mark.parametrize(
    ("loss", "passed"), [(2.303, True), (2.9, True), (3.6, True), (0.9, None), (math.nan, False), (40.0, False)]
)
def test_the_first_loss_is_that_of_knowing_nothing(loss: float, passed: bool | None) -> None:
    assert first_loss.initial_loss(loss, [5.0] * 10).passed is passed


def test_a_large_loss_that_falls_at_once_is_no_fault() -> None:
    assert first_loss.initial_loss(40.0, [5.0] * 10, recovers=True).passed is None
    assert first_loss.initial_loss(40.0, [5.0] * 10, recovers=False).passed is False


def test_the_bias_that_labels_imply_is_that_of_their_frequencies() -> None:
    found = first_loss.initial_loss(0.69, [95.0, 5.0])
    entropy = -(0.95 * math.log(0.95) + 0.05 * math.log(0.05))
    assert found.passed
    assert f"[{math.log(0.95):.2f}, {math.log(0.05):.2f}] would start at {entropy:.3f}" in found.evidence
    assert first_loss.initial_loss(entropy, [95.0, 5.0]).passed  # (with that bias)


def test_what_was_squashed_twice_is_named() -> None:
    assert "softmax was applied twice" in first_loss.applied_twice(2.3, "softmax").evidence
    assert "dimension 0" in first_loss.applied_twice(2.3, "softmax over the batch").evidence
    assert first_loss.applied_twice(0.7, "sigmoid").passed is False


def test_a_sum_is_a_fault_only_where_training_does_not_bring_it_down() -> None:
    assert first_loss.wrong_factor(64.0, "cross entropy", 64.0, True).passed
    found = first_loss.wrong_factor(64.0, "cross entropy", 64.0, False)
    assert found.passed is False
    assert "a learning rate that is 64 times smaller" in found.fix
    assert "flip its sign" in first_loss.wrong_factor(-2.3, "cross entropy", -1.0, True).fix


def test_a_regression_is_compared_with_answering_the_mean() -> None:
    target = torch.tensor([98.0, 100.0, 102.0])
    assert first_loss.initial_regression(3.0, target).passed
    far = first_loss.initial_regression(10_000.0, target)
    assert far.passed is None
    assert "output bias to the mean 100" in far.fix
    huge = first_loss.initial_regression(1e8, 100 * target, 0.1, falls=False)
    assert huge.passed is False
    assert huge.fix == "standardise the targets"
    assert first_loss.initial_regression(1e8, 100 * target, 0.1, falls=True).passed is None
