from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch

from lightning_tricks.collapse.rewards import Rewards, has_learned, has_unlearned, reward_in
from lightning_tricks.detection.judge import MOST_POINTS

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("reward", True),
        ("train/Rewards", True),
        ("mean_return", True),
        ("return.mean", True),
        ("reward_loss", False),
        ("returned", False),
        ("accuracy", False),
    ],
)
def test_a_reward_is_told_by_a_whole_word_in_its_name(name: str, found: bool) -> None:
    assert (reward_in({name: torch.tensor([1.0, 4.0])}) is not None) is found


@pytest.mark.parametrize("value", [1.0, torch.zeros(0), torch.zeros(1, dtype=torch.complex64)])
def test_only_real_tensors_are_rewards(value: Any) -> None:
    assert reward_in({"reward": value, 3: torch.zeros(())}) is None


def test_what_a_step_returned_comes_before_what_it_logged_and_the_first_is_the_baseline() -> None:
    rewards, logged = Rewards(), {"reward": torch.tensor(7.0)}
    assert rewards.of_batch({"reward": torch.tensor([1, 3])}, logged, CPU, first=True).tolist() == [2, 1]
    assert rewards.of_batch(None, logged, CPU, first=False).tolist() == [7, 1]
    assert rewards.of_batch({"loss": torch.zeros(())}, {}, CPU, first=False).tolist() == [0, 0]
    assert rewards.baseline is not None and rewards.baseline.tolist() == [2, 1]


def test_a_clear_rise_is_learning_and_noise_is_not() -> None:
    rising, flat, none = Rewards(), Rewards(), Rewards()
    for i in range(12):
        assert rising.add(float(i), 0.0) and flat.add(0.5 + 0.1 * (-1) ** i, 0.5)
        assert not none.add(math.nan, 0.0), "a check without a reward"
    assert rising.learned(4) is True and flat.learned(4) is False and none.learned(4) is None
    assert none.means == [] and math.isnan(none.begun)


def test_means_stay_bounded() -> None:
    rewards = Rewards()
    for i in range(MOST_POINTS + 1):
        rewards.add(float(i), 0.0)
    assert len(rewards.means) <= MOST_POINTS and rewards.means[-1] == MOST_POINTS


def test_a_state_is_a_copy_and_comes_back() -> None:
    first, second = Rewards(), Rewards()
    first.of_batch({"reward": torch.tensor(2.0)}, {}, CPU, first=True)
    first.add(1.0, 2.0)
    saved = first.state()
    first.add(3.0, 2.0)
    second.load(saved, CPU)
    assert second.means == [1.0] and second.baseline is not None and second.baseline.tolist() == [2, 1]
    with pytest.raises(ValueError, match="the first reward in the checkpoint is not a sum and a number"):
        second.load({"rewards": [], "start": torch.zeros(3)}, CPU)


@pytest.mark.parametrize(
    ("rewards", "start", "learned"),
    [
        ([0.5, 0.8, 0.9, 0.92, 0.93, 0.93], 0.25, True),
        ([1.0, 1.0, 1.0], 1.0, False),  # nothing was gained
        ([0.5, 0.9, 0.9, 0.3, 0.28, 0.3], 0.25, False),  # it is lost again
        ([-20.0, -19.5, -20.5, -20.0, -19.8, -20.2], math.nan, False),
        ([-20.0, -19.0, -20.0, -10.0, -5.0, -5.0, -5.0], math.nan, True),
        ([0.5, 0.9], 0.25, None),
        ([0.5] * 5, math.nan, None),
    ],
)
def test_learning_is_a_clear_rise_of_the_reward(rewards: list[float], start: float, learned: bool | None) -> None:
    assert has_learned(rewards, start, 16) is learned


def test_noise_is_seldom_taken_for_learning() -> None:
    draw = numpy.random.default_rng(0)
    found = 0
    for _ in range(300):
        start, rewards = draw.normal(), (draw.normal(size=20) / 4).tolist()  # means over 16 batches
        found += has_learned(rewards, float(start), 16) is True
    assert found <= 15, "5 %"


def test_rewards_that_fall_are_told_from_noise_and_from_a_dip_after_a_rise() -> None:
    alarms, found = 0, 0
    for seed in range(100):
        noise = torch.randn(40, generator=torch.Generator().manual_seed(seed)).tolist()
        flat, falls = ([0.25 + 0.02 * e - slope * i for i, e in enumerate(noise)] for slope in (0.0, 0.006))
        alarms += any(has_unlearned(flat[:n], math.nan, 16) for n in range(1, 41))
        found += has_unlearned(falls, math.nan, 16)
    assert alarms <= 5 and found == 100
    assert not has_unlearned([0.2, 0.3, 0.6, 0.9, 0.9, 0.3, 0.2, 0.15, 0.15], math.nan, 16)
