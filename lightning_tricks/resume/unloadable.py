"""What of a checkpoint will not load: told from its values, before anything is written. Plain values in, findings out.

A checkpoint is written with everything that callbacks and hyperparameters hold, but since torch 2.6 it is read with
``weights_only=True``, which refuses most classes: what was written for days may not be readable.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.resume.findings import Finding

_PLAIN = {type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size}
_DICTS = (dict, OrderedDict, Counter)  # their own types, no subclasses: what is refused is the class
_LISTS = (list, tuple, set)
# Bounds, since the check runs before the first step of each fit, and must not take more than milliseconds.
_LARGEST = 2**16  # bytes of an object that is tried
_MOST_OBJECTS = 2000  # in an object that is tried
_MOST_TRIALS = 50
_MOST_SHOWN = 8
_TRUSTED = "or load with fit(..., weights_only=False) where you trust the file"


def unloadable(values: Mapping[str, Any]) -> list[Finding]:
    """Return what of a checkpoint's values will not load under ``weights_only=True``, with its key path and type.

    Types that are known to load are passed by; of the rest small objects are saved and loaded, in memory. Weights are
    never serialised.

    Example:
        >>> for found in unloadable({"hyper_parameters": {"lr": 0.1, "root": PurePath("data")}}):
        ...     print(found.what)
        ['hyper_parameters']['root'] PurePosixPath will not load under weights_only=True, the default of a resume
    """
    found = list(_Search().look(values, ""))
    findings = [
        Finding(
            f"{where} {type(value).__name__} will not load under weights_only=True, the default of a resume",
            f"{_instead(value)}, {_TRUSTED}",
        )
        for where, value in found[:_MOST_SHOWN]
    ]
    if len(found) > _MOST_SHOWN:
        more = ", ".join(sorted({type(value).__name__ for _, value in found[_MOST_SHOWN:]}))
        findings.append(
            Finding(f"{len(found) - _MOST_SHOWN} more values will not load ({more})", "Convert them the same way")
        )
    return findings


def loads(value: object) -> bool:
    """Whether a value that was saved can be loaded under ``weights_only=True``: tried out, in memory."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True


class _Search:
    """A walk through nested values that remembers what it has tried."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._refused: set[type] = set()
        self._trials = 0
        allowed = torch.serialization.get_safe_globals()  # the user's own
        self._allowed = {entry[0] if isinstance(entry, tuple) else entry for entry in allowed}

    def look(self, value: Any, where: str) -> Iterator[tuple[str, Any]]:
        kind = type(value)
        if kind in _PLAIN or isinstance(value, Tensor):
            return
        if kind not in (*_DICTS, *_LISTS):
            if not self._good(value):
                yield where, value
        elif id(value) not in self._open:
            self._open.add(id(value))
            if kind in _DICTS:
                if not set(map(type, value)) <= _PLAIN:
                    for key in value:
                        yield from self.look(key, f"{where} key {key!r}")
                yield from self._entries(value.items(), value.values(), where)
            else:
                yield from self._entries(enumerate(value), value, where)
            self._open.discard(id(value))

    def _entries(
        self, entries: Iterable[tuple[Any, Any]], values: Iterable[Any], where: str
    ) -> Iterator[tuple[str, Any]]:
        if set(map(type, values)) <= _PLAIN:  # a long history of numbers is passed by at once
            return
        for key, value in entries:
            yield from self.look(value, f"{where}[{key!r}]")

    def _good(self, value: object) -> bool:
        kind = type(value)
        if kind in self._refused:  # one object of a class that is not allowed stands for all others
            return False
        if is_large(value):
            return kind in self._allowed
        if self._trials >= _MOST_TRIALS:  # rather no finding than a false one
            return True
        self._trials += 1
        good = loads(value)
        if not good and kind not in self._allowed:
            self._refused.add(kind)
        return good


def is_large(value: object) -> bool:
    """Whether trying an object would take long: estimated from all that hangs on it, or unknown."""
    try:
        return _size(value) > _LARGEST
    except Exception:  # of a class of the user's
        return True


def _size(value: object) -> float:
    """Return about how many bytes belong to an object; inf for a module, or where there are very many parts."""
    parts: list[Any] = [value]
    seen: set[int] = set()
    size = 0
    while parts and size <= _LARGEST:
        part = parts.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if len(seen) > _MOST_OBJECTS or isinstance(part, nn.Module):
            return math.inf
        size += part.untyped_storage().nbytes() if isinstance(part, Tensor) else sys.getsizeof(part)
        if type(part).__module__ == "numpy":
            size += part.nbytes  # a view has no bytes of its own, but is saved with them
        elif isinstance(part, dict):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple, set, frozenset, deque)):
            parts += part
        if not isinstance(part, (type, Tensor)):
            parts += getattr(part, "__dict__", {}).values()
            slots = [vars(cls).get("__slots__", ()) for cls in type(part).__mro__]
            names = [name for found in slots for name in ([found] if isinstance(found, str) else found)]
            parts += [getattr(part, name, None) for name in names]
    return size


def _instead(value: Any) -> str:
    numpy = type(value).__module__.split(".")[0] == "numpy"
    if isinstance(value, nn.Module):
        return "Leave it out: save_hyperparameters(ignore=[...])"
    if isinstance(value, PurePath):
        return "Save str(path)"
    if isinstance(value, enum.Enum):
        return "Save its .value"
    if numpy and hasattr(value, "ndim"):
        return "Save x.item()" if value.ndim == 0 else "Save torch.as_tensor(x)"
    if isinstance(value, Mapping):
        return "Save dict(x)"
    if isinstance(value, (deque, frozenset, range, tuple, list, set)):
        return "Save list(x)"
    if dataclasses.is_dataclass(value):
        return "Save dataclasses.asdict(x)"
    return "Save numbers, texts, lists, dicts and tensors"
