from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from lightning_tricks import LRSchedule, TrickError
from lightning_tricks.schedules.horizon_state import HorizonState, horizon_after_look, horizon_at_start
from lightning_tricks.schedules.spec import ScheduleSpec
from tests.schedules.fake_run import fake_run

LINEAR = LRSchedule("linear", warmup=0).spec


def rate(state: HorizonState, at: int) -> float:
    track = state.tracks[0]
    return track.curves[0].value(float(track.course.position(at, at)))


def start(run: Any, state: HorizonState | None = None, spec: ScheduleSpec = LINEAR) -> HorizonState:
    return horizon_at_start(spec, run, HorizonState() if state is None else state, has_clock=False)


def look(run: Any, state: HorizonState, spec: ScheduleSpec = LINEAR) -> tuple[HorizonState, list[str]]:
    return horizon_after_look(spec, run, state, has_clock=False)


def test_a_run_that_begins_ends_at_the_forecast_length_and_a_look_that_finds_the_same_changes_nothing() -> None:
    state = start(fake_run())
    assert [rate(state, k) for k in (0, 20, 40)] == pytest.approx([1.0, 0.5, 0.0])
    again, remarks = look(fake_run(done=1), state)
    assert again.tracks == state.tracks and remarks == [] and not again.resumed


def test_a_run_that_turns_out_longer_goes_on_without_a_jump() -> None:
    state, _ = look(fake_run(epochs=6, done=20, epoch=2), start(fake_run()))
    assert [rate(state, k) for k in (20, 40, 60)] == pytest.approx([0.5, 0.25, 0.0])


def test_data_without_a_length_are_inferred_after_their_first_epoch() -> None:
    endless = fake_run(batches=math.inf)
    state = start(endless)
    assert state.inferring and rate(state, 1000) == 1.0
    waiting, remarks = look(endless, state)
    assert waiting.inferring and waiting.tracks == state.tracks and remarks == []
    for batch in range(10):
        state.pace.begin_batch(batch, [batch])
    state.pace.begin_batch(0, [10])
    known, _ = look(fake_run(batches=math.inf, done=10, epoch=1), state)
    assert not known.inferring
    assert [rate(known, k) for k in (10, 25, 40)] == pytest.approx([1.0, 0.5, 0.0])
    with pytest.raises(TrickError, match="the data have no length"):
        start(endless, spec=LRSchedule("linear").spec)


def test_a_resumed_run_of_the_same_length_goes_on_and_one_of_another_follows_that_curve() -> None:
    begun, _ = look(fake_run(), start(fake_run()))
    saved = HorizonState().restored(begun.state_dict(), 1)
    same, _ = look(fake_run(done=20, epoch=2), start(fake_run(done=20, epoch=2), saved))
    assert same.tracks == begun.tracks
    resumed = start(fake_run(epochs=8, done=20, epoch=2), saved)
    assert resumed.resumed and rate(resumed, 20) == pytest.approx(0.5), "until the first batch shows the new length"
    other, _ = look(fake_run(epochs=8, done=20, epoch=2), resumed)
    assert rate(other, 20) == pytest.approx(0.75) and rate(other, 80) == 0.0


def test_a_run_that_becomes_too_short_for_its_warm_up_says_so_and_a_resumed_one_is_refused() -> None:
    spec = LRSchedule("linear", warmup=30).spec
    state, short = start(fake_run(), spec=spec), fake_run(epochs=2, done=5)
    kept, remarks = look(short, state, spec)
    assert kept.tracks == state.tracks
    assert len(remarks) == 1 and "turned out shorter than forecast: the curve stays as it was" in remarks[0]
    with pytest.raises(TrickError, match="are longer than the run"):
        look(short, replace(state, resumed=True), spec)


def test_the_first_form_of_a_state_holds_one_length_for_all_optimizers() -> None:
    first = {"pace": {"planned": 40, "end": 39, "held": 10, "learning": True}}
    state = HorizonState().restored(first, 2)
    assert [track.course.planned for track in state.tracks] == [40, 40] and state.inferring
    assert state.pace.updates_per_epoch == [10, 10]
    assert HorizonState().restored({}, 2).tracks == ()


def test_an_optimizer_that_appears_in_mid_run_starts_as_the_first_one() -> None:
    state = start(fake_run())
    assert state.with_room(3).tracks == state.tracks * 3 and state.with_room(1).tracks == state.tracks
