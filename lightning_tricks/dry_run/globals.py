"""What a user's code works with beside objects: attributes of classes, and globals that its functions name."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_tricks.dry_run.objects import ClassRecord, ValueRecord
from lightning_tricks.dry_run.places import Place
from lightning_tricks.dry_run.walk import Walk

_NOT_THE_USERS = frozenset(
    {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "lightning_tricks", "numpy"}
)


class Globals:
    """Adds to a walk what the code of the objects in it refers to.

    Looked at are the classes of all objects and the functions that were seen, where they are the user's: attributes of
    these classes, the globals that their functions name, what these hold, and so on. What is reached from data, or is
    part of an installed package, is data: it is put back as far as that is possible.

    Args:
        roots: objects; the packages in which their classes are defined are the user's, also where they are installed.
    """

    def __init__(self, walk: Walk, roots: Iterable[Any]) -> None:
        self._walk = walk
        modules = {cls.__module__ for root in roots for cls in type(root).__mro__ if is_the_users(cls.__module__)}
        self._packages = {module.split(".")[0] for module in modules}
        self._seen: set[Any] = set()
        self._theirs: dict[str, bool] = {}

    def add_all(self) -> bool:
        """Add what the classes and functions refer to that the walk has seen; return whether there is more to walk."""
        before = len(self._seen)
        for kind, data in list(self._walk.kinds.items()):
            for cls in kind.__mro__:
                self._add_class(cls, data)
        for function, data in list(self._walk.functions.items()):
            self._add_names_of(function, data)
        return len(self._seen) > before

    def _is_theirs(self, module: str | None) -> bool:
        name = module or ""
        if name not in self._theirs:
            self._theirs[name] = name.split(".")[0] in self._packages or (is_the_users(name) and _is_local(name))
        return self._theirs[name]

    def _add_class(self, cls: type, data: bool) -> None:
        if cls in self._seen or not self._is_theirs(cls.__module__):
            return
        self._seen.add(cls)
        data = data or not _is_local(cls.__module__)  # (a package is full of handles; and does not act on a whim)
        self._walk.records.append((Place(None, cls.__name__), ClassRecord(cls)))
        for name, value in list(vars(cls).items()):
            place = f"{cls.__name__}.{name}"
            if isinstance(value, type):
                self._add_class(value, data)
                continue
            functions = list(_functions(value))
            for function in functions:
                self._walk.add(place, function, data=data)
            # (what has ``__get__`` is computed or bound at each access, and holds nothing of the class)
            if not functions and not name.startswith("__") and not hasattr(type(value), "__get__"):
                self._walk.add(place, value, data=data)

    def _add_names_of(self, function: types.FunctionType, data: bool) -> None:
        """Add the globals that a function names, and those that it makes."""
        if function in self._seen or not self._is_theirs(function.__module__):
            return
        self._seen.add(function)
        data = data or not _is_local(function.__module__ or "")
        names = _names(function.__code__)
        for name in names:
            self._add_global(function.__module__ or "", function.__globals__, name, data, names)
        for name in _stored(function.__code__):
            self._record(function.__module__ or "", function.__globals__, name)

    def _add_global(self, module: str, variables: dict[str, Any], name: str, data: bool, names: Sequence[str]) -> None:
        if name not in variables or (id(variables), name) in self._seen:
            return
        value = variables[name]
        if isinstance(value, types.ModuleType):  # (of which the function may write to a name)
            if self._is_theirs(value.__name__):
                for inner in names:
                    self._add_global(value.__name__, vars(value), inner, data, ())
            return
        self._record(module, variables, name)
        if isinstance(value, type):
            self._add_class(value, data)
        else:
            self._walk.add(f"{module}.{name}", value, data=data)

    def _record(self, module: str, variables: dict[str, Any], name: str) -> None:
        if (id(variables), name) not in self._seen:
            self._seen.add((id(variables), name))
            self._walk.records.append((Place(None, f"{module}.{name}"), ValueRecord.of_name(variables, name)))


def _functions(value: Any) -> Iterator[Any]:
    """Give the functions in an attribute of a class: its own and those that a decorator has put around it."""
    inside = [value]
    if isinstance(value, property):
        inside = [value.fget, value.fset]
    elif isinstance(value, functools.cached_property):
        inside = [value.func]
    elif isinstance(value, (staticmethod, classmethod)):
        inside = [value.__func__]
    for found in inside:
        while found is not None:
            # (the class of ``lru_cache`` objects has no public name)
            if isinstance(found, (types.FunctionType, type(functools.lru_cache(_is_local)))):
                yield found
            found = getattr(found, "__wrapped__", None)


@functools.lru_cache(maxsize=10_000)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that a function and those within it look up; code does not change."""
    return (*code.co_names, *(name for inner in _inner(code) for name in _names(inner)))


@functools.lru_cache(maxsize=10_000)
def _stored(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that a function assigns, which need not be there yet."""
    own = (str(i.argval) for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL")
    return (*own, *(name for inner in _inner(code) for name in _stored(inner)))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def is_the_users(module: str) -> bool:
    """Whether a module is neither ours, nor torch's, Lightning's, numpy's, nor of the standard library.

    >>> is_the_users("__main__"), is_the_users("torch.nn"), is_the_users("collections")
    (True, False, False)
    """
    top = module.split(".")[0]
    return top == "__main__" or not (top in _NOT_THE_USERS or top in sys.stdlib_module_names)


def _is_local(module: str) -> bool:
    """Whether a module is a file of somebody's project, and no installed package."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module.split(".")[0]), "__file__", None)
    if file is None:  # (a namespace package, or made while running)
        file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not any(Path(file).is_relative_to(folder) for folder in _INSTALLED)


_INSTALLED = tuple({Path(p) for name, p in sysconfig.get_paths().items() if name in ("purelib", "platlib", "stdlib")})
