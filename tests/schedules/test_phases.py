from __future__ import annotations

import math

import pytest

from lightning_tricks import LRSchedule
from lightning_tricks.schedules.curves import Constant, Function, Linear, Span
from lightning_tricks.schedules.phases import DECAYS, Join, Phase, as_decay


def test_a_name_a_decay_and_a_function_all_mean_a_decay() -> None:
    assert as_decay("LRSchedule", "linear") == Linear()
    assert as_decay("LRSchedule", Constant()) == Constant()
    function = as_decay("LRSchedule", lambda update, length: update / length)
    assert isinstance(function, Function) and function.multiplier(3, 10) == 0.3
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        as_decay("LRSchedule", "cosin")
    assert all(as_decay("LRSchedule", name) is decay for name, decay in DECAYS.items())


def test_phases_take_their_lengths_and_the_open_one_takes_what_is_left() -> None:
    join = Join([Phase("linear", "1ep", start=0.0, end=1.0), Phase("constant", "50%"), Phase("cosine", end=0.2)])
    resolved = join.resolve(Span(length=20, per_epoch=4))
    expected = [k / 4 for k in range(4)] + [1.0] * 10
    expected += [0.2 + 0.8 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert [resolved.multiplier(k, 20) for k in range(20)] == pytest.approx(expected)
    assert [size for _, size in resolved.parts(20)] == [4, 10, 6]


def test_a_join_has_the_warm_up_of_its_own_phases() -> None:
    with pytest.raises(ValueError, match="Join has its own warm-up"):
        LRSchedule(Join([Phase("linear")]), warmup=3)
