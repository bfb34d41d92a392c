from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_tricks import LRSchedule, TrickError
from lightning_tricks.schedules.course import Course
from lightning_tricks.schedules.plan import (
    TICKS,
    Forecast,
    Track,
    curve_in_shares,
    curve_of,
    curves_for,
    first_tracks,
    holding_tracks,
    lengths,
    needs_length,
    redrawn_track,
    whole_curve,
)
from lightning_tricks.schedules.spec import ScheduleSpec


def spec(*arguments: Any, **named: Any) -> ScheduleSpec:
    return LRSchedule(*arguments, **named).spec


def forecast(*attempts: int | None, **more: Any) -> Forecast:
    count = len(attempts)
    return Forecast(attempts, **{"per_epoch": (10.0,) * count, "settled": (True,) * count, **more})


def test_the_planned_curve_is_warm_up_hold_and_the_closed_form_of_the_decay() -> None:
    curve = whole_curve(spec("cosine", warmup=4, hold=6, final=0.1), 30)
    expected = [0.25, 0.5, 0.75, 1.0] + [1.0] * 6
    expected += [0.1 + 0.9 * (1 + math.cos(math.pi * k / 20)) / 2 for k in range(20)]
    assert curve.values() == pytest.approx(expected, rel=1e-12)


def test_a_curve_over_shares_is_that_of_any_run_with_lengths_in_shares() -> None:
    shares = curve_in_shares(spec("cosine", warmup="10%", hold="30%", final=0.1))
    run = whole_curve(spec("cosine", warmup=400, hold=1200, final=0.1), 4000)
    # (the warm-up counts its first update as 1, so that its values are one position ahead of the share)
    assert [shares.value(k) for k in range(100, 1001)] == pytest.approx([run.value(4 * k) for k in range(100, 1001)])


def test_a_rate_that_was_held_already_is_part_of_the_hold() -> None:
    curve = curve_of(spec("linear", warmup=2), spec("linear").decay, 22, None, held=12)
    assert (curve.warmup, curve.hold) == (2, 10)
    assert curve.value(11) == 1.0 and curve.value(17) == pytest.approx(0.5)


def test_which_decays_can_do_without_a_length() -> None:
    assert needs_length(spec("cosine", warmup=2)) and needs_length(spec("constant")), "a warm-up of 5 % needs one too"
    assert not needs_length(spec("constant", warmup=2)) and not needs_length(spec("inverse_sqrt", warmup="1ep"))


def test_lengths_follow_the_user_the_clock_or_the_forecast() -> None:
    assert lengths(spec("linear"), forecast(50, 7)) == [(50, 50), (7, 7)]
    assert lengths(spec("linear", total={1: "2ep"}), forecast(50, None)) == [(50, 50), (None, 20)]
    assert lengths(spec("linear"), forecast(None, timed=True)) == [(None, TICKS)]
    with pytest.raises(TrickError, match="there is no optimizer 2; this run has 1"):
        lengths(spec("linear", total={2: 5}), forecast(5))


def test_a_run_that_begins_gets_a_track_per_optimizer_that_ends_with_its_forecast() -> None:
    tracks = first_tracks(spec("linear", warmup=0), forecast(50, 8))
    assert [track.course.planned for track in tracks] == [50, 8]
    for track, planned in zip(tracks, (50, 8), strict=True):
        end = track.course.position(planned, planned)
        assert track.curves[0].value(float(end)) == 0.0


def test_an_optimizer_whose_pace_is_unknown_waits_at_the_beginning() -> None:
    (track,) = first_tracks(spec("linear", warmup=3), forecast(50, settled=(False,)))
    assert track.course.position(20, 20) == 0 and track.course.planned is None


def test_the_courses_of_a_checkpoint_are_kept() -> None:
    kept = Course(40, 40, 39, place=5.0, updates=3, speed=1.25)
    tracks = first_tracks(spec("linear", warmup=2), forecast(40, 40), [kept])
    assert tracks[0].course.position(7, 7) == kept.position(7, 7) == 10.0
    assert tracks[1].course.position(7, 7) == 7


@pytest.mark.parametrize(
    ("more", "stretch"),
    [({"trial": True}, False), ({"settled": (False,)}, False), ({}, True)],
    ids=["a trial", "a guess", "a resumed run"],
)
def test_a_length_that_may_be_wrong_is_stretched_to_hold_the_warm_up(more: dict[str, Any], stretch: bool) -> None:
    asked = spec("linear", warmup=30, hold=10)
    assert curves_for(asked, forecast(5, **more), 0, 5, stretch=stretch)[0].total == 41
    with pytest.raises(TrickError, match=r"LRSchedule: LRSchedule\(warmup='30st'\): warm-up \(30\) and hold \(10\)"):
        curves_for(asked, forecast(5), 0, 5)


def test_lengths_in_epochs_are_refused_where_time_bounds_the_run() -> None:
    with pytest.raises(TrickError, match="measured in shares of time"):
        curves_for(spec("linear", warmup=30), forecast(None, timed=True), 0, TICKS)


def redrawn(track: Track, length: int, *, at: int, **more: Any) -> Track:
    flags: dict[str, Any] = {"inferring": False, "from_scratch": False, "applied": at, "attempted": at, **more}
    return redrawn_track(spec("linear", warmup=0), forecast(length), 0, track, (length, length), **flags)


def test_a_longer_run_spreads_what_is_left_without_a_jump_and_ends_at_the_end() -> None:
    (track,) = first_tracks(spec("linear", warmup=0), forecast(100))
    longer = redrawn(track, 150, at=50)
    rate = [longer.curves[0].value(float(longer.course.position(k, k))) for k in (50, 100, 150)]
    assert rate == pytest.approx([0.5, 0.25, 0.0])


def test_a_resumed_run_of_another_length_follows_the_curve_of_that_length() -> None:
    (track,) = first_tracks(spec("linear", warmup=0), forecast(100))
    other = redrawn(track, 200, at=50, from_scratch=True)
    assert other.curves[0].value(float(other.course.position(50, 50))) == pytest.approx(0.75)


def test_updates_that_only_a_device_knows_are_read_where_a_curve_is_laid_out_anew() -> None:
    (track,) = first_tracks(spec("linear", warmup=0), forecast(100))
    assert redrawn(track, 150, at=50, applied=torch.tensor(50)) == redrawn(track, 150, at=50)


def test_the_updates_of_an_epoch_without_a_length_count_as_held() -> None:
    (track,) = holding_tracks(spec("linear", warmup=0), 1)
    assert track.curves[0].value(1e6) == 1.0 and track.course.planned is None
    found = redrawn(track, 30, at=10, inferring=True)
    values = [found.curves[0].value(float(found.course.position(k, k))) for k in (10, 20, 30)]
    assert values == pytest.approx([1.0, 0.5, 0.0])
