"""A snapshot of all that objects hold, and the way back to it: every object, value, version and random state.

    with Snapshot({"module": module}):
        module.training_step(batch, 0)      # whatever this changes
                                            # is here as it was before

Identity is preserved: whoever holds a tensor, a list or a module holds the right one afterwards. What cannot be put
back is found before user code runs, and refused by name.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from lightning_tricks.dry_run import storages
from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.dry_run.globals import Globals
from lightning_tricks.dry_run.memory import ArrayRecord, ChecksumRecord
from lightning_tricks.dry_run.objects import DictRecord, Record
from lightning_tricks.dry_run.places import (
    SMALL,
    FoundTensor,
    Limits,
    Obstacle,
    Place,
    affordable,
    gigabytes,
    spare_memory,
)
from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.states import equal_states
from lightning_tricks.dry_run.tensors import CopyOnWrite, StorageRecord
from lightning_tricks.dry_run.walk import Walk
from lightning_tricks.errors import NotRestorableError, in_one_line
from lightning_tricks.numerics.torch_internals import storage_id

# The hooks of every module in the process, as ``register_module_forward_hook`` sets them.
_HOOKS_OF_ALL = {n: v for n, v in vars(torch.nn.modules.module).items() if re.fullmatch("_global.*hooks", n)}


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Keep Python's garbage collector from running meanwhile.

    A snapshot makes some ten objects for each tensor, none of them garbage. The collector looks at all that the process
    holds whenever there are many new ones, which takes longer than the snapshot.

    >>> with no_collections():
    ...     gc.isenabled()
    False
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Snapshot:
    """The state of everything that roots hold, and of the global random generators.

    Memory: references to what is there; copies of small tensors and arrays (up to 1 MiB each); with ``steps``, copies
    of all trained tensors, in the host's memory. Other tensors are copied only when they are written to. For a
    ResNet-50 17 MiB are held, and 98 MiB with ``steps``; for a transformer of 12 layers and 327 MiB, 3 MiB and 327 MiB.

    Time: about 20 and 35 milliseconds for these two on one core, half of it for checksums of what is not copied
    (``benchmarks/results/dry_run-cpu.md``).

    Args:
        steps: whether optimizers will step, so that all trained tensors will be written to.
        watch: whether entering it as a context manager watches large tensors for writes; else these are held.
        also: storages (by ``_cdata``) that are copied at once, however large.
        max_bytes: for copies that are made at once; None for half of the host's free memory, shared by its processes.

    Raises:
        NotRestorableError: something cannot be put back, or is too large; the message names it.

    Example:
        >>> module = torch.nn.Linear(1, 1)
        >>> before = module.weight.item()
        >>> with Snapshot(Roots({"module": module})):
        ...     _ = torch.nn.init.constant_(module.weight, 7.0)
        ...     module.extra = [1]
        >>> module.weight.item() == before, hasattr(module, "extra")
        (True, False)
    """

    @torch.no_grad()
    @no_collections()
    def __init__(
        self,
        roots: Roots,
        *,
        steps: bool = False,
        watch: bool = True,
        also: Collection[int] = (),
        limits: Limits | None = None,
        max_bytes: int | None = None,
    ) -> None:
        walk = Walk(limits)
        for name, root in roots.data.items():
            walk.add(name, root, data=True)
        for name, root in roots.trained.items():
            walk.add(name, root, trained=True)
        for name, root in roots.model.items():
            walk.add(name, root)
        for name, hooks in _HOOKS_OF_ALL.items():
            walk.add(name, hooks)
        for name, owner in roots.surfaces.items():
            if owner is not roots.model.get("module"):
                walk.records.append((Place(None, name), DictRecord(vars(owner))))
        walk.run()
        outside = Globals(walk, roots.model.values())
        while outside.add_all():
            walk.run()
        if walk.obstacles:
            raise NotRestorableError(_told(walk.obstacles), walk.obstacles[0].place.root)
        self._records: list[tuple[Place, Record]] = walk.records
        self._tensors = walk.tensors
        self._storages: list[tuple[Place, StorageRecord]] = []
        self._watched: list[StorageRecord] = []
        self._unread: set[int] = set()
        self._optimizers = frozenset(roots.trained)
        self._failed: list[str] = []
        self._mode: CopyOnWrite | None = None
        limit = spare_memory() if max_bytes is None else max_bytes
        self._sort(walk, steps, frozenset(also), limit)
        self._watches = watch
        if watch:
            self.note_checksums()
        self._random = global_state()

    def _sort(self, walk: Walk, steps: bool, also: frozenset[int], limit: int) -> None:
        """Decide for each storage and array whether it is copied, watched or held."""
        grouped: dict[int, tuple[StorageRecord, list[FoundTensor]]] = {}
        for found in walk.tensors:
            storage = storages.storage_of(found.record.tensor)
            if storage is not None and storage.nbytes():
                # (large copies go to the host: what is free on the device belongs to the run)
                record = StorageRecord(storage, on_host=storage.nbytes() > SMALL)
                grouped.setdefault(storage_id(storage), (record, []))[1].append(found)
        copied: list[tuple[Place, StorageRecord]] = []
        arrays, left = affordable(walk.arrays, walk.limits)
        for record, founds in grouped.values():
            # Whatever an update writes is copied at once: at its first write it would be the same copy, only later.
            place, learns = founds[0].place, steps and any(f.trained for f in founds)
            if record.size <= SMALL or learns or storage_id(record.storage) in also:
                copied.append((place, record))
            else:
                self._watched.append(record)
                if all(f.data or f.place.root in self._optimizers for f in founds):
                    self._unread.add(storage_id(record.storage))
            self._storages.append((place, record))
        sizes = [(record.size, place) for place, record in copied] + [(f.array.nbytes, f.place) for f in arrays]
        total = sum(size for size, _ in sizes)
        if total > limit:
            size, place = max(sizes, key=lambda found: found[0])
            raise NotRestorableError(
                f"copies would take {gigabytes(total)} of {gigabytes(limit)} that may be used; "
                f"the largest is {place} ({gigabytes(size)})",
                place.root,
            )
        for _, record in copied:
            record.copy()
        self._records += [(found.place, ArrayRecord(found.array)) for found in arrays]
        self._records += [(found.place, ChecksumRecord(found.array)) for found in left]
        self._array_bytes = sum(found.array.nbytes for found in arrays)

    def note_checksums(self) -> None:
        """Read the large tensors that were not copied, to tell later whether they were written to.

        Those of data and of optimizers are not read: they are many, and what writes to them goes by way of torch.
        """
        for record in self._watched:
            if storage_id(record.storage) not in self._unread:
                record.note_checksum()

    def written(self) -> set[int]:
        """Return the large storages (``_cdata``) that were written to since their checksum was noted."""
        return {storage_id(record.storage) for record in self._watched if not record.intact()}

    @property
    def nbytes(self) -> int:
        """The bytes that are held in copies now."""
        return self._array_bytes + sum(r.size for _, r in self._storages if r.saved is not None)

    @property
    def num_records(self) -> int:
        """How many objects and tensors are recorded."""
        return len(self._records) + len(self._tensors)

    def __enter__(self) -> Snapshot:
        if self._watched and self._watches:
            self._mode = CopyOnWrite([record for record in self._watched if record.saved is None])
            self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(*exception)  # type: ignore[no-untyped-call]
        self.restore()

    @torch.no_grad()
    @no_collections()
    def restore(self) -> None:
        """Make everything as it was, even if single objects refuse. May be called more than once."""
        # the bytes of these are known; where those of another are not, a version that has moved on has to be noticed
        known = {storage_id(r.storage) for _, r in self._storages if self._watches or r.saved is not None}
        for place, restore in self._restores(known):
            try:
                restore()
            except Exception as error:  # (somebody's object may refuse; the others are still put back)
                self._failed.append(f"{place} ({type(error).__name__})")
        set_global_state(self._random)

    def _restores(self, known: set[int]) -> Iterator[tuple[Place, Callable[[], None]]]:
        for place, record in self._records:
            yield place, record.restore
        for found in self._tensors:
            yield found.place, found.record.restore
        for place, storage in self._storages:
            yield place, storage.restore
        # Versions come last, because putting back memory and flags may count as writing.
        for found in self._tensors:
            memory = storages.storage_of(found.record.tensor)
            if memory is None or not memory.nbytes() or storage_id(memory) in known:
                yield found.place, found.record.restore_version

    @torch.no_grad()
    @no_collections()
    def damage(self) -> list[str]:
        """Return the places of what is not as it was: nothing, after ``restore``. One host read per device.

        Compared are identities, flags and versions of everything; values of everything that was copied or watched.
        """
        places = [place for place, record in self._records if not _is_intact(record)]
        places += [found.place for found in self._tensors if not _is_intact(found.record)]
        places += [place for place, storage in self._storages if not _is_intact(storage)]
        random = [] if equal_states(global_state(), self._random) else ["the global random generators"]
        return [*dict.fromkeys([*map(str, places), *self._failed]), *random]


def taken(roots: Callable[[], Roots], *, steps: bool = False, limits: Limits | None = None) -> Snapshot:
    """Return a snapshot. Whatever fails is told in one form: other processes wait to hear of it.

    Raises:
        NotRestorableError: something cannot be put back, or fails when it is looked at.
    """
    try:
        return Snapshot(roots(), steps=steps, limits=limits)
    except NotRestorableError:
        raise
    except Exception as error:
        what = f"something fails when it is looked at ({type(error).__name__}: {in_one_line(error)})"
        raise NotRestorableError(what) from error


def _is_intact(record: Any) -> bool:
    try:
        return bool(record.intact())
    except Exception:  # (it cannot be compared: it is not what it was)
        return False


def _told(obstacles: list[Obstacle]) -> str:
    more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
    return f"{obstacles[0]}{more}"
