from __future__ import annotations

import math

import pytest

from lightning_tricks import LRSchedule, TrickError
from lightning_tricks.lifecycle.horizon import Standing, UnknownHorizonError
from lightning_tricks.lifecycle.pace import Pace
from lightning_tricks.schedules.forecast import read_forecast, refuse_unless_inferable
from tests.schedules.fake_run import fake_run


def test_epochs_times_batches_bounded_by_the_steps_is_the_length() -> None:
    spec = LRSchedule("linear").spec
    assert read_forecast(fake_run(), spec, Pace(), Standing(), has_clock=False).attempts == (40,)
    found = read_forecast(fake_run(steps=25, trial=True), spec, Pace(), Standing(), has_clock=False)
    assert found.attempts == (25,) and found.per_epoch == (10.0,) and found.settled == (True,) and found.trial


def test_lengths_that_the_user_gave_are_not_asked_of_the_trainer() -> None:
    spec = LRSchedule("linear", total=7).spec
    endless = fake_run(epochs=-1, batches=math.inf)
    found = read_forecast(endless, spec, Pace(), Standing(), has_clock=False)
    assert found.attempts == (None,) and found.per_epoch == (None,)


def test_manual_optimization_counts_what_each_optimizer_was_seen_to_do() -> None:
    run, pace, spec = fake_run(manual=True, optimizers=2), Pace(), LRSchedule("linear").spec
    before = read_forecast(run, spec, pace, Standing(), has_clock=False)
    assert before.attempts == (40, 40) and before.settled == (False, False)
    for batch in range(9):  # the second one steps in every fourth batch
        pace.begin_batch(batch, [batch, (batch + 3) // 4])
    found = read_forecast(run, spec, pace, Standing(), has_clock=False)
    assert found.settled == (True, True)
    assert found.attempts == (40, 10) and found.per_epoch == (10.0, pytest.approx(2.5))


def test_the_clock_stands_in_for_an_unknown_length_and_else_a_curve_that_needs_none_goes_on() -> None:
    endless, unknown = fake_run(epochs=-1), Standing()
    needs = LRSchedule("linear").spec
    assert read_forecast(endless, needs, Pace(), unknown, has_clock=True).timed
    with pytest.raises(UnknownHorizonError, match="max_epochs and max_steps are open"):
        read_forecast(endless, needs, Pace(), unknown, has_clock=False)
    found = read_forecast(endless, LRSchedule("inverse_sqrt", warmup=5).spec, Pace(), unknown, has_clock=False)
    assert found.attempts == (None,) and not found.timed


def test_only_a_curve_that_can_wait_for_the_first_epoch_is_accepted_where_that_tells_the_length() -> None:
    learnable, never = UnknownHorizonError("unknown", True), UnknownHorizonError("unknown", False)
    refuse_unless_inferable(LRSchedule("linear", warmup=5).spec, learnable)
    with pytest.raises(TrickError, match="LRSchedule: unknown"):
        refuse_unless_inferable(LRSchedule("linear", warmup=5).spec, never)
    for spec in (LRSchedule("linear").spec, LRSchedule("one_cycle").spec):
        with pytest.raises(TrickError, match="Or give warmup= in updates"):
            refuse_unless_inferable(spec, learnable)
