"""No error of an observer ends a healthy run: it costs one warning, and the observer is switched off.

Lightning looks hooks up on the callback, so a metaclass that wraps the hooks of a class is the only place that sees all
of them, also one that is set on the class later.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_tricks.errors import NotRestorableError, RunEndsError, TrickError, in_one_line
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.namespaces import lightning_pytorch

FROM_USER = "_raised_by_the_users_action"  # an attribute of errors that no guard holds back

_HOOKS = frozenset(
    name
    for name in dir(lightning_pytorch.Callback)
    if name.startswith("on_") or name in ("setup", "teardown", "state_dict")
)


class NotAnInstanceError(TypeError, AttributeError):
    """A class stands where a callback belongs.

    Also an AttributeError, so that ``hasattr``, ``inspect.getmembers`` and mocks can look through the class.
    """

    def __init__(self, given: str, cls: type) -> None:
        super().__init__(f"callbacks={given}: it is the class. Make a callback of it: {cls.__name__}(...).")


class GuardsHooks(type):
    """Puts a guard around each of Lightning's hooks that a class of observers has, also one that is set later.

    Args:
        abstract: whether the class is a base, whose hooks are called by those of its subclasses: a guard around a
            method that another guarded method calls would hide its failure.
    """

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, abstract: bool = False) -> None:
        super().__init__(name, bases, namespace)
        if not abstract:
            for hook in _HOOKS:
                if getattr(cls, hook) is not getattr(lightning_pytorch.Callback, hook):
                    # (``__setattr__`` below puts the guard around it)
                    setattr(cls, hook, getattr(cls, hook))

    @property
    def state_key(cls) -> str:
        """Refuse a class in a list of callbacks: this is the first that Lightning asks of one."""
        raise NotAnInstanceError(f"[{cls.__name__}]", cls)

    def __iter__(cls) -> Iterator[Any]:
        """Refuse a class in place of a list of callbacks: Lightning goes through what it takes for the list."""
        raise NotAnInstanceError(cls.__name__, cls)

    @property
    def run_or_none(cls) -> None:
        """None: a class in a list of callbacks is in no run. Other callbacks ask before Lightning does."""
        return None

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, abstract: bool = False
    ) -> GuardsHooks:
        """Leave ``abstract`` to ``__init__``."""
        return super().__new__(mcs, name, bases, namespace)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in _HOOKS and callable(value) and getattr(cls, "observer", False):
            value = _guarded_hook(name, getattr(value, "_unguarded", value))
        super().__setattr__(name, value)


def not_for_lightning(method: Callable[..., Any]) -> Callable[..., Any]:
    """Hide from Lightning that a hook is overridden: it calls the method all the same.

    When a Trainer is made, Lightning refuses two callbacks of one ``state_key`` with a hint for authors of callbacks,
    if they override ``state_dict``. A trick refuses that itself at fit start, with a hint for users. Lightning takes
    ``__wrapped__`` for what a hook really is.
    """
    method.__wrapped__ = lightning_pytorch.Callback.state_dict  # type: ignore[attr-defined]
    return method


def _guarded_hook(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def hook(self: Any, *arguments: Any, **named: Any) -> Any:
        if not self._off:
            self._reached = ""
            try:
                return method(self, *arguments, **named)
            except Exception as error:
                if not survives(self, error):
                    raise
        if name == "state_dict":
            # (Lightning leaves an empty state out of the checkpoint)
            return {}
        if self._reached != name:  # what the first or last callback does for all of them is still done, once
            shared = next((m for c in type(self).__mro__ if _is_for_all(m := vars(c).get(name))), None)
            if shared is not None:
                shared(self, *arguments, **named)
        self._reached = ""
        return None

    hook._unguarded = method  # type: ignore[attr-defined]
    if hasattr(method, "__wrapped__"):
        hook.__wrapped__ = method.__wrapped__  # (Lightning looks one wrapper deep)
    return hook


def for_all(method: Callable[..., None]) -> Callable[..., None]:
    """Note that a hook of the base class was reached, so that a guard need not make up for it."""

    @functools.wraps(method)
    def hook(self: Any, *arguments: Any, **named: Any) -> None:
        self._reached = method.__name__
        method(self, *arguments, **named)

    hook._for_all = True  # type: ignore[attr-defined]
    return hook


def _is_for_all(method: Any) -> bool:
    return hasattr(method, "_for_all") and not hasattr(method, "_unguarded")  # (a wrapper takes over attributes)


def survives(observer: Any, error: Exception) -> bool:
    """Whether the run goes on without an observer that raised an error; False where the run has to end.

    It has to end where the user asked for that, and where something is refused by name before the first update.
    """
    meant = isinstance(error, RunEndsError) or getattr(error, FROM_USER, False)
    run = observer.run_or_none
    begun = run is not None and observer._settled(run)
    refused = isinstance(error, TrickError) and not isinstance(error, NotRestorableError)
    if meant or (refused and not begun):
        return False
    if not observer._off:
        observer._off = True
        _tell(type(observer).__name__, error)
        if run is not None:
            with suppress(Exception):
                observer.call_stage("_cleanup", run)
    return True


def _tell(name: str, error: Exception) -> None:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
    text = (
        f"{type(error).__name__}: {in_one_line(error) or 'no message'}{where}. It is switched off for the rest "
        "of this run; training goes on."
    )
    if isinstance(error, NotRestorableError):
        text = f"{error} It does nothing in this run; training goes on."
    try:
        warn(name, text)
    except Warning:  # (warnings are errors here; but this run was healthy)
        rank_zero_info(f"{name}: {text}")
