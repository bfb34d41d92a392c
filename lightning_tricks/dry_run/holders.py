"""Who keeps tensors alive: the attributes, lists and closures of a run that hold tensors, arrays, graphs and hooks.

The walk of the snapshot engine without its records: nothing is copied, and of large containers a sample is looked at.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from lightning_tricks.dry_run import attributes, memory, storages, tensors
from lightning_tricks.dry_run.attributes import SAMPLED, base_of, some_items
from lightning_tricks.dry_run.globals import Globals
from lightning_tricks.dry_run.graphs import Graph, graph_below
from lightning_tricks.dry_run.holdings import OWN_PARTS, Census, Holding, holder_of
from lightning_tricks.dry_run.places import Limits, Place
from lightning_tricks.dry_run.walk import Visit, Walk
from lightning_tricks.numerics.torch_internals import storage_id, without_subclasses

LIMITS = Limits(objects=50_000, seconds=1.0, data_seconds=0.3)
_GRAPHS_OF_A_HOLDER = 2  # that are looked at; the others are taken to be as large
_CONTAINERS = (dict, OrderedDict, list, set, tuple)
_LARGE = 20_000  # operations of a graph that are counted


@dataclass
class _Mark:
    """What is known of a place, for all that is below it."""

    place: Place  # (held: the id that it is found by may not be used again)
    scale: float = 1.0
    metric: bool = False
    bounded: bool = False
    traceback: bool = False


def take_census(
    model: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    earlier: Collection[int] = (),
    limits: Limits = LIMITS,
) -> Census:
    """Return who holds what.

    Args:
        model: roots by name: the module, callbacks; and the globals that their code names.
        data: roots by name of which handles are not looked into: loaders, data sets.
        earlier: ids of tensors of an earlier batch, or of its outputs, that are still alive.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> module.losses = [module(torch.ones(1)), module(torch.ones(1))]
        >>> found = take_census({"module": module}).holdings["module.losses"]
        >>> found.tensors, found.graphs
        (2.0, 2.0)
    """
    walk = HolderWalk(earlier, limits)
    for name, root in (data or {}).items():
        walk.add(name, root, data=True)
    for name, root in model.items():
        walk.add(name, root)
    walk.run()
    outside = Globals(walk, model.values())
    while outside.add_all():
        walk.run()
    return walk.counted()


class HolderWalk(Walk):
    """A walk that notes who holds what, and nothing to put back; see ``take_census``."""

    def __init__(self, earlier: Collection[int], limits: Limits) -> None:
        super().__init__(limits)
        self.census = Census()
        self._earlier = frozenset(earlier)
        self._marks: dict[int, _Mark] = {}
        self._variables: dict[int, str] = {}  # names of cells of closures
        self._storages: set[int] = set()
        self._graphs: dict[str, list[Graph]] = {}

    # -- what to do with a class ------------------------------------------------------------------------------------

    def _visit_for(self, kind: type) -> Visit | None:
        if issubclass(kind, BaseException):
            return self._visit_exception
        return None if memory.is_bytes(kind) else super()._visit_for(kind)

    def _visit_exception(self, place: Place, error: Any, data: bool, trained: bool) -> None:
        """An exception keeps the local variables of the functions that it passed through."""
        named: list[tuple[str, Any]] = []
        step = error.__traceback__
        while step is not None and len(named) < SAMPLED:
            named += [(f"[{n}]", v) for n, v in step.tb_frame.f_locals.items() if issubclass(type(v), Tensor)]
            step = step.tb_next
        self._mark(place).traceback = True
        self._push_all(place, named, data, trained)

    def _visit_container(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        base = base_of(type(thing))
        size = base.__len__(thing)
        items = some_items(base, thing, size if place.name in OWN_PARTS else SAMPLED)
        if place.name.endswith("_hooks") and base is dict:
            self._holding(place)[0].hooks += size
        if size > len(items):
            self._mark(place).scale = size / len(items)
        if base is deque and thing.maxlen is not None:
            self._mark(place).bounded = True
        self._push_all(place, items, data, trained)
        if type(thing).__module__ not in ("builtins", "collections"):
            self._visit_attributes(place, thing, data, trained)

    def _visit_attributes(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        kind: Any = type(thing)
        if _is_metric(kind):
            self._mark(place).metric = True
        own = attributes.attributes_of(thing) or {}
        held = [(f".{n}", v) for n, v in own.items() if type(v) not in _CONTAINERS or v]
        slots = [(f".{n}", attributes.slot_value(thing, slot)) for n, slot in _slots_of(kind)]
        held += [s for s in slots if not attributes.is_missing(s[1])]
        if issubclass(kind, torch.utils.data.DataLoader):  # what is under way in its workers is not kept
            held = [(name, value) for name, value in held if name != "._iterator"]
        if held:
            self._push_all(place, held, data, trained)

    def _visit_function(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False):
            self._variables[id(cell)] = name
        super()._visit_function(place, thing, data, trained)

    def _visit_cell(self, place: Place, cell: Any, data: bool, trained: bool) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # it is empty
            return
        self._push_all(place, [(f", variable {self._variables.get(id(cell), '')!r}", value)], data, trained)

    def _visit_cache(self, place: Place, cache: Any, data: bool, trained: bool) -> None:
        """What a cache holds lies outside of Python."""

    def _visit_generator(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        """A random generator keeps no memory that grows."""

    def _visit_foreign(self, place: Place, thing: Any) -> None:
        """What lies outside of Python cannot be told."""

    def _record(self, place: Place, record: Any) -> None:
        """Nothing is to be put back."""

    # -- what is noted ----------------------------------------------------------------------------------------------

    def _visit_array(self, place: Place, array: Any, data: bool, trained: bool) -> None:
        owner = array.base if isinstance(array.base, numpy.ndarray) else array
        holding, scale = self._holding(place)
        holding.arrays += scale
        if not isinstance(owner, numpy.memmap) and id(owner) not in self._storages:
            self._storages.add(id(owner))  # (the array itself is held, so its base is alive)
            holding.nbytes += scale * owner.nbytes
        if array.dtype.hasobject:
            self._push_all(place, some_items(list, array.ravel().tolist()), data, trained)

    def _visit_tensor(self, place: Place, tensor: Tensor, data: bool, trained: bool) -> None:
        with without_subclasses():
            gradient, grad_fn = (tensor.grad if tensor.is_leaf else None), tensor.grad_fn
            held: list[tuple[str, Any]] = [(f".{n}", t) for n, t in storages.inner_tensors(tensor)]
            held += [(f".{n}", hooks) for n in tensors.HOOKS if (hooks := getattr(tensor, n, None))]
        if gradient is not None:
            held.append((".grad", gradient))
        self._push_all(place, held, data, trained)
        self._visit_attributes(place, tensor, data, trained)
        size = self._new_bytes(tensor)
        weight = issubclass(type(tensor), nn.Parameter) or place.name == ".grad"
        if weight and grad_fn is None:
            self.census.tensors += 1
            self.census.nbytes += size
            return
        holding, scale = self._holding(place)
        self.census.tensors += scale
        self.census.nbytes += scale * size
        holding.tensors += scale
        holding.nbytes += scale * size
        holding.elements = max(holding.elements, tensor.numel())
        holding.device_bytes += scale * size if tensor.device.type != "cpu" else 0.0
        holding.kept += id(tensor) in self._earlier and tensor.numel() > 1
        if grad_fn is not None:
            holding.graphs += scale
            self._note_graph(holding, grad_fn)

    def _new_bytes(self, tensor: Tensor) -> int:
        storage = storages.storage_of(tensor)
        if storage is None or storage_id(storage) in self._storages:
            return 0
        self._storages.add(storage_id(storage))
        return storage.nbytes()

    def _note_graph(self, holding: Holding, grad_fn: Any) -> None:
        graphs = self._graphs.setdefault(holding.name, [])
        if len(graphs) < _GRAPHS_OF_A_HOLDER:
            graphs.append(graph_below(grad_fn, without=self._storages, most=_LARGE))

    def counted(self) -> Census:
        """Return what was found, with the graphs; called once, after the walk."""
        for name, graphs in self._graphs.items():
            holding = self.census.holdings[name]
            share = holding.graphs / len(graphs)
            holding.nodes = share * sum(graph.nodes for graph in graphs)
            holding.nbytes += share * sum(graph.nbytes for graph in graphs)
        return self.census

    def _mark(self, place: Place) -> _Mark:
        return self._marks.setdefault(id(place), _Mark(place))

    def _holding(self, place: Place) -> tuple[Holding, float]:
        """Return what is noted of the holder of a place, and for how many like it that place stands."""
        scale, metric, bounded, traceback = 1.0, False, False, False
        above: Place | None = place
        while above is not None:
            mark = self._marks.get(id(above))
            if mark is not None:
                scale *= mark.scale
                metric, bounded = metric or mark.metric, bounded or mark.bounded
                traceback = traceback or mark.traceback
            above = above.parent
        name = holder_of(place)
        found = self.census.holdings.setdefault(name, Holding(name))
        found.metric, found.bounded = found.metric or metric, found.bounded or bounded
        found.traceback = found.traceback or traceback
        return found, scale


@lru_cache(maxsize=10_000)
def _slots_of(kind: type) -> list[tuple[str, Any]]:
    return attributes.slots_of(kind)


@lru_cache(maxsize=10_000)
def _is_metric(kind: type) -> bool:
    return any(c.__name__ == "Metric" and c.__module__.startswith("torchmetrics") for c in kind.__mro__)
