"""In what the state of one process differs from that of another, so that what all have is saved once.

Processes that are seeded alike hold the same random states, of some 15 kB each. A state is taken apart into its leaves,
which are compared by digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Path = tuple[str, ...]
Difference = dict[str, Any]  # {"gone": paths, "changed": rows of [paths, value]}; its form is in ``process_state.py``


def leaves(state: Mapping[str, Any], above: Path = ()) -> dict[Path, Any]:
    """Return what nested dicts hold, by path; an empty dict is a leaf.

    >>> leaves({"now": {"torch": 1, "numpy": 2}, "held": {}})
    {('now', 'torch'): 1, ('now', 'numpy'): 2, ('held',): {}}
    """
    found: dict[Path, Any] = {}
    for key, value in state.items():
        inside = isinstance(value, dict) and value and all(isinstance(name, str) for name in value)
        found.update(leaves(value, (*above, key)) if inside else {(*above, key): value})
    return found


def digest(value: Any) -> bytes:
    """Return 16 bytes that are equal for plain values and tensors that are equal, bit for bit.

    >>> digest([torch.ones(2), 1.0]) == digest([torch.ones(2), 1.0]), digest(1) == digest(1.0)
    (True, False)
    """
    found = hashlib.blake2b(digest_size=16)
    _feed(found, value)
    return found.digest()


def _feed(to: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        # (a tensor without a dimension cannot be viewed as bytes)
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        to.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        to.update(raw.data)
    elif isinstance(value, (list, tuple)):
        to.update(f"{type(value).__name__} {len(value)} ".encode())
        for item in value:
            _feed(to, item)
    elif isinstance(value, dict):
        to.update(f"dict {len(value)} ".encode())
        for key, item in value.items():
            _feed(to, key)
            _feed(to, item)
    else:
        text = repr(value)
        to.update(f"{type(value).__name__} {len(text)} {text} ".encode())


def digests(state: Mapping[str, Any]) -> dict[Path, bytes]:
    """Return the digest of each leaf, by path."""
    return {path: digest(value) for path, value in leaves(state).items()}


def difference(common: Mapping[Path, bytes], own: Mapping[str, Any]) -> Difference:
    """Return in what a state differs from another one, of which only the digests are known.

    A value that stands at several places is written once.

    Example:
        >>> difference(digests({"a": 1, "b": {"c": 2}}), {"a": 5, "b": {"d": 5}})
        {'gone': [['b', 'c']], 'changed': [[[['a'], ['b', 'd']], 5]]}
        >>> difference(digests({"a": 1}), {"a": 1})
        {}
    """
    mine = leaves(own)
    rows: dict[bytes, list[Any]] = {}
    for path, value in mine.items():
        mark = digest(value)
        if common.get(path) != mark:
            rows.setdefault(mark, [[], value])[0].append(list(path))
    gone = [list(path) for path in common if path not in mine]
    return {name: part for name, part in (("gone", gone), ("changed", list(rows.values()))) if part}


def merged(common: Mapping[str, Any], changes: Difference) -> dict[str, Any]:
    """Return the state of which ``difference`` has told in what it differs from ``common``.

    >>> one, other = {"a": 1, "b": {"c": 2}}, {"a": 5, "b": {"d": 5}}
    >>> merged(one, difference(digests(one), other)) == other
    True
    """
    found = leaves(common)
    for path in changes.get("gone", ()):
        found.pop(tuple(path), None)
    for paths, value in changes.get("changed", ()):
        found.update({tuple(path): value for path in paths})
    state: dict[str, Any] = {}
    for path, value in found.items():
        place = state
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = dict(value) if isinstance(value, dict) else value
    return state
