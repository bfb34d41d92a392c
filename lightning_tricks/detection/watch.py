"""Watch: a probe, a sampler, a judge and an action, put together: what every detector of the pack does in a run.

Samples are gathered on the device in the last batches before a check, measured at the check, and sent to the host as
one vector without waiting. The verdict is acted on after the next update: then it has arrived on every rank, so all do
the same at the same step. Between checks there is nothing but the test of a flag in each hook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from lightning_tricks.detection.announcer import Announcer
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.judge import FORMS, OPTIONAL_FORMS, VERDICT, Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.detection.response import Response
from lightning_tricks.detection.rollback import ROLLBACK_STATE
from lightning_tricks.detection.sampler import Sampler
from lightning_tricks.detection.settings import WatchSettings, grace_in_updates
from lightning_tricks.errors import TrickError, in_one_line
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.names import refuse_compiled
from lightning_tricks.numerics import form
from lightning_tricks.optimizer_step.logbook import Page

_T = TypeVar("_T")

UNKNOWN_CADENCE = 50


def watch_form(*, optional: dict[str, form.Form] | None = None, **more: form.Form) -> Any:
    """Return the form of a detector's state, with what its probe adds, as a class attribute.

    Args:
        optional: of keys that states of older versions do not have.
        more: of keys that every state has.
    """
    own: dict[str, form.Form] = {
        **FORMS,
        "sums": form.dict_of(form.tensor),
        "counters": form.list_of(form.count, 4),
        "flags": form.list_of(form.flag, 3),
        "pending": form.none_or(VERDICT),
        "rescue": form.none_or(ROLLBACK_STATE),
    }
    return staticmethod(form.record({**own, **more}, more=True, optional={**OPTIONAL_FORMS, **(optional or {})}))


@final
class Watch(Stages):
    """The part of a detector that looks at a run now and then, judges what it sees, and acts.

    Args:
        probe: what is looked at and what it means.
        settings: when to look and what to do.
        topic: what log keys begin with.
        label: which one of several detectors of a class it is, in log keys; by default its first identity argument.
    """

    def __init__(
        self, trick: Trick, probe: Probe, settings: WatchSettings, *, topic: str = "collapse", label: str = ""
    ) -> None:
        self.trick, self.probe, self.settings = trick, probe, settings
        self.sampler = Sampler(settings.every_n_steps or UNKNOWN_CADENCE, probe.samples)
        self.judge = Judge(settings.owner, probe.rules(), probe.grace_factor)
        self.announcer = Announcer(trick, lambda: probe.figure(self.judge.history), topic, label)
        self.response = Response(trick, settings, self.announcer.announce)
        self._attachment: Attachment | None = None
        self._sent = False  # a vector is on its way to the host
        self._resumed = False  # what was gathered came from a checkpoint

    # -- life -----------------------------------------------------------------------------------------------------

    def _configure(self, run: TrainingRun) -> None:
        """Attach before the first forward pass: a compiled module takes no hook later."""
        self._attach(run, final=False)

    def _attach(self, run: TrainingRun, *, final: bool) -> None:
        self._detach()
        if self.probe.hooks_modules:
            refuse_compiled(run.trainer.lightning_module, self.settings.owner)

        def if_watched(see: Callable[[], None]) -> None:
            if self.sampler.armed:
                self.trick.guarded(self._or_gather_again, see)

        attachment = Attachment(self.settings.owner, run, if_watched, self.sampler)
        try:
            self.probe.attach(attachment)
        except TrickError:
            attachment.detach()
            # modules that configure_model makes are not there yet
            if final or not hasattr(run.trainer.lightning_module, "configure_model"):
                raise
            return
        self._attachment = attachment

    def _detach(self) -> None:
        self.sampler.armed = False
        if self._attachment is not None:
            self._attachment.detach()
        self._attachment = None

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Learn the length of the run; take up the state."""
        if self._attachment is None:
            self._attach(run, final=True)
        every = self.settings.every_n_steps or run.trainer.log_every_n_steps or UNKNOWN_CADENCE
        self.sampler.start(every, run.clock.attempted(0) if run.views else 0)
        self.judge.grace = grace_in_updates(run, self.settings)
        self.probe.on_start(run, self.judge, every)
        # (states to go back to are at least two checks apart)
        self.response.start(run, 2 * every)
        if state is not None:
            self._load(run, state)

    def _rolled_back(self, run: TrainingRun) -> None:
        """Start again, with the same grace time: the run is back where it was."""
        self.probe.sums = {}
        self.sampler.rolled_back()
        self.judge.rolled_back()
        self.probe.rolled_back()
        self.response.pending, self._sent = None, False

    def _finished(self, run: TrainingRun) -> None:
        """Judge what was sent last; a run that is over can neither be stopped nor rolled back."""
        run.publisher.flush()
        if not self.response.finish(run) and self.judge.history:
            self.announcer.draw(run, self.judge.history[-1][0])

    def _cleanup(self, run: TrainingRun) -> None:
        self._detach()

    # -- a batch --------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Decide whether this batch is watched."""
        run = self.trick.live_run
        if run is not None:
            self.sampler.begin_batch(run.clock.attempted(0))
            looks = self.probe.hooks_modules and self.sampler.watched
            if looks and self._attachment is not None and self._attachment.outdated:
                self._attach(run, final=True)
                # (what was gathered of the other module may be of another width)
                self.probe.sums, self.sampler.samples, self.sampler.armed = {}, 0, True
            self.response.begin_batch(run)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Look away: activation checkpointing runs modules again. With manual optimization, more is to come."""
        if self.sampler.watched:
            self.probe.before_backward(loss)
        if pl_module.automatic_optimization:
            self.sampler.armed = False

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """An update comes: note its step and its number (of the first optimizer)."""
        if page.view.index == 0:
            self.sampler.update_comes(page.step, page.attempt)
            if self.sampler.due():
                self.probe.before_check(run, page)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Act on the last check, gather, and check."""
        run, sampler = self.trick.live_run, self.sampler
        if run is None:
            return
        sampler.armed = False
        if self._sent and sampler.stepped is not None:
            self._sent = False
            # one update later, the vector has arrived by itself; waiting makes all ranks act at the same step
            run.publisher.deliver(wait=True)
            self.response.act(run, self.judge.healthy)
        # where training_step returned None, its modules need not have been called
        if sampler.watched and self.probe.gathers and (not pl_module.automatic_optimization or bool(outputs)):
            self._gather(run, batch, outputs)
        if sampler.stepped is not None and sampler.due():
            self._check(run, sampler.stepped)

    @torch.no_grad()
    def _gather(self, run: TrainingRun, batch: Any, outputs: Any) -> None:
        first = self.sampler.first
        count = self._or_gather_again(lambda: self.probe.gather(run, batch, outputs, first=first)) or 0
        if self.sampler.gathered(count, run.clock.attempted(0)):
            self.probe.sums = {}

    @torch.no_grad()
    def _check(self, run: TrainingRun, step: int) -> None:
        """Measure, and send what was measured to the host."""
        self.sampler.waited += 1
        if not self.probe.ready(run, self.sampler.samples, self.sampler.waited):
            return
        measured = self._or_gather_again(lambda: self.probe.measure(run))
        if measured is None:
            return
        # float32: whatever a probe measures in, one vector with one dtype goes to the host
        vector, self._resumed = measured.reshape(-1).float(), False
        self.probe.sums = {}
        elapsed = self.sampler.checked()
        rate = run.rate.height(0, run.views[0].optimizer)  # of the highest; a tensor where the host does not know it
        known = None if isinstance(rate, Tensor) else rate
        if isinstance(rate, Tensor):
            vector = torch.cat([vector, rate.detach().reshape(1).to(vector)])

        def arrives(numbers: list[float]) -> None:
            now = numbers.pop() if known is None else known
            self.hear(run, step, elapsed, numbers, rate=now)

        run.publisher.put_private(step, vector, self.trick.guard(arrives))
        self._sent = True

    def _or_gather_again(self, do: Callable[[], _T]) -> _T | None:
        """Return what ``do`` returns; where that fails on what came from a checkpoint, drop it and gather again."""
        try:
            return do()
        except (TrickError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            if not self._resumed:
                raise
            self.probe.sums, self.sampler.samples, self._resumed = {}, 0, False
            owner, what = self.settings.owner, in_one_line(error)
            warn(owner, f"the samples in the checkpoint do not fit this run ({what}). New ones are gathered.")
            return None

    # -- on the host ----------------------------------------------------------------------------------------------

    def hear(self, run: TrainingRun, step: int, updates: float, numbers: list[float], *, rate: float = 1.0) -> None:
        """Judge what was measured at a check.

        Args:
            step: of the check, on the loggers' axis.
            numbers: the vector of the probe.
            rate: now, over the one that the schedule multiplies.
        """
        judge = self.judge
        judge.step = step
        judge.advance(updates, rate)
        values = self.probe.read(numbers, judge)
        self.judged(values)
        judge.remember(values)
        shown = {**{k: v for k, v in values.items() if not k.startswith("_")}, "alarm": float(bool(judge.active))}
        run.publisher.put(step, {f"{self.announcer.prefix(run)}/{name}": value for name, value in shown.items()})

    def judged(self, values: dict[str, float]) -> None:
        """Let the alarms follow values; keep a new alarm to act on after the next update."""
        begun = self.judge.follow(self.probe.statistics(values, self.judge))
        new = self.judge.conclude(begun, values, lambda active: self.probe.explain(active, values, self.judge))
        self.response.pending = new or self.response.pending

    def notice(self, run: TrainingRun, name: str, value: float, values: dict[str, float]) -> None:
        """Let one alarm see its statistic between two checks, and act at once where it begins.

        Args:
            run: the run; what is noticed has to be the same on all ranks.
            values: for the verdict.
        """
        if self.judge.follow_one(name, value, run.step):
            new = self.judge.begin(
                [name], values, run.step, lambda active: self.probe.explain(active, values, self.judge)
            )
            self.response.pending = new or self.response.pending
            self.response.act(run, self.judge.healthy)
            run.publisher.flush()

    # -- state ----------------------------------------------------------------------------------------------------

    def _trick_state(self) -> dict[str, Any]:
        """Alarms with their baselines, what was gathered since the last check, and the states to go back to."""
        run = self.trick.run_or_none
        if run is not None:
            # What is on its way belongs to the state: a resumed run would not measure it again.
            run.publisher.flush()
        sampler = self.sampler
        return {
            **self.judge.state(),
            "sums": {name: t.detach().clone() for name, t in self.probe.sums.items()},
            "counters": [sampler.samples, sampler.waited, sampler.span, sampler.last],
            "flags": [self._sent, sampler.first, self.judge.healthy],
            **self.response.state(),
            **self.probe.state(),
        }

    def _load(self, run: TrainingRun, state: dict[str, Any]) -> None:
        device, sampler = run.trainer.strategy.root_device, self.sampler
        self.judge.load(state)
        self.probe.sums = {name: t.to(device) for name, t in state["sums"].items()}
        self._resumed = bool(self.probe.sums)
        sampler.samples, sampler.waited, sampler.span, sampler.last = state["counters"]
        sampler.span = max(1, min(sampler.span, sampler.every))
        self._sent, sampler.first, self.judge.healthy = state["flags"]
        self.response.load(run, state)
        self.probe.load(run, state)
