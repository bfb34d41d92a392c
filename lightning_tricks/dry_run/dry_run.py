"""Train a few steps before the first one, as the Trainer would, and leave no trace.

The steps use the module's own ``training_step`` and hooks, the strategy and the precision plugin, the accumulation and
the clipping of the run, on batches of a second loader of the user's own class. A snapshot puts everything back.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch

from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.dry_run.isolated import copied, report_damage
from lightning_tricks.dry_run.roots import callback_name, roots_of
from lightning_tricks.dry_run.second_data import SecondData
from lightning_tricks.dry_run.snapshot import Snapshot, taken
from lightning_tricks.dry_run.steps import Steps, refuse_trainer
from lightning_tricks.dry_run.training_step import loggers_kept_silent, loss_of
from lightning_tricks.errors import NotRestorableError
from lightning_tricks.lifecycle.horizon import window_at, window_lengths
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.trees import tree_map

# Lightning's own callbacks that only watch, save or show: they would write files and draw bars
_BYSTANDERS = frozenset(
    {
        *("Checkpoint", "ProgressBar", "ModelSummary", "Timer", "EarlyStopping", "LearningRateMonitor"),
        *("DeviceStatsMonitor", "ThroughputMonitor", "LearningRateFinder", "BatchSizeFinder", "BasePredictionWriter"),
        *("SpikeDetection", "GradientAccumulationScheduler"),  # (the last one's windows are asked for by name)
    }
)


class DryRun:
    """A training before the training; a context manager that puts everything back.

    All hooks of the module are called as Lightning would. Those of the user's callbacks are, where ``training_step``
    fails without them; else not, since callbacks may write files. One that holds something that cannot be put back
    takes no part, nor do Lightning's own observers and ours.

    Args:
        run: the run that is about to start.
        instead: what a user does who goes on without it.
        manual: whether a ``training_step`` that makes its own updates is of use. None of our tricks takes part then.

    Raises:
        UnsupportedError: this run cannot be tried without a trace; the message names what is in the way.
        NotRestorableError: on entering, something in the module or the data cannot be put back; nothing has run.
    """

    def __init__(self, run: TrainingRun, owner: str, instead: str = "", *, manual: bool = False) -> None:
        self._run, self._trainer, self._owner = run, run.trainer, owner
        self._remove = f"remove {owner}{', and ' if instead else ''}{instead}"
        self._module = self._trainer.lightning_module
        refuse_trainer(run.trainer, owner, self._remove, manual=manual)
        self.steps = Steps(self._trainer, owner)
        self.data = SecondData(self._trainer, owner)
        self._probe: Any = None
        self._others: list[Any] = []
        self._needs_gradients = False

    @property
    def manual(self) -> bool:
        """Whether the module makes its own updates."""
        return not self._module.automatic_optimization

    # -- begin and end ------------------------------------------------------------------------------------------

    def __enter__(self) -> DryRun:
        trainer = self._trainer
        self._undo = ExitStack()
        # (put on the stack first, so that it is undone last: after whatever else writes to the Trainer)
        self._undo.callback(_put_attributes, trainer, dict(vars(trainer)))
        try:
            self._twins = self._assemble()
            others = [callback for callback in trainer.callbacks if _takes_part(callback)]
            self._started = trainer.callbacks[: trainer.callbacks.index(self._run.tricks[0])]
            # before the snapshot, which puts back what it has seen each time that the dry run begins again
            self._undo.enter_context(loggers_kept_silent(trainer, others))
            snapshot, others = self._taken(others)
            self._undo.callback(report_damage, self._run, snapshot)  # (after it has put everything back)
            self._snapshot = self._undo.enter_context(snapshot)
            self._choose(others)
        except BaseException:
            # (``__exit__`` is not called where ``__enter__`` raises)
            self._undo.close()
            raise
        return self

    def _choose(self, others: list[Any]) -> None:
        """Find out what ``training_step`` cannot do without: gradients, the user's callbacks.

        Gradients take memory, and callbacks may write files.
        """
        choices: list[list[Any]] = [[], others] if self.steps.anywhere(bool(others)) else [[]]
        for needed in choices:
            for self._needs_gradients in (False, True):
                self._use(needed)
                try:
                    with self.looking():
                        self.output(self.data.next_batch())
                except Exception:
                    continue
                self.restart()
                return
        self._needs_gradients = False
        self._use(others)  # (whatever fails will fail again, where it can be told)

    def _use(self, others: list[Any]) -> None:
        self._others = others
        self.restart()

    def _put_back(self) -> None:
        self._snapshot.restore()
        settings = {"callbacks": [*self._others, *self._twins], "accumulate_grad_batches": self._window}
        vars(self._trainer).update(settings)

    def looking(self) -> AbstractContextManager[Any]:
        """Return a context in which ``output`` is for looking at only: without gradients, where it can do without."""
        return torch.set_grad_enabled(self._needs_gradients)

    def __exit__(self, *exception: Any) -> None:
        self._undo.close()

    def _assemble(self) -> list[Any]:
        """Let fresh copies of the tricks that shape gradients take part; their hooks are there before the snapshot."""
        trainer, module = self._trainer, self._module
        before = {name: vars(trainer)[name] for name in ("callbacks", "accumulate_grad_batches")}
        # (a copy begins with nothing measured: see ``Trick.__getstate__``)
        shaping = [t for t in self._run.tricks if isinstance(t, Trick) and t.in_dry_run and not self.manual]
        twins = [copy.copy(t) for t in shaping]
        steered = any(hasattr(twin, "updates_in_epoch") for twin in twins)
        # GradientAccumulation refuses a Trainer that accumulates too, and sets the window itself.
        window = 1 if steered else window_at(window_lengths(trainer), 0)
        vars(trainer).update(callbacks=twins, accumulate_grad_batches=window)
        try:
            for twin in twins:
                self._undo.callback(twin.teardown, trainer, module, "fit")
                twin.setup(trainer, module, "fit")
            for twin in twins:
                twin.on_train_start(trainer, module)
            self._window = trainer.accumulate_grad_batches
        finally:
            vars(trainer).update(before)
        return twins

    def _taken(self, callbacks: list[Any]) -> tuple[Snapshot, list[Any]]:
        """Return a snapshot of all that takes part, and the callbacks that can be put back. All ranks must call."""
        error: NotRestorableError | None = None
        snapshot: Snapshot | None = None
        while snapshot is None and error is None:
            try:
                models = {callback_name(callback): callback for callback in callbacks}
                snapshot = taken(partial(roots_of, self._trainer, models), steps=True)
            except NotRestorableError as found:
                bad = [callback for callback in callbacks if callback_name(callback) == found.root]
                callbacks = [callback for callback in callbacks if callback not in bad]
                error = None if bad else found
        if self.steps.anywhere(error is not None) or snapshot is None:
            raise error or NotRestorableError("the module on another process cannot be put back")
        return snapshot, callbacks

    def _begin(self) -> None:
        """Call what Lightning calls before the first batch; our own tricks' hooks were called for real."""
        trainer, module = self._trainer, self._module
        for callback in self._others:
            if callback not in self._started:
                callback.on_train_start(trainer, module)
        self.steps.call_hooks("on_train_start", callbacks=False)
        self.steps.call_hooks("on_train_epoch_start")
        self.data.restart()
        self.steps.restart()

    def restart(self, updates: int = 0) -> None:
        """Go back to the state, the random numbers and the data with which the dry run began.

        Args:
            updates: made from there.
        """
        self._put_back()
        self._begin()
        for _ in range(updates):
            self.update()

    # -- steps --------------------------------------------------------------------------------------------------

    def update(self) -> float | None:
        """Make one update of as many micro-batches as in training; return their mean loss, None without one."""
        return self.steps.update(self.data.next_batch)

    def output(self, batch: Any, *, tracked: bool = False) -> Any:
        """Return what ``training_step`` returns for a batch, after the hooks of its start. All ranks must call.

        Args:
            tracked: give it the tensors themselves, so that gradients arrive at them; else copies.

        Raises:
            FailedElsewhereError: it failed on another process.
        """
        if not tracked:
            batch = tree_map(copied, batch)  # (it may be asked for again, and training_step may write to it)
        for callback in self._others:  # (our own would count it as a part of an update)
            callback.on_train_batch_start(self._trainer, self._module, batch, 0)
        self.steps.call_hooks("on_train_batch_start", batch, 0, callbacks=False)
        return self.steps.forward(batch, 0)

    def probe(self) -> float | None:
        """Return the loss on one batch that is the same at every call, with the same random numbers."""
        if self._probe is None:
            state = global_state()
            self._probe = (self.data.next_batch(), global_state())
            set_global_state(state)
            self.data.rewind()  # (the probe is the first batch; training sees it too)
        batch, same_numbers = self._probe
        state = global_state()
        set_global_state(same_numbers)
        with self.looking():
            loss = loss_of(self.output(batch))
        set_global_state(state)
        return None if loss is None else self.steps.mean(loss)


def _takes_part(callback: Any) -> bool:
    if isinstance(callback, Trick):
        return False
    # (a script may have a class of its own with one of these names)
    names = {cls.__name__ for cls in type(callback).__mro__ if cls.__module__.split(".")[0] != "__main__"}
    return not names & _BYSTANDERS


def _put_attributes(owner: Any, kept: dict[str, Any]) -> None:
    vars(owner).clear()
    vars(owner).update(kept)
