"""Follows the attempts of a run under a GradScaler, and finds out why updates were skipped.

A skip is explained by running the forward pass of its batch once more, where that can be undone; what only the device
knows is read at the next logged step instead, and the batch after it is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tricks.dry_run.isolated import step_again
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import NotRestorableError
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.trace import Call, Trace, floating, largest
from lightning_tricks.numerics.shards import on_any_rank
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.precision import skips
from lightning_tricks.precision.attempts import Attempt, nonfinite_names, scale_used
from lightning_tricks.precision.findings import Finding

_OWNER = "PrecisionDoctor"
_RULE = skips.StreakRule()
# An attempt keeps its losses alive, so their number is bounded where no logged step sends them off.
_LATE = 512

Guard = Callable[[Callable[..., None]], Callable[..., Any]]


class Look(NamedTuple):
    """What a forward pass that was run again has shown."""

    calls: list[Call]
    loss_finite: bool
    input_finite: bool


class SkipExplainer:
    """Explains skipped updates, attempt by attempt.

    Args:
        note: what to do with a finding.
        guard: put around what modules and the publisher call later.
    """

    def __init__(self, note: Callable[[Finding], None], guard: Guard) -> None:
        self._note, self._guard = note, guard
        self.looks = 0  # forward passes that were run again, in the whole training
        self.modules: dict[str, nn.Module] = {}
        self._batch: tuple[Any, int] | None = None
        self._attempts: list[Attempt] = []
        self._late: list[Attempt] = []
        self._streaks: list[int] = []
        self._unrecoverable: set[int] = set()
        self._suspicious = False
        self._trace: Trace | None = None

    def start(self, modules: Mapping[str, nn.Module], optimizers: int) -> None:
        """Begin a fit."""
        self.modules, self._streaks = dict(modules), [0] * optimizers
        self._attempts, self._late = [], []

    def stop(self) -> None:
        """End a fit: take hooks away, and keep neither modules nor a batch alive."""
        self._drop_trace()
        self._batch, self._attempts, self._late, self.modules = None, [], [], {}

    # -- one batch ----------------------------------------------------------------------------------------------------

    def begin_batch(self, run: TrainingRun, batch: Any, batch_idx: int) -> None:
        """Keep the batch until its attempts are explained; watch it, if updates were skipped before it."""
        self._batch = (batch, batch_idx) if run.loss_scale.active else None
        if self._suspicious:
            self._trace = Trace(self.modules, self._guard)
            self._trace.attach()

    def open(self, page: Page) -> None:
        """Note an attempt."""
        self._attempts.append(Attempt(page))

    def stepped(self, view: OptimizerView) -> None:
        """Note that an optimizer's step ran."""
        for attempt in self._attempts:
            if attempt.view is view:
                attempt.stepped()

    def end_batch(self, run: TrainingRun) -> None:
        """Explain what was skipped in this batch."""
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            self._follow(run, attempt)
        if self._trace is not None and attempts:
            self._read_trace(self._trace, attempts[-1].step)
        self._drop_trace()
        self._batch = None

    def send_late(self, run: TrainingRun, step: int) -> None:
        """Ask the device which of the attempts since the last logged step it skipped; no host read."""
        attempts, self._late = self._late, []
        if not attempts:
            return
        # One small vector travels with the logged values; the host never waits for the device's answer.
        found = torch.stack([a.outcome.reshape(()) for a in attempts if isinstance(a.outcome, Tensor)])

        def on_arrival(values: list[float]) -> None:
            skipped = [a for a, value in zip(attempts, values, strict=True) if value]
            self._suspicious = bool(skipped)
            for attempt in skipped:
                self._note(skips.unexplained(attempt.loss_finite(), attempt.step))

        run.publisher.put_private(step, found, self._guard(on_arrival))

    # -- one attempt --------------------------------------------------------------------------------------------------

    def _follow(self, run: TrainingRun, attempt: Attempt) -> None:
        """Explain a skip; say when there were too many in a row for ordinary ones."""
        index = attempt.view.index
        if isinstance(attempt.outcome, Tensor):  # only the device knows; it is asked at the next logged step
            self._late.append(attempt)
            if len(self._late) >= _LATE:
                self.send_late(run, attempt.step)
            return
        if not attempt.outcome:
            self._streaks[index] = 0
            self._unrecoverable.discard(index)
            return
        self._streaks[index] += 1
        if not run.trainer.lightning_module.automatic_optimization:
            self._suspicious = True  # such a step cannot be run twice; the next batch is watched instead
        elif _RULE.may_look(self.looks, run.clock.attempted(index)):  # a look costs a forward pass in a snapshot
            self._explain(run, attempt)
        self._judge_streak(run, attempt)

    def _judge_streak(self, run: TrainingRun, attempt: Attempt) -> None:
        index, streak = attempt.view.index, self._streaks[attempt.view.index]
        if not _RULE.suspicious(streak) or index in self._unrecoverable or not attempt.loss_finite():
            return
        scale = scale_used(run.loss_scale)  # (a host read, and so only once the streak is suspicious)
        if _RULE.unrecoverable(streak, scale):
            self._unrecoverable.add(index)
            self._note(skips.backward_overflow(scale, nonfinite_names(attempt.view), streak, attempt.step))

    def _explain(self, run: TrainingRun, attempt: Attempt) -> None:
        self.looks += 1
        seen = None if self._batch is None else look_again(run, *self._batch, self.modules)
        finding = None if seen is None else skips.explain(**seen._asdict(), step=attempt.step)
        found = [] if finding is None else [finding]
        if run.trainer.world_size > 1:  # a collective: all ranks have skipped, since averaging spreads NaN and inf
            found = self._of_all_processes(run, finding, attempt.step)
        elif not found and (seen is None or not attempt.loss_finite()):
            found = [skips.unexplained(attempt.loss_finite(), attempt.step)]
        if not found:
            scale, names = scale_used(run.loss_scale), nonfinite_names(attempt.view)
            found = [skips.too_large(scale, names, attempt.step)]
        for each in found:
            self._note(each)

    def _of_all_processes(self, run: TrainingRun, own: Finding | None, step: int) -> list[Finding]:
        """Return the overflows of all processes. All of them must call."""
        names, mine = list(self.modules), skips.overflowing_module(own)
        if not names:
            return [] if own is None else [own]
        anywhere = on_any_rank([name == mine for name in names], run.trainer.strategy.root_device)
        return skips.overflows(names, anywhere, own, step)

    def _read_trace(self, trace: Trace, step: int) -> None:
        """See whether the forward pass of a batch that was watched explains the skips before it."""
        self._suspicious = False
        finding = skips.explain(trace.calls(), loss_finite=True, input_finite=True, step=step)
        if finding is not None:
            self._note(finding)

    def _drop_trace(self) -> None:
        if self._trace is not None:
            self._trace.detach()
        self._trace = None


def look_again(run: TrainingRun, batch: Any, batch_idx: int, modules: Mapping[str, nn.Module]) -> Look | None:
    """Run the forward pass of a batch once more, without a trace; None, with a warning, where that cannot be.

    Args:
        run: whose ``training_step`` is called; with automatic optimization, or it would step.
        modules: whose calls are noted, by name.
    """
    trace = Trace(modules)
    try:
        with trace:
            losses = floating(loss_of(step_again(run, batch, batch_idx)))
        tops = [[largest(t) for t in floating(x)] for x in (losses, batch)]
        finite = [all(float(t) < torch.inf for t in top) for top in tops]
        return Look(trace.calls(), finite[0], finite[1])
    except Exception as error:  # a training_step that cannot be called twice must not end the run
        if run.common.first_to_say("PrecisionDoctor cannot look again"):
            what = error.what if isinstance(error, NotRestorableError) else f"{type(error).__name__}: {error}"
            warn(_OWNER, f"a skipped update's forward pass cannot be looked at again ({what}).")
        return None
