"""LRSchedule: writes learning rate, momentum and weight decay, once per applied update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from lightning_tricks.lifecycle.horizon import bounds, time_progress
from lightning_tricks.lifecycle.lightning_internals import callback_metrics
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.shared_parts import StopRequest
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.arguments import holds_arguments
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.rate_request import require_rates
from lightning_tricks.publishing.publish import Cadence
from lightning_tricks.schedules.curves import Decay
from lightning_tricks.schedules.figures import draw_schedule
from lightning_tricks.schedules.groups import refuse_copied_groups
from lightning_tricks.schedules.horizon_state import HorizonState, horizon_after_look, horizon_at_start
from lightning_tricks.schedules.keys import SCHEDULE
from lightning_tricks.schedules.plan import whole_curve
from lightning_tricks.schedules.plateau_watch import PlateauWatch, shown_metric, shown_what_came_late
from lightning_tricks.schedules.rate_writer import RateWriter
from lightning_tricks.schedules.remarks import overruns, shortfall, two_decays
from lightning_tricks.schedules.scheduler_conflict import (
    SchedulerConflict,
    refuse_weight_averaging,
    remark_on_finetuning,
)
from lightning_tricks.schedules.spec import OWNER, ScheduleSpec
from lightning_tricks.schedules.state import (
    current_configuration,
    restored_groups,
    restored_time,
    saved_groups,
    schedule_form,
)
from lightning_tricks.schedules.written import logged_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@holds_arguments(ScheduleSpec)
class LRSchedule(Trick):
    """Warm up, hold and decay the learning rate, counted in updates that really happened.

    ``lr = base_lr * multiplier(applied updates)``, written into each parameter group after each update; groups keep
    their ratios. Steps that a GradScaler or a NaN skipped do not count, nor do micro-batches. Where the Trainer gives
    the length of the run, the curve reaches its end (within 1 % of the base rate) even if some attempts are skipped:
    the last updates then advance by two positions each. With ``total=`` the position is always the number of updates.

    Every optimizer has its own curve, as long as its own part of the run. With manual optimization that length is
    inferred: the rate stays at the beginning of the curve until the optimizer has stepped in two batches. Where a run
    turns out longer or shorter than forecast (the data grow, an optimizer steps less often), the rest of the curve is
    spread over the rest of the run, without a jump. A resumed run with another length follows the curve of that length.

    Where ``max_time`` alone bounds the run, the curve follows the wall clock; beside ``max_epochs`` or ``max_steps``
    the clock speeds the curve up only if it would end the run first. ``total=`` switches both off. With data that have
    no length, the rate is held in the first epoch, which shows the length, and decays from the second on.

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
        conflict: when the module has a scheduler of its own, or a StochasticWeightAveraging stands beside it:
            ``"error"`` names it, ``"replace"`` takes over. Rates of BackboneFinetuning are replaced either way, with
            a warning under ``"error"``.
        overrides: regular expression on parameter names or group names -> a factor on the base rate (``0.1``) or
            another decay for these groups.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range or contradicts another.
        ConflictError: at fit start, another one writes the rate (the module's scheduler, StochasticWeightAveraging)
            and ``conflict`` is ``"error"``.
        TrickError: at fit start, the length of the run is not known, or warm-up and hold do not fit in; a pattern
            matches nothing, or only a part of a group; the metric of a plateau is not logged.

    Logs:
        - ``schedule/lr``: rate of the first parameter group at logged steps.
        - ``schedule/lr/<group>``: of each group when there are several; of more than five the first, the last, and
          three evenly between.
        - ``schedule/momentum``, ``schedule/weight_decay``: of the first group, where they are scheduled.
        - with several optimizers all have ``/optimizer<index>`` behind their first part.

    Changes:
        ``lr`` of every parameter group; ``momentum`` (or ``betas``) and ``weight_decay`` where asked for.

    State:
        Base values, length, and the numbers of updates; what a plateau has seen. A run that is resumed with other
        arguments continues at the same update on the new curve. From a checkpoint without this state the position is
        taken from the global step, with a warning.

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

    log_keys = SCHEDULE
    state_form = staticmethod(schedule_form)
    also_called: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("warmup_steps", "num_warmup_steps", "warmup_updates", "warmup_iters"), "warmup={}"),
        **dict.fromkeys(("warmup_epochs", "num_warmup_epochs"), "warmup='{}ep'"),
        **dict.fromkeys(("warmup_ratio", "warmup_fraction", "pct_start"), "warmup='5%' for a share of the run"),
        **dict.fromkeys(("total_steps", "num_training_steps", "max_steps", "T_max"), "total={}"),
        **dict.fromkeys(("eta_min", "min_lr", "final_lr", "end_lr"), "final=, the last rate as a share of the first"),
        **dict.fromkeys(("schedule", "name", "type", "scheduler", "curve"), "decay={}"),
        **dict.fromkeys(("lr", "base_lr", "max_lr"), "the rate into the optimizer, whose rate is the base"),
        **dict.fromkeys(
            ("power", "gamma", "milestones", "patience", "factor"), "it into a decay, as Polynomial(power=2)"
        ),
    }

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
        given: dict[str, Any] = {
            "decay": decay,
            "warmup": warmup,
            "warmup_shape": warmup_shape,
            "warmup_start": warmup_start,
            "hold": hold,
            "final": final,
            "total": total,
            "momentum": momentum,
            "weight_decay_final": weight_decay_final,
            "conflict": conflict,
            "overrides": overrides,
        }
        self.spec = ScheduleSpec(**given)
        self._reset()

    def _reset(self) -> None:
        self._horizon = HorizonState()
        self._writer = RateWriter(self.spec)
        self._plateau = None if self.spec.plateau is None else PlateauWatch.of(self.spec.plateau)
        self._conflict = SchedulerConflict(self.spec.conflict)

    # -- without a Trainer --------------------------------------------------------------------------------------

    def values(self, total: int) -> list[float]:
        """Return the multipliers of updates ``0..total-1`` of a run of ``total`` updates, without a Trainer.

        Raises:
            ValueError: a length is given in epochs, warm-up and hold do not fit in, or a metric decides (plateau).
        """
        return whole_curve(self.spec, total).values()

    def plot(self, total: int | None = None, base_lr: float = 1.0, weight_decay: float = 0.0) -> Figure:
        """Return a matplotlib figure of the schedule over ``total`` updates, before any training.

        Args:
            total: updates of the run; None for the ``total=`` of the schedule, and where it has none, or one in epochs,
                for a picture over shares of the run.
            base_lr: the optimizer's rate.
            weight_decay: the optimizer's; drawn when it is scheduled.

        Raises:
            ValueError: the curve depends on a number of updates that is not given, or a metric decides (plateau).
        """
        return draw_schedule(self.spec, total, base_lr, weight_decay)

    # -- a run begins -------------------------------------------------------------------------------------------

    def _configure(self, run: TrainingRun) -> None:
        """Refuse another writer of the rates; note what the module gives its optimizers before a scheduler writes."""
        refuse_weight_averaging(self.spec, run.trainer.callbacks)
        _say_once(run, remark_on_finetuning(self.spec, run.trainer.callbacks))
        self._conflict.watch(run.trainer.lightning_module)

    def _on_optimizers_created(self, run: TrainingRun) -> None:
        """Settle a conflict with the module's own scheduler before a checkpoint restores it."""
        self._conflict.settle(run.trainer)

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take base values, find the length of the run, and write the rate of the next update.

        The position is kept from one fit of a Trainer to the next, as Lightning keeps its own.
        """
        trainer, writer = run.trainer, self._writer
        if state is None and not self._horizon.tracks and trainer.global_step > 0:
            at = [run.clock.applied_on_host(view.index) for view in run.views]
            warn(OWNER, f"the checkpoint holds no schedule: it goes on at update {at}, from Lightning's global step.")
        for view in run.views:
            require_rates(OWNER, view.optimizer)
            _say_once(run, two_decays(self.spec.decay, view.optimizer))
        for view in run.views:
            refuse_copied_groups(view)
        state = state or {}
        writer.groups = restored_groups(state, len(run.views))
        writer.clock.elapsed = restored_time(state, writer.clock.elapsed)
        # (where the user gave the length, the clock has no say)
        writer.clock.read = None if self.spec.total is not None else time_progress(trainer)
        self._plateau = None if self._plateau is None else self._plateau.restored(state)
        self._horizon = self._horizon.restored(state, len(run.views))
        self._cadence = Cadence(trainer.log_every_n_steps, run.step)
        self._horizon = horizon_at_start(self.spec, run, self._horizon, has_clock=writer.clock.read is not None)
        if self._horizon.inferring:
            text = "the data have no length: the rate is held in the first epoch and decays from the second on."
            warn(OWNER, text)
        for view in run.views:
            writer.take_groups(run, view)
        run.rate.claim(lambda: self._write(run, run.views), writer.base_rates)
        self._write(run, run.views)

    def _renewed(self, run: TrainingRun, view: OptimizerView) -> None:
        """An optimizer was rebuilt, or its groups: new groups start from the rate that they came with."""
        self._conflict.settle(run.trainer)
        self._horizon = self._horizon.with_room(view.index + 1)
        self._writer.take_groups(run, view)
        self._write(run, [view])

    # -- each batch and each update -----------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Correct the forecast; write again where an epoch begins, since callbacks that unfreeze layers set rates."""
        run, horizon = self.live_run, self._horizon
        if run is None:
            return
        # Before the first batch a checkpoint's length holds, also where this Trainer was given another one.
        attempted = run.clock.all_attempted
        looks = horizon.pace.begin_batch(batch_idx, attempted)
        if looks or (horizon.resumed and bounds(trainer) != horizon.bounds):
            has_clock = self._writer.clock.read is not None
            self._horizon, remarks = horizon_after_look(self.spec, run, horizon, has_clock=has_clock)
            _say_once(run, *remarks)
            if not self._horizon.inferring:
                self._write(run, run.views)
        # (from here on another length is a better forecast, and not another wish)
        elif horizon.resumed:
            self._horizon = replace(horizon, resumed=False)
        if batch_idx == 0:
            self._write(run, run.views)
        if not self._horizon.timed:
            _say_once(run, *overruns(self._horizon.tracks, attempted))

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        if self._cadence.due(page.step):
            suffix = f"/optimizer{page.view.index}" if len(run.views) > 1 else ""
            run.publisher.put(page.step, logged_values(self.spec, page.view.optimizer.param_groups, suffix))
            self._writer.send_skipped(run, page)

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """Write the values of the next update at once: LearningRateMonitor shows what will be used."""
        self._write(self.run, [view])

    def _write(self, run: TrainingRun, views: Sequence[OptimizerView]) -> None:
        lowered = 1.0 if self._plateau is None else self._plateau.factor(self.spec.final)
        for view in views:
            track = self._horizon.tracks[view.index]
            self._writer.write(run, view, track, timed=self._horizon.timed, lowered=lowered)

    # -- plateau ------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Show a plateau its metric, before a ModelCheckpoint saves: so a resume is exact."""
        if self._plateau is not None and self.live_run is not None and not trainer.sanity_checking:
            metrics = callback_metrics(trainer, trainer.fit_loop.epoch_loop.val_loop)
            seen = shown_metric(self._plateau, trainer, metrics)
            if seen is not self._plateau:
                self._take(replace(seen, of_validation=True, awaited=None))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for what a plateau waits for."""
        if self._plateau is not None and self.live_run is not None:
            self._take(shown_what_came_late(self._plateau, trainer, strict=True))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Show a plateau a metric of the training; one that the module logs in this very hook comes a moment later."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._plateau is not None and self.live_run is not None and not self._plateau.of_validation:
            metrics = callback_metrics(trainer, trainer.fit_loop.epoch_loop)
            seen = shown_metric(self._plateau, trainer, metrics)
            self._take(replace(seen, awaited=trainer.current_epoch))

    def _take(self, watch: PlateauWatch) -> None:
        """Take what a plateau has seen, and write the rates where it lowers them."""
        before, self._plateau = self._plateau, watch
        if before is not None and watch.state["reductions"] > before.state["reductions"]:
            self._write(self.run, self.run.views)

    # -- the end, and state -------------------------------------------------------------------------------------

    def _finished(self, run: TrainingRun) -> None:
        if self._plateau is not None:
            self._take(shown_what_came_late(self._plateau, run.trainer, strict=True))
        # (neither a trial nor a run that an alarm stopped is meant to reach the end; data without a length showed none)
        if run.trainer.fast_dev_run or run.common.shared(StopRequest) or self._horizon.inferring:
            return
        for view in run.views:
            track = self._horizon.tracks[view.index]
            position = self._writer.position(run, view.index, track, timed=self._horizon.timed)
            applied = run.clock.applied_on_host(view.index)
            text = shortfall(track, float(position.exact), applied, timed=self._horizon.timed)
            if text is not None:
                warn(OWNER, text)

    def _cleanup(self, run: TrainingRun) -> None:
        self._conflict.close()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; the arguments of an older one are compared under today's names."""
        saved = state_dict.get("configuration") if isinstance(state_dict, Mapping) else None
        if isinstance(saved, dict):
            state_dict = {**state_dict, "configuration": current_configuration(saved)}
        super().load_state_dict(state_dict)

    def _trick_state(self) -> dict[str, Any]:
        if self._plateau is not None and self.live_run is not None:
            # (not strict: a checkpoint may be written before the metric of its epoch is logged)
            self._take(shown_what_came_late(self._plateau, self.live_run.trainer, strict=False))
        return {
            "base": saved_groups(self._writer.groups),
            **self._horizon.state_dict(),
            "elapsed": self._writer.clock.elapsed,
            "plateau": None if self._plateau is None else self._plateau.state,
            "of_validation": self._plateau is not None and self._plateau.of_validation,
        }


def _say_once(run: TrainingRun, *remarks: str | None) -> None:
    for remark in remarks:
        # (remarks that come from errors begin with the owner)
        text = remark and remark.removeprefix(f"{OWNER}: ")
        if text and run.common.first_to_say(f"{OWNER}: {text}"):
            warn(OWNER, text)
