"""LRSchedule: writes learning rates, one per applied update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor

from lightning_tricks.errors import ConflictError, TrickError, message, require_choice, require_number
from lightning_tricks.measure.duration import Duration
from lightning_tricks.runtime.action import warn
from lightning_tricks.runtime.horizon import forecast_updates, updates_per_epoch
from lightning_tricks.runtime.logbook import OptimizerView, Page
from lightning_tricks.runtime.publish import Cadence
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.trick import Trick
from lightning_tricks.schedules.curves import DECAYS, Constant, Decay
from lightning_tricks.schedules.figures import draw_curve
from lightning_tricks.schedules.phases import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
class LRSchedule(Trick):
    """Warm up, hold and decay the learning rate, counted in updates that really happened.

    ``lr = base_lr * multiplier(applied updates)``, written into each parameter group after each update; groups keep
    their ratios. Steps that a GradScaler or a NaN skipped do not count, nor do micro-batches.

    Args:
        decay: ``"constant"``, ``"linear"`` or ``"cosine"``, or a Decay object.
        warmup: length of the warm-up: updates (``500``, ``"500st"``), epochs (``"2ep"``) or share of the run
            (``"5%"``); None for 5 %, 0 for none.
        warmup_shape: ``"linear"``, ``"cosine"``, ``"exponential"`` or ``"constant"``.
        warmup_start: multiplier at which the warm-up begins, in [0, 1]; > 0 for exponential and constant.
        hold: length at the base rate between warm-up and decay, in the same units.
        final: multiplier at the end, in [0, 1].
        total: length of the run, in the same units but not ``%``; None to take it from the Trainer.
        conflict: when the module has a scheduler of its own: ``"error"`` names it, ``"replace"`` takes over.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range or contradicts another.
        ConflictError: at fit start, the module returned a scheduler and ``conflict`` is ``"error"``.
        TrickError: at fit start, the length of the run is not known, or warm-up and hold do not fit in.

    Logs:
        - ``schedule/lr``: rate of the first parameter group at logged steps.
        - ``schedule/lr/<group>``: of each group when there are several.
        - with several optimizers both have ``/optimizer<index>`` behind ``schedule/lr``.

    Changes:
        ``group["lr"]`` of every optimizer.

    State:
        Base rates, length, and the numbers of updates. A resume with other arguments goes on at the same update on the
        new curve. From a checkpoint without this state the position is taken from the global step, with a warning.

    Cost:
        A few Python numbers per update. Where only the device knows whether an update happened (fused optimizer with a
        GradScaler, or with ``GradientClip(nonfinite="skip")``), rates are tensors on the device: no host read.

    Example:
        >>> from lightning_tricks import LRSchedule
        >>> [round(v, 3) for v in LRSchedule("cosine", warmup=2).values(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]

    Reference: Goyal et al., 2017, arXiv:1706.02677 (warm-up); Loshchilov, Hutter, 2017, arXiv:1608.03983 (cosine).
    """

    def __init__(
        self,
        decay: str | Decay = "cosine",
        *,
        warmup: int | str | None = None,
        warmup_shape: Literal["linear", "constant", "cosine", "exponential"] = "linear",
        warmup_start: float = 0.0,
        hold: int | str = 0,
        final: float = 0.0,
        total: int | str | None = None,
        conflict: Literal["error", "replace"] = "error",
    ) -> None:
        owner = "LRSchedule"
        shapes = ("linear", "constant", "cosine", "exponential")
        self.decay = decay if isinstance(decay, Decay) else DECAYS[require_choice(owner, "decay", decay, DECAYS)]
        self.warmup = Duration.parse("5%" if warmup is None else warmup, owner=owner, argument="warmup")
        self.warmup_shape = require_choice(owner, "warmup_shape", warmup_shape, shapes)
        self.warmup_start = _share("warmup_start", warmup_start)
        self.hold = Duration.parse(hold, owner=owner, argument="hold")
        self.final = _share("final", final)
        self.total = None if total is None else Duration.parse(total, owner=owner, argument="total")
        self.conflict = require_choice(owner, "conflict", conflict, ("error", "replace"))
        if self.warmup_start == 0 and self.warmup_shape in ("constant", "exponential"):
            text = f"warmup_start must be > 0 for warmup_shape={self.warmup_shape!r}, which never leaves 0"
            raise ValueError(message(owner, "warmup_start", warmup_start, text, "Use e.g. 0.1"))
        if isinstance(self.decay, Constant) and self.final != 0:
            text = "final has no meaning for a constant schedule"
            raise ValueError(message(owner, "final", final, text, "Leave it out, or use 'linear' or 'cosine'"))
        if self.total is not None and (self.total.unit == "%" or self.total.amount == 0):
            text = "total must be a number of updates or epochs, > 0"
            raise ValueError(message(owner, "total", total, text, "Use e.g. 10_000 or '20ep'"))
        self.reset()

    def reset(self) -> None:
        """Forget the last run."""
        self._base: list[list[float]] = []
        self._curve: Curve | None = None
        self._table: Tensor | None = None

    # -- without a Trainer --------------------------------------------------------------------------------------

    def values(self, total: int) -> list[float]:
        """Return the multipliers of updates ``0..total-1`` of a run of ``total`` updates, without a Trainer.

        Raises:
            ValueError: a length is given in epochs, or warm-up and hold do not fit in.
        """
        return self._joined(total, None).values()

    def plot(self, total: int, base_lr: float = 1.0) -> Figure:
        """Return a matplotlib figure of the schedule over ``total`` updates, before any training."""
        return draw_curve(self._joined(total, None), base_lr)

    def _joined(self, total: int, per_epoch: float | None) -> Curve:
        warmup, hold = (length.updates(total, per_epoch) for length in (self.warmup, self.hold))
        if warmup + hold > total:
            text = f"warm-up ({warmup}) and hold ({hold}) are longer than the run ({total} updates)"
            raise ValueError(message("LRSchedule", "warmup", str(self.warmup), text, "Shorten them"))
        return Curve(self.decay, warmup, self.warmup_shape, self.warmup_start, hold, self.final, total)

    # -- in a run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Settle a conflict with the module's own scheduler before a checkpoint restores it."""
        configs = trainer.strategy.lr_scheduler_configs
        if not configs:
            return
        names = ", ".join(sorted({type(config.scheduler).__name__ for config in configs}))
        if self.conflict == "error":
            text = f"{type(pl_module).__name__}.configure_optimizers returns a scheduler too ({names})"
            remedy = "Return only the optimizer, remove LRSchedule, or use conflict='replace'"
            raise ConflictError(message("LRSchedule", "conflict", self.conflict, text, remedy))
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.pop("initial_lr", group["lr"])
        trainer.strategy.lr_scheduler_configs = []

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take base rates, find the length of the run, and write the rate of the next update."""
        trainer = run.trainer
        if state is None and not self._base and trainer.global_step > 0:
            at = [run.clock.applied_on_host(view.index) for view in run.views]
            warn(
                "LRSchedule",
                f"the checkpoint holds no schedule: it goes on at update {at}, from Lightning's global step.",
            )
        per_epoch = updates_per_epoch(trainer)
        try:
            total = forecast_updates(trainer) if self.total is None else self.total.updates(None, per_epoch)
            if trainer.fast_dev_run:  # a trial of a few batches, which are the first of a longer run
                total = max(total, self.warmup.updates(total, per_epoch) + self.hold.updates(total, per_epoch) + 1)
            self._curve = self._joined(total, per_epoch)
        except (TrickError, ValueError) as error:
            raise TrickError(f"LRSchedule: {error}") from error
        self._table = None
        self._base = (state or {}).get("base") or self._base or [[] for _ in run.views]
        self._cadence = Cadence(trainer.log_every_n_steps, run.step)
        for view in run.views:
            self._write(run, view)

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Log the rate that this attempt uses."""
        if not self._cadence.due(page.step):
            return
        key = "schedule/lr" + (f"/optimizer{page.view.index}" if len(run.views) > 1 else "")
        groups = page.view.optimizer.param_groups
        run.publisher.put(page.step, {key: groups[0]["lr"]})
        if len(groups) > 1:
            names = [str(group.get("name", f"group{j}")) for j, group in enumerate(groups)]
            run.publisher.put(page.step, {f"{key}/{n}": g["lr"] for n, g in zip(names, groups, strict=True)})

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """Write the rate of the next update at once: LearningRateMonitor shows what will be used."""
        self._write(self.run, view)

    def _write(self, run: TrainingRun, view: OptimizerView) -> None:
        applied = run.clock.applied(view.index)
        multiplier = self._multiplier(applied)
        base = self._base[view.index]
        for j, group in enumerate(view.optimizer.param_groups):
            if j == len(base):  # a group that was added in mid-run joins with the rate that it came with
                base.append(float(group["lr"]))
            rate = base[j] * multiplier
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate) if isinstance(rate, Tensor) else group["lr"].fill_(rate)
            else:
                group["lr"] = rate.clone() if isinstance(rate, Tensor) else rate

    def _multiplier(self, applied: int | Tensor) -> float | Tensor:
        assert self._curve is not None
        if isinstance(applied, int):
            return self._curve.value(applied)
        if self._table is None or self._table.device != applied.device:
            heights = [*self._curve.values(), self._curve.value(self._curve.total)]
            self._table = torch.tensor(heights, dtype=torch.float32).to(applied.device, non_blocking=True)
        # no table[applied]: torch reads a 0-d index on the host
        return self._table.index_select(0, applied.clamp(max=self._curve.total).reshape(1)).reshape(())

    def finished(self, run: TrainingRun) -> None:
        """Say how far the curve got, if not to its end."""
        assert self._curve is not None
        for view in [] if run.trainer.fast_dev_run else run.views:
            applied = run.clock.applied_on_host(view.index)
            reached, end = self._curve.value(applied), self._curve.value(self._curve.total)
            if abs(reached - end) > 0.02:
                text = f"training ended at update {applied} of {self._curve.total}, at {reached:.0%} of the base rate"
                warn("LRSchedule", f"{text} instead of {end:.0%}. Pass total={applied} if this length is meant.")

    # -- state --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """The arguments, as text."""
        shown = {name: str(getattr(self, name)) for name in ("decay", "warmup", "hold", "total")}
        return {**shown, "shape": self.warmup_shape, "start": self.warmup_start, "final": self.final}

    def trick_state(self) -> dict[str, Any]:
        """Base rates and length."""
        total = None if self._curve is None else self._curve.total
        return {"base": [list(rates) for rates in self._base], "total": total}


def _share(argument: str, value: float) -> float:
    return require_number(
        "LRSchedule", argument, value, high=1.0, low_included=True, high_included=True, remedy="Use e.g. 0.1"
    )
