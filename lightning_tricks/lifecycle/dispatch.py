"""One callback of the pack receives Lightning's hooks of a training step and passes them on to the others.

Lightning wraps each hook of each callback in a profiler context, also those that do nothing: some 2 us a hook and six
hooks a step. It skips a hook that is not callable. So these hooks are None on every trick but one while a fit runs,
and that one calls the tricks that override them, in the order of ``trainer.callbacks``. Afterwards everything is as
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, no_grad
from torch.optim import Optimizer

from lightning_tricks.lifecycle.namespaces import lightning_pytorch, pytorch_lightning
from lightning_tricks.publishing.log_keys import LogKey

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# (gradients are written once every callback of the user's before the last trick has changed them)
_LAST = "on_before_optimizer_step"
# of the pack, between Lightning's
OWN_HOOKS = ("_before_gradients_read", "_gradients_ready", "_updated", "_transfer_started")
_NOTHING = object()
_T = TypeVar("_T")


class Member(Protocol):
    """A callback that takes part in a run: what the run and its dispatch call on it."""

    @property
    def state_key(self) -> str:
        """What Lightning's profiler calls it."""

    def does(self, name: str) -> bool:
        """Whether it overrides one of the methods below, or of ``OWN_HOOKS``."""

    _off: bool  # whether it failed, and does nothing more in this run
    _idle: frozenset[str]  # see ``Resting``

    def survives(self, error: Exception) -> bool:
        """Whether the run goes on after an error of this member; it is off then."""

    def guarded(self, function: Callable[..., _T], *arguments: Any) -> _T | None:
        """Call a function of this member; None where it fails and the member only observes."""

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments as loggers show them."""

    def facts(self) -> dict[str, Any]:
        """Return what it has found, as plain values."""

    @property
    def parts(self) -> Sequence[Any]:
        """Its parts, which may have hooks of a training step as well."""

    @property
    def log_keys(self) -> Sequence[LogKey]:
        """The keys that it and its parts log under."""

    def call_stage(self, name: str, *arguments: Any) -> None:
        """Call a stage of its own, and then of each part."""


class Resting(Protocol):
    """A trick or a part of one."""

    _idle: frozenset[str]  # stages and hooks of a training step at which it has nothing to do in this run


class Stations(Protocol):
    """What a run does once for all of its members at the stations of a training step."""

    @property
    def trainer(self) -> Any:
        """The Trainer."""

    @property
    def publisher(self) -> Any:
        """Ships what was measured."""

    def begin_batch(self, batch_idx: int) -> None:
        """A batch starts."""

    @property
    def rate(self) -> Any:
        """The factor on the rates."""

    @property
    def attempts(self) -> Any:
        """Remembers losses, and writes the gradients."""

    def open(self, optimizer: Optimizer) -> Any:
        """Gradients are complete: return the page of this attempt, or None where there will be no step."""


class _Call(NamedTuple):
    """What a member does at a hook."""

    member: Member
    function: Callable[..., Any]


class Dispatch:
    """Who is called at which hook of a training step.

    Args:
        run: the run whose tricks these are.
    """

    def __init__(self, run: Stations) -> None:
        self._run = run
        self._tricks: Sequence[Member] = ()
        self._before: list[tuple[Member, dict[str, Any]]] = []
        self._calls: dict[str, list[_Call]] = {}
        self._own: dict[str, list[_Call]] = {}

    def install(self, tricks: Sequence[Member]) -> None:
        """Take over the hooks of these tricks; those that were taken over before are put back first."""
        self.remove()
        if not tricks:
            return
        self._tricks = tricks
        for hook in STEP_HOOKS:
            receiver = tricks[-1 if hook == _LAST else 0]
            self._calls[hook] = [
                # (Lightning itself profiles the hook of the callback that it calls)
                _Call(t, _profiled(function, t, hook, None if t is receiver else self._run.trainer.profiler))
                for t in tricks
                for function in _functions_at(t, hook)
            ]
        self._own = {
            name: [
                _Call(t, getattr(x, name))
                for t in tricks
                for x in (t, *t.parts)
                if x.does(name) and name not in x._idle
            ]
            for name in OWN_HOOKS
        }
        # in the instance's dict, which is looked at before the class: a class may be used by several Trainers
        for trick in tricks:
            self._before.append((trick, {hook: vars(trick).get(hook, _NOTHING) for hook in STEP_HOOKS}))
            vars(trick).update(dict.fromkeys(STEP_HOOKS))
        received: dict[str, Callable[..., Any]] = {
            "on_train_batch_start": self._batch_start,
            "on_before_backward": self._before_backward,
            "on_train_batch_end": self._batch_end,
        }
        # Where nobody needs them these stay None, and Lightning passes over them without a profiler context.
        for hook in ("on_before_zero_grad", "on_after_backward"):
            if self._calls[hook]:
                received[hook] = partial(_make, self._calls[hook])
        vars(tricks[0]).update(received)
        vars(tricks[-1])[_LAST] = self._before_optimizer_step

    def remove(self) -> None:
        """Put back the hooks of every trick."""
        for trick, before in self._before:
            # a hook that was an attribute of the instance (a user's patch) comes back as such
            for hook, value in before.items():
                if value is _NOTHING:
                    vars(trick).pop(hook, None)
                else:
                    vars(trick)[hook] = value
        self._tricks, self._before, self._calls, self._own = (), [], {}, {}

    def rest(self, part: Resting, *names: str, when: bool = True) -> None:
        """Call a trick or a part of one at these stages and hooks no more, and at all others again.

        For what a run turns out not to need: a call that does nothing costs about as much as a small kernel.

        Args:
            part: who has nothing to do there.
            names: of ``STEP_HOOKS`` and ``OWN_HOOKS``; none to be called everywhere.
            when: False to be called everywhere, whatever the names are.
        """
        idle = frozenset(names if when else ())
        if part._idle != idle:
            part._idle = idle
            self.install(self._tricks)

    def call_stage(self, name: str, *arguments: Any) -> None:
        """Call a method of ``OWN_HOOKS`` on each trick that overrides it."""
        _make(self._own.get(name, ()), *arguments)

    def _batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._run.begin_batch(batch_idx)
        _make(self._calls["on_train_batch_start"], trainer, module, batch, batch_idx)

    def _before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
        self._run.attempts.note_loss(loss)
        _make(self._calls["on_before_backward"], trainer, module, loss)

    def _before_optimizer_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        # once for all tricks: in each of them it would cost as much as a small kernel
        # (not torch.no_grad: after 2.6.6 Lightning puts another in its place during a step, which empties the cache of
        # autocast; nothing is cast here, and the training would be another one than without callbacks)
        with no_grad():
            page = self._run.open(optimizer)
            if page is not None:
                self.call_stage("_gradients_ready", self._run, page)
            _make(self._calls["on_before_optimizer_step"], trainer, module, optimizer)
            self._run.attempts.commit()

    def _batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._run.rate.ready:  # (a step that a GradScaler skips never ends)
            self._run.rate.release()
        _make(self._calls["on_train_batch_end"], trainer, module, outputs, batch, batch_idx)
        # Only now have all tricks put in their values: there is one copy to the host per batch.
        self._run.publisher.start_transfer()
        self.call_stage("_transfer_started", self._run)


def _make(calls: Sequence[_Call], *arguments: Any) -> None:
    """Make calls one after the other; an error of an observer ends the observer and not the run."""
    # (``guarded`` would do as well, at two more calls for each of some twenty in a step)
    for member, function in calls:
        if not member._off:
            try:
                function(*arguments)
            except Exception as error:
                if not member.survives(error):
                    raise


def _functions_at(trick: Member, hook: str) -> list[Callable[..., Any]]:
    """Return what a trick does at one of Lightning's hooks: by its class, an attribute of its own, and its parts."""
    stock = (getattr(lightning_pytorch.Callback, hook), getattr(pytorch_lightning.Callback, hook))
    own = vars(trick)[hook] if hook in vars(trick) else getattr(type(trick), hook)
    found: list[Callable[..., Any]] = []
    rests = hook in trick._idle and hook not in vars(trick)
    if callable(own) and own not in stock and not rests:
        # the guard of a class makes up for hooks of the base, and a step has none: a plain one is enough, and cheaper
        unguarded = getattr(own, "_unguarded", None)
        found = [getattr(trick, hook) if unguarded is None else MethodType(unguarded, trick)]
    return found + [getattr(part, hook) for part in trick.parts if hasattr(part, hook) and hook not in part._idle]


def _profiled(function: Callable[..., Any], trick: Member, hook: str, profiler: Any) -> Callable[..., Any]:
    """Return a function that a profiler of the user's sees under the trick's name.

    Args:
        function: what the trick or a part of it does at the hook.
        trick: whose it is.
        hook: its name.
        profiler: the Trainer's; None where Lightning calls this hook on this trick, and so has named it itself.
    """
    if profiler is None or type(profiler).__name__ == "PassThroughProfiler":
        return function

    def profiled(*arguments: Any) -> None:
        with profiler.profile(f"[Callback]{trick.state_key}.{hook}"):
            function(*arguments)

    return profiled
