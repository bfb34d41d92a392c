"""Tensors in a snapshot: where each one lies in memory, and the bytes that lie there. torch only, no Lightning.

Values are kept by storage, not by tensor: views, tied weights, flattened recurrent weights and expanded tensors share
one, and its bytes are copied and put back once, without the dispatcher and so without a trace in version counters.

A storage is copied at once, or watched and copied before its first write, or held: by identity and version only.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.dry_run.storages import (
    PLAIN,
    Storage,
    checksum,
    inner_names,
    same_bytes,
    same_memory,
    storage_of,
    wraps,
)
from lightning_tricks.numerics.torch_internals import (
    TorchDispatchMode,
    is_view,
    schema_of,
    set_version,
    storage_id,
    version_of,
    without_subclasses,
)

_MUCH = 1 << 16  # bytes
HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # dicts, which a tensor holds


class StorageRecord:
    """The bytes of one storage as they were.

    Args:
        storage: of any device.
        on_host: keep the copy in the host's memory and not beside the original.
    """

    __slots__ = ("_before", "_on_host", "saved", "size", "storage")

    def __init__(self, storage: Storage, *, on_host: bool) -> None:
        self.storage, self.size, self._on_host = storage, storage.nbytes(), on_host
        self.saved: Storage | None = None
        self._before: Tensor | None = None

    def copy(self) -> None:
        """Copy the bytes, unless they are copied already."""
        if self.saved is None:
            moved = self._on_host and self.storage.device.type != "cpu"
            self.saved = self.storage.cpu() if moved else self.storage.clone()  # type: ignore[no-untyped-call]

    def note_checksum(self) -> None:
        """Remember a checksum, for a storage that is watched: a write past torch's dispatcher shows in it."""
        self._before = checksum(self.storage)

    def restore(self) -> None:
        """Put the bytes back where they were copied and are others now."""
        if self.saved is None:
            return
        # to look at much memory is cheaper than to copy it; on another device it would be a host read
        if self.size > _MUCH and self.storage.device.type == "cpu" and self.intact():
            return
        # (sharded modules free a storage by giving it a size of 0)
        if self.storage.nbytes() != self.size:
            self.storage.resize_(self.size)
        self.storage.copy_(self.saved)

    def intact(self) -> bool:
        """Whether the bytes are what they were, as far as that is known. Reads from the device."""
        if self.storage.nbytes() != self.size:
            return False
        if self.saved is not None:
            moved = self.saved.device != self.storage.device
            return same_bytes(self.storage, self.saved.to(device=self.storage.device) if moved else self.saved)
        return self._before is None or torch.equal(checksum(self.storage), self._before)


