"""Trick: the base of every callback of the pack.

A trick overrides the stages of ``lifecycle.stages`` or has parts that do (``_make_parts``); Lightning's hooks, clean-up
and state are here, once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from lightning_tricks.errors import ConflictError, TrickError, UnsupportedError, in_one_line
from lightning_tricks.lifecycle.checkpoint_state import ADVICE, checked_state, find_older_key, saved_state
from lightning_tricks.lifecycle.construction import as_call, remembers_arguments
from lightning_tricks.lifecycle.dispatch import STEP_HOOKS
from lightning_tricks.lifecycle.guard import GuardsHooks, for_all, not_for_lightning
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.namespaces import lightning_pytorch, pytorch_lightning
from lightning_tricks.lifecycle.participant import Participant
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.optimizer_step.rate_request import is_schedule_free

_STATE_ERRORS = (KeyError, IndexError, AttributeError, TypeError, ValueError, ArithmeticError)
# By the names of classes: to import these strategies, optional packages would have to be there.
_REFUSED = {
    "DeepSpeedStrategy": "its engine keeps gradients and schedule to itself. Set them in the DeepSpeed config",
    "FSDPStrategy": "FSDP1 keeps flat shards without names. Use ModelParallelStrategy (FSDP2)",
    "XLAFSDPStrategy": "its gradients cannot be read. Use ModelParallelStrategy (FSDP2)",
}


class Trick(Participant, lightning_pytorch.Callback, pytorch_lightning.Callback, metaclass=GuardsHooks, abstract=True):  # type: ignore[misc]
    """Base of the pack's callbacks; a Trainer of either namespace takes it.

    Lightning calls the hooks of this class; the hooks of a training step are dispatched (``lifecycle.dispatch``).
    """

    _internal: ClassVar[tuple[str, ...]] = ("implicit", "newest", "serial")

    implicit: bool = False  # enabled by LIGHTNING_TRICKS: yields to an explicit one, and is dropped where unsupported
    serial: int = 0  # among the implicit ones of its class, from 1
    newest: ClassVar[int] = 0  # the largest of these

    _loaded: dict[str, Any] | None = None
    _loaded_clock: dict[str, Any] | None = None
    _kept: dict[str, Any] | None = None  # the state when training failed, for a checkpoint that is saved after it
    _reached: str = ""  # the hook of this class that ran last

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the constructor of a callback refuse unknown names with the right one, and keep what was given."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = remembers_arguments(vars(cls)["__init__"])  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return as_call(self)

    # -- Lightning hooks ------------------------------------------------------------------------------------------

    @for_all
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Join the run and check the configuration."""
        if stage != "fit":
            return
        if self.implicit and _is_superseded(self, trainer):
            return
        or_leave(self, lambda: self._join(trainer))

    def _join(self, trainer: Any) -> None:
        _refuse_a_second(self, trainer)
        for cls in type(trainer.strategy).__mro__:
            if cls.__name__ in _REFUSED:
                text = f"{type(self).__name__}: {cls.__name__} is not supported: {_REFUSED[cls.__name__]}."
                raise UnsupportedError(text)
        run = TrainingRun.join(trainer, self)
        # An observer that failed in an earlier fit of this Trainer gets another chance.
        self._off, self._kept = False, None
        # Lightning calls ``setup`` again when the same Trainer fits again; what was measured goes on then
        if run is not self._run:
            _leave(self)
            self._run, self._parts = run, None
            self._reset()
        _load_clock(self, run)
        self.guarded(self.call_stage, "_configure", run)

    @for_all
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Settle what has to be settled before a checkpoint is restored; tell the loggers who is there."""
        run = self._run
        if run is not None and self in run.tricks:
            or_leave(self, lambda: self.guarded(self.call_stage, "_on_optimizers_created", run))
            # once for all tricks, when each of them knows its arguments
            if run.tricks and run.tricks[-1] is self:
                run.introduce()

    @for_all
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the optimizers, restored by now."""
        run = self._run
        if run is not None and self in run.tricks:
            or_leave(self, lambda: self._start(run))

    def _start(self, run: TrainingRun) -> None:
        run.start()
        if not run.active:
            if run.common.first_to_say("no optimizer"):
                warn(type(self).__name__, "no optimizer has parameters: this pack's callbacks do nothing in this run.")
            return
        # taken away: a second fit of this Trainer must not go back to the checkpoint
        state, self._loaded = self._loaded, None
        self.guarded(_start_with, self, run, state)

    @for_all
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Deliver what is still on its way to the loggers."""
        _flush(self)

    @for_all
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look back at the validation: the module has set it up after the callbacks, and not taken it back yet."""
        run = self.live_run
        if run is not None and run.tricks[0] is self:
            _warn_of_training_mode(run)

    @for_all
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Deliver what is still on its way to the loggers."""
        _flush(self)

    @for_all
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Deliver what is still on its way to the loggers, and conclude."""
        _flush(self)
        if self.live_run is not None:
            self.guarded(self.call_stage, "_finished", self.live_run)
            _flush(self)
            if self.live_run.tricks[-1] is self and self.live_run.facts is not None:
                self.live_run.facts.end("stopped early" if trainer.should_stop else "finished")

    @for_all
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Clean up: Lightning calls no teardown when training fails."""
        run = self.live_run
        if run is not None and run.common.first_to_say("interrupted") and _all_end_here(trainer, exception):
            for trick in run.tricks:
                if isinstance(trick, Trick):
                    # ModelCheckpoint(save_on_exception=True) comes last, when all tricks have left the run
                    trick._kept = trick.guarded(trick.state_dict)
        try:
            _flush(self)
        except Exception as error:
            warnings.warn(f"{type(self).__name__}: {error}", RuntimeWarning, stacklevel=2)
        if self.live_run is not None and self.live_run.facts is not None:
            self.live_run.facts.end(f"failed: {type(exception).__name__}: {exception}".rstrip(": "))
        _leave(self)

    @for_all
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Clean up."""
        if stage == "fit":
            _leave(self)

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Class and identity arguments; read at every hook by Lightning's profiler, so made once."""
        # Lightning 2.6.6 adds implicit callbacks to the list that the user passed: one list for two Trainers then holds
        # two of each, and the second Trainer would refuse two of one key. The older one gets another.
        key = "_key" if not self.implicit or self.serial == type(self).newest else "_old_key"
        known: str | None = self.__dict__.get(key)
        if known is None:
            # (checkpoints have this name in their keys, so that it stays)
            apart: dict[str, Any] = {"gives_way": True} if self.implicit else {}
            if key == "_old_key":
                apart["serial"] = self.serial
            named = {name: getattr(self, name) for name in self.identity}
            known = self.__dict__[key] = self._generate_state_key(**named, **apart)
        return known

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Leave out the state of another Trainer's run, in whose list of callbacks this one stands too."""
        if self._run is not None and not self._run.belongs_to(trainer):
            checkpoint.get("callbacks", {}).pop(self.state_key, None)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Find the state that an implicit callback saved under the key of an older one."""
        states = checkpoint.get("callbacks", {})
        older = find_older_key(states, self.state_key) if self.implicit else None
        if older is not None:
            states[self.state_key] = states.pop(older)

    @not_for_lightning
    def state_dict(self) -> dict[str, Any]:
        """Return plain state with its version; it loads under ``weights_only=True``."""
        if self._run is None:
            return {}
        if self._kept is not None and self.live_run is None:
            return self._kept
        state = self._loaded  # not used yet, as in a checkpoint that is saved before training starts
        if state is None:
            state = dict(self._trick_state())
            for part in self.parts:
                state.update(part._trick_state())
        return saved_state(self.configuration(), self._run.clock.state_dict(), state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; it is used when training starts.

        Raises:
            ValueError: the state is of an unknown version or not of this form.
        """
        found = checked_state(self, state_dict, self.state_form)
        self._loaded, self._loaded_clock = found.state, found.clock
        # Lightning restores callbacks after ``setup``; with Trainer.validate, or called by a user, there is no run
        if self._run is not None:
            _load_clock(self, self._run)
        if found.changed:
            self._reconfigured(found.changed)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was measured and what Lightning attaches: a callback that is sent must not carry the model."""
        kept = ("_loaded", "_loaded_clock", "_given")
        attached = ("log", "log_dict", *STEP_HOOKS)
        public = {k: v for k, v in self.__dict__.items() if not k.startswith("_") and k not in attached}
        return public | {k: self.__dict__[k] for k in kept if k in self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy begins with nothing measured."""
        self.__dict__.update(state)
        self._reset()


