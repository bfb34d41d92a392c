"""What modules, loaders, samplers and data sets hold beside what Lightning saves: counters, orders, caches, flags.

Only what has changed since the fit began is saved: what has not is what the constructors made, and a resumed run may
have been given other arguments. Everything is a dict, list, number, text, None or tensor, so it loads with
``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_tricks.dry_run import objects
from lightning_tricks.dry_run.walk import GENERATOR, ITERATOR, SHORT, Walk
from lightning_tricks.lifecycle.trick import of_lightning
from lightning_tricks.resume.replay import keeps_its_own_state

LARGEST = 2**24  # bytes of one value
_COPIED = 2**16  # bytes of one value in a data set that are copied; of a larger one a digest is taken
_READ = 2**26  # bytes of data sets that are read for digests
_MOST_ITEMS = 200_000  # of one container
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_KIND, _CONTENT = "kind", "content"  # of a value that is written as a dict
_OF_TORCH = frozenset(vars(nn.Module())) - {"_buffers"}  # (of which some are not persistent)
_OF_A_LOADER = frozenset(vars(DataLoader([0])))  # type: ignore[arg-type]


@dataclass
class Held:
    """The plain values that are there now, by the place of their owner and their name in it.

    Args:
        values: encoded, by place and name.
        digests: of what is too large or too strange to be encoded, by place: it can be compared, and not put back.
        owners: by place.
        flags: ``requires_grad`` of the module's parameters.
        lost: places of what is known from the start not to be saved: iterators in progress, say.
    """

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def held(module: nn.Module | None, loaders: Iterable[Any] = (), datamodule: Any = None) -> Held:
    """Look at all that a module and loaders hold.

    Args:
        module: None to look at the loaders alone.
        loaders: with their samplers and data sets, in which large containers are not looked through.
        datamodule: looked at as the loaders are.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> module.count, before = 0, held(module)
        >>> before = held(module); module.count = 7
        >>> changed(before, held(module))
        ({'module': {'count': 7}}, [])
    """
    walk, found = Walk(SHORT), Held()
    for i, loader in enumerate(loaders):
        walk.add(f"loader {i}", loader, data=True)
    if datamodule is not None:
        walk.add("datamodule", datamodule, data=True)
    if module is not None:
        walk.add("module", module)
        found.flags = {name: p.requires_grad for name, p in module.named_parameters()}
    walk.run()
    spare = [_READ]
    known = set() if module is None else {id(t) for t in module.state_dict(keep_vars=True).values()}
    for place, record in walk.records:
        where = str(place)
        if isinstance(record, objects.ObjectRecord) and not isinstance(record.owner, Tensor):
            _add(found, where, record.owner, _attributes(record.owner), known, spare)
        elif isinstance(record, objects.DictRecord) and _is_looked_at(place.name):
            _add(found, where, record.owner, dict(record.owner), known, spare)
        elif isinstance(record, objects.ItemsRecord):
            found.digests[where] = hash(tuple(map(id, record.owner)))  # (of plain items, the owner's value tells more)
        elif isinstance(record, objects.ProtocolRecord):
            found.digests[where] = record
    found.lost = [str(o.place) for o in walk.obstacles if o.what in (GENERATOR, ITERATOR)]
    return found


def held_by_data(trainer: Any) -> Held:
    """Look at all that the loaders of a run hold; those that keep a state of their own are left to Lightning."""
    loaders = [loader for loader in trainer.fit_loop._combined_loader.flattened if not keeps_its_own_state(loader)]
    return held(None, loaders, trainer.datamodule)


def changed(before: Held, now: Held) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the values that are others than before or new, by place and name; and the places that cannot be saved."""
    values: dict[str, dict[str, Any]] = {}
    for place, named in now.values.items():
        old = before.values.get(place, {})
        new = {name: v for name, v in named.items() if name not in old or not objects.equal_states(old[name], v)}
        if new:
            values[place] = {name: _copied(value) for name, value in new.items()}
    flags = {name: flag for name, flag in now.flags.items() if before.flags.get(name, flag) is not flag}
    if flags:
        values[""] = flags
    saved = {f"{place}.{name}" for place, named in now.values.items() for name in named}
    others = {place: digest for place, digest in now.digests.items() if place not in saved}
    return values, [*now.lost, *(place for place, digest in others.items() if _differs(before, place, digest))]


