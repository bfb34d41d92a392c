"""What the tricks of one Trainer share: clock, loss scale, writer, publisher, optimizers, and who is called when.

The first trick of ``trainer.callbacks`` does what is done once per hook for all (count, start the transfer); the last
one lets the writer commit. So the order of the user's list decides nothing: every trick sees gradients as backward left
them, and they are written once, after all have spoken.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from torch.optim import Optimizer

from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.attempts import Attempts
from lightning_tricks.lifecycle.dispatch import Dispatch, Member
from lightning_tricks.lifecycle.followed_optimizers import FollowedOptimizers
from lightning_tricks.lifecycle.keys import RUN
from lightning_tricks.lifecycle.lightning_internals import (
    batches_that_stepped,
    logged_by_the_user,
    logs_hyperparameters,
)
from lightning_tricks.lifecycle.run_facts import RunFacts
from lightning_tricks.lifecycle.shared_parts import SharedParts, StopRequest
from lightning_tricks.modules.selection import parameter_names
from lightning_tricks.optimizer_step.gradient_writer import GradientWriter
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.optimizer_step.rate_request import RateRequest
from lightning_tricks.optimizer_step.scheduled_rates import schedulers_kept
from lightning_tricks.optimizer_step.step_clock import StepClock
from lightning_tricks.optimizer_step.window_request import WindowRequest
from lightning_tricks.publishing.log_keys import LogKeys
from lightning_tricks.publishing.publish import Publisher


class TrainingRun:
    """One Trainer, as the tricks in it see it.

    Args:
        trainer: a Trainer of either namespace. It is held weakly: a trick that is kept after training keeps no model.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = weakref.ref(trainer)  # (tricks keep the run, and are themselves kept after training)
        self.tricks: list[Member] = []
        self.clock = StepClock()
        self.publisher = Publisher(lambda: self.trainer.loggers, lambda: logged_by_the_user(self.trainer))
        self.writer = GradientWriter()
        self.rate = RateRequest(lambda: _schedulers(self.trainer))
        self.window = WindowRequest()
        self.attempts = Attempts(lambda: self.trainer, self.writer, self.window)
        self.common = SharedParts()
        self.dispatch = Dispatch(self)
        self.loss_scale = LossScale(None)
        self._optimizers = FollowedOptimizers(self._before_step, self._after_step)
        self.active = False
        self.no_dry_runs: str | None = None  # why user code may not run a second time, once that is known
        self.facts: RunFacts | None = None

    def stop_training(self) -> None:
        """Let Lightning end the run after this batch."""
        self.common.share(StopRequest())
        self.trainer.should_stop = True

    @classmethod
    def join(cls, trainer: Any, trick: Member) -> TrainingRun:
        """Return the run of ``trainer``, with ``trick`` in it; made by the first trick that asks."""
        known = (getattr(callback, "run_or_none", None) for callback in trainer.callbacks)
        run = next((r for r in known if r is not None and r.belongs_to(trainer)), None) or cls(trainer)
        if run.active:  # the last fit failed without notifying its callbacks: another callback's on_exception raised
            for other in list(run.tricks):
                run.leave(other)
        if trick not in run.tricks:
            run.tricks.append(trick)
        return run

    def belongs_to(self, trainer: Any) -> bool:
        """Whether this is the run of that Trainer."""
        return self._trainer() is trainer

    @property
    def trainer(self) -> Any:
        """The Trainer.

        Raises:
            TrickError: it is gone.
        """
        trainer = self._trainer()
        if trainer is None:
            raise TrickError("the Trainer of this callback is gone: its run is over.")
        return trainer

    @property
    def step(self) -> int:
        """The x axis of Lightning's own loggers."""
        return batches_that_stepped(self.trainer)

    @property
    def views(self) -> list[OptimizerView]:
        """The optimizers as the tricks see them, in the Trainer's order; empty where the run is inactive."""
        return self._optimizers.views

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look at the optimizers and attach to them; called by every trick in ``on_train_start``, done once.

        Where no optimizer has parameters (Lightning warns of a run without any), the run stays inactive.
        """
        trainer = self.trainer
        if self.active or not any(group["params"] for o in trainer.optimizers for group in o.param_groups):
            return
        # tricks have joined in the order of their ``setup``; a later fit of the Trainer may have another list
        order = {id(callback): i for i, callback in enumerate(trainer.callbacks)}
        self.tricks.sort(key=lambda trick: order.get(id(trick), len(order)))
        for trick in self.tricks:
            trick.guarded(trick.call_stage, "_before_start", self)
        self.loss_scale = LossScale(getattr(trainer.precision_plugin, "scaler", None))
        self._optimizers.exchange(trainer.optimizers, parameter_names(trainer.lightning_module), self.loss_scale)
        if self.clock.fresh and trainer.global_step > 0:
            self.derive_position()
        self.clock.start(len(self.views))
        self.attempts.start()
        self.no_dry_runs = None
        self.publisher.guard()
        self.dispatch.install(self.tricks)
        self.active = True
        self.facts = RunFacts(self)
        self.facts.begin()

    def follow(self) -> None:
        """Look whether the Trainer's optimizers are still the same; a new one is followed from now on.

        Told by the objects: ``trainer.strategy.setup_optimizers`` makes others in the middle of a run.
        """
        optimizers = self.trainer.optimizers
        if self._optimizers.are(optimizers):
            return
        names = parameter_names(self.trainer.lightning_module)
        gone, new = self._optimizers.exchange(optimizers, names, self.loss_scale)
        for view in gone:
            self.writer.release(view)
        self.clock.renew(len(self.views))
        for view in new:
            self._renewed(view)

    def _renewed(self, view: OptimizerView) -> None:
        for trick in self.tricks:
            trick.guarded(trick.call_stage, "_renewed", self, view)

    def introduce(self) -> None:
        """Give the loggers the module's own hyperparameters, the names of the tricks, and what differs from defaults.

        Lightning logs the module's once more after this; TensorBoard shows the first ones that it gets.
        """
        self.publisher.keys = LogKeys([*(key for trick in self.tricks for key in trick.log_keys), *RUN])
        if self.trainer.loggers:
            self.publisher.introduce(_hyperparameters(self.trainer, self.tricks))

    def derive_position(self) -> None:
        """Take the number of updates from Lightning's global step: the checkpoint holds none of ours."""
        count = max(1, len(self.views))
        self.clock.set_applied([int(self.trainer.global_step) // count] * len(self.views))

    def leave(self, trick: Member) -> None:
        """Detach a trick; the run closes when the last one detaches. Never raises."""
        if trick in self.tricks:
            self.dispatch.remove()
            self.tricks.remove(trick)
            if self.active and self._trainer() is not None:
                self.dispatch.install(self.tricks)
            with suppress(TrickError):  # the Trainer of a fit that failed without notifying its callbacks may be gone
                trick.guarded(trick.call_stage, "_cleanup", self)
        if not self.tricks:
            self.close()

    def close(self) -> None:
        """Remove every hook and attribute that the run put anywhere."""
        self.dispatch.remove()
        for view in self._optimizers.close():
            self.writer.release(view)
        self.writer.close()
        self.publisher.drop()
        self.rate.close()
        self.window.close(self._trainer())
        self.common.close()
        self.active = False
        self.attempts.forget()
        self.facts = None

    # -- one batch ----------------------------------------------------------------------------------------------

    def begin_batch(self, batch_idx: int) -> None:
        """A batch starts: hand over what has arrived from the device meanwhile."""
        self.attempts.begin_batch()
        self.follow()
        self.window.begin_batch(self.trainer, batch_idx)
        self.publisher.deliver()

    def rolled_back(self) -> None:
        """Weights and optimizers are those of an earlier step: nothing of the steps after it counts any more."""
        self.attempts.forget()
        for trick in self.tricks:
            trick.guarded(trick.call_stage, "_rolled_back", self)

    def view_of(self, optimizer: Optimizer) -> OptimizerView:
        """Return the view of a torch optimizer."""
        found = self._optimizers.view_of(optimizer)
        if found is None:  # it was replaced after the batch began
            self.follow()
            found = self._optimizers.view_of(optimizer) or self.views[0]
        return found

    def open(self, optimizer: Optimizer) -> Page | None:
        """Open the page of an attempt, or return None when Lightning will not step after all."""
        view = self.view_of(optimizer)
        if view.stale:
            view.refresh()
            self._renewed(view)
        # counted here and not in the step: a GradScaler that skips calls no ``optimizer.step``, and so no hook of it
        number = self.clock.attempt(view.index)
        self.rate.hold(view.index, optimizer)
        page = self.attempts.open(view, self.step, number)
        if page is not None:
            self.dispatch.call_stage("_before_gradients_read", self, page)
        return page

    def _before_step(self, view: OptimizerView, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.clock.enter(view.index)
        # a script that steps the bare optimizer comes here only; with a closure, a script has yet to write its rates
        if view.index not in self.rate.ready and not kwargs and (not args or args == (optimizer,)):
            self.rate.hold(view.index, optimizer)

    def _after_step(self, view: OptimizerView, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.clock.leave(view.index):  # the step of a parent class, inside of the optimizer's own
            return
        self.rate.ready.discard(view.index)
        if self.rate.in_steps.kept:
            self.rate.release(view.index)
        gradients = any(p.grad is not None for p in view.parameters)
        self.clock.finish(view.index, gradients=gradients, found_inf=getattr(optimizer, "found_inf", None))
        page = self.attempts.close(view)
        self.dispatch.call_stage("_updated", view, page)
        if page is not None and self.publisher.holds(page.step):
            suffix = f"/optimizer{view.index}" if len(self.views) > 1 else ""
            self.publisher.put(page.step, {f"trainer/updates{suffix}": self.clock.applied(view.index)})
        self.writer.release(view)


def _schedulers(trainer: Any) -> list[Any]:
    """Return the schedulers of a Trainer, and those that its module keeps for itself."""
    known = [config.scheduler for config in trainer.lr_scheduler_configs]
    return known + schedulers_kept(trainer.lightning_module)


def _hyperparameters(trainer: Any, tricks: Iterable[Member]) -> dict[str, Any]:
    """Return those of the data and the module that Lightning will log, and what the user set of every trick."""
    found: dict[str, Any] = {}
    sources: list[Any] = [getattr(trainer, "datamodule", None), trainer.lightning_module]
    for source in sources:
        if logs_hyperparameters(source):
            found.update(source.hparams_initial)
    found["tricks"] = ", ".join(type(trick).__name__ for trick in tricks)
    for trick in tricks:
        name = type(trick).__name__
        arguments = trick.guarded(trick.arguments) or {}
        found.update({f"{name}/{argument}": value for argument, value in arguments.items()})
    return found
