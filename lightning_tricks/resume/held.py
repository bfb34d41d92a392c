"""What modules, loaders, samplers and data sets hold beside what Lightning saves: counters, orders, caches, flags.

Only what has changed since the fit began is saved: what has not is what the constructors made, and a resumed run may
have been given other arguments. How values are written is in ``encoding.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_tricks.dry_run import attributes, memory, objects
from lightning_tricks.dry_run.kinds import GENERATOR, ITERATOR
from lightning_tricks.dry_run.places import SHORT
from lightning_tricks.dry_run.states import equal_states
from lightning_tricks.dry_run.walk import Walk
from lightning_tricks.lifecycle.lightning_internals import combined_loader
from lightning_tricks.lifecycle.namespaces import of_lightning
from lightning_tricks.resume.encoding import MOST_ITEMS, NotPlainError, decoded, encoded, filled, without_references
from lightning_tricks.resume.replay import keeps_its_own_state

_READ = 2**26  # bytes of data sets that are read for digests
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
    # (``keep_vars`` gives the very tensors of the module, which can be recognised by identity)
    known = set() if module is None else {id(t) for t in module.state_dict(keep_vars=True).values()}
    for place, record in walk.records:
        if isinstance(record, (objects.DictRecord, objects.EmptyRecord)) and place.name.lstrip(".") in _OF_TORCH:
            continue
        where = str(place)
        if isinstance(record, objects.ObjectRecord) and not isinstance(record.owner, Tensor):
            _add(found, where, record.owner, _attributes(record.owner), known, spare)
        elif isinstance(record, objects.DictRecord):
            _add(found, where, record.owner, dict(record.owner), known, spare)
        elif isinstance(record, objects.ItemsRecord):
            found.digests[where] = hash(tuple(map(id, record.owner)))  # (of plain items, the owner's value tells more)
        elif isinstance(record, memory.ProtocolRecord):
            found.digests[where] = record
    found.lost = [str(o.place) for o in walk.obstacles if o.what in (GENERATOR, ITERATOR)]
    return found


def held_by_data(trainer: Any) -> Held:
    """Look at all that the loaders of a run hold; those that keep a state of their own are left to Lightning."""
    loaders = [loader for loader in combined_loader(trainer.fit_loop).flattened if not keeps_its_own_state(loader)]
    return held(None, loaders, trainer.datamodule)


def changed(before: Held, now: Held) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the values that are others than before or new, by place and name; and the places that cannot be saved."""
    values: dict[str, dict[str, Any]] = {}
    for place, named in now.values.items():
        old = before.values.get(place, {})
        new = {name: v for name, v in named.items() if name not in old or not equal_states(old[name], v)}
        if new:
            values[place] = {name: without_references(value) for name, value in new.items()}
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
                decoded(value)


def put(now: Held, values: Mapping[str, Mapping[str, Any]], module: nn.Module | None = None) -> list[str]:
    """Put back what ``changed`` returned; return the places that are gone.

    Args:
        now: what is there, in a run that has just begun.
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


# -- what is there ----------------------------------------------------------------------------------------------------


def _add(found: Held, place: str, owner: Any, contents: Mapping[Any, Any], known: set[int], spare: list[int]) -> None:
    found.owners[place] = owner
    values: dict[str, Any] = {}
    for name, value in contents.items():
        # Lightning saves parameters and persistent buffers itself
        if type(name) is not str or id(value) in known or isinstance(value, nn.Parameter):
            continue
        try:
            values[name] = encoded(value, [MOST_ITEMS], spare if ".dataset" in place else None)
        except NotPlainError:
            if isinstance(value, tuple):
                found.digests[f"{place}.{name}"] = hash(tuple(map(id, value)))
    if values:
        found.values[place] = values


def _attributes(owner: Any) -> dict[str, Any]:
    own = attributes.attributes_of(owner) or {}
    slots = {name: attributes.slot_value(owner, slot) for name, slot in attributes.slots_of(type(owner))}
    found = {**own, **{name: value for name, value in slots.items() if not attributes.is_missing(value)}}
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
    if isinstance(old, memory.ProtocolRecord):
        return not old.intact()
    return place in before.digests and old != digest


@torch.no_grad()
def _put(owner: Any, name: str, code: Any) -> None:
    """Set a value; a container, an array or a tensor that is there already is filled, since others may hold it too."""
    value = decoded(code)
    before = owner.get(name) if isinstance(owner, dict) else _attributes(owner).get(name)
    if type(before) is type(value) and filled(before, value):
        return
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        value = value.to(before.device)
    if isinstance(owner, dict):
        owner[name] = value
        return
    slot, own = dict(attributes.slots_of(type(owner))).get(name), attributes.attributes_of(owner)
    if slot is not None:
        slot.__set__(owner, value)
    elif own is not None:
        own[name] = value