def check(values: Mapping[str, Mapping[str, Any]]) -> None:
    """Read values of a checkpoint, which may be damaged.

    Raises:
        Exception: of any kind, where they cannot be read.
    """
    for place, named in values.items():
        for value in named.values():
            if place and isinstance(value, (dict, list)):
                _decoded(value)


def put(now: Held, values: Mapping[str, Mapping[str, Any]], module: nn.Module | None = None) -> list[str]:
    """Put back what ``changed`` returned; return the places that are gone.

    Args:
        now: what is there, in a run that has just begun.
        values: of an earlier run.
        module: whose parameters get their ``requires_grad`` back.
    """
    gone = []
    for place, named in values.items():
        if place == "":
            parameters = {} if module is None else dict(module.named_parameters())
            for name, flag in named.items():
                if name in parameters:
                    parameters[name].requires_grad_(flag)
        elif place not in now.owners:
            gone.append(place)
        else:
            for name, value in named.items():
                _put(now.owners[place], name, value)
    return gone


def go_back(
    now: Held, before: Held, values: Mapping[str, Mapping[str, Any]], module: nn.Module | None = None
) -> list[str]:
    """Make everything as it was before, but for ``values``; return the places of these that are gone."""
    put(now, changed(now, before)[0], module)
    return put(now, values, module)


def is_numeric(value: Any) -> bool:
    """Whether an encoded value is a tensor or an array.

    >>> is_numeric(torch.ones(1)), is_numeric([1])
    (True, False)
    """
    return isinstance(value, Tensor) or (isinstance(value, dict) and value[_KIND] == "array")


# -- what is there ----------------------------------------------------------------------------------------------------


def _add(found: Held, place: str, owner: Any, contents: Mapping[Any, Any], known: set[int], spare: list[int]) -> None:
    found.owners[place] = owner
    values: dict[str, Any] = {}
    for name, value in contents.items():
        if type(name) is not str or id(value) in known or isinstance(value, nn.Parameter):
            continue
        try:
            values[name] = _encoded(value, [_MOST_ITEMS], spare if ".dataset" in place else None)
        except _NotPlainError:
            if isinstance(value, tuple):
                found.digests[f"{place}.{name}"] = hash(tuple(map(id, value)))
    if values:
        found.values[place] = values


def _is_looked_at(name: str) -> bool:
    return name.lstrip(".") not in _OF_TORCH


def _attributes(owner: Any) -> dict[str, Any]:
    own = objects.attributes_of(owner) or {}
    slots = {name: objects.slot_value(owner, slot) for name, slot in objects.slots_of(type(owner))}
    found = {**own, **{name: value for name, value in slots.items() if not objects.is_missing(value)}}
    hidden = _hidden(type(owner))
    return {name: value for name, value in found.items() if name not in hidden}


def _hidden(kind: type) -> frozenset[str]:
    """Return the attributes that torch and Lightning keep for themselves in objects of a class."""
    if issubclass(kind, DataLoader):
        return _OF_A_LOADER
    if issubclass(kind, DistributedSampler):
        return frozenset({"seed", "epoch"})  # (the seed is put back by itself, the epoch by Lightning)
    own = _OF_TORCH if issubclass(kind, nn.Module) else frozenset()
    for cls in kind.__mro__:
        if of_lightning(cls) and cls.__name__ in ("LightningModule", "LightningDataModule"):
            own |= frozenset(vars(cls())) | {"trainer"}
    return own


def _differs(before: Held, place: str, digest: Any) -> bool:
    old = before.digests.get(place)
    if isinstance(old, objects.ProtocolRecord):
        return not old.intact()
    return place in before.digests and old != digest


# -- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Large:
    """An array or tensor of a data set that is neither copied nor kept alive."""

    reference: weakref.ref[Any]
    digest: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Large) and other.digest == self.digest

    @staticmethod
    def of(value: Any) -> _Large | None:
        """Return it with its digest; None where that would have to wait for a device, or cannot be encoded later."""
        if isinstance(value, Tensor):
            if value.device.type != "cpu" or value.layout is not torch.strided:
                return None
            array = value.detach().reshape(-1).view(torch.uint8).numpy()
        elif value.dtype.kind in "biufc":
            array = value
        else:
            return None
        return _Large(weakref.ref(value), hashlib.blake2b(numpy.ascontiguousarray(array).data.cast("B")).digest())


