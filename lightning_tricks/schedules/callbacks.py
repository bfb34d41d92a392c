"""LRSchedule: writes learning rate, momentum and weight decay, once per applied update."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_tricks.errors import (
    ConflictError,
    TrickError,
    UnsupportedError,
    message,
    nearest,
    require_choice,
    require_number,
)
from lightning_tricks.measure import form
from lightning_tricks.measure.duration import Duration
from lightning_tricks.runtime import host
from lightning_tricks.runtime.action import warn
from lightning_tricks.runtime.horizon import (
    PACE,
    Pace,
    Standing,
    UnknownHorizonError,
    bounds,
    forecast_updates,
    time_progress,
    updates_per_epoch,
)
from lightning_tricks.runtime.logbook import OptimizerView, Page
from lightning_tricks.runtime.publish import Cadence
from lightning_tricks.runtime.rate import is_schedule_free, require_rates
from lightning_tricks.runtime.replaced import PutBack, replaced
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.selection import fault_of
from lightning_tricks.runtime.shards import reduced
from lightning_tricks.runtime.trick import Trick
from lightning_tricks.schedules.course import COURSE, Course
from lightning_tricks.schedules.curves import Constant, Decay, Span
from lightning_tricks.schedules.figures import draw_curve
from lightning_tricks.schedules.own_rates import NoScheduler, OwnRates
from lightning_tricks.schedules.phases import Curve, as_decay
from lightning_tricks.schedules.plateau import Plateau

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TICKS = 1_000_000  # positions on a curve that is measured by the wall clock
_SLACK = 0.05  # share of max_time in which the clock does not hurry a run whose updates are planned
_SEEN = form.record(
    {
        "version": form.whole,
        "best": form.maybe(form.measured),
        "bad": form.whole,
        "cooling": form.whole,
        "multiplier": form.factor,
        "reductions": form.whole,
    }
)
_WRITTEN = {
    "base": form.many(form.many(form.many(form.rate, 2))),
    "plateau": form.maybe(_SEEN),
    "of_validation": form.flag,
}
_FORECAST = {
    "courses": form.many(COURSE),
    "pace": PACE,
    "bounds": form.plain,
    "elapsed": form.least_zero,
    "learning": form.flag,
}
_FIRST_FORECAST = form.record(  # in checkpoints of 0.1.0: one length for all optimizers
    {"planned": form.maybe(form.whole), "end": form.whole, "held": form.whole, "elapsed": form.least_zero}, more=True
)


def _state_form(value: Any, where: str) -> str | None:
    known = _FORECAST if isinstance(value, dict) and "courses" in value else {"pace": _FIRST_FORECAST}
    return form.record({**_WRITTEN, **known}, more=True)(value, where)


_AGREE_EVERY = 16  # attempts after which several processes agree on the time


@final
class LRSchedule(Trick):
    """Warm up, hold and decay the learning rate, counted in updates that really happened.

    ``lr = base_lr * multiplier(applied updates)``, written into each parameter group after each update; groups keep
    their ratios. Steps that a GradScaler or a NaN skipped do not count, nor do micro-batches. Where the Trainer gives
    the length of the run, the curve still reaches its end (within 1 % of the base rate): if skipped attempts would not
    let it, the last updates advance by two each. With ``total=`` it is the curve at the number of updates to the last.

    Every optimizer has a curve as long as its own part of the run. With manual optimization that is learnt: the rate
    stays where the curve begins until an optimizer has stepped in two batches. Where a run turns out longer or shorter
    than forecast (data that grow, optimizers that step less often), what is left of the curve is laid over what is
    left of the run, without a jump. A resumed run that was given another length follows the curve of that length.

    Where ``max_time`` alone bounds the run, the curve follows the wall clock; beside ``max_epochs`` or ``max_steps``
    the clock hurries the curve only when it would end the run first. ``total=`` switches both off. With data that have
    no length, the rate is held in the first epoch, which tells the length, and decays from the second on.

    Args:
        decay: ``"constant"``, ``"linear"``, ``"cosine"``, ``"cosine_restarts"``, ``"polynomial"``, ``"exponential"``,
            ``"natural_exponential"``, ``"inverse_time"``, ``"inverse_sqrt"``, ``"step"``, ``"multistep"``,
            ``"piecewise"``, ``"linear_cosine"``, ``"one_minus_sqrt"``, ``"one_cycle"``, ``"noam"``, ``"plateau"``; a
            Decay object such as ``Polynomial(0.9)``; or a function of (update, length).
        warmup: length of the warm-up: updates (``500``, ``"500st"``), epochs (``"2ep"``) or share of the run
            (``"5%"``); None for 5 %, 0 for none. ``one_cycle``, ``noam`` and ``Join`` have their own.
        warmup_shape: ``"linear"``, ``"cosine"``, ``"exponential"`` or ``"constant"``.
        warmup_start: multiplier at which the warm-up begins, in [0, 1]; > 0 for exponential and constant.
        hold: length at the base rate between warm-up and decay, in the same units.
        final: multiplier at the end, in [0, 1]; of a plateau the lowest one.
        total: length of the run, in the same units but not ``%``; None to take it from the Trainer. Of several
            optimizers all, or ``{index: length}``.
        momentum: ``(0.95, 0.85)``: momentum (beta1 of Adam) at the lowest and at the highest rate; None to leave it.
        weight_decay_final: weight decay at the end of the run, reached by a half cosine from each group's own; groups
            that have none keep none. None to leave it.
        conflict: when the module has a scheduler of its own: ``"error"`` names it, ``"replace"`` takes over.
        overrides: regular expression on parameter names or group names -> a factor on the base rate (``0.1``) or
            another decay for these groups.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range or contradicts another.
        ConflictError: at fit start, the module returned a scheduler and ``conflict`` is ``"error"``.
        TrickError: at fit start, the length of the run is not known, or warm-up and hold do not fit in; a pattern
            matches nothing, or only a part of a group; the metric of a plateau is not logged.

    Logs:
        - ``schedule/lr``: rate of the first parameter group at logged steps.
        - ``schedule/lr/<group>``: of each group when there are several.
        - ``schedule/momentum``, ``schedule/weight_decay``: of the first group, where they are scheduled.
        - with several optimizers all have ``/optimizer<index>`` behind their first part.

    Changes:
        ``lr`` of every parameter group; ``momentum`` (or ``betas``) and ``weight_decay`` where asked for.

    State:
        Base values, length, and the numbers of updates; what a plateau has seen. A resume with other arguments goes on
        at the same update on the new curve. From a checkpoint without this state the position is taken from the global
        step, with a warning.

    Cost:
        A few Python numbers per update. Where only the device knows whether an update happened (fused optimizer with a
        GradScaler, or with ``GradientClip(nonfinite="skip")``), rates are tensors on the device: no host read; momentum
        and weight decay, which torch takes as numbers only, follow the count as it was at the last logged step. With
        ``max_time`` on several processes: one small broadcast every 16 updates.

    Example:
        >>> from lightning_tricks import LRSchedule
        >>> [round(v, 3) for v in LRSchedule("cosine", warmup=2).values(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]

    Reference: Goyal et al., 2017, arXiv:1706.02677 (warm-up); Loshchilov, Hutter, 2017, arXiv:1608.03983 (cosine);
    Hägele et al., 2024, arXiv:2405.18392 (hold, then decay); Smith, Topin, 2018, arXiv:1708.07120 (inverse momentum).
    """

    state_form = staticmethod(_state_form)

    def __init__(
        self,
        decay: str | Decay | Callable[..., Any] = "cosine",
        *,
        warmup: int | str | None = None,
        warmup_shape: Literal["linear", "constant", "cosine", "exponential"] = "linear",
        warmup_start: float = 0.0,
        hold: int | str = 0,
        final: float = 0.0,
        total: int | str | Mapping[int, int | str] | None = None,
        momentum: tuple[float, float] | None = None,
        weight_decay_final: float | None = None,
        conflict: Literal["error", "replace"] = "error",
        overrides: dict[str, float | str | Decay] | None = None,
    ) -> None:
        owner = "LRSchedule"
        shapes = ("linear", "constant", "cosine", "exponential")
        self.decay = as_decay(owner, decay)
        own = self.decay.owns_warmup
        default = "0" if own else "5%"
        self.warmup = Duration.parse(default if warmup is None else warmup, owner=owner, argument="warmup")
        self.warmup_shape = require_choice(owner, "warmup_shape", warmup_shape, shapes)
        self.warmup_start = _share("warmup_start", warmup_start)
        self.hold = Duration.parse(hold, owner=owner, argument="hold")
        self.final = _share("final", final)
        self.total = _total(total)
        self.momentum = None if momentum is None else _momentum(momentum)
        self.weight_decay_final = weight_decay_final
        self.conflict = require_choice(owner, "conflict", conflict, ("error", "replace"))
        self.overrides = _overrides(overrides)
        if weight_decay_final is not None:
            require_number(owner, "weight_decay_final", weight_decay_final, low_included=True, remedy="Use e.g. 0.1")
        if self.warmup_start == 0 and self.warmup_shape in ("constant", "exponential"):
            text = f"warmup_start must be > 0 for warmup_shape={self.warmup_shape!r}, which never leaves 0"
            raise ValueError(message(owner, "warmup_start", warmup_start, text, "Use e.g. 0.1"))
        name = type(self.decay).__name__
        if self.final != 0 and not (self.decay.takes_final or isinstance(self.decay, Plateau)):
            text = f"final has no meaning for {name}, which has its own end"
            raise ValueError(message(owner, "final", final, text, "Leave it out, or use 'linear' or 'cosine'"))
        for argument, value, length in (("warmup", warmup, self.warmup), ("hold", hold, self.hold)):
            if own and length.amount:
                text = f"{name} has its own {'warm-up' if argument == 'warmup' else 'shape'}"
                raise ValueError(message(owner, argument, value, text, f"Leave out {argument}="))
        lengths = self.total.values() if isinstance(self.total, dict) else [self.total] if self.total else []
        for length in lengths:
            self._refuse_too_short(length)
        self.reset()

    def reset(self) -> None:
        """Forget the last run."""
        self._groups: list[list[_Group]] = []
        self._courses: list[Course] = []
        self._curves: list[list[Curve]] = []
        self._tables: dict[tuple[int, int], Tensor] = {}
        self._pace = Pace()
        self._bounds: list[Any] = []
        self._elapsed = 0.0
        self._learning = False
        self._resumes = False
        self._said: set[str] = set()
        self._own_rates: OwnRates | None = None
        self._unnote: PutBack | None = None
        self._plateau = self.decay.init() if isinstance(self.decay, Plateau) else None
        self._skipped: dict[int, int] = {}
        self._timed = False
        self._awaited: int | None = None
        self._observed: int | None = None
        self._of_validation = False

    def _refuse_too_short(self, total: Duration) -> None:
        begun = [length for length in (self.warmup, self.hold) if length.amount]
        if all(length.unit in ("%", total.unit) for length in begun):
            share = sum(n.amount / (100.0 if n.unit == "%" else total.amount) for n in begun)
            if share > 1.0 + 1e-9:
                text = f"warm-up ({self.warmup}) and hold ({self.hold}) are longer than the run ({total})"
                raise ValueError(message("LRSchedule", "total", str(total), text, "Shorten them"))

    # -- without a Trainer --------------------------------------------------------------------------------------

    def values(self, total: int) -> list[float]:
        """Return the multipliers of updates ``0..total-1`` of a run of ``total`` updates, without a Trainer.

        Raises:
            ValueError: a length is given in epochs, warm-up and hold do not fit in, or a metric decides (plateau).
        """
        return self._drawn(total).values()

    def plot(self, total: int, base_lr: float = 1.0, weight_decay: float = 0.0) -> Figure:
        """Return a matplotlib figure of the schedule over ``total`` updates, before any training.

        Args:
            total: updates of the run.
            base_lr: the optimizer's rate.
            weight_decay: the optimizer's; drawn when it is scheduled.
        """
        curve, more = self._drawn(total), {}
        if self.momentum is not None:
            more["momentum"] = [_between(self.momentum, curve.openness(k)) for k in range(total)]
        if self.weight_decay_final is not None:
            more["weight decay"] = [
                _half_cosine(weight_decay, self.weight_decay_final, k / total) for k in range(total)
            ]
        return draw_curve(curve, base_lr, more)

    def _drawn(self, total: int) -> Curve:
        if isinstance(self.decay, Plateau):
            text = f"the metric {self.decay.monitor!r} decides while training"
            raise ValueError(message("LRSchedule", "decay", self.decay, text, "Train, and look at schedule/lr"))
        return self._joined(self.decay, total, None)

    def _joined(
        self, decay: Decay, total: int | None, per_epoch: float | None, *, timed: bool = False, held: int = 0
    ) -> Curve:
        own = decay.owns_warmup
        lengths = (Duration(0, "st"),) * 2 if own else (self.warmup, self.hold)
        warmup, hold = (_measured(length, total, per_epoch, timed) for length in lengths)
        hold = max(hold, held - warmup)
        if total is None and decay.needs_length:
            raise ValueError(f"{type(decay).__name__} needs the length of the run. Pass total=.")
        if total is not None and warmup + hold > total:
            text = f"warm-up ({warmup}) and hold ({hold}) are longer than the run ({total} updates)"
            raise ValueError(message("LRSchedule", "warmup", str(self.warmup), text, "Shorten them"))
        begun = warmup + hold
        span = Span(warmup, begun, None if total is None else max(1, total - begun), per_epoch, timed)
        final = self.final if decay.takes_final else 0.0
        return Curve(decay.placed(span), warmup, self.warmup_shape, self.warmup_start, hold, final, total)

    # -- a run begins -------------------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Refuse another writer of the rates; note what the module gives its optimizers before a scheduler writes."""
        module = run.trainer.lightning_module
        for callback in run.trainer.callbacks:
            if any(cls.__name__ == "StochasticWeightAveraging" for cls in type(callback).__mro__):
                text = f"{type(callback).__name__} anneals the learning rate too, by a scheduler of its own"
                raise ConflictError(message("LRSchedule", "decay", self.decay, text, "Remove one of the two"))
        if self.conflict == "replace" and self._unnote is None:
            self._own_rates = OwnRates()
            noting = self._own_rates.noting(module.configure_optimizers)
            self._unnote = replaced(module, "configure_optimizers", noting)

    def assembled(self, run: TrainingRun) -> None:
        """Settle a conflict with the module's own scheduler before a checkpoint restores it."""
        self._settle_conflict(run)

    def _settle_conflict(self, run: TrainingRun) -> None:
        trainer, module = run.trainer, run.trainer.lightning_module
        configs = trainer.strategy.lr_scheduler_configs
        theirs = [config.scheduler for config in configs if not isinstance(config.scheduler, NoScheduler)]
        if not theirs:
            return
        names = ", ".join(sorted({type(scheduler).__name__ for scheduler in theirs}))
        if self.conflict == "error":
            text = f"{type(module).__name__}.configure_optimizers returns a scheduler too ({names})"
            remedy = "Return only the optimizer, remove LRSchedule, or use conflict='replace'"
            raise ConflictError(message("LRSchedule", "conflict", self.conflict, text, remedy))
        assert self._own_rates is not None
        for optimizer in trainer.optimizers:
            own = [s for s in theirs if getattr(s, "optimizer", optimizer) is optimizer]
            self._own_rates.put_back(optimizer, own)
        if module.automatic_optimization:
            trainer.strategy.lr_scheduler_configs = []
            return
        for config in configs:  # the module steps them itself: that must go on working
            config.scheduler = NoScheduler(getattr(config.scheduler, "optimizer", trainer.optimizers[0]))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take base values, find the length of the run, and write the rate of the next update."""
        trainer = run.trainer
        if state is None and not self._courses and trainer.global_step > 0:
            at = [run.clock.applied_on_host(view.index) for view in run.views]
            warn(
                "LRSchedule",
                f"the checkpoint holds no schedule: it goes on at update {at}, from Lightning's global step.",
            )
        for view in run.views:
            require_rates("LRSchedule", view.optimizer)
            if is_schedule_free(view.optimizer) and not isinstance(self.decay, Constant):
                name = type(view.optimizer).__name__
                self._say_once(f"{name} is schedule-free: it averages weights in place of a decay. Use one of the two.")
        self._refuse_copied_groups(run)
        self._take_up(run, state or {})
        self._cadence = Cadence(trainer.log_every_n_steps, run.step)
        self._resumes = bool(self._courses)
        self._progress = None if self.total is not None else time_progress(trainer)
        self._lay_out(run)
        for view in run.views:
            self._take_groups(run, view)
        run.rate.claim(lambda: self._write_all(run), lambda i: [group.lr for group in self._groups[i]])
        self._write_all(run)

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; without one (the first fit of a Trainer, or another one) rates are those that came.

        The position is kept from one fit of a Trainer to the next, as Lightning keeps its own.
        """
        bases = state.get("base", [])
        self._groups = [[_Group((), lr, decay) for lr, decay in groups] for groups in bases]
        self._groups += [[] for _ in range(len(run.views) - len(bases))]
        if self._plateau is not None:  # (what another decay has seen lowers no rate of this one)
            self._plateau = state.get("plateau") or self._plateau
        self._of_validation = state.get("of_validation", self._of_validation)
        if "courses" in state:
            self._courses = [Course.from_state(numbers) for numbers in state["courses"]]
            self._pace = Pace.from_state(state["pace"])
            self._bounds, self._elapsed, self._learning = state["bounds"], state["elapsed"], state["learning"]
        elif "pace" in state:
            old = state["pace"]
            course = Course(old["planned"], old["planned"], old["end"], held=old["held"])
            self._courses, self._elapsed = [course] * len(run.views), old["elapsed"]
            self._pace = Pace(updates_per_epoch=[course.held] * len(run.views) if course.held else [])
            self._learning = bool(old.get("learning"))

    def _refuse_copied_groups(self, run: TrainingRun) -> None:
        """A rate that is written into copies of the groups of an optimizer inside another one would do nothing."""
        for view in run.views:
            own = {id(group) for group in view.optimizer.param_groups}
            for inner in vars(view.optimizer).values():
                if isinstance(inner, Optimizer) and not any(id(group) in own for group in inner.param_groups):
                    name = type(view.optimizer).__name__
                    text = f"{name} wraps {type(inner).__name__} and keeps copies of its parameter groups"
                    remedy = "A rate that is written there reaches no update. Let it share param_groups"
                    raise UnsupportedError(message("LRSchedule", "optimizer", name, text, remedy))

    # -- how long it will be ------------------------------------------------------------------------------------

    def _lay_out(self, run: TrainingRun) -> None:
        """Draw the curves of every optimizer: as a checkpoint has them, or for the length that is forecast."""
        trainer = run.trainer
        try:
            lengths = self._lengths(run, Standing(trainer.current_epoch, 0, 0, trainer.global_step))
        except UnknownHorizonError as error:
            self._hold_first_epoch(error, len(run.views))
            return
        self._learning = False
        kept = [replace(course) for course in self._courses] if self._resumes else []
        self._courses, self._curves, self._tables = [], [], {}
        for view, (planned, total) in zip(run.views, lengths, strict=True):
            waits = planned is not None and self._unsettled(run, view.index)
            course = Course(None, total, speed=0) if waits else Course(planned, total)
            course = kept[view.index] if view.index < len(kept) else course
            curves = self._drawn_for(run, view.index, course.total, course.held, fits=self._resumes)
            self._courses.append(replace(course, end=0 if course.planned is None else curves[0].settled()))
            self._curves.append(curves)

    def _lengths(self, run: TrainingRun, behind: Standing) -> list[tuple[int | None, int | None]]:
        """Return for every optimizer the attempts that are planned and the length of its curve.

        The first is None where the curve shall not follow the attempts; the second where it has no end.
        """
        found: list[tuple[int | None, int | None]] = []
        forecasts = self._forecasts(run, behind)
        for view in run.views:
            total = self._total_of(view.index)
            if total is not None:
                found.append((None, total.updates(None, self._updates_per_epoch(run, view.index))))
            elif self._timed:
                found.append((None, _TICKS))
            else:
                planned = forecasts[view.index]
                found.append((planned, planned))
        if isinstance(self.total, dict):
            unknown = [index for index in self.total if index >= len(run.views)]
            if unknown:
                text = f"there is no optimizer {unknown[0]}; this run has {len(run.views)}"
                raise TrickError(message("LRSchedule", "total", dict(self.total), text, "Count them from 0"))
        return found

    def _forecasts(self, run: TrainingRun, behind: Standing) -> list[int | None]:
        """Return the attempts of every optimizer at the end of the run; None where nothing depends on them."""
        trainer, count = run.trainer, len(run.views)
        self._timed = False
        if all(self._total_of(view.index) is not None for view in run.views):
            return [None] * count
        try:
            if not trainer.lightning_module.automatic_optimization:
                return list(self._pace.ends(trainer))
            found: list[int | None] = []
            for view in run.views:
                seen = self._pace.updates_per_epoch[view.index : view.index + 1]
                standing = replace(behind, updates=run.clock.attempted(view.index))
                found.append(forecast_updates(trainer, standing, seen[0] if seen else None))
            return found
        except UnknownHorizonError:
            self._timed = self._progress is not None
            if self._timed or not self._needs_length():  # by the clock, or without an end
                return [None] * count
            raise

    def _total_of(self, index: int) -> Duration | None:
        return self.total.get(index) if isinstance(self.total, dict) else self.total

    def _updates_per_epoch(self, run: TrainingRun, index: int) -> float | None:
        per_epoch = updates_per_epoch(run.trainer)
        if per_epoch is None or run.trainer.lightning_module.automatic_optimization:
            return per_epoch
        return per_epoch * self._pace.rate(index)

    def _drawn_for(
        self, run: TrainingRun, index: int, total: int | None, held: int = 0, *, fits: bool = False
    ) -> list[Curve]:
        """Return the curves of an optimizer; where ``fits`` is on, its length gives way to warm-up and hold."""
        per_epoch = self._updates_per_epoch(run, index)
        guessed = self._unsettled(run, index) and self._total_of(index) is None
        try:
            if total is not None and not self._timed and (run.trainer.fast_dev_run or guessed or fits):
                begun = (0, 0) if self.decay.owns_warmup else (self.warmup, self.hold)
                lengths = (length.updates(total, per_epoch) for length in begun if isinstance(length, Duration))
                total = max(total, sum(lengths) + 1)
            return [self._joined(d, total, per_epoch, timed=self._timed, held=held) for d in self._decays]
        except (TrickError, ValueError) as error:
            raise TrickError(f"LRSchedule: {error}") from error

    @property
    def _decays(self) -> list[Decay]:
        return [self.decay, *(d for d in self.overrides.values() if isinstance(d, Decay))]

    def _needs_length(self) -> bool:
        try:
            self._joined(self.decay, None, 1.0)
        except ValueError:
            return True
        return False

    def _hold_first_epoch(self, error: UnknownHorizonError, count: int) -> None:
        """The data have no length: hold the rate until the first epoch has told it."""
        if not error.learnable:
            raise TrickError(f"LRSchedule: {error}") from error
        if "%" in (self.warmup.unit, self.hold.unit) or self.decay.owns_warmup:
            hint = "Or give warmup= in updates: then the decay begins after the first epoch, which tells the length."
            raise TrickError(f"LRSchedule: {error} {hint}") from error
        self._learning = True
        warn(
            "LRSchedule", "the data have no length: the rate is held in the first epoch and decays from the second on."
        )
        self._courses = [Course() for _ in range(count)]
        self._curves = [[self._joined(Constant(), None, None) for _ in self._decays] for _ in range(count)]

    def _look_again(self, run: TrainingRun) -> None:
        """Make the forecast anew, and lay what is left of the curves over what is left of the run."""
        trainer, now = run.trainer, bounds(run.trainer)
        other_run, self._resumes = self._resumes and now != self._bounds, False
        self._bounds = now
        try:
            lengths = self._lengths(run, Standing.of(trainer, run.clock.attempted(0)))
        except UnknownHorizonError:  # still in the first epoch
            return
        for view, (planned, total) in zip(run.views, lengths, strict=True):
            course = self._courses[view.index]
            if other_run or self._unsettled(run, view.index) or (planned, total) != (course.planned, course.total):
                self._redraw(run, view.index, planned, total, anew=other_run)
        self._learning = False
        self._write_all(run)

    def _redraw(self, run: TrainingRun, index: int, planned: int | None, total: int | None, *, anew: bool) -> None:
        course, old = self._courses[index], self._curves[index]
        attempted = run.clock.attempted(index)
        held = attempted if self._learning else course.held
        try:
            curves = self._drawn_for(run, index, total, held)
        except TrickError as error:
            if anew:
                raise
            self._say_once(f"{error} The run turned out shorter than forecast: the curve stays as it was.")
            return
        if anew or planned is None or self._unsettled(run, index):
            waits = planned is not None and self._unsettled(run, index) and not attempted
            total = curves[0].total
            course = Course(None, total, held=held, speed=0) if waits else Course(planned, total, held=held)
        else:
            course = replace(course, held=held).redrawn(
                old[0], curves[0], planned, run.clock.applied_on_host(index), attempted
            )
        self._courses[index] = replace(course, end=0 if course.planned is None else curves[0].settled())
        self._curves[index] = curves
        self._tables = {key: table for key, table in self._tables.items() if key[0] != index}

    def _unsettled(self, run: TrainingRun, index: int) -> bool:
        """Whether it is not known yet how often an optimizer steps."""
        return not (run.trainer.lightning_module.automatic_optimization or self._pace.settled(index))

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warn("LRSchedule", text.removeprefix("LRSchedule: "))

    def _warn_of_overrun(self, run: TrainingRun) -> None:
        """A rate that stays at its end for long does so in silence otherwise."""
        for view, course, curves in zip(run.views, self._courses, self._curves, strict=True):
            total, attempted = course.planned or course.total, run.clock.attempted(view.index)
            if total is None or self._timed or attempted <= 1.02 * total or attempted < total + 2:
                continue
            end = curves[0].value(curves[0].total or 0)
            if course.planned is not None or end < 0.01:
                known = "was forecast" if course.planned is not None else "total= says"
                which = f" of optimizer {view.index}" if len(run.views) > 1 else ""
                self._say_once(
                    f"the run goes on after the {total} updates{which} that {known}: the rate stays at {end:.0%} of "
                    "the base rate. Pass the length that is meant as total=."
                )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for what a plateau waits for."""
        run = self._live
        if run is not None:
            self._await(run, strict=True)

    # -- each update --------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Correct the forecast; write again where an epoch begins, since callbacks that unfreeze layers set rates."""
        run = self._live
        if run is None:
            return
        looks = self._pace.begin_batch(batch_idx, [run.clock.attempted(view.index) for view in run.views])
        if looks or (self._resumes and bounds(trainer) != self._bounds):
            self._look_again(run)
        self._resumes = False
        if batch_idx == 0:
            self._write_all(run)
        self._warn_of_overrun(run)

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Log what this attempt uses."""
        if not self._cadence.due(page.step):
            return
        view, suffix = page.view, f"/optimizer{page.view.index}" if len(run.views) > 1 else ""
        groups = view.optimizer.param_groups
        values = {f"schedule/lr{suffix}": groups[0]["lr"]}
        if len(groups) > 1:
            names = [str(group.get("name", f"group{j}")) for j, group in enumerate(groups)]
            values |= {f"schedule/lr{suffix}/{n}": g["lr"] for n, g in zip(names, groups, strict=True)}
        if self.momentum is not None:
            values[f"schedule/momentum{suffix}"] = _momentum_of(groups[0])
        if self.weight_decay_final is not None:
            values[f"schedule/weight_decay{suffix}"] = groups[0]["weight_decay"]
        run.publisher.put(page.step, values)
        if self.momentum is not None or self.weight_decay_final is not None:
            self._hear(run, page)

    def _hear(self, run: TrainingRun, page: Page) -> None:
        """Send the number of skipped steps to the host, for what torch takes as a number only."""
        index, applied = page.view.index, run.clock.applied(page.view.index)
        if isinstance(applied, Tensor):
            skipped = run.clock.attempted(index) - 1 - applied
            run.publisher.put_private(page.step, skipped.reshape(1), lambda n: self._skipped.update({index: int(n[0])}))

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """Write the values of the next update at once: LearningRateMonitor shows what will be used."""
        self._write(self.run, view)

    def _write_all(self, run: TrainingRun) -> None:
        for view in run.views:
            self._write(run, view)

    def _write(self, run: TrainingRun, view: OptimizerView) -> None:
        position, known = self._position(run, view)
        groups, curves = view.optimizer.param_groups, self._curves[view.index]
        if len(self._groups[view.index]) < len(groups):
            self._take_groups(run, view)
        heights: dict[int, float | Tensor] = {}
        for group, ours in zip(groups, self._groups[view.index], strict=False):
            plan = ours.plan
            if plan.curve not in heights:
                heights[plan.curve] = self._height(view.index, plan.curve, position)
            _put_rate(group, ours.lr * plan.factor * run.rate.factor * heights[plan.curve])
            ours.written = group["lr"]
            if self.momentum is not None:
                _put_momentum(group, _between(self.momentum, curves[plan.curve].openness(known)))
            if self.weight_decay_final is not None and ours.weight_decay:
                total = curves[plan.curve].total or 0
                share = min(1.0, known / total) if total else 0.0
                group["weight_decay"] = _half_cosine(ours.weight_decay, self.weight_decay_final, share)

    def _position(self, run: TrainingRun, view: OptimizerView) -> tuple[float | Tensor, float]:
        """Return where on the curve the next update is, and the same as the host knows it."""
        course = self._courses[view.index]
        attempted, applied = run.clock.attempted(view.index), run.clock.applied(view.index)
        if self._timed and self._total_of(view.index) is None:
            ticks = round(_TICKS * self._share_of_time(run, attempted))
            return ticks, ticks
        if isinstance(applied, Tensor):
            number = host.at_hand(applied)
            applied = applied if number is None else int(number)
        position = known = course.position(applied, attempted)
        if isinstance(known, Tensor):
            counted = max(0, attempted - self._skipped.get(view.index, 0))
            known = course.position(counted, attempted)
        position, known = (self._in_time(run, view.index, x, attempted) for x in (position, known))
        return position, float(known) if isinstance(known, Tensor) else known

    def _in_time(self, run: TrainingRun, index: int, position: float | Tensor, attempted: int) -> float | Tensor:
        """Return the position, or a later one where ``max_time`` would end the run before its curve.

        A limit that is only there for safety changes nothing: the first 5 % of the time are free.
        """
        course = self._courses[index]
        if self._progress is None or course.planned is None:
            return position
        if self.warmup.unit != "%" and attempted < self._curves[index][0].warmup:
            return position
        least = round((course.total or 0) * (self._share_of_time(run, attempted) - _SLACK) / (1.0 - _SLACK))
        return position.clamp(min=least) if isinstance(position, Tensor) else max(position, least)

    def _share_of_time(self, run: TrainingRun, attempted: int) -> float:
        """Return which share of ``max_time`` is over, equal on all ranks."""
        assert self._progress is not None
        world = run.trainer.world_size
        if world == 1 or attempted % _AGREE_EVERY == 0:
            elapsed = self._progress()
            self._elapsed = elapsed if world == 1 else float(run.trainer.strategy.broadcast(elapsed))
        return self._elapsed

    def _height(self, index: int, curve: int, position: float | Tensor) -> float | Tensor:
        lowered = self._plateau["multiplier"] if self._plateau is not None and curve == 0 else 1.0
        factor = 1.0 if lowered == 1.0 else max(lowered, self.final)
        if not isinstance(position, Tensor):
            return factor * self._curves[index][curve].value(position)
        # no table[position]: torch reads a 0-d index on the host
        table = self._table(index, curve, position.device)
        place = position.clamp(max=len(table) - 1).reshape(1)
        if not place.is_floating_point():
            return factor * table.index_select(0, place).reshape(())
        low = place.floor()
        high = (low + 1).clamp(max=len(table) - 1)
        below, above = (table.index_select(0, at.to(torch.int64)) for at in (low, high))
        return factor * torch.lerp(below, above, (place - low).to(table.dtype)).reshape(())

    def _table(self, index: int, curve: int, device: torch.device) -> Tensor:
        """Return the heights at positions 0, 1, ... on the device, as far as the run may be by now."""
        drawn, table, course = self._curves[index][curve], self._tables.get((index, curve)), self._courses[index]
        # (catching up takes two positions per update)
        reached = course.place + 2 * max(1.0, course.speed) * (self.run.clock.attempted(index) + 1)
        needed = math.ceil(reached) + 2
        end = needed if drawn.total is None else drawn.total + 1
        if table is None or table.device != device or len(table) < min(needed, end):
            size = min(max(4096, 2 * needed), drawn.total + 1) if drawn.total is not None else max(4096, 2 * needed)
            heights = torch.tensor(drawn.values(size), dtype=torch.float32)
            table = self._tables[index, curve] = heights.to(device, non_blocking=True)
        return table

    # -- parameter groups ---------------------------------------------------------------------------------------

    def renewed(self, run: TrainingRun, view: OptimizerView) -> None:
        """An optimizer was made anew, or its groups: those that are new start from the rate that they came with."""
        self._settle_conflict(run)
        for index in range(len(self._groups), view.index + 1):
            self._groups.append([])
            if index >= len(self._courses):
                self._courses.append(replace(self._courses[0]))
                self._curves.append(self._curves[0])
        self._take_groups(run, view)
        self._write(run, view)

    def _take_groups(self, run: TrainingRun, view: OptimizerView) -> None:
        """Take up the groups as they are: all of them at first; later those that a callback unfroze, or other ones."""
        if view.stale:
            view.refresh()
        before, now = self._groups[view.index], []
        for j, group in enumerate(view.optimizer.param_groups):
            known = _found(group, j, before)
            rate, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
            base = _Group((), rate, decay) if known is None else known
            now.append(_Group(tuple(group["params"]), base.lr, base.weight_decay, self._plan(view, j, group)))
        self._groups[view.index] = now
        hit = {i for groups in self._groups for group in groups for i in group.plan.hits}
        if all(self._groups[v.index] for v in run.views) and len(hit) < len(self.overrides):
            missing = next(p for i, p in enumerate(self.overrides) if i not in hit)
            near = nearest(missing.strip("^$"), view.module_names)
            remedy = f"The nearest name is {near!r}" if near else f"Names are e.g. {view.names[0]!r}"
            if not any(re.search(missing, name) for name in view.module_names):  # (it may be frozen for now)
                raise TrickError(
                    message("LRSchedule", "overrides", missing, "the pattern matches no parameter", remedy)
                )

    def _plan(self, view: OptimizerView, j: int, group: dict[str, Any]) -> _Plan:
        names = [name for name, k in zip(view.names, view.group_of, strict=True) if k == j]
        plan, number = _Plan(), 0
        for i, (pattern, override) in enumerate(self.overrides.items()):
            number += isinstance(override, Decay)
            found = [name for name in names if re.search(pattern, name)]
            if not found and not re.search(pattern, str(group.get("name", ""))):
                continue
            if found and len(found) < len(names) and not re.search(pattern, str(group.get("name", ""))):
                other = next(name for name in names if name not in found)
                text = f"it matches {found[0]!r} but not {other!r} of the same parameter group"
                raise TrickError(message("LRSchedule", "overrides", pattern, text, "Make groups of their own of them"))
            factor = plan.factor if isinstance(override, Decay) else plan.factor * float(override)
            plan = _Plan(number if isinstance(override, Decay) else plan.curve, factor, (*plan.hits, i))
        if self.momentum is not None and "momentum" not in group and "betas" not in group:
            text = f"{type(view.optimizer).__name__} has neither momentum nor betas"
            raise TrickError(message("LRSchedule", "momentum", self.momentum, text, "Leave momentum= out"))
        return plan

    # -- plateau ------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Show a plateau its metric, before a ModelCheckpoint saves: so a resume is exact."""
        if isinstance(self.decay, Plateau) and self._live is not None and not trainer.sanity_checking:
            results = trainer.fit_loop.epoch_loop.val_loop._results
            seen = self._observe(self._live, None if results is None else results.metrics(False)["callback"])
            if seen:
                self._of_validation, self._awaited = True, None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Show a plateau a metric of the training; one that the module logs in this very hook comes a moment later."""
        super().on_train_epoch_end(trainer, pl_module)
        if isinstance(self.decay, Plateau) and self._live is not None and not self._of_validation:
            self._observe(self._live, trainer.fit_loop.epoch_loop._results.metrics(False)["callback"])
            self._awaited = trainer.current_epoch

    def _await(self, run: TrainingRun, *, strict: bool) -> None:
        """Look for the metric of an epoch that has just ended."""
        if self._awaited is None or not isinstance(self.decay, Plateau):
            return
        epoch, metrics = self._awaited, run.trainer.callback_metrics
        if self._observed != epoch and self.decay.monitor in metrics:
            self._observe(run, metrics)
            self._observed = epoch  # the next one may have begun
        every = run.trainer.check_val_every_n_epoch  # None: validation counts batches over epochs
        if self._observed is not None or not every or epoch + 1 < every:
            self._awaited = None if self._observed == epoch else epoch
        elif strict:
            near = nearest(self.decay.monitor, sorted(metrics))
            remedy = f"Did you mean {near!r}?" if near else f"Logged are: {', '.join(sorted(metrics)) or 'none'}"
            text = f"no such metric was logged in epoch {epoch}"
            raise TrickError(message("Plateau", "monitor", self.decay.monitor, text, remedy))

    def _observe(self, run: TrainingRun, metrics: Mapping[str, Any] | None) -> bool:
        rule, strategy = self.decay, run.trainer.strategy
        assert isinstance(rule, Plateau) and self._plateau is not None
        value = (metrics or {}).get(rule.monitor)
        if value is None:
            return False
        self._observed = run.trainer.current_epoch
        if run.trainer.world_size > 1:  # the same decision on all ranks
            value = reduced(strategy, torch.as_tensor(float(value), device=strategy.root_device), "mean")
        before = self._plateau["reductions"]
        self._plateau = rule.update(float(value), self._plateau)
        if self._plateau["reductions"] > before:
            self._write_all(run)
        return True

    # -- the end ------------------------------------------------------------------------------------------------

    def finished(self, run: TrainingRun) -> None:
        """Say how far the curve got, if not to its end."""
        self._await(run, strict=True)
        for view in [] if run.trainer.fast_dev_run else run.views:
            curve, applied = self._curves[view.index][0], run.clock.applied_on_host(view.index)
            position, _ = self._position(run, view)
            if curve.total is None or self._learning:
                continue
            reached, end = curve.value(float(position)), curve.value(curve.total)
            missed = curve.total - float(position) > 2  # (a forecast that was learnt may be one off)
            if missed and (abs(reached - end) > 0.02 or float(position) < curve.warmup):
                when = "before max_time" if self._timed else f"at update {applied} of {curve.total}"
                text = f"training ended {when}, at {reached:.0%} of the base rate"
                warn("LRSchedule", f"{text} instead of {end:.0%}. Pass total={applied} if this length is meant.")

    def stopped(self, run: TrainingRun) -> None:
        """Put back what was changed."""
        if self._unnote is not None:
            self._unnote()
            self._unnote = None

    # -- state --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """The arguments, as text."""
        shown = {name: str(getattr(self, name)) for name in ("decay", "warmup", "hold", "total", "momentum")}
        more = {"weight_decay_final": self.weight_decay_final, "overrides": str(self.overrides)}
        return {**shown, **more, "shape": self.warmup_shape, "start": self.warmup_start, "final": self.final}

    def trick_state(self) -> dict[str, Any]:
        """Base values and length, and what a plateau has seen."""
        if self._live is not None:
            self._await(self._live, strict=False)
        return {
            "base": [[[group.lr, group.weight_decay] for group in groups] for groups in self._groups],
            "courses": [course.state_dict() for course in self._courses],
            "pace": self._pace.state_dict(),
            "bounds": self._bounds,
            "elapsed": self._elapsed,
            "learning": self._learning,
            "plateau": self._plateau,
            "of_validation": self._of_validation,
        }


@dataclass(frozen=True)
class _Plan:
    """Which curve a parameter group follows, and the factor on its rate."""

    curve: int = 0
    factor: float = 1.0
    hits: tuple[int, ...] = ()


@dataclass
class _Group:
    """What is known of a parameter group: its parameters, the values that it came with, and the rate that we wrote."""

    parameters: tuple[Tensor, ...]
    lr: float
    weight_decay: float
    plan: _Plan = _Plan()
    written: float | Tensor | None = None


def _found(group: dict[str, Any], position: int, known: list[_Group]) -> _Group | None:
    """Return what is known of a group: one of a checkpoint by its position, another one by what we wrote into it.

    A group that holds another rate than ours was given one: by an optimizer that was made anew, or by the user.
    """
    if position < len(known) and known[position].written is None:
        return known[position]
    ours = {id(p) for p in group["params"]}
    for i, candidate in enumerate(known):
        rate, written = group["lr"], candidate.written
        same = rate is written or (not isinstance(rate, Tensor) and rate == written)
        if same and (i == position or any(id(p) in ours for p in candidate.parameters)):
            return candidate
    return None


def _total(total: Any) -> Duration | dict[int, Duration] | None:
    owner = "LRSchedule"
    if isinstance(total, Mapping):
        if not total or not all(type(index) is int and index >= 0 for index in total):
            text = "total must be a length, or a dict from the index of an optimizer to its length"
            raise ValueError(message(owner, "total", total, text, "Use e.g. {0: 10_000, 1: 50_000}"))
        return {index: _length(length) for index, length in total.items()}
    return None if total is None else _length(total)


def _length(total: int | str) -> Duration:
    length = Duration.parse(total, owner="LRSchedule", argument="total")
    if length.unit == "%" or length.amount == 0:
        text = "total must be a number of updates or epochs, > 0"
        raise ValueError(message("LRSchedule", "total", total, text, "Use e.g. 10_000 or '20ep'"))
    return length


def _share(argument: str, value: float) -> float:
    return require_number(
        "LRSchedule", argument, value, high=1.0, low_included=True, high_included=True, remedy="Use e.g. 0.1"
    )


def _momentum(values: Any) -> tuple[float, float]:
    """Return the momentum at the lowest and at the highest rate; the higher one belongs to the lowest rate."""
    text = "momentum must be two numbers"
    if not isinstance(values, (tuple, list)):
        raise TypeError(message("LRSchedule", "momentum", values, text, "Use e.g. (0.95, 0.85)"))
    if len(values) != 2:
        raise ValueError(message("LRSchedule", "momentum", values, text, "Use e.g. (0.95, 0.85)"))
    low, high = sorted(
        require_number("LRSchedule", "momentum", v, high=1.0, low_included=True, remedy="Use e.g. (0.95, 0.85)")
        for v in values
    )
    return high, low


def _overrides(overrides: Any) -> dict[str, float | Decay]:
    owner, remedy = "LRSchedule", "Use e.g. {'^backbone': 0.1}"
    out: dict[str, float | Decay] = {}
    if overrides is not None and not isinstance(overrides, Mapping):
        text = "overrides must be a dict from patterns to factors or decays"
        raise TypeError(message(owner, "overrides", overrides, text, remedy))
    for pattern, value in (overrides or {}).items():
        if not isinstance(pattern, str) or not pattern:
            text = "overrides must be a dict from patterns to factors or decays"
            raise TypeError(message(owner, "overrides", overrides, text, remedy))
        fault = fault_of(pattern)
        if fault is not None:
            raise ValueError(message(owner, "overrides", pattern, f"the pattern {fault}", "Use e.g. '^head'"))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            out[pattern] = require_number(owner, "overrides", value, low_included=True, remedy=remedy)
            continue
        decay = as_decay(owner, value, "overrides")
        if isinstance(decay, Plateau):
            raise ValueError(message(owner, "overrides", value, "a plateau holds for all groups", "Pass it as decay="))
        out[pattern] = decay
    return out


def _measured(length: Duration, total: int | None, per_epoch: float | None, timed: bool) -> int:
    if timed and length.unit != "%" and length.amount:
        text = "max_time bounds this run, so its curve is measured in shares of time"
        raise ValueError(message("LRSchedule", "warmup or hold", str(length), text, "Use e.g. '5%', or pass total="))
    return length.updates(total, per_epoch)


def _between(momentum: tuple[float, float], openness: float) -> float:
    return momentum[0] + (momentum[1] - momentum[0]) * openness


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1.0 + math.cos(math.pi * share)) / 2.0


def _put_rate(group: dict[str, Any], rate: float | Tensor) -> None:
    """Write a rate into the tensor that holds it, or put a new one there.

    A checkpoint brings rates back as tensors on the host. Copying a device's rate into one would wait for the device at
    every update, so that tensor is replaced.
    """
    now = group["lr"]
    if isinstance(rate, Tensor):
        if isinstance(now, Tensor) and now.device == rate.device:
            now.copy_(rate)
        else:
            group["lr"] = rate.clone()
    elif isinstance(now, Tensor):
        now.fill_(rate)
    else:
        group["lr"] = rate


def _momentum_of(group: dict[str, Any]) -> float:
    return float(group["momentum"] if "momentum" in group else group["betas"][0])


def _put_momentum(group: dict[str, Any], value: float) -> None:
    if "momentum" in group:
        group["momentum"] = value
    else:
        group["betas"] = (value, *group["betas"][1:])
