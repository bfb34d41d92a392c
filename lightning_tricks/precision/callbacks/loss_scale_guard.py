"""LossScaleGuard: Lightning's hooks on one side, the rules of ``scale_policy.py`` on the other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from lightning_tricks.errors import NonFiniteError
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form
from lightning_tricks.numerics.shards import reduced
from lightning_tricks.optimizer_step.gradient_writer import make_skipping_safe
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.precision.attempts import (
    Attempt,
    all_finite,
    known,
    nonfinite_buffers,
    nonfinite_names,
    scale_used,
)
from lightning_tricks.precision.callbacks.precision_doctor import PrecisionDoctor
from lightning_tricks.precision.keys import LOSS_SCALE
from lightning_tricks.precision.scale_policy import (
    ScalePolicy,
    SkipCount,
    describe_failure,
    describe_fallback,
    on_host,
)
from lightning_tricks.precision.trainer_precision import precision_of, refuse_without_bfloat16, switch_precision
from lightning_tricks.publishing.publish import Cadence


@final
class LossScaleGuard(Trick):
    """Keep the loss scale of 16-mixed within bounds, and end or rescue a run in which every update is skipped.

    A GradScaler skips an update whose gradients hold NaN or inf, and halves the scale. When all of them do, Lightning
    2.6.6 goes on to the end: scale 0.0, not one update, status "finished". With the guard the run fails as soon as
    ``max_consecutive_skips`` is exceeded, and says which parameters and, beside a ``PrecisionDoctor``, which module.

    Args:
        min_scale: the scale is never below it, > 0.
        max_scale: the scale is never above it; None for no bound.
        max_consecutive_skips: attempts in a row that may be skipped, per optimizer. One more is a failure.
        on_failure: ``"raise"`` ends the run; ``"warn"`` says it once per failure; ``"bf16"`` and ``"fp32"`` go on in
            bf16-mixed or 32-true from the next batch on, weights and optimizer state as they are. After such a change
            a loss that stays NaN or inf for as long ends the run.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        UnsupportedError: at fit start, ``"bf16"`` on a GPU that has none, or fused SGD with dampening.
        NonFiniteError: while training, with ``on_failure="raise"``, or when the change of precision did not help.

    Logs:
        - ``amp/scale``: the loss scale in use; ``amp/skipped_steps``: attempts that were no updates, since the start;
          both at logged steps, the latter per optimizer when there are several.

    Changes:
        The scale, where it is out of bounds; the precision of the Trainer, after a failure and if asked to. The
        Trainer then stays in it, also for ``test`` and ``predict``. Fused SGD with momentum gets its buffers as zeros
        (the same first update): torch leaves them uninitialised when the first step is skipped.

    State:
        Skips so far and in a row, and the precision that it changed to: a resumed run goes on in that precision.

    Cost:
        No host read beyond the one that GradScaler makes. With a fused optimizer only the device knows about skips:
        there the count is copied asynchronously once half of the limit may have passed, and waited for at the limit.

    Example:
        >>> from lightning_tricks import LossScaleGuard
        >>> LossScaleGuard(max_consecutive_skips=10, on_failure="bf16").on_failure
        'bf16'

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740; Lightning #20619, #9799.
    """

    log_keys = LOSS_SCALE

    _internal = ("logs_loss_scale",)
    logs_loss_scale: ClassVar[bool] = True  # then PrecisionDoctor does not
    state_form = staticmethod(
        form.record(
            {
                "counts": form.list_of(form.record(dict.fromkeys(("version", "consecutive", "skipped"), form.count))),
                "fallback": form.none_or(form.one_of("bf16", "fp32")),
            },
            more=True,
        )
    )

    def __init__(
        self,
        min_scale: float = 1.0,
        max_scale: float | None = None,
        max_consecutive_skips: int = 20,
        on_failure: Literal["raise", "warn", "bf16", "fp32"] = "raise",
    ) -> None:
        self.min_scale, self.max_scale, self.max_consecutive_skips = min_scale, max_scale, max_consecutive_skips
        self.on_failure = on_failure
        self._reset()

    def _reset(self) -> None:
        self._policy = ScalePolicy(self.min_scale, self.max_scale, self.max_consecutive_skips, self.on_failure)
        self._counts: list[SkipCount] = []
        self._open: dict[int, Attempt] = {}
        self._told: set[int] = set()  # optimizers of whose present failure a warning has told
        self._fallback: str | None = None

    @property
    def skipped_steps(self) -> int:
        """Attempts that were skipped so far, of all optimizers (one host read where only the device knows)."""
        return sum(on_host(count.state)["skipped"] for count in self._counts)

    @property
    def fallback(self) -> str | None:
        """The precision that the guard changed to, ``"bf16"`` or ``"fp32"``; None when it did not."""
        return self._fallback

    def _configure(self, run: TrainingRun) -> None:
        """Check that the precision to go on in is there; keep the losses for the message."""
        run.attempts.keeps_losses = True
        if self.on_failure == "bf16":
            refuse_without_bfloat16(run.trainer.strategy.root_device)

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the counts; go on in the precision that was changed to."""
        saved = (state or {}).get("counts") or [count.state for count in self._counts]
        if len(saved) != len(run.views):  # other optimizers than in the checkpoint: their streaks say nothing here
            saved = [self._policy.init() for _ in run.views]
        self._counts, self._open = [SkipCount.resumed(s) for s in saved], {}
        self._cadence = Cadence(run.trainer.log_every_n_steps, run.step)
        if state is not None and state.get("fallback") and run.loss_scale.active:
            self._switch(run, state["fallback"])
        run.loss_scale.bound(self.min_scale, self.max_scale)
        for view in run.views if run.loss_scale.active else ():  # the first step may be skipped already
            make_skipping_safe(view)
        idle = not run.loss_scale.active and self._fallback is None
        run.dispatch.rest(self, "_gradients_ready", "_updated", "on_train_batch_end", when=idle)

    def _trick_state(self) -> dict[str, Any]:
        return {"counts": [on_host(count.state) for count in self._counts], "fallback": self._fallback}

    # -- an attempt ---------------------------------------------------------------------------------------------------

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        index = page.view.index
        if index in self._open:  # manual optimization stepped twice within one batch
            self._close(run, index)
        if run.loss_scale.active:
            self._open[index] = Attempt(page)
        elif self._fallback is not None and page.losses:
            self._open[index] = attempt = Attempt(page)
            bad = (~all_finite(page.losses)).to(torch.float32)
            # losses differ between processes, and all must end at the same attempt
            attempt.outcome = known(reduced(run.trainer.strategy, bad, "sum"))
        if self._cadence.due(page.step) and (scale := run.loss_scale.scale()) is not None:
            run.publisher.put(page.step, {"amp/scale": scale})

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """The optimizer's step ran: on the host, or on a device that may have skipped it."""
        if view.index in self._open and self.run.loss_scale.active:
            self._open[view.index].stepped()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, bound the scale, and act on a failure; between two updates."""
        run = self.live_run
        if run is not None and self._open:
            for index in list(self._open):
                self._close(run, index)
            # (between two steps: the scaler writes the scale during a step, and gradients of an open window carry it)
            run.loss_scale.bound(self.min_scale, self.max_scale)

    def _close(self, run: TrainingRun, index: int) -> None:
        attempt = self._open.pop(index)
        self._counts[index] = count = self._counts[index].after(attempt.outcome, self._policy)
        if isinstance(attempt.outcome, Tensor):
            self._ask_device(run, index, attempt.step)
        else:
            self._forgive_if_over(index)
        if self._cadence.due(attempt.step) and self._fallback is None:
            suffix = f"/optimizer{index}" if len(run.views) > 1 else ""
            run.publisher.put(attempt.step, {f"amp/skipped_steps{suffix}": count.state["skipped"]})
        if self._policy.failed(self._counts[index].consecutive) and self._counts[index].up_to_date:
            self._fail(run, attempt)

    def _ask_device(self, run: TrainingRun, index: int, step: int) -> None:
        """Have the device's count copied once it may matter; wait for it only at the limit."""
        count = self._counts[index]
        if not self._policy.may_matter(count.possible):
            return

        def on_arrival(values: list[float]) -> None:
            self._counts[index] = self._counts[index].told(values[0], count.attempts)
            self._forgive_if_over(index)

        run.publisher.put_private(step, count.state["consecutive"].reshape(1), on_arrival)
        if self._policy.failed(count.possible):  # the limit may be exceeded: here the host has to wait for the answer
            run.publisher.flush()

    def _forgive_if_over(self, index: int) -> None:
        """An update was applied: the next failure is another one, and is told again."""
        if not self._counts[index].consecutive:
            self._told.discard(index)

    # -- a failure ----------------------------------------------------------------------------------------------------

    def _fail(self, run: TrainingRun, attempt: Attempt) -> None:
        text = self._describe(run, attempt)
        if self._fallback is not None:
            text = f"LossScaleGuard: also in {self._fallback} the loss stays NaN or inf. {text}"
            raise NonFiniteError(f"{text} Go back to a checkpoint and look for a division by 0 or log(0).")
        if self.on_failure == "raise":
            raise NonFiniteError(f"LossScaleGuard: {text} LossScaleGuard(on_failure='bf16') would go on in bf16-mixed.")
        if self.on_failure == "warn":
            if attempt.view.index not in self._told:
                self._told.add(attempt.view.index)
                warn("LossScaleGuard", text)
            return
        self._switch(run, self.on_failure)
        self._counts = [count.forgiven() for count in self._counts]
        polluted = nonfinite_buffers(run.trainer.lightning_module)
        warn("LossScaleGuard", describe_fallback(text, polluted, precision_of(run.trainer)))

    def _describe(self, run: TrainingRun, attempt: Attempt) -> str:
        doctor = next((t for t in run.tricks if isinstance(t, PrecisionDoctor)), None)
        return describe_failure(
            consecutive=self._counts[attempt.view.index].consecutive,
            attempt=attempt.number,
            step=attempt.step,
            scale=scale_used(run.loss_scale) if run.loss_scale.active else None,
            names=nonfinite_names(attempt.view),
            loss_finite=attempt.loss_finite(),
            causes=[str(f) for f in doctor.findings if not f.ordinary] if doctor is not None else [],
        )

    def _switch(self, run: TrainingRun, precision: str) -> None:
        switch_precision(run.trainer, precision)
        run.loss_scale.retire()  # the tricks of this run see gradients without a scale from the next attempt on
        self._fallback = precision
