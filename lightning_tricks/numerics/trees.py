"""Nested batches and outputs: lists, dicts and tuples, and objects that hold tensors under names.

torch's own trees end at an object that was not registered: a dataclass, a ``BatchEncoding`` of transformers, a ``Data``
of torch-geometric would be one leaf, and their tensors would not be seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from lightning_tricks.numerics import torch_internals


def tree_leaves(tree: Any) -> list[Any]:
    """Return what a tree holds, in its order, with the parts of objects that hold tensors under names."""
    found: list[Any] = []
    for leaf in torch_internals.tree_leaves(tree):
        parts = _opened(leaf)
        found.extend([leaf] if parts is None else (x for part in parts.values() for x in tree_leaves(part)))
    return found


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return a tree of the same form with the results of a function; objects are copied, and their parts are replaced.

    Args:
        function: of a leaf, and of the leaves at its place in the other trees.
        others: of the same form.

    >>> tree_map(lambda x, y: x + y, {"a": [1, 2]}, {"a": [3, 4]})
    {'a': [4, 6]}
    """

    def mapped(leaf: Any, *same: Any) -> Any:
        parts = _opened(leaf)
        if parts is None:
            return function(leaf, *same)
        beside = [_opened(other) or {} for other in same]
        new = {name: tree_map(function, part, *(b[name] for b in beside)) for name, part in parts.items()}
        return _with_parts(leaf, new)

    return torch_internals.tree_map(mapped, tree, *others)


def named_parts(value: Any) -> dict[str, Any] | None:
    """Return what a container or an object holds by name; None for lists, plain tuples, tensors and everything else.

    >>> named_parts({"a": 1}), named_parts([1, 2])
    ({'a': 1}, None)
    """
    if isinstance(value, Mapping):
        return {name: part for name, part in value.items() if isinstance(name, str)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    return _opened(value)


def fields_of(value: Any) -> dict[Any, Any] | None:
    """Return what an object with ``keys``, or a dataclass (with slots too), has in its places; None for others.

    >>> from collections import UserDict
    >>> fields_of(UserDict(a=1)), fields_of([1])
    ({'a': 1}, None)
    """
    if callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__"):
        return {key: value[key] for key in value.keys()}  # noqa: SIM118 (its iterator may be another)
    if is_dataclass(value):
        return {place.name: getattr(value, place.name, None) for place in fields(value)}
    return None


def _opened(value: Any) -> dict[str, Any] | None:
    """Return the parts of an object that torch's trees take for a leaf; None where it is one."""
    if isinstance(value, (Tensor, nn.Module, type, str, int, float)) or value is None:
        return None
    parts = fields_of(value)
    if parts is None:
        held = getattr(value, "__dict__", {}) if hasattr(value, "to") else {}
        # (not objects in it, which may lead back to it)
        parts = {name: part for name, part in held.items() if isinstance(part, (Tensor, list, tuple, dict))}
    tensors = any(isinstance(x, Tensor) for part in parts.values() for x in torch_internals.tree_leaves(part))
    return parts if tensors else None


def _with_parts(value: Any, parts: Mapping[str, Any]) -> Any:
    other = copy.copy(value)
    by_key = callable(getattr(other, "keys", None)) and hasattr(other, "__setitem__")
    for name, part in parts.items():
        if by_key:
            other[name] = part
        else:
            object.__setattr__(other, name, part)  # (also of a frozen dataclass)
    return other
