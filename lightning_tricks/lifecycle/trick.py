"""Trick: the base of every callback of the pack.

A trick overrides the small methods below (``configure``, ``started``, ``gradients_ready``, ``updated``, ``finished``,
``trick_state``, ...); the Lightning hooks, the order among tricks, clean-up and state are here, once.
"""

from __future__ import annotations

import functools
import inspect
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from lightning_tricks.errors import NotRestorableError, RunEndsError, TrickError, UnsupportedError, in_one_line, shown
from lightning_tricks.lifecycle.dispatch import STEP_HOOKS
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.namespaces import lightning_pytorch, pytorch_lightning
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics import form
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page

FROM_USER = "_raised_by_the_users_action"  # an attribute of errors that no guard holds back
_VERSION = 1
_FROM_SCRATCH = "Remove this callback's state from the checkpoint, or start from scratch."
_CLOCK = form.record({"version": form.whole, "attempted": form.many(form.whole), "applied": form.many(form.whole)})
_OF_A_BAD_STATE = (KeyError, IndexError, AttributeError, TypeError, ValueError, ArithmeticError)
_REFUSED = {
    "DeepSpeedStrategy": "its engine keeps gradients and schedule to itself. Set them in the DeepSpeed config",
    "FSDPStrategy": "FSDP1 keeps flat shards without names. Use ModelParallelStrategy (FSDP2)",
    "XLAFSDPStrategy": "its gradients cannot be read. Use ModelParallelStrategy (FSDP2)",
}


_T = TypeVar("_T")
_HOOKS = frozenset(
    name
    for name in dir(lightning_pytorch.Callback)
    if name.startswith("on_") or name in ("setup", "teardown", "state_dict")
)


class _GuardsHooks(type):
    """Puts a guard around each of Lightning's hooks that a class of observers has, also one that is set later.

    Lightning looks hooks up on the callback, so there is no other place that sees all of them.
    """

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, abstract: bool = False) -> None:
        super().__init__(name, bases, namespace)
        if not abstract:  # (a guard around a method that another guarded method calls would hide its failure)
            for hook in _HOOKS:
                if getattr(cls, hook) is not getattr(lightning_pytorch.Callback, hook):
                    setattr(cls, hook, getattr(cls, hook))

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, abstract: bool = False
    ) -> _GuardsHooks:
        return super().__new__(mcs, name, bases, namespace)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in _HOOKS and callable(value) and getattr(cls, "observer", False):
            value = _guarded_hook(name, getattr(value, "_unguarded", value))
        super().__setattr__(name, value)


