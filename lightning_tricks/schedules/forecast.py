"""What a Trainer and the optimizer steps so far say about the length of a run, read into one frozen ``Forecast``."""

from __future__ import annotations

from dataclasses import replace

from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.horizon import Standing, UnknownHorizonError, forecast_updates, updates_per_epoch
from lightning_tricks.lifecycle.pace import Pace
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.schedules.plan import Forecast, needs_length
from lightning_tricks.schedules.spec import OWNER, ScheduleSpec


def read_forecast(run: TrainingRun, spec: ScheduleSpec, pace: Pace, behind: Standing, *, has_clock: bool) -> Forecast:
    """Return what is known about the length of the run at this moment.

    Args:
        spec: the arguments; where they give every length, the Trainer is not asked.
        has_clock: whether ``max_time`` may stand in for an unknown number of updates.

    Raises:
        UnknownHorizonError: the curve needs the length of the run, and nothing gives it.
    """
    # max_time gives no number of updates: it decides only where nothing else bounds the run.
    timed = False
    try:
        attempts = _attempts(run, spec, pace, behind)
    except UnknownHorizonError:
        timed = has_clock
        if not timed and needs_length(spec):
            raise
        attempts = (None,) * len(run.views)
    automatic = bool(run.trainer.lightning_module.automatic_optimization)
    per_epoch = updates_per_epoch(run.trainer)
    return Forecast(
        attempts=attempts,
        # (with manual optimization an optimizer steps as often as its module likes)
        per_epoch=tuple(
            per_epoch if per_epoch is None or automatic else per_epoch * pace.rate(view.index) for view in run.views
        ),
        settled=tuple(automatic or pace.settled(view.index) for view in run.views),
        timed=timed,
        trial=bool(run.trainer.fast_dev_run),
    )


def _attempts(run: TrainingRun, spec: ScheduleSpec, pace: Pace, behind: Standing) -> tuple[int | None, ...]:
    """Return the attempts of every optimizer at the end of the run; None where nothing depends on them."""
    trainer = run.trainer
    if all(spec.total_of(view.index) is not None for view in run.views):
        return (None,) * len(run.views)
    if not trainer.lightning_module.automatic_optimization:
        ends = pace.ends(trainer)
        return tuple(ends[view.index] for view in run.views)
    found = []
    for view in run.views:
        seen = pace.updates_per_epoch[view.index : view.index + 1]
        standing = replace(behind, updates=run.clock.attempted(view.index))
        found.append(forecast_updates(trainer, standing, seen[0] if seen else None))
    return tuple(found)


def refuse_unless_inferable(spec: ScheduleSpec, error: UnknownHorizonError) -> None:
    """Refuse a run whose length neither the Trainer nor its first epoch gives, or whose curve cannot wait for it.

    Raises:
        TrickError: it says what to pass instead.
    """
    if not error.learnable:
        raise TrickError(f"{OWNER}: {error}") from error
    if "%" in (spec.warmup.unit, spec.hold.unit) or spec.decay.owns_warmup:
        hint = "Or give warmup= in updates: then the decay begins after the first epoch, which tells the length."
        raise TrickError(f"{OWNER}: {error} {hint}") from error
