"""Walk everything that an object holds, and record what is needed to put it back. Runs none of the object's own code.

What is found is of one of four kinds: values that cannot change (numbers, strings, functions of libraries); containers
and objects, whose records hold references and whose content is walked on; tensors, arrays and random generators, whose
values are recorded; and obstacles, which cannot be put back. Obstacles are collected, so that whoever wants to run user
code can be told before it runs.

Two regions differ. In the model everything has to be put back. In *data* (data sets, samplers, loaders) open files,
large containers and handles of other libraries are held by identity and not walked: reading them again leaves them as
they are. An iterable data set is not read by position, so what it holds has to be put back as a model has.
"""

from __future__ import annotations

import functools
import io
import time
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sized
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_tricks.dry_run import attributes, generators, memory, objects, storages, tensors
from lightning_tricks.dry_run.kinds import (
    LIBRARIES,
    OURS,
    VALUE_BASES,
    VALUES,
    hidden_state,
    is_data,
    is_handle,
    is_only_read,
    obstacle,
    shown,
)
from lightning_tricks.dry_run.objects import Record, ScriptedRecord, property_record
from lightning_tricks.dry_run.places import FoundArray, FoundTensor, Limits, Obstacle, Place
from lightning_tricks.numerics.torch_internals import children_of, script_parts, without_subclasses

_CACHE = type(functools.lru_cache(lambda: 0))
_BOUND = (types.BuiltinFunctionType, types.MethodWrapperType)  # of an object in C, which they hold
_ITEMS = (list, deque, set)
_OF_MODULES = frozenset(f".{name}" for name in vars(torch.nn.Module()))  # hooks and parts, most of them empty
_DICTS = (dict, OrderedDict, set)
_SKIPPED = {DataLoader: ("_iterator", "_DataLoader__multiprocessing_context")}


Visit = Callable[["Place", Any, bool, bool], None]


