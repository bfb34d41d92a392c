"""From the arguments and the length of a run to the curve of every optimizer.

All functions here are pure: what a Trainer knows about its length comes in as a ``Forecast``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_tricks.errors import TrickError, message
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.schedules.course import Course
from lightning_tricks.schedules.curves import Constant, Decay, Span
from lightning_tricks.schedules.run_curve import Curve
from lightning_tricks.schedules.spec import OWNER, ScheduleSpec

TICKS = 1_000_000  # positions on a curve that is measured by the wall clock
SHARES = 1_000  # positions on a curve that is drawn over shares of the run


@dataclass(frozen=True)
class Forecast:
    """What is known about the length of a run; each tuple has one entry per optimizer.

    Args:
        attempts: optimizer steps at the end of the run; None where no curve depends on them.
        per_epoch: updates in an epoch; None while unknown.
        settled: whether it is known how often the optimizer steps, which manual optimization shows only after a while.
        timed: the wall clock alone bounds the run.
        trial: the run only tries out the loop (``fast_dev_run``), so that no warm-up needs to fit in.
    """

    attempts: tuple[int | None, ...]
    per_epoch: tuple[float | None, ...]
    settled: tuple[bool, ...]
    timed: bool = False
    trial: bool = False


@dataclass(frozen=True)
class Track:
    """The curves of one optimizer, and how it moves along them.

    Args:
        course: position by applied updates.
        curves: of the schedule itself, then of each decay in ``overrides``.
    """

    course: Course
    curves: tuple[Curve, ...]

    @classmethod
    def of(cls, course: Course, curves: tuple[Curve, ...]) -> Track:
        """Return a track whose course ends where its first curve does; one that follows no attempts has no such end."""
        return cls(replace(course, end=0 if course.planned is None else curves[0].settled()), curves)


def whole_curve(spec: ScheduleSpec, total: int) -> Curve:
    """Return the curve of a run of ``total`` updates.

    Raises:
        ValueError: a length is given in epochs, warm-up and hold do not fit in, or a metric decides (plateau).
    """
    if spec.plateau is not None:
        text = f"the metric {spec.plateau.monitor!r} decides while training"
        raise ValueError(message(OWNER, "decay", spec.decay, text, "Train, and look at schedule/lr"))
    return curve_of(spec, spec.decay, total, None)


def curve_in_shares(spec: ScheduleSpec) -> Curve:
    """Return the curve of a run whose length is not known; its 1,000 positions are shares of the run.

    Raises:
        ValueError: a length is given in updates or epochs, or a metric decides (plateau).
    """
    if spec.plateau is not None:
        return whole_curve(spec, SHARES)
    try:
        return curve_of(spec, spec.decay, SHARES, None, timed=True)
    except ValueError as error:
        text = "the curve has lengths in updates or epochs, so that it depends on the number of updates"
        raise ValueError(message(f"{OWNER}.plot", "total", None, text, "Pass it, e.g. plot(total=10_000)")) from error


def curve_of(
    spec: ScheduleSpec,
    decay: Decay,
    total: int | None,
    per_epoch: float | None,
    *,
    timed: bool = False,
    held: int = 0,
) -> Curve:
    """Return warm-up, hold and a decay as one curve.

    Args:
        decay: that of the schedule, or one of ``overrides``.
        total: updates of the run; None when its end is not known.
        per_epoch: updates in an epoch; None when not known.
        timed: the run is measured by the wall clock.
        held: updates for which the rate was held already, while the length was unknown.

    Raises:
        ValueError: the decay needs a length that is not known, or warm-up and hold do not fit in.
    """
    lengths = (Duration(0, "st"),) * 2 if decay.owns_warmup else (spec.warmup, spec.hold)
    warmup, hold = (_in_updates(length, total, per_epoch, timed) for length in lengths)
    # (updates that were made while the length was unknown were made at the base rate, and count as hold)
    hold = max(hold, held - warmup)
    if total is None and decay.needs_length:
        raise ValueError(f"{type(decay).__name__} needs the length of the run. Pass total=.")
    if total is not None and warmup + hold > total:
        text = f"warm-up ({warmup}) and hold ({hold}) are longer than the run ({total} updates)"
        raise ValueError(message(OWNER, "warmup", str(spec.warmup), text, "Shorten them"))
    start = warmup + hold
    # (warm-up and hold may fill the run, and no decay divides by 0)
    span = Span(warmup, start, None if total is None else max(1, total - start), per_epoch, timed)
    final = spec.final if decay.takes_final else 0.0
    return Curve(decay.resolve(span), warmup, spec.warmup_shape, spec.warmup_start, hold, final, total)


def _in_updates(length: Duration, total: int | None, per_epoch: float | None, timed: bool) -> int:
    if timed and length.unit != "%" and length.amount:
        text = "max_time bounds this run, so its curve is measured in shares of time"
        raise ValueError(message(OWNER, "warmup or hold", str(length), text, "Use e.g. '5%', or pass total="))
    return length.updates(total, per_epoch)


def needs_length(spec: ScheduleSpec) -> bool:
    """Whether the curve cannot be drawn while the end of the run is unknown."""
    try:
        # (1.0: lengths in epochs are not what is missing)
        curve_of(spec, spec.decay, None, 1.0)
    except ValueError:
        return True
    return False


def lengths(spec: ScheduleSpec, forecast: Forecast) -> list[tuple[int | None, int | None]]:
    """Return for every optimizer the attempts that are planned and the length of its curve.

    The first is None where the curve does not follow the attempts; the second where the curve has no end.

    Raises:
        ValueError: ``total`` is in epochs, whose length is not known.
        TrickError: ``total`` names an optimizer that does not exist.
    """
    found: list[tuple[int | None, int | None]] = []
    for index, planned in enumerate(forecast.attempts):
        total = spec.total_of(index)
        if total is not None:
            found.append((None, total.updates(None, forecast.per_epoch[index])))
        else:
            found.append((None, TICKS) if forecast.timed else (planned, planned))
    unknown = [index for index in spec.total if index >= len(found)] if isinstance(spec.total, dict) else []
    if unknown:
        text = f"there is no optimizer {unknown[0]}; this run has {len(found)}"
        raise TrickError(message(OWNER, "total", spec.total, text, "Count them from 0"))
    return found


def curves_for(
    spec: ScheduleSpec, forecast: Forecast, index: int, total: int | None, held: int = 0, *, stretch: bool = False
) -> tuple[Curve, ...]:
    """Return the curves of an optimizer.

    A length that is only a guess, that of a trial, or with ``stretch`` any, is made longer where warm-up and hold do
    not fit into it.

    Raises:
        TrickError: the curves cannot be drawn.
    """
    per_epoch = forecast.per_epoch[index]
    guessed = not forecast.settled[index] and spec.total_of(index) is None
    try:
        if total is not None and not forecast.timed and (forecast.trial or guessed or stretch):
            given = () if spec.decay.owns_warmup else (spec.warmup, spec.hold)
            # (+ 1: at least one update of decay)
            total = max(total, sum(length.updates(total, per_epoch) for length in given) + 1)
        return tuple(curve_of(spec, d, total, per_epoch, timed=forecast.timed, held=held) for d in spec.decays)
    except (TrickError, ValueError) as error:
        raise TrickError(f"{OWNER}: {error}") from error


def first_tracks(spec: ScheduleSpec, forecast: Forecast, kept: Sequence[Course] = ()) -> tuple[Track, ...]:
    """Return the tracks of a run that begins: on the courses that a checkpoint kept, or for the forecast length."""
    tracks = []
    for index, (planned, total) in enumerate(lengths(spec, forecast)):
        # Until an optimizer has shown how often it steps, it stays at the beginning of its curve (speed 0).
        waits = planned is not None and not forecast.settled[index]
        course = Course(None, total, speed=0) if waits else Course(planned, total)
        course = kept[index] if index < len(kept) else course
        curves = curves_for(spec, forecast, index, course.total, course.held, stretch=bool(kept))
        tracks.append(Track.of(course, curves))
    return tuple(tracks)


def holding_tracks(spec: ScheduleSpec, count: int) -> tuple[Track, ...]:
    """Return tracks that warm up and then hold the rate, while the length of the data is unknown."""
    curves = tuple(curve_of(spec, Constant(), None, None) for _ in spec.decays)
    return (Track(Course(), curves),) * count


def redrawn_track(
    spec: ScheduleSpec,
    forecast: Forecast,
    index: int,
    track: Track,
    length: tuple[int | None, int | None],
    *,
    applied: int | Tensor,
    attempted: int,
    inferring: bool,
    from_scratch: bool,
) -> Track:
    """Return the track for another length of the run.

    Args:
        length: attempts and length of the curve, as ``lengths`` gives them.
        applied: updates so far; a tensor is read on the host only where a curve under way is drawn again.
        inferring: the length was unknown so far, and the rate was held.
        from_scratch: the position follows from the updates alone, as if this length had been known all along.

    Raises:
        TrickError: the curves cannot be drawn for this length.
    """
    planned, total = length
    held = attempted if inferring else track.course.held
    curves = curves_for(spec, forecast, index, total, held)
    unsettled = not forecast.settled[index]
    if from_scratch or planned is None or unsettled:
        # (an optimizer that has stepped does not fall back to the beginning)
        waits = planned is not None and unsettled and not attempted
        # (which ``curves_for`` may have made longer)
        total = curves[0].total
        course = Course(None, total, held=held, speed=0) if waits else Course(planned, total, held=held)
    else:
        before = replace(track.course, held=held)
        course = before.redrawn(track.curves[0], curves[0], planned, int(applied), attempted)
    return Track.of(course, curves)
