"""A logger that cannot write does not end a run: its system errors are told once, and training goes on.

Lightning lets them through: a disk that is full of logs ends the training (tests/faults show it). Only ``OSError`` is
kept back, whose cause lies outside of the program; whatever else a logger raises is a bug, and comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_tricks.modules.replaced import PutBack, replaced

Failed = Callable[[OSError, "int | None"], None]

_GUARDED = ("log_metrics", "save", "finalize")


def guard(logger: Any, failed: Failed) -> None:
    """Keep back the system errors of a logger until Lightning finalizes it.

    Each call is still tried: when there is space again, a logger that keeps its rows writes them all.

    Example:
        >>> class Full:
        ...     def log_metrics(self, values, step): raise OSError("no space")
        ...     def save(self): ...
        ...     def finalize(self, status): ...
        >>> logger, told = Full(), []
        >>> guard(logger, lambda error, step: told.append((error, step)))
        >>> logger.log_metrics({"loss": 1.0}, step=7); told
        [(OSError('no space'), 7)]
        >>> logger.finalize("success"); vars(logger)
        {}
    """
    # A second fit with the same logger must not guard what is guarded already.
    release(logger)
    for name in _GUARDED:
        guarded = _Guarded(logger, name, failed)
        guarded.give_back = replaced(logger, name, guarded)


def release(logger: Any) -> None:
    """Give a logger its methods back."""
    for name in _GUARDED:
        held = vars(logger).get(name)
        if isinstance(held, _Guarded):
            held.give_back()


def system_error(error: BaseException) -> OSError | None:
    """Return the system's error that an exception is or was raised from: TensorBoardLogger makes a ValueError of it.

    >>> system_error(OSError("no space")), system_error(ValueError("not a number"))
    (OSError('no space'), None)
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause


class _Guarded:
    """A method of one logger, with its system errors kept back."""

    def __init__(self, logger: Any, name: str, failed: Failed) -> None:
        self._logger, self._name, self._failed = logger, name, failed
        self._real = getattr(logger, name)
        self.give_back: PutBack

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the logger, as for a process that is spawned, has its own method there again.
        return getattr, (self._logger, self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._name == "finalize":
            release(self._logger)
        try:
            return self._real(*args, **kwargs)
        except Exception as error:
            fault = system_error(error)
            if fault is None:
                raise
            return self._failed(fault, kwargs.get("step"))