def _flush(trick: Trick) -> None:
    run = trick.live_run
    if run is not None and run.tricks[0] is trick:
        run.publisher.flush()


def _leave(trick: Trick) -> None:
    if trick._run is not None:
        trick._run.leave(trick)


def or_leave(trick: Trick, do: Callable[[], None]) -> None:
    """Do something; where it is refused, an implicit callback leaves the run, which goes on without it."""
    try:
        do()
    except TrickError as error:
        if not trick.implicit:
            raise
        warn("LIGHTNING_TRICKS", f"{error} This run goes on without {type(trick).__name__}.")
        _leave(trick)


def _load_clock(trick: Trick, run: TrainingRun) -> None:
    clock, trick._loaded_clock = trick._loaded_clock, None
    if clock is not None:
        run.clock.load_state_dict(clock)


def _start_with(trick: Trick, run: TrainingRun, state: dict[str, Any] | None) -> None:
    """Start; a state that does not fit is refused by name."""
    try:
        trick.call_stage("_on_start", run, state)
    except _STATE_ERRORS as error:
        if state is None:
            raise
        what = ("no " if isinstance(error, KeyError) else "") + in_one_line(error)
        raise TrickError(
            f"{type(trick).__name__}: the checkpoint's state does not fit this run ({what}). {ADVICE}"
        ) from error