def _guarded_hook(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def hook(self: Trick, *arguments: Any, **named: Any) -> Any:
        if not self._off:
            self._reached = ""
            try:
                return method(self, *arguments, **named)
            except Exception as error:
                if not self._survives(error):
                    raise
        if name == "state_dict":
            return {}
        if self._reached != name:  # what the first or last trick does for all of them is still done, once
            getattr(Trick, name)(self, *arguments, **named)
        self._reached = ""
        return None

    hook._unguarded = method  # type: ignore[attr-defined]
    return hook


def _for_all(method: Callable[..., None]) -> Callable[..., None]:
    """Note that a hook of the base was reached, so that a guard need not make up for it."""

    @functools.wraps(method)
    def hook(self: Trick, *arguments: Any, **named: Any) -> None:
        self._reached = method.__name__
        method(self, *arguments, **named)

    return hook


class Trick(lightning_pytorch.Callback, pytorch_lightning.Callback, metaclass=_GuardsHooks, abstract=True):  # type: ignore[misc]
    """Base of the pack's callbacks; a Trainer of either namespace takes it.

    An ``observer`` changes nothing, so no error of its own may end a run: one that it raises after the fit has begun
    costs a warning and switches it off. What it refuses by name before the first update does end the run.

    ``identity`` names the constructor arguments that tell two instances of one class apart: they make the
    ``state_key``. Everything else of the configuration is stored in the state and compared when it is loaded.
    """

    identity: ClassVar[tuple[str, ...]] = ()
    state_form: Any = staticmethod(form.anything)  # what ``trick_state`` returns looks like
    in_dry_run: ClassVar[bool] = False  # whether a dry run of training needs it, since it shapes gradients
    observer: ClassVar[bool] = False  # whether it only watches

    gives_way: bool = False  # to another of its class, and to a run that cannot have it: it was not asked for in code
    serial: int = 0  # among those of its class that were not asked for in code, from 1
    newest: ClassVar[int] = 0  # the largest of these

    _run: TrainingRun | None = None
    _loaded: dict[str, Any] | None = None
    _loaded_clock: dict[str, Any] | None = None
    _off: bool = False  # an observer that failed: it does nothing more in this run
    _reached: str = ""  # the hook of this class that ran last

    # -- what a trick may override ------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Fit begins: check the settings of the Trainer and the module. Optimizers do not exist yet."""

    def reset(self) -> None:
        """A new Trainer begins: forget what was measured in another one."""

    def assembled(self, run: TrainingRun) -> None:
        """Optimizers and schedulers are made; a checkpoint may be restored after this."""

    def prepare(self, run: TrainingRun) -> None:
        """Optimizers are there and restored, and no trick has looked at them yet."""

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Optimizers are there and restored. ``state`` is what ``trick_state`` gave, after a resume; else None."""

    def renewed(self, run: TrainingRun, view: OptimizerView) -> None:
        """An optimizer was replaced, or has other parameters or groups than before."""

    def opened(self, run: TrainingRun, page: Page) -> None:
        """Gradients of an attempt are complete; say how they have to be corrected before any trick reads them."""

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Gradients of an attempt are complete. Read them from ``page``, change them through ``run.writer``."""

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """The optimizer's step is over. ``page`` is None for a step that Lightning did not announce."""

    def shipped(self, run: TrainingRun) -> None:
        """A batch is over, and what was measured in it is on its way; still inside of ``on_train_batch_end``."""

    def rolled_back(self, run: TrainingRun) -> None:
        """A detector put back the weights and optimizers of an earlier step; training goes on from there."""

    def finished(self, run: TrainingRun) -> None:
        """Training reached its end without an exception."""

    def stopped(self, run: TrainingRun) -> None:
        """The fit is over, also by an exception: put back what was changed. Must not raise."""

    def configuration(self) -> dict[str, Any]:
        """Return the arguments, as plain values, to compare with those in a checkpoint."""
        return {}

    def arguments(self) -> dict[str, str | float | bool]:
        """Return the constructor's arguments as loggers show them: numbers, flags and strings."""
        found = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {n: v if isinstance(v, (str, int, float)) else str(v) for n, v in found.items()}

    def trick_state(self) -> dict[str, Any]:
        """Return what a resumed run needs: dict, list, str, int, float, bool, None and tensors only."""
        return {}

    # -- the run ------------------------------------------------------------------------------------------------

    def does(self, name: str) -> bool:
        """Whether this trick overrides one of the methods above."""
        return name in vars(self) or getattr(type(self), name) is not getattr(Trick, name)

    @property
    def run(self) -> TrainingRun:
        """The run that this trick takes part in.

        Raises:
            TrickError: there was no fit yet.
        """
        if self._run is None:
            raise TrickError(f"{type(self).__name__} has not been in a Trainer.fit yet. Pass it in callbacks= and fit.")
        return self._run

    @property
    def run_or_none(self) -> TrainingRun | None:
        """The run, or None before the first fit."""
        return self._run

    @property
    def _live(self) -> TrainingRun | None:
        run = self._run
        return run if run is not None and run.active and self in run.tricks else None

    # -- Lightning hooks ----------------------------------------------------------------------------------------

    @_for_all
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Join the run and check the configuration."""
        if stage != "fit":
            return
        if self.gives_way and self._has_a_rival(trainer):
            return
        self._try_to(lambda: self._join(trainer))

    def _join(self, trainer: Any) -> None:
        for cls in type(trainer.strategy).__mro__:
            if cls.__name__ in _REFUSED:
                text = f"{type(self).__name__}: {cls.__name__} is not supported: {_REFUSED[cls.__name__]}."
                raise UnsupportedError(text)
        run = TrainingRun.join(trainer, self)
        self._off = False
        if run is not self._run:
            self._leave()
            self._run = run
            self.reset()
        self._load_clock(run)
        self.guarded(self.configure, run)

    @_for_all
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Settle what has to be settled before a checkpoint is restored; tell the loggers who is there."""
        run = self._run
        if run is not None and self in run.tricks:
            self._try_to(lambda: self.guarded(self.assembled, run))
            if run.tricks and run.tricks[-1] is self:
                run.introduce()

    @_for_all
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the optimizers, restored by now."""
        run = self._run
        if run is not None and self in run.tricks:
            self._try_to(lambda: self._start(run))

    def _start(self, run: TrainingRun) -> None:
        run.start()
        if not run.active:
            if run.first_to_say("no optimizer"):
                warn(type(self).__name__, "no optimizer has parameters: this pack's callbacks do nothing in this run.")
            return
        state, self._loaded = self._loaded, None
        self.guarded(self._start_with, run, state)

    def _start_with(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Start; a state that does not fit is refused by name."""
        try:
            self.started(run, state)
        except _OF_A_BAD_STATE as error:
            if state is None:
                raise
            what = ("no " if isinstance(error, KeyError) else "") + in_one_line(error)
            raise TrickError(
                f"{type(self).__name__}: the checkpoint's state does not fit this run ({what}). {_FROM_SCRATCH}"
            ) from error

    def settled(self, run: TrainingRun) -> bool:
        """Whether this trick has seen all that it may refuse by name; from then on no error of its own ends a run."""
        return run.has_stepped

    # -- errors of observers --------------------------------------------------------------------------------------

    def guarded(self, function: Callable[..., _T], *arguments: Any) -> _T | None:
        """Call a function of this trick; None where it fails and the trick is an observer, or was switched off."""
        if not self.observer:
            return function(*arguments)
        if self._off:
            return None
        try:
            return function(*arguments)
        except Exception as error:
            if not self._survives(error):
                raise
            return None

    def guard(self, function: Callable[..., _T]) -> Callable[..., _T | None]:
        """Return a function that is ``guarded`` whenever somebody else calls it: a module, a logger, a publisher."""
        return functools.partial(self.guarded, function)

    def _survives(self, error: Exception) -> bool:
        """Whether the run goes on without this observer; False where the run has to end."""
        meant = isinstance(error, RunEndsError) or getattr(error, FROM_USER, False)
        begun = self._run is not None and self.settled(self._run)
        refused = isinstance(error, TrickError) and not isinstance(error, NotRestorableError)
        if meant or (refused and not begun):
            return False
        if not self._off:
            self._off = True
            last = traceback.extract_tb(error.__traceback__)[-1:]
            where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
            text = (
                f"{type(error).__name__}: {in_one_line(error) or 'no message'}{where}. It is switched off for the rest "
                "of this run; training goes on."
            )
            if isinstance(error, NotRestorableError):
                text = f"{error} It does nothing in this run; training goes on."
            try:
                warn(type(self).__name__, text)
            except Warning:  # (warnings are errors here; but this run was healthy)
                rank_zero_info(f"{type(self).__name__}: {text}")
            if self._run is not None:
                with suppress(Exception):
                    self.stopped(self._run)
        return True

    def _has_a_rival(self, trainer: Any) -> bool:
        """Whether there is one of its class that was asked for in code, or that was made later, for this Trainer."""
        others = [c for c in trainer.callbacks if type(c) is type(self) and c is not self]
        return any(not other.gives_way or other.serial > self.serial for other in others)

    def _try_to(self, do: Callable[[], None]) -> None:
        try:
            do()
        except TrickError as error:
            if not self.gives_way:
                raise
            warn("LIGHTNING_TRICKS", f"{error} This run goes on without {type(self).__name__}.")
            self._leave()

    @_for_all
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Deliver what is under way."""
        self._flush()

    @_for_all
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look back at the validation: the module has set it up after the callbacks, and not taken it back yet."""
        run = self._live
        if run is not None and run.lead is self:
            run.validation_ends()

    @_for_all
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Deliver what is under way."""
        self._flush()

    @_for_all
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Deliver what is under way, and conclude."""
        self._flush()
        if self._live is not None:
            self.guarded(self.finished, self._live)
            self._flush()

    @_for_all
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Clean up: Lightning calls no teardown when training fails."""
        try:
            self._flush()
        except Exception as error:
            warnings.warn(f"{type(self).__name__}: {error}", RuntimeWarning, stacklevel=2)
        self._leave()

    @_for_all
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Clean up."""
        if stage == "fit":
            self._leave()

    def _flush(self) -> None:
        run = self._live
        if run is not None and run.lead is self:
            run.publisher.flush()

    def _leave(self) -> None:
        if self._run is not None:
            self._run.leave(self)

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Class and identity arguments; read at every hook by Lightning's profiler, so made once."""
        # Lightning 2.6.6 adds implicit callbacks to the list that the user passed: one list for two Trainers then holds
        # two of each, and the second Trainer would refuse two of one key. The older one gets another.
        key = "_key" if self.serial == type(self).newest or not self.gives_way else "_old_key"
        if vars(self).get(key) is None:
            apart: dict[str, Any] = {"gives_way": True} if self.gives_way else {}
            if key == "_old_key":
                apart["serial"] = self.serial
            named = {name: getattr(self, name) for name in self.identity}
            vars(self)[key] = self._generate_state_key(**named, **apart)
        return str(vars(self)[key])

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Leave out the state of another Trainer's run, in whose list of callbacks this one stands too."""
        if self._run is not None and not self._run.belongs_to(trainer):
            checkpoint.get("callbacks", {}).pop(self.state_key, None)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Find the state that an implicit callback saved under the key of an older one."""
        states = checkpoint.get("callbacks", {})
        if self.gives_way and self.state_key not in states:
            stem = self.state_key.removesuffix("}")  # (a key ends in the arguments, as a dict is shown)
            found = [key for key in states if isinstance(key, str) and key.startswith(f"{stem}, 'serial'")]
            if found:
                states[self.state_key] = states.pop(found[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return plain state with its version; it loads under ``weights_only=True``."""
        if self._run is None:
            return {}
        return {
            "version": _VERSION,
            "configuration": self.configuration(),
            "clock": self._run.clock.state_dict(),
            "state": self.trick_state() if self._loaded is None else self._loaded,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; it is used when training starts.

        Raises:
            ValueError: the state is of an unknown version or not of this form.
        """
        name = type(self).__name__
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"{name}: the checkpoint's state must be a dict, not {shown(state_dict)}. {_FROM_SCRATCH}")
        inner, clock = state_dict.get("state"), state_dict.get("clock")
        version = state_dict.get("version")
        if (
            type(version) is not int
            or version != _VERSION
            or not isinstance(inner, dict)
            or not isinstance(clock, Mapping)
        ):
            raise ValueError(
                f"{name}: the checkpoint's state (version {shown(version)}) cannot be read "
                f"by this version, which reads version {_VERSION}. Update lightning-tricks, or train without it."
            )
        old, new = state_dict.get("configuration", {}), self.configuration()
        fault = form.named(form.plain)(old, "configuration") or _CLOCK(dict(clock), "clock")
        if fault is None and len(clock["attempted"]) != len(clock["applied"]):
            fault = "clock must count attempts and updates of the same optimizers"
        fault = fault or self.state_form(inner, "state")
        if fault is not None:
            raise ValueError(f"{name}: the checkpoint's {fault}. {_FROM_SCRATCH}")
        changed = [f"{k}: {shown(old[k])} -> {shown(v)}" for k, v in new.items() if k in old and old[k] != v]
        self._loaded, self._loaded_clock = dict(inner), dict(clock)
        if self._run is not None:
            self._load_clock(self._run)
        if changed:
            self.reconfigured(changed)

    def _load_clock(self, run: TrainingRun) -> None:
        clock, self._loaded_clock = self._loaded_clock, None
        if clock is not None:
            run.clock.load_state_dict(clock)

    def reconfigured(self, changed: list[str]) -> None:
        """The checkpoint was written with other arguments; say what that means."""
        warn(type(self).__name__, f"resumed with other arguments ({'; '.join(changed)}). The new ones hold.")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was measured and what Lightning attaches: a callback that is sent must not carry the model."""
        kept = ("_loaded", "_loaded_clock")
        attached = ("log", "log_dict", *STEP_HOOKS)
        public = {k: v for k, v in self.__dict__.items() if not k.startswith("_") and k not in attached}
        return public | {k: self.__dict__[k] for k in kept if k in self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy begins with nothing measured."""
        self.__dict__.update(state)
        self.reset()


def defined_by_lightning(module: Any, method: str) -> bool:
    """Whether a module's method is Lightning's own, in either namespace, and not overridden."""
    return of_lightning(next(cls for cls in type(module).__mro__ if method in vars(cls)))


def of_lightning(kind: type) -> bool:
    """Whether a class is Lightning's own, in either namespace.

    >>> of_lightning(lightning_pytorch.Trainer), of_lightning(dict)
    (True, False)
    """
    return kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")


def trainer_arguments() -> list[str]:
    """Return the names of the Trainer's arguments.

    >>> "max_epochs" in trainer_arguments()
    True
    """
    return list(inspect.signature(lightning_pytorch.Trainer).parameters)