class Walk:
    """Everything that roots hold. Add roots, then ``run``.

    Example:
        >>> walk = Walk()
        >>> walk.add("module", torch.nn.Linear(1, 1))
        >>> walk.run()
        >>> [str(found.place) for found in walk.tensors]
        ['module.weight', 'module.bias']
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.records: list[tuple[Place, Record]] = []
        self.tensors: list[FoundTensor] = []
        self.arrays: list[FoundArray] = []
        self.obstacles: list[Obstacle] = []
        # the model is walked before data: what both hold has to be put back completely. Data are walked level by level:
        # what is near (a sampler, its generator) is seen before a limit is reached in what is large
        self._model: deque[tuple[Place, Any, bool, bool]] = deque()
        self._data: deque[tuple[Place, Any, bool, bool]] = deque()
        self.kinds: dict[type, bool] = {}  # class -> whether it was seen in data only
        self.functions: dict[types.FunctionType, bool] = {}
        self._seen: dict[int, Any] = {}  # (holds the objects: an id may not be used again meanwhile)
        self._visits: dict[type, Visit | None] = {}
        self._largest: tuple[int, Place | None] = (0, None)

    def add(self, name: str, root: Any, *, data: bool = False, trained: bool = False) -> None:
        """Add a root.

        Args:
            name: what messages call it.
            data: whether it is data, of which handles are held and not walked.
            trained: whether a step writes to all its tensors (an optimizer's state).
        """
        self._push(Place(None, name), root, data, trained)

    def run(self) -> None:
        """Walk until everything is seen. A model that is too large is an obstacle; data that are, are left."""
        if not self._all_of(self._model, self._model.pop, self.limits.seconds):
            size, largest = self._largest
            place = largest or Place(None, "the module")
            self.obstacles.append(Obstacle(place, f"too large to be looked through ({size:,} items)"))
            return
        self._all_of(self._data, self._data.popleft, self.limits.data_seconds)
        self._data.clear()

    def _all_of(self, waiting: Sized, following: Callable[[], Any], seconds: float) -> bool:
        """Visit what waits, and what that holds; return False where a limit was reached before."""
        end, count = time.thread_time() + seconds, 0
        while waiting:
            place, thing, data, trained = following()
            if id(thing) in self._seen:
                continue
            self._seen[id(thing)] = thing
            count += 1
            if count > self.limits.objects or (count % 512 == 0 and time.thread_time() > end):
                return False
            kind = type(thing)
            try:
                if kind not in self._visits:
                    self._visits[kind] = self._visit_for(kind)
                visit = self._visits[kind]
                if self.kinds.get(kind, True):
                    self.kinds[kind] = data
                if visit is not None:
                    visit(place, thing, data, trained)
            except Exception as error:  # (somebody's class may raise wherever it is looked at)
                if not data:
                    what = f"a {shown(kind)} that fails when it is looked at ({type(error).__name__})"
                    self.obstacles.append(Obstacle(place, what))
        return True

    def _push(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        if type(thing) not in VALUES and id(thing) not in self._seen:
            (self._data if data else self._model).append((place, thing, data, trained))

    # -- what to do with a class ------------------------------------------------------------------------------------

    def _visit_for(self, kind: type) -> Visit | None:
        """Return how objects of a class are visited; None for values that cannot change."""
        if issubclass(kind, VALUE_BASES):
            return None
        if issubclass(kind, Tensor):
            return self._visit_tensor
        if issubclass(kind, generators.KINDS):
            return self._visit_generator
        if is_handle(kind):
            return None
        if issubclass(kind, numpy.ndarray):
            return self._visit_array
        if memory.is_bytes(kind):
            return lambda place, thing, *_: self._record(place, memory.BytesRecord(thing))
        if issubclass(kind, (dict, *_ITEMS, tuple, frozenset, types.MappingProxyType)):
            return self._visit_container
        if issubclass(kind, types.FunctionType):
            return self._visit_function
        if issubclass(kind, _CACHE):
            return self._visit_cache
        if issubclass(kind, _BOUND):
            return self._visit_bound
        if issubclass(kind, types.MethodType):
            return lambda place, thing, *rest: self._push_all(
                place, [("", thing.__self__), ("", thing.__func__)], *rest
            )
        if issubclass(kind, types.CellType):
            return self._visit_cell
        if issubclass(kind, functools.partial):
            return lambda place, thing, *rest: self._push_all(
                place, [("", v) for v in (thing.func, *thing.args, *thing.keywords.values())], *rest
            )
        return self._visit_object

    def _visit_generator(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        if generators.is_generator(thing):
            self._record(place, memory.GeneratorRecord(thing))
            self._visit_attributes(place, thing, data, trained)

    def _visit_object(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        kind = type(thing)  # (``isinstance`` would ask the object for its class: a proxy loads then what it stands for)
        if issubclass(kind, torch.jit.ScriptModule) and script_parts(thing) is not None:
            self._visit_script(place, thing, data, trained)
        elif issubclass(kind, io.IOBase) and not data and is_only_read(thing):
            self._record(place, memory.FileRecord(thing))
        elif (what := obstacle(thing, data=data)) is not None:
            self.obstacles.append(Obstacle(place, what))
        elif hidden_state(kind) is None:
            self._visit_attributes(place, thing, data or is_data(kind), trained)
        elif not data:
            self._visit_foreign(place, thing)

    def _visit_foreign(self, place: Place, thing: Any) -> None:
        """An object with state outside of Python: fine where it gives it out and takes it back."""
        kind = type(thing)
        if kind.__module__.split(".")[0] in LIBRARIES:
            return
        try:
            if not hasattr(kind, "__setstate__"):
                raise TypeError
            self._record(place, memory.ProtocolRecord(thing))
        except Exception:
            self.obstacles.append(Obstacle(place, f"a {shown(kind)}, whose state is kept outside of Python"))

    # -- what is in it ----------------------------------------------------------------------------------------------

    def _record(self, place: Place, record: Record) -> None:
        self.records.append((place, record))

    def _push_all(self, place: Place, named: list[tuple[str, Any]], data: bool, trained: bool) -> None:
        for name, value in reversed(named):  # (the last one is walked first)
            if type(value) in VALUES or id(value) in self._seen:
                continue
            if name in _OF_MODULES and type(value) in _DICTS and not value:
                self._seen[id(value)] = value  # (some ten of each module: nothing of them has to wait for its turn)
                self._record(Place(place, name), objects.EmptyRecord(value))
            else:
                self._push(Place(place, name), value, data, trained)

    def _visit_container(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        kind = type(thing)
        base = attributes.base_of(kind)
        size = base.__len__(thing)
        self._largest = max(self._largest, (size, place), key=lambda found: found[0])
        if base is dict:
            self._record(place, objects.DictRecord(thing))
            if issubclass(kind, defaultdict):
                self._push_all(place, [(".default_factory", thing.default_factory)], data, trained)
        elif base in _ITEMS:
            self._record(place, objects.ItemsRecord(thing))
        if not (data and size > self.limits.items):
            self._push_all(place, list(_items(thing)), data, trained)
        if type(thing).__module__ != "builtins":  # a class derived from one may have attributes
            self._visit_attributes(place, thing, data, trained)

    def _visit_attributes(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        slots = attributes.slots_of(type(thing))
        own = attributes.attributes_of(thing)
        if not slots and own is None:
            return
        self._record(place, objects.ObjectRecord(thing, slots))
        if issubclass(type(thing), torch.nn.Module) and isinstance(children_of(thing), dict):
            for name in children_of(thing).get("parametrizations") or ():
                self._record(Place(place, f".{name}"), property_record(type(thing), name))
        skipped = next((names for kind, names in _SKIPPED.items() if issubclass(type(thing), kind)), ())
        known = (own or {}).items()
        named = [(f".{n}", v) for n, v in known if type(v) not in VALUES and n not in skipped]
        held = [(f".{n}", attributes.slot_value(thing, slot)) for n, slot in slots]
        self._push_all(place, [*named, *(h for h in held if not attributes.is_missing(h[1]))], data, trained)

    def _visit_function(self, place: Place, thing: Any, data: bool, trained: bool) -> None:
        """Variables of its closure, default values and attributes; of a library's function nothing."""
        if (thing.__module__ or "").split(".")[0] in (*LIBRARIES, OURS):
            return
        self.functions[thing] = data and self.functions.get(thing, True)
        held = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *(thing.__closure__ or ())]
        if thing.__dict__:
            held.append(thing.__dict__)
        self._push_all(place, [("", value) for value in held], data, trained)

    def _visit_cache(self, place: Place, cache: Any, data: bool, trained: bool) -> None:
        """A second call gives what the first one has computed: where that was drawn, it is to be drawn again."""
        if (cache.__module__ or "").split(".")[0] not in (*LIBRARIES, OURS):
            self._record(place, objects.CacheRecord(cache))
            self._push_all(place, [(".__wrapped__", cache.__wrapped__)], data, trained)

    def _visit_bound(self, place: Place, method: Any, data: bool, trained: bool) -> None:
        owner = getattr(method, "__self__", None)
        if owner is not None and not issubclass(type(owner), (types.ModuleType, type)):
            self._push_all(place, [(".__self__", owner)], data, trained)

    def _visit_cell(self, place: Place, cell: Any, data: bool, trained: bool) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # empty
            return
        write = functools.partial(setattr, cell, "cell_contents")
        self._record(place, objects.ValueRecord(lambda: cell.cell_contents, write))
        self._push_all(place, [("", value)], data, trained)

    def _visit_array(self, place: Place, array: Any, data: bool, trained: bool) -> None:
        if issubclass(type(array), numpy.memmap) and array.mode not in ("w+", "r+"):
            return
        if data and not (array.flags.writeable or array.dtype.hasobject):
            return
        if type(array) is not numpy.ndarray:  # (a masked array keeps its mask in an attribute)
            self._visit_attributes(place, array, data, trained)
        self.arrays.append(FoundArray(place, array, data))
        if array.dtype.hasobject and not (data and array.size > self.limits.items):
            self._push_all(place, [(f"[{i}]", v) for i, v in enumerate(array.ravel().tolist())], data, trained)

    def _visit_tensor(self, place: Place, tensor: Tensor, data: bool, trained: bool) -> None:
        record = tensors.TensorRecord(tensor)
        learns = trained or (tensor.requires_grad and tensor.is_leaf)
        self.tensors.append(FoundTensor(place, record, data, learns))
        with without_subclasses():
            gradient = tensor.grad if tensor.is_leaf else None
            held: list[tuple[str, Any]] = [(f".{n}", t) for n, t in storages.inner_tensors(tensor)]
            if gradient is not None:
                held.append((".grad", gradient))
            for name in tensors.HOOKS:
                if getattr(tensor, name, None) is not None:
                    held.append((f".{name}", getattr(tensor, name)))
        self._push_all(place, held, data, learns)
        self._visit_attributes(place, tensor, data, learns)

    def _visit_script(self, place: Place, module: Any, data: bool, trained: bool) -> None:
        """A TorchScript module keeps its attributes in C++; they are read and written one by one."""
        parts: tuple[Any, list[str]] = script_parts(module) or (None, [])
        inner = parts[0]
        for name in parts[1]:
            read, write = functools.partial(inner.getattr, name), functools.partial(inner.setattr, name)
            value = read()
            if isinstance(value, Tensor):
                self._record(place, objects.ValueRecord(read, write))
                self._push_all(place, [(f".{name}", value)], data, trained)
            elif isinstance(value, (bool, int, float, str, list, tuple, dict, type(None))):
                self._record(place, ScriptedRecord(read, write))
        self._push_all(place, [(f".{name}", child) for name, child in children_of(module).items()], data, trained)
        self._visit_attributes(place, module, data, trained)


def _items(container: Any) -> Iterator[tuple[str, Any]]:
    """Give what is in a container, with its name there; keys of a dict too, which may be objects."""
    base = attributes.base_of(type(container))
    if base in (dict, types.MappingProxyType):
        for key, value in list(base.items(container)):
            yield (f"[{key!r}]" if type(key) in (str, int) else "[...]"), value
            if type(key) not in VALUES:
                yield ".keys()", key
    else:
        for i, value in enumerate(list(base.__iter__(container))):
            yield f"[{i}]", value
