"""Participant: what a callback of the pack is beside a callback of Lightning's: its arguments, its parts, its run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.guard import survives
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics import form
from lightning_tricks.numerics.arguments import constructor_arguments
from lightning_tricks.publishing.log_keys import LogKey

_T = TypeVar("_T")
_PACK = __name__.split(".")[0]


class Participant(Stages):
    """Takes part in a run, itself and with its parts.

    An ``observer`` changes nothing, so no error of its own may end a run: one that it raises after the fit has begun
    costs a warning and switches it off. What it refuses by name before the first update does end the run.

    ``identity`` names the constructor arguments that tell two instances of one class apart: they make the
    ``state_key``. All arguments are stored in the state and compared when it is loaded. Each constructor argument is
    also an attribute of the same name.
    """

    identity: ClassVar[tuple[str, ...]] = ()
    _internal: ClassVar[tuple[str, ...]] = ()  # names of its own that ``dir`` leaves out
    state_form: Any = staticmethod(form.anything)  # what ``_trick_state`` of it and of its parts returns looks like
    in_dry_run: ClassVar[bool] = False  # whether a dry run of training needs it, since it shapes gradients
    observer: ClassVar[bool] = False  # whether it only watches
    also_called: ClassVar[dict[str, str]] = {}  # the name of an argument in other tools -> how it is written here
    log_keys: ClassVar[tuple[LogKey, ...]] = ()  # the keys that it and its parts log under

    _run: TrainingRun | None = None
    _parts: tuple[Stages, ...] | None = None
    _off: bool = False  # an observer that failed: it does nothing more in this run

    # -- what a callback may override -----------------------------------------------------------------------------

    def __dir__(self) -> list[str]:
        """Leave out what only the pack itself uses: completion shows what is of use to the user."""
        kinds = type(self).__mro__
        own = {name for base in (Participant, Stages) for name in vars(base)} - {"configuration"}
        own |= {name for kind in kinds for name in vars(kind).get("_internal", ())}
        others = {name for kind in kinds if kind.__module__.split(".")[0] != _PACK for name in vars(kind)}
        return [name for name in super().__dir__() if name in others or name not in own]

    def _make_parts(self) -> tuple[Stages, ...]:
        """Return the parts that do the work, made of the arguments; called for each new run."""
        return ()

    def _settled(self, run: TrainingRun) -> bool:
        """Whether it has seen all that it may refuse by name; from then on no error of its own ends a run."""
        return run.attempts.began

    def _reconfigured(self, changed: list[str]) -> None:
        """The checkpoint was written with other arguments; say what that means."""
        warn(type(self).__name__, f"resumed with other arguments ({'; '.join(changed)}). The new ones hold.")

    def configuration(self) -> dict[str, Any]:
        """Return the arguments as plain values, which a checkpoint holds and a resume compares."""
        return constructor_arguments(self)

    def facts(self) -> dict[str, Any]:
        """Return what it has found that belongs into ``run.json``, as plain values."""
        return {}

    def arguments(self) -> dict[str, str | float | bool]:
        """Return the arguments that differ from the defaults, as loggers show them: numbers, flags and texts."""
        given, usual = constructor_arguments(self), self._defaults()
        changed = [name for name, value in given.items() if name not in usual or usual[name] != value]
        found = {name: getattr(self, name) for name in changed}
        return {n: v if isinstance(v, (str, int, float)) else str(v) for n, v in found.items()}

    def _defaults(self) -> dict[str, Any]:
        """Return what the optional arguments are by default, in the form in which a constructor keeps them."""
        parameters = inspect.signature(type(self)).parameters.values()
        required = {p.name: getattr(self, p.name) for p in parameters if p.default is p.empty}
        try:
            usual = constructor_arguments(type(self)(**required))
        except (TypeError, ValueError):  # it does not take what it keeps of a required argument
            return {}
        return {name: value for name, value in usual.items() if name not in required}

    # -- its parts ------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[Stages, ...]:
        """The parts of this run."""
        if self._parts is None:
            self._parts = self._make_parts()
        return self._parts

    def part(self, kind: type[_T]) -> _T:
        """Return the first part of a kind; every callback knows which parts it makes."""
        return next(part for part in self.parts if isinstance(part, kind))

    def call_stage(self, name: str, *arguments: Any) -> None:
        """Call a stage of its own, and then of each part."""
        getattr(self, name)(*arguments)
        for part in self.parts:
            getattr(part, name)(*arguments)

    # -- its run --------------------------------------------------------------------------------------------------

    @property
    def run(self) -> TrainingRun:
        """The run that it takes part in.

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
    def live_run(self) -> TrainingRun | None:
        """The run while a fit is under way in which it takes part; else None."""
        run = self._run
        # (no ``cast`` to a Member: ``in`` compares identities first, and this is asked a dozen times in each step)
        return run if run is not None and run.active and self in run.tricks else None  # type: ignore[comparison-overlap]

    # -- errors of observers --------------------------------------------------------------------------------------

    def guarded(self, function: Callable[..., _T], *arguments: Any) -> _T | None:
        """Call a function of it or of a part; None where it fails and this is an observer, or was switched off."""
        if not self.observer:
            return function(*arguments)
        if self._off:
            return None
        try:
            return function(*arguments)
        except Exception as error:
            if not self.survives(error):
                raise
            return None

    def survives(self, error: Exception) -> bool:
        """Whether the run goes on after an error of it or of a part; it is switched off then."""
        return self.observer and survives(self, error)

    def guard(self, function: Callable[..., _T]) -> Callable[..., _T | None]:
        """Return a function that is ``guarded`` whenever somebody else calls it: a module, a logger, a publisher."""
        return functools.partial(self.guarded, function) if self.observer else function
