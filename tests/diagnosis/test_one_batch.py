from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from lightning_tricks.diagnosis import one_batch
from lightning_tricks.diagnosis.one_batch import Trial


def trial(losses: Sequence[float], factor: float = 1.0) -> Trial:
    return Trial(factor, tuple(losses))


LEARNED = [2.3 * 0.9**i for i in range(60)]


@pytest.mark.parametrize(
    ("losses", "passed"),
    [
        (LEARNED, True),
        ([2.3] * 60, False),
        ([2.3 - 0.01 * i for i in range(40)], None),
        ([2.3, 5.0, math.nan], False),
        ([2.4] + [2.25] * 59, False),
        ([], None),
    ],
)
def test_a_batch_is_learnt_by_heart_or_not(losses: list[float], passed: bool | None) -> None:
    found = one_batch.overfits([trial(losses)], constant=2.25)
    assert found.passed is passed
    assert found.mark == {True: "pass", False: "FAIL", None: "?"}[passed]


def test_to_learn_how_often_each_label_occurs_is_not_to_learn_a_batch() -> None:
    to_frequencies = [0.69] + [0.05] * 59
    assert one_batch.overfits([trial(to_frequencies)], constant=0.05).passed is False
    assert one_batch.overfits([trial([0.69] + [0.02] * 59)], constant=0.05).passed


@pytest.mark.parametrize("losses", [[-0.2] + [-0.9] * 30, [1.0, 1.1, 0.99] * 10, [5.4] + [5.3] * 30])
def test_a_loss_that_is_not_known_and_moves_is_no_fault(losses: list[float]) -> None:
    assert one_batch.overfits([trial(losses)]).passed is not False


def test_a_loss_that_never_changes_is_a_fault_unless_it_is_0() -> None:
    assert one_batch.overfits([trial([1.7] * 30), trial([1.7] * 9, 10.0)]).passed is False
    assert one_batch.overfits([trial([0.0] * 30)]).passed is None
    assert one_batch.overfits([trial([1.7] * 30)], moves=False).passed is None


def test_noise_is_not_held_against_a_training() -> None:
    assert one_batch.overfits([trial([2.3, 2.2, 2.35] * 10)], constant=2.2, noise=0.4).passed is None


def test_a_rate_that_is_too_high_is_a_fault_and_one_that_is_small_may_be_meant() -> None:
    high = one_batch.overfits([trial([2.3] + [7.0] * 30), trial(LEARNED, 0.01)], constant=2.2)
    assert high.passed is False
    assert "with 0.01 times the learning rate it does" in high.fix
    low = one_batch.overfits([trial([2.3] * 30), trial(LEARNED, 100.0)], constant=2.2)
    assert low.passed is None
    assert "with 100 times the learning rate it does" in low.fix
