"""How long the run is taken to be, and what a checkpoint holds of it.

The state is frozen: every look at the run returns a new one, together with what the user should know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.horizon import Standing, UnknownHorizonError, bounds
from lightning_tricks.lifecycle.pace import PACE, Pace
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics import form
from lightning_tricks.schedules.course import COURSE, Course
from lightning_tricks.schedules.forecast import read_forecast, refuse_unless_inferable
from lightning_tricks.schedules.plan import Track, first_tracks, holding_tracks, lengths, redrawn_track
from lightning_tricks.schedules.spec import ScheduleSpec

HORIZON = {"courses": form.list_of(COURSE), "pace": PACE, "bounds": form.plain, "learning": form.flag}
FIRST_HORIZON = form.record(  # of the first checkpoints of 0.1.0: one length for all optimizers
    {"planned": form.none_or(form.count), "end": form.count, "held": form.count, "elapsed": form.least_zero}, more=True
)


@dataclass(frozen=True)
class HorizonState:
    """The length of the run as it is known now.

    Args:
        tracks: of each optimizer; without curves until the training starts in which they are drawn.
        pace: what the optimizers were seen to do; it counts on by itself.
        bounds: what decided the length at the last look, as plain values.
        inferring: the length is unknown, and the rate is held until the first epoch shows it.
        resumed: the courses are those of a checkpoint or of an earlier fit, and no batch has begun since.
        timed: the wall clock alone bounds the run.
    """

    tracks: tuple[Track, ...] = ()
    pace: Pace = field(default_factory=Pace)
    bounds: Any = field(default_factory=list)
    inferring: bool = False
    resumed: bool = False
    timed: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, under the names that checkpoints have used from the beginning."""
        return {
            "courses": [track.course.state_dict() for track in self.tracks],
            "pace": self.pace.state_dict(),
            "bounds": self.bounds,
            "learning": self.inferring,
        }

    def restored(self, state: Mapping[str, Any], count: int) -> HorizonState:
        """Return what a checkpoint holds for ``count`` optimizers; this state where it holds nothing."""
        if "courses" in state:
            return replace(
                self,
                # (curves are not saved: they follow from the arguments, which may have changed)
                tracks=tuple(Track(Course.from_state(numbers), ()) for numbers in state["courses"]),
                pace=Pace.from_state(state["pace"]),
                bounds=state["bounds"],
                inferring=state["learning"],
            )
        if "pace" not in state:
            return self
        first = state["pace"]
        course = Course(first["planned"], first["planned"], first["end"], held=first["held"])
        # (the rate was held for exactly the first epoch)
        pace = Pace(updates_per_epoch=[course.held] * count if course.held else [])
        return replace(self, tracks=(Track(course, ()),) * count, pace=pace, inferring=bool(first.get("learning")))

    def with_room(self, count: int) -> HorizonState:
        """Return the state for at least ``count`` optimizers; one that appears in mid-run starts like the first one."""
        more = (self.tracks[0],) * (count - len(self.tracks)) if count > len(self.tracks) else ()
        return replace(self, tracks=self.tracks + more)


def horizon_at_start(spec: ScheduleSpec, run: TrainingRun, state: HorizonState, *, has_clock: bool) -> HorizonState:
    """Return the state in which training starts: curves as a checkpoint has them, or for the forecast length.

    Where only the first epoch shows the length, the state that is returned is ``inferring`` it.

    Raises:
        TrickError: the length is not known, or warm-up and hold do not fit in.
    """
    trainer, resumed = run.trainer, bool(state.tracks)
    behind = Standing(trainer.current_epoch, 0, 0, trainer.global_step)
    try:
        forecast = read_forecast(run, spec, state.pace, behind, has_clock=has_clock)
    except UnknownHorizonError as error:
        refuse_unless_inferable(spec, error)
        tracks = holding_tracks(spec, len(run.views))
        return replace(state, tracks=tracks, inferring=True, resumed=resumed, timed=False)
    tracks = first_tracks(spec, forecast, [track.course for track in state.tracks])
    return replace(state, tracks=tracks, inferring=False, resumed=resumed, timed=forecast.timed)


def horizon_after_look(
    spec: ScheduleSpec, run: TrainingRun, state: HorizonState, *, has_clock: bool
) -> tuple[HorizonState, list[str]]:
    """Return the state after a new forecast, and what did not go as the user may expect.

    What is left of each curve is laid over what is left of the run. A resumed run that was given another length
    follows the curve of that length from the start.

    Raises:
        TrickError: warm-up and hold do not fit into the length that a resumed run was given.
    """
    # A resumed run whose bounds are others than those in its checkpoint was given another length by the user.
    now = bounds(run.trainer)
    another_run = state.resumed and now != state.bounds
    state = replace(state, bounds=now, resumed=False)
    behind = Standing.of(run.trainer, run.clock.attempted(0))
    try:
        forecast = read_forecast(run, spec, state.pace, behind, has_clock=has_clock)
    except UnknownHorizonError:  # still in the first epoch
        return replace(state, timed=False), []
    tracks, remarks = list(state.tracks), []
    for index, length in enumerate(lengths(spec, forecast)):
        course = tracks[index].course
        # (to draw a curve again costs a host read where only the device knows the updates)
        if not another_run and forecast.settled[index] and length == (course.planned, course.total):
            continue
        try:
            tracks[index] = redrawn_track(
                spec,
                forecast,
                index,
                tracks[index],
                length,
                applied=run.clock.applied(index),
                attempted=run.clock.attempted(index),
                inferring=state.inferring,
                from_scratch=another_run,
            )
        except TrickError as error:
            if another_run:
                raise
            remarks.append(f"{error} The run turned out shorter than forecast: the curve stays as it was.")
    return replace(state, tracks=tuple(tracks), inferring=False, timed=forecast.timed), remarks
