"""What a walk makes of an object by its class: a value that cannot change, a handle, data, or an obstacle."""

from __future__ import annotations

import abc
import contextvars
import datetime
import decimal
import enum
import io
import operator
import pathlib
import re
import struct
import sys
import threading
import types
import uuid
import weakref
import zoneinfo
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

VALUES: Any = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), type(NotImplemented)),
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone, decimal.Decimal),
        *(uuid.UUID, re.Pattern, re.Match, type(threading.Lock()), type(threading.RLock()), threading.local),
        *(types.ModuleType, types.CodeType, types.GetSetDescriptorType),
        *(types.MemberDescriptorType, types.MethodDescriptorType, types.WrapperDescriptorType),
        *(types.ClassMethodDescriptorType, types.GenericAlias, types.UnionType, struct.Struct),
        *(types.FrameType, types.TracebackType, type({}.keys()), type({}.values()), type({}.items()), memoryview),
        *(property, staticmethod, classmethod, weakref.ProxyType, weakref.CallableProxyType),
        *(contextvars.ContextVar, contextvars.Token, zoneinfo.ZoneInfo),
        *(operator.itemgetter, operator.attrgetter, operator.methodcaller, numpy.dtype, numpy.ufunc),
        *(torch.device, torch.dtype, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo),
        *(object, type(vars(abc.ABC)["_abc_impl"])),
    }
)
VALUE_BASES: Any = (
    *(type, enum.Enum, numpy.generic, pathlib.PurePath, int, float, complex, str, bytes, BaseException),
    weakref.ref,
)


# held by identity: they belong to a library and are not what a training step changes, or may not be walked
LIBRARIES = frozenset({"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "numpy"})
_HANDLES = (
    *("logging", "loguru", "rich", "tqdm", "typing", "matplotlib", "PIL", "pandas", "pyarrow", "polars"),
    *("tokenizers", "sentencepiece", "tiktoken", "regex", "_regex"),
    *("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "torch.distributed", "torch.autograd"),
    *("torch.cuda.streams", "torch.cuda.graphs", "torch._C", "torch.profiler", "torch.utils.hooks"),
)
_OF_A_RUN = frozenset({"Trainer", "Fabric", "_Loop", "Strategy", "Accelerator", "Profiler", "Precision", "Trick"})
OURS = "lightning_tricks"  # hooks of ours on the user's modules take notes in a dry run, which have to stay
_DATA = (Dataset, DataLoader, Sampler)

GENERATOR, ITERATOR = "a generator in progress", "an iterator in progress"  # obstacles that move on by themselves


def is_handle(kind: type) -> bool:
    """Whether objects of a class are held by identity: loggers, the Trainer, compiled code, handles of libraries.

    >>> is_handle(torch.nn.Linear), is_handle(torch.fx.Graph)
    (False, True)
    """
    if issubclass(kind, (torch.nn.Module, *_DATA)):
        return False
    if kind.__module__.startswith((*_HANDLES, OURS)):
        return any(kind.__module__ == name or kind.__module__.startswith(f"{name}.") for name in (*_HANDLES, OURS))
    return any(
        (cls.__name__ in _OF_A_RUN and cls.__module__.split(".")[0] in LIBRARIES)
        or (cls.__name__ == "Trick" and cls.__module__.startswith(OURS))
        for cls in kind.__mro__
    )


def hidden_state(kind: type) -> type | None:
    """Return the class that gives instances memory which neither their ``__dict__`` nor their slots show.

    A class written in Python is as large as its base, one pointer for each slot, and one each for ``__dict__`` and
    ``__weakref__``. Whatever is larger keeps something in C.

    >>> hidden_state(torch.nn.Linear), hidden_state(re.Pattern)
    (None, <class 're.Pattern'>)
    """
    for cls in kind.__mro__:
        if cls.__base__ is None or cls is Tensor:
            return None
        declared = cls.__dict__.get("__slots__", ())
        names = (declared,) if isinstance(declared, str) else tuple(declared)
        shown = len([n for n in names if n not in ("__dict__", "__weakref__")])
        shown += ("__dict__" in cls.__dict__) + ("__weakref__" in cls.__dict__)
        if cls.__basicsize__ - cls.__base__.__basicsize__ > 8 * shown:
            return cls
    return None


def is_data(kind: type) -> bool:
    """Whether instances of a class are data that reading leaves as they are; an iterable data set may be used up.

    >>> is_data(Dataset), is_data(IterableDataset)
    (True, False)
    """
    return issubclass(kind, _DATA) and not issubclass(kind, IterableDataset)


def obstacle(thing: Any, *, data: bool) -> str | None:
    """Return what keeps an object from being put back, in words; None when nothing does.

    Args:
        data: whether it is part of the data, where files and handles are read again by position.

    >>> obstacle(iter([1]), data=True), obstacle([1], data=False)
    ('an iterator in progress', None)
    """
    kind = type(thing)
    if issubclass(kind, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        return GENERATOR
    if hasattr(kind, "__next__") and hidden_state(kind) is not None and not issubclass(kind, io.IOBase):
        return ITERATOR
    if kind.__name__ in ("_SingleProcessDataLoaderIter", "_MultiProcessingDataLoaderIter"):
        return ITERATOR
    if data:
        return None
    if issubclass(kind, io.IOBase) and not issubclass(kind, (io.BytesIO, io.StringIO)):
        return None if thing.closed or thing in (sys.stdout, sys.stderr, sys.stdin) else "an open file"
    if issubclass(kind, threading.Thread):
        return "a running thread" if thing.is_alive() else None
    kinds = {cls.__module__.split(".")[0] + "." + cls.__name__ for cls in kind.__mro__}
    for name, what in _RESOURCES.items():
        if name in kinds:
            return what
    return None


def is_only_read(file: Any) -> bool:
    """Whether a file is only read, and can be set back to where it stands."""
    return not file.closed and file.readable() and not file.writable() and file.seekable()


def shown(kind: type) -> str:
    """Return the name of a class for a message."""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


_RESOURCES = {
    "torch.SummaryWriter": "a writer of TensorBoard files",
    "tensorboardX.SummaryWriter": "a writer of TensorBoard files",
    "lightning.Logger": "a logger, which writes past the Trainer",
    "pytorch_lightning.Logger": "a logger, which writes past the Trainer",
    "socket.socket": "a socket",
    "_socket.socket": "a socket",
    "subprocess.Popen": "a process",
    "multiprocessing.BaseProcess": "a process",
    "multiprocessing.Queue": "a queue between processes",
    "multiprocessing.SimpleQueue": "a queue between processes",
    "multiprocessing._ConnectionBase": "a connection to another process",
    "multiprocessing.Pool": "a pool of processes",
    "concurrent.Executor": "a pool of threads or processes",
    "tempfile._TemporaryFileWrapper": "an open file",
    "queue.SimpleQueue": "a queue between threads",
    "_queue.SimpleQueue": "a queue between threads",
}
