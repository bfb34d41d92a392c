from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks.lifecycle.horizon import UnknownHorizonError
from lightning_tricks.lifecycle.pace import PACE, Pace


def a_trainer(**settings: Any) -> Any:
    """A Trainer as far as a pace looks at one: two epochs of 40 batches unless told otherwise."""
    usual = {
        "max_steps": -1,
        "max_epochs": 2,
        "current_epoch": 0,
        "num_training_batches": 40,
        "global_step": 0,
        "callbacks": [],
    }
    return SimpleNamespace(**{**usual, "optimizers": [object()], **settings})


def followed(until: int, steps: list[list[int]], pace: Pace | None = None, start: int = 0) -> Pace:
    """Let the batches ``start..until`` begin; ``steps[i][b]`` are the steps of optimizer ``i`` in batch ``b``."""
    pace = pace or Pace()
    for batch in range(start, until + 1):
        pace.begin_batch(batch % 40, [sum(each[:batch]) for each in steps])
    return pace


@settings(deadline=None, max_examples=60)
@given(every=st.integers(1, 7), times=st.integers(1, 3), late=st.integers(0, 5), until=st.integers(25, 79))
def test_an_optimizer_that_steps_evenly_is_forecast_to_make_what_it_makes(
    every: int, times: int, late: int, until: int
) -> None:
    steps = [times if batch >= late and (batch - late) % every == every - 1 else 0 for batch in range(80)]
    pace = followed(until, [steps])
    assert pace.settled(0)
    # (the batch of the next step is known but for less than one distance)
    assert abs(pace.ends(a_trainer(current_epoch=until // 40))[0] - sum(steps)) <= times


def test_each_optimizer_has_a_pace_of_its_own() -> None:
    critic, generator = [5] * 80, [int(batch % 5 == 4) for batch in range(80)]
    pace = followed(30, [critic, generator])
    assert pace.ends(a_trainer(optimizers=[object()] * 2)) == [400, 16]


def test_before_the_first_step_one_step_in_each_batch_is_expected() -> None:
    assert followed(3, [[0] * 80]).ends(a_trainer()) == [77]
    assert Pace().ends(a_trainer(optimizers=[object()] * 3)) == [80] * 3


def test_data_without_a_length_are_known_after_an_epoch_and_refused_before() -> None:
    endless = a_trainer(num_training_batches=math.inf)
    steps = [1] * 80
    with pytest.raises(UnknownHorizonError, match="the data have no length"):
        followed(20, [steps]).ends(endless)
    assert followed(45, [steps]).ends(a_trainer(num_training_batches=math.inf, current_epoch=1)) == [80]


def test_max_steps_counts_the_steps_of_all_optimizers() -> None:
    pace = followed(10, [[1] * 80, [1] * 80])
    trainer = a_trainer(max_steps=60, max_epochs=-1, global_step=20, optimizers=[object()] * 2)
    assert pace.ends(trainer) == [30, 30]


def test_a_state_is_plain_of_its_form_and_goes_on_as_if_nothing_had_been() -> None:
    steps = [[int(batch % 3 == 2) for batch in range(80)]]
    half = followed(33, steps)
    state = half.state_dict()
    assert PACE(state, "pace") is None
    resumed = followed(70, steps, Pace.from_state(state), start=34)
    assert resumed == followed(70, steps) and resumed.state_dict() == followed(70, steps).state_dict()


def test_looks_come_at_each_of_the_first_batches_and_then_ever_more_seldom() -> None:
    pace = Pace()
    looks = [batch for batch in range(1, 400) if pace.begin_batch(batch, [batch])]
    assert looks[:60] == list(range(1, 61))
    distances = [b - a for a, b in pairwise(looks)]
    assert distances == sorted(distances) and distances[-1] > 50