class _NotPlainError(Exception):
    """A value cannot be written as plain values."""


def _encoded(value: Any, budget: list[int], spare: list[int] | None = None) -> Any:
    """Return a copy of a value as plain values; arrays become tensors, kinds of containers are noted.

    Args:
        value: of any kind.
        budget: how many items are left.
        spare: of a data set, how many bytes may still be read for digests: larger arrays and tensors are not copied.

    Raises:
        _NotPlainError: it is of another kind, or too large.
    """
    budget[0] -= 1
    if budget[0] < 0:
        raise _NotPlainError
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in (list, tuple, deque, set, frozenset):
        budget[0] -= len(value)
        if budget[0] < 0:
            raise _NotPlainError
        items = [_encoded(item, budget, spare) for item in value]
        if kind is list:
            return items
        more = {"maxlen": value.maxlen} if kind is deque else {}
        return {_KIND: kind.__name__, _CONTENT: items, **more}
    if kind is dict:
        rows = [[_encoded(key, budget), _encoded(item, budget, spare)] for key, item in value.items()]
        return {_KIND: "dict", _CONTENT: rows}
    if spare is not None and kind in (numpy.ndarray, Tensor) and value.nbytes > _COPIED:
        spare[0] -= value.nbytes
        large = _Large.of(value) if value.nbytes <= LARGEST and spare[0] >= 0 else None
        if large is None:
            raise _NotPlainError
        return large
    if kind is numpy.ndarray and value.dtype.kind in "biufc" and value.nbytes <= LARGEST:
        raw = torch.from_numpy(numpy.frombuffer(value.tobytes(), dtype=numpy.uint8).copy())
        return {_KIND: "array", _CONTENT: raw, "dtype": value.dtype.str, "shape": list(value.shape)}
    if kind is Tensor and value.layout is torch.strided and value.nbytes <= LARGEST and value.device.type != "meta":
        return value.detach().to("cpu", copy=True)
    raise _NotPlainError


def _copied(value: Any) -> Any:
    """Return an encoded value in which nothing is held by reference any more."""
    if isinstance(value, _Large):
        return _encoded(value.reference(), [_MOST_ITEMS])
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[_KIND], value[_CONTENT]
    if kind == "array":
        flat = numpy.frombuffer(content.numpy().tobytes(), dtype=numpy.dtype(value["dtype"]))
        return flat.reshape(value["shape"]).copy()
    if kind == "dict":
        return {_decoded(key): _decoded(item) for key, item in content}
    items = [_decoded(item) for item in content]
    if kind == "deque":
        return deque(items, value["maxlen"])
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


@torch.no_grad()
def _put(owner: Any, name: str, encoded: Any) -> None:
    """Set a value; a container, an array or a tensor that is there already is filled, since others may hold it too."""
    value = _decoded(encoded)
    before = owner.get(name) if isinstance(owner, dict) else _attributes(owner).get(name)
    if type(before) is type(value) and _filled(before, value):
        return
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        value = value.to(before.device)
    if isinstance(owner, dict):
        owner[name] = value
        return
    slot, attributes = dict(objects.slots_of(type(owner))).get(name), objects.attributes_of(owner)
    if slot is not None:
        slot.__set__(owner, value)
    elif attributes is not None:
        attributes[name] = value


def _filled(there: Any, value: Any) -> bool:
    if isinstance(there, numpy.ndarray):
        fits = bool(there.shape == value.shape and there.dtype == value.dtype and there.flags.writeable)
        if fits:
            there[...] = value
        return fits
    if isinstance(there, Tensor):
        fits = there.shape == value.shape and there.dtype == value.dtype and there.grad_fn is None
        if fits:
            there.copy_(value)
        return fits
    if isinstance(there, list):
        there[:] = value
        return True
    if isinstance(there, (dict, set)):
        there.clear()
        there.update(value)
        return True
    if isinstance(there, deque) and there.maxlen == value.maxlen:
        there.clear()
        there.extend(value)
        return True
    return False