class TensorRecord:
    """One tensor as it was: its memory, its flags, its gradient, its version.

    Its methods are called where gradients are disabled.
    """

    __slots__ = ("_alias", "_grad_fn", "_gradient", "_hooks", "_kind", "_leaf", "_required", "_version", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self._kind = tensor, type(tensor)
        with without_subclasses():
            self._grad_fn = tensor.grad_fn
            self._leaf, self._required = tensor.is_leaf, tensor.requires_grad
            self._gradient = tensor.grad if self._leaf else None
            self._hooks = [getattr(tensor, name, None) for name in HOOKS]
            self._version = _version(tensor)
            # shares the memory of today, whatever the tensor's own ``.data`` will be
            self._alias = None if wraps(tensor) else tensor.detach()

    def restore(self) -> None:
        """Give the tensor its memory, flags and gradient back. Bytes are the ``StorageRecord``'s."""
        tensor = self.tensor
        with without_subclasses():
            if type(tensor) is not self._kind:
                tensor.__class__ = self._kind  # (a lazy parameter that was materialized)
            if self._alias is not None and not same_memory(tensor, self._alias):
                # (this keeps the tensor object, which optimizers and graphs hold)
                tensor.data = self._alias
            if self._leaf and (tensor.grad_fn is not None or not tensor.is_leaf):
                self._make_leaf()
            if tensor.is_leaf and tensor.requires_grad != self._required:
                tensor.requires_grad_(self._required)
            if self._leaf and tensor.grad is not self._gradient:
                tensor.grad = self._gradient
            for name, hooks in zip(HOOKS, self._hooks, strict=True):
                if getattr(tensor, name, None) is not hooks:
                    setattr(tensor, name, hooks)

    def _make_leaf(self) -> None:
        """Take a tensor out of the graph that an operation in place has put it into."""
        tensor = self.tensor
        try:
            tensor.detach_()
        except RuntimeError:  # a view: another object over the same memory takes its place
            attributes = tensor.__dict__
            try:
                torch.utils.swap_tensors(tensor, tensor.detach())  # type: ignore[no-untyped-call]
            except RuntimeError:  # a graph that nobody needs any more still holds it
                gc.collect()
                torch.utils.swap_tensors(tensor, tensor.detach())  # type: ignore[no-untyped-call]
            tensor.__dict__ = attributes

    def restore_version(self) -> None:
        """Set the version counter back, so that graphs which saved this tensor stay valid."""
        if self._version is not None and _version(self.tensor) != self._version:
            set_version(self.tensor, self._version)

    def intact(self) -> bool:
        """Whether memory, flags, graph, gradient and version are what they were."""
        tensor = self.tensor
        with without_subclasses():
            grad_fn = tensor.grad_fn  # (of a view it is worked out when it is asked for, and decides about ``is_leaf``)
            return (
                type(tensor) is self._kind
                and (self._alias is None or same_memory(tensor, self._alias))
                and tensor.is_leaf == self._leaf
                and tensor.requires_grad == self._required
                and _same_graph(tensor, grad_fn, self._grad_fn)
                and (not self._leaf or tensor.grad is self._gradient)
                and all(getattr(tensor, n, None) is hooks for n, hooks in zip(HOOKS, self._hooks, strict=True))
                and _version(tensor) == self._version
            )


class CopyOnWrite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies a watched storage before an operation writes to it, also through ``.data``, views and ``out=``.

    A compiled module runs uncompiled meanwhile (torch does not enter compiled code under a dispatch mode).

    Example:
        >>> weight = torch.ones(2)
        >>> record = StorageRecord(weight.untyped_storage(), on_host=False)
        >>> with CopyOnWrite([record]):
        ...     _ = weight * 2
        ...     before = record.saved
        ...     _ = weight.data.mul_(2)
        >>> before, record.restore(), weight
        (None, None, tensor([1., 1.]))
    """

    def __init__(self, records: Iterable[StorageRecord]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = {storage_id(record.storage): record for record in records}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what the operation writes to, then let it."""
        given = kwargs or {}
        for position, name in _written(function):
            value = args[position] if position is not None and position < len(args) else given.get(name)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor):
                    self._copy(tensor)
        return function(*args, **given)

    def _copy(self, tensor: Tensor) -> None:
        if wraps(tensor):
            for name in inner_names(tensor):
                self._copy(getattr(tensor, name))
            return
        storage = storage_of(tensor)
        # (popped: only the first write meets the old bytes)
        record = None if storage is None else self._watched.pop(storage_id(storage), None)
        if record is not None:
            record.copy()


_WRITTEN: dict[Any, tuple[tuple[int | None, str], ...]] = {}


def _written(function: Any) -> Sequence[tuple[int | None, str]]:
    """Return position and name of the arguments that an operation writes to."""
    known = _WRITTEN.get(function)
    if known is None:
        arguments = schema_of(function).arguments if schema_of(function).is_mutable else ()
        known = _WRITTEN[function] = tuple(
            (None if a.kwarg_only else i, a.name)
            for i, a in enumerate(arguments)
            if a.alias_info is not None and a.alias_info.is_write
        )
    return known


def _same_graph(tensor: Tensor, now: Any, before: Any) -> bool:
    """Whether a tensor is the result of the same operation; torch rebuilds that of a view from its base."""
    return type(now) is type(before) if is_view(tensor) else now is before


def _version(tensor: Tensor) -> int | None:
    if type(tensor) in PLAIN:
        return None if tensor.is_inference() else version_of(tensor)
    with without_subclasses():
        return None if tensor.is_inference() else version_of(tensor)
