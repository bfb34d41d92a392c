"""What the user should know about a curve that does not fit the run: as text, or None."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from lightning_tricks.optimizer_step.rate_request import is_schedule_free
from lightning_tricks.schedules.curves import Constant, Decay
from lightning_tricks.schedules.plan import Track


def two_decays(decay: Decay, optimizer: Optimizer) -> str | None:
    """Return that an optimizer without a schedule was given one; a constant rate, after a warm-up, is what it needs."""
    if not is_schedule_free(optimizer) or isinstance(decay, Constant):
        return None
    return f"{type(optimizer).__name__} is schedule-free: it averages weights in place of a decay. Use one of the two."


def overruns(tracks: Sequence[Track], attempted: Sequence[int]) -> list[str | None]:
    """Return what ``overrun`` says of each optimizer, given its attempts so far."""
    several = len(attempted) > 1
    named = enumerate(zip(tracks, attempted, strict=True))
    return [overrun(track, attempts, f" of optimizer {i}" if several else "") for i, (track, attempts) in named]


def overrun(track: Track, attempted: int, which: str = "") -> str | None:
    """Return that a run goes on after the end of its curve: the rate would stay there silently otherwise.

    Args:
        attempted: its attempts so far. Two more than expected, and 2 %, are not a reason to speak.
        which: names the optimizer where there are several.
    """
    course, curve = track.course, track.curves[0]
    total = course.planned or course.total
    # (a forecast from what happened may be off by a little without any harm)
    if total is None or attempted <= 1.02 * total or attempted < total + 2:
        return None
    end = curve.value(curve.total or 0)
    if course.planned is None and end >= 0.01:  # the user gave the length, and training goes on at a rate that learns
        return None
    known = "was forecast" if course.planned is not None else "total= says"
    return (
        f"the run goes on after the {total} updates{which} that {known}: the rate stays at {end:.0%} of the base rate. "
        "Pass the length that is meant as total=."
    )


def shortfall(track: Track, position: float, applied: int, *, timed: bool) -> str | None:
    """Return how far a curve got in a run that is over, where that is not its end.

    Args:
        position: at which it stands.
        timed: whether the wall clock bounded the run.
    """
    curve = track.curves[0]
    # A forecast that was inferred from what happened may be off by one.
    if curve.total is None or curve.total - position <= 2:
        return None
    reached, end = curve.value(position), curve.value(curve.total)
    if abs(reached - end) <= 0.02 and position >= curve.warmup:
        return None
    when = "before max_time" if timed else f"at update {applied} of {curve.total}"
    return (
        f"training ended {when}, at {reached:.0%} of the base rate instead of {end:.0%}. Pass total={applied} if this "
        "length is meant."
    )