def _all_end_here(trainer: Any, exception: BaseException) -> bool:
    """Whether a failed fit has a state to keep: it ends between two batches, and all processes end it together.

    Lightning makes all processes end at one batch after a SIGTERM; after an error of one of them the others would not
    answer, where a state is gathered.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    together = trainer.world_size == 1 or type(exception).__name__ == "SIGTERMException"
    return bool(together and progress.ready == progress.processed)


def _refuse_a_second(trick: Trick, trainer: Any) -> None:
    """Refuse two callbacks of one class that no argument distinguishes; they would write the same thing twice."""
    same = [c for c in trainer.callbacks if type(c) is type(trick) and c.state_key == trick.state_key]
    if len(same) > 1:
        others = [c for c in same if c is not trick]
        twice = f"{others[0]!r} is in callbacks= too" if others else "it is in callbacks= twice"
        apart = f", or tell them apart by {' and '.join(f'{n}=' for n in trick.identity)}" if trick.identity else ""
        raise ConflictError(f"{trick!r}: {twice}. Remove one{apart}.")


def _warn_of_training_mode(run: TrainingRun) -> None:
    """Say where a validation has looked at other weights than those that are meant."""
    for view in run.views if not run.trainer.sanity_checking else []:
        optimizer = view.optimizer
        trains = any(group.get("train_mode") for group in optimizer.param_groups)
        if is_schedule_free(optimizer) and trains and run.common.first_to_say("schedule-free"):
            text = (
                "it is schedule-free, and in training mode during a validation, whose weights are others. Call "
                "self.trainer.optimizers[0].eval() in on_validation_start and .train() in on_validation_end."
            )
            warn(type(optimizer).__name__, text)


def _is_superseded(trick: Trick, trainer: Any) -> bool:
    """Whether the Trainer has an explicit callback of the same class, or an implicit one that was made later."""
    others = [c for c in trainer.callbacks if type(c) is type(trick) and c is not trick]
    return any(not other.implicit or other.serial > trick.serial for other in others)
