"""The globals that a user's classes work with: generators, counters and environments at the top of a script."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from lightning_tricks.dry_run.objects import ValueRecord
from lightning_tricks.dry_run.walk import Place, Walk

_NOT_THE_USERS = frozenset(
    {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "lightning_tricks", "numpy"}
)


class Globals:
    """Adds to a walk what classes refer to outside of their instances.

    These are attributes of the classes, variables that their methods close over, and the globals that their functions
    name, also by way of other functions of the same file. They count as data: what cannot be put back is left alone.

    Args:
        walk: that they are added to.
        roots: objects; the packages in which their classes are defined are the user's, others are not looked at.
    """

    def __init__(self, walk: Walk, roots: Iterable[Any]) -> None:
        self._walk = walk
        modules = {cls.__module__ for root in roots for cls in type(root).__mro__ if is_the_users(cls.__module__)}
        self._packages = {module.split(".")[0] for module in modules}
        self._seen: set[Any] = set()

    def add_classes_of(self, kinds: Iterable[type]) -> bool:
        """Add what these classes and their bases refer to; return whether any was new."""
        classes = {cls for kind in kinds for cls in kind.__mro__ if self._is_theirs(cls.__module__)} - self._seen
        for cls in classes:
            self._add_class(cls)
        return bool(classes)

    def _is_theirs(self, module: str | None) -> bool:
        return (module or "").split(".")[0] in self._packages

    def _add_class(self, cls: type) -> None:
        if cls in self._seen or not self._is_theirs(cls.__module__):
            return
        self._seen.add(cls)
        for name, value in list(vars(cls).items()):
            function = _function(value)
            if function is not None:
                self._add_function(function)
            elif not (name.startswith("__") or callable(value) or hasattr(type(value), "__get__")):
                self._add(f"{cls.__name__}.{name}", partial(getattr, cls, name), partial(setattr, cls, name))

    def _add_function(self, function: types.FunctionType) -> None:
        """Add the variables that a function closes over, and the globals that it names."""
        if function in self._seen or not self._is_theirs(function.__module__):
            return
        self._seen.add(function)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":  # (of ``super``)
                self._walk.add(f"{function.__qualname__}.{name}", cell, data=True)
        variables = function.__globals__
        for name in _names(function.__code__):
            if name in variables and (id(variables), name) not in self._seen:
                self._seen.add((id(variables), name))
                self._add_global(function.__module__ or "", variables, name)

    def _add_global(self, module: str, variables: dict[str, Any], name: str) -> None:
        value = variables[name]
        if isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif not isinstance(value, types.ModuleType):
            self._add(f"{module}.{name}", partial(variables.get, name), partial(variables.__setitem__, name))

    def _add(self, name: str, read: Any, write: Any) -> None:
        self._walk.records.append((Place(None, name), ValueRecord(read, write)))
        self._walk.add(name, read(), data=True)


def _function(value: Any) -> types.FunctionType | None:
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__wrapped__", value)
    return value if isinstance(value, types.FunctionType) else None


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def is_the_users(module: str) -> bool:
    """Whether a module is neither ours, nor torch's, Lightning's, numpy's, nor of the standard library.

    >>> is_the_users("__main__"), is_the_users("torch.nn"), is_the_users("collections")
    (True, False, False)
    """
    top = module.split(".")[0]
    return top == "__main__" or not (top in _NOT_THE_USERS or top in sys.stdlib_module_names)
