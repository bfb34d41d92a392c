"""What is put into other people's objects for a time: attributes that are replaced, and hooks.

A copy of such an object takes none of it along. Modules are copied and pickled in the middle of a run: a checkpoint
pickles a module that stands in ``hparams``, a teacher is a deep copy of its student.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from lightning_tricks.numerics.torch_internals import in_functorch

PutBack = Callable[[], None]
_NOTHING = object()


class Replacement:
    """A function in the place of an object's method; a copy of the object has the method itself.

    Args:
        function: what is called instead.
        before: what the object itself had there.
    """

    def __init__(self, owner: Any, name: str, function: Callable[..., Any], before: Any) -> None:
        functools.update_wrapper(self, function)
        # Lightning looks at the arguments of what is wrapped, one level deep
        self.__wrapped__ = getattr(function, "__wrapped__", function)
        self._owner, self._name, self._function, self._before = owner, name, function, before
        self.gone = False  # whether it was put back; another one that was put over it may still call it

    def under(self) -> Any:
        """Return what is under it, but for replacements that are gone."""
        found = self._before
        while isinstance(found, Replacement) and found.gone:
            found = found._before
        return found

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function."""
        if not self.gone:
            return self._function(*arguments, **named)
        under = self.under()
        method = getattr(type(self._owner), self._name).__get__(self._owner) if under is _NOTHING else under
        return method(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        # (an object is known to pickle and deepcopy before its attributes are: this gives the class's own method)
        return getattr, (self._owner, self._name)


class Hook:
    """A hook of a module; a copy of the module has one in its place that does nothing.

    Args:
        reads: whether it reads tensors; then it is not called inside of ``torch.vmap`` and ``torch.func``, where they
            have no values.
    """

    def __init__(self, function: Callable[..., Any], *, reads: bool = True) -> None:
        self._function, self._reads = function, reads

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return None if self._reads and in_functorch() else self._function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_hook, ()


def replaced(owner: Any, name: str, value: Any) -> PutBack:
    """Give an object an attribute or method of its own; return what makes it as it was.

    Of a method that was replaced twice, the replacements may go in any order.

    Example:
        >>> class Loop:
        ...     def run(self): return 1
        >>> loop = Loop()
        >>> put_back = replaced(loop, "run", lambda: 2)
        >>> loop.run(), put_back(), loop.run(), vars(loop)
        (2, None, 1, {})
    """
    # The instance's own dict, past ``nn.Module.__setattr__``: putting back must not leave an entry that was not there
    # before.
    before = vars(owner).get(name, _NOTHING)
    mine = Replacement(owner, name, value, before) if isinstance(value, FunctionType) else value
    vars(owner)[name] = mine

    def put_back() -> None:
        under = before
        if isinstance(mine, Replacement):
            mine.gone = True
            if vars(owner).get(name) is not mine:  # another one is over it, and goes later
                return
            under = mine.under()
        if under is _NOTHING:
            vars(owner).pop(name, None)
        else:
            vars(owner)[name] = under

    return put_back


def _ignore(*arguments: Any) -> None:
    """Do nothing."""


def _no_hook() -> Callable[..., None]:
    return _ignore
