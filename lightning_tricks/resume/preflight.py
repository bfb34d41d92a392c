"""What would break a later resume, told from what is known before the first step. Plain values in, findings out.

A checkpoint is written with everything that callbacks and hyperparameters hold, but since torch 2.6 it is read with
``weights_only=True``, which refuses most classes: what was written for days may not be read.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import math
import os
import re
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.errors import listed

_PLAIN = {type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size}
_DICTS = (dict, OrderedDict, Counter)  # their own types, no subclasses: what is refused is the class
_LISTS = (list, tuple, set)
_LARGEST = 2**16  # bytes of an object that is tried
_MOST_OBJECTS = 2000  # in an object that is tried
_MOST_TRIALS = 50
_MOST_SHOWN = 8
_TRUSTED = "or load with fit(..., weights_only=False) where you trust the file"


@dataclass(frozen=True)
class Finding:
    """Something that would break a resume.

    Args:
        what: what is wrong.
        fix: what to do about it.

    Example:
        >>> print(Finding("no checkpoint is written", "Add ModelCheckpoint()"))
        no checkpoint is written. Add ModelCheckpoint().
    """

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what.rstrip('.')}. {self.fix.rstrip('.')}."


# -- what does not load ---------------------------------------------------------------------------------------------


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
        findings.append(Finding(f"{len(found) - _MOST_SHOWN} more values will not load ({more})", "Mend them alike"))
    return findings


def loads(value: object) -> bool:
    """Whether a value that was saved can be loaded under ``weights_only=True``: tried out, in memory.

    >>> loads([1, torch.ones(2)]), loads(deque([1]))
    (True, False)
    """
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
        if kind in self._refused:
            return False
        if _is_large(value):
            return kind in self._allowed
        if self._trials >= _MOST_TRIALS:
            return True
        self._trials += 1
        good = loads(value)
        if not good and kind not in self._allowed:
            self._refused.add(kind)
        return good


def _is_large(value: object) -> bool:
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
    """Return what to save instead."""
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


# -- what is not written --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """What a ``ModelCheckpoint`` was told.

    Args:
        save_last: whether it writes ``last.ckpt``.
        save_top_k: how many it keeps; -1 for all.
        monitor: the metric that decides which, or None.
        every_n_steps: updates between two checkpoints, or 0.
        every_n_epochs: epochs between two checkpoints, or 0.
        interval: time between two checkpoints, as text, or empty.
        on_exception: whether it writes when training dies.
        weights_only: whether it leaves out all but the weights.
        after_validation: whether a validation within the epoch makes it write.
    """

    save_last: bool = False
    save_top_k: int = 1
    monitor: str | None = None
    every_n_steps: int = 0
    every_n_epochs: int = 1
    interval: str = ""
    on_exception: bool = False
    weights_only: bool = False
    after_validation: bool = False

    @property
    def by_steps(self) -> bool:
        """Whether it writes by steps or time: then ``last.ckpt`` does not wait for the best."""
        return self.every_n_steps > 0 or bool(self.interval)

    @property
    def keeps_newest(self) -> bool:
        """Whether the state of not long ago is on the disk at any time."""
        all_of_them = self.save_top_k == -1 or (self.monitor is None and self.save_top_k != 0)
        when = self.by_steps or self.every_n_epochs > 0
        return not self.weights_only and when and (all_of_them or (self.save_last and self.by_steps))


def written(writers: Sequence[Writer], *, others: bool = False) -> list[Finding]:
    """Return why a killed run would leave no checkpoint of its newest state.

    Args:
        writers: the ``ModelCheckpoint`` callbacks.
        others: whether there are checkpoint callbacks of other classes, of which nothing is known.

    Example:
        >>> print(written([Writer(save_last=True, save_top_k=0)])[0].what)
        ModelCheckpoint(save_last=True, save_top_k=0) writes nothing before training ends: a kill leaves no checkpoint
        >>> written([Writer()])
        []
    """
    if not writers and not others:
        return [Finding("no checkpoint callback: a killed run leaves no checkpoint", "Add ModelCheckpoint()")]
    findings = [found for writer in writers if (found := _misleading(writer)) is not None]
    if writers and not findings and not others and not any(writer.keeps_newest for writer in writers):
        best = any(writer.monitor is not None and writer.save_top_k for writer in writers)
        what = "only the best state is kept: a resume goes back to it" if best else "nothing is written while training"
        findings.append(Finding(f"no ModelCheckpoint keeps the newest state; {what}", "Add ModelCheckpoint()"))
    return findings


def _misleading(writer: Writer) -> Finding | None:
    if writer.weights_only:
        what = "ModelCheckpoint(save_weights_only=True) leaves out optimizers and counters: a resume from it is refused"
        return Finding(what, "Use save_weights_only=False, or another ModelCheckpoint() for resuming")
    if writer.save_top_k == 0 and not writer.save_last and not writer.on_exception:
        return Finding("ModelCheckpoint(save_top_k=0) writes nothing", "Use save_top_k=1")
    if not writer.save_last or writer.by_steps:
        return None
    remedy = "Use ModelCheckpoint(save_last=True) without monitor, beside the one with monitor; or every_n_train_steps="
    if writer.save_top_k == 0:
        call = "ModelCheckpoint(save_last=True, save_top_k=0)"
        what = f"{call} writes nothing before training ends: a kill leaves no checkpoint"
        return Finding(what, "Use save_top_k=1 without monitor, or every_n_train_steps=")
    if writer.monitor is not None and writer.save_top_k == 1:
        call = f"ModelCheckpoint(save_last=True, monitor={writer.monitor!r})"
        return Finding(f"with {call} last.ckpt is a copy of the best checkpoint, not the last", remedy)
    if writer.monitor is not None and writer.save_top_k > 1:
        call = f"ModelCheckpoint(save_last=True, monitor={writer.monitor!r}, save_top_k={writer.save_top_k})"
        what = f"with {call} last.ckpt is the newest of the {writer.save_top_k} best, not the last"
        return Finding(what, remedy)
    return None


# -- what moves on --------------------------------------------------------------------------------------------------


def moving(places: Sequence[str], lost: Sequence[str], unfreezing: Sequence[str]) -> list[Finding]:
    """Return what changes while training and is in no checkpoint.

    Args:
        places: of what ``ExactResume`` would save.
        lost: places of what nobody can save.
        unfreezing: classes of callbacks that unfreeze parameters.

    Example:
        >>> print(moving(["loader 0.sampler"], [], [])[0])
        loader 0.sampler changes while training, and is in no checkpoint. Add ExactResume().
    """
    findings = []
    if places:
        verbs = ("changes", "is") if len(places) == 1 else ("change", "are")
        what = f"{listed(places, _MOST_SHOWN)} {verbs[0]} while training, and {verbs[1]} in no checkpoint"
        findings.append(Finding(what, "Add ExactResume()"))
    if lost:
        verb = "changes" if len(lost) == 1 else "change"
        what = f"{listed(lost, _MOST_SHOWN)} {verb} while training, and cannot be saved"
        findings.append(Finding(what, "Save what is needed in on_save_checkpoint, and load it in on_load_checkpoint"))
    for name in unfreezing:
        what = f"after a resume, {name} leaves frozen what it had unfrozen (Lightning #21901)"
        findings.append(Finding(what, "Add ExactResume(), which saves requires_grad"))
    return findings


# -- what a kill tears ----------------------------------------------------------------------------------------------


def filesystem(path: Path, mounts: str | None = None) -> tuple[int, str]:
    r"""Return device and mount point of a path, or of the nearest folder above that exists.

    Both must be equal for a file to be moved in one step: a bind mount has the device of what it shows.

    Args:
        path: a file or folder.
        mounts: the text of ``/proc/self/mountinfo``; None to read it, where there is one.

    Example:
        >>> table = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 /x /tmp rw - ext4 a rw"
        >>> filesystem(Path("/tmp/none"), table)[1], filesystem(Path("/tm"), table)[1]
        ('/tmp', '/')
    """
    real = Path(os.path.realpath(path))
    there = next(folder for folder in (real, *real.parents) if folder.exists())
    if mounts is None:
        table = Path("/proc/self/mountinfo")
        mounts = table.read_text(encoding="utf-8", errors="replace") if table.exists() else ""
    points = [_unescaped(line.split()[4]) for line in mounts.splitlines() if len(line.split()) > 4]
    above = [point for point in points if real == Path(point) or Path(point) in real.parents]
    return there.stat().st_dev, max(above, key=len, default="")


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)


def torn(temporary: Path, folder: Path) -> list[Finding]:
    """Return whether Lightning's way to write a checkpoint can leave half of one.

    Args:
        temporary: the folder for temporary files.
        folder: where checkpoints go; it need not exist yet.
    """
    if filesystem(temporary) == filesystem(folder):
        return []
    what = (
        f"checkpoints are written to {temporary} and then copied to {folder}, on another filesystem: a kill while they "
        "are copied leaves a torn one in place of the last"
    )
    return [Finding(what, f"Use Trainer(plugins=[DurableCheckpointIO()]), or set TMPDIR to a folder beside {folder}")]


def durable(folder: str, *, remote: bool, sharded: bool) -> list[Finding]:
    """Return where ``DurableCheckpointIO`` refuses to write, or is not asked.

    >>> durable("s3://bucket", remote=True, sharded=False)[0].fix
    'Use a local folder, or leave DurableCheckpointIO out'
    """
    if sharded:
        what = "the strategy writes a folder of shards itself: DurableCheckpointIO is not asked, and a kill can tear it"
        return [Finding(what, "Use save_distributed_checkpoint=False, or keep more than one checkpoint")]
    if remote:
        what = f"DurableCheckpointIO writes to local folders only: the first checkpoint in {folder} will be refused"
        return [Finding(what, "Use a local folder, or leave DurableCheckpointIO out")]
    return []


# -- what is trained twice ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loader:
    """What is known of a loader of training data.

    Args:
        name: its class.
        stateful: whether it has ``state_dict`` and ``load_state_dict``.
        iterable: whether its data cannot be asked for their position.
        shuffled: whether its order is drawn at random, by a sampler whose state no checkpoint holds.
    """

    name: str = "DataLoader"
    stateful: bool = False
    iterable: bool = False
    shuffled: bool = False


@dataclass(frozen=True)
class Data:
    """The training data as they are when training starts.

    Args:
        loaders: one for each.
        updates: optimizer steps in an epoch; inf where nobody knows.
        exact: whether ``ExactResume`` is there.
        made_early: whether the loaders were made before a checkpoint's state could be put back.
    """

    loaders: tuple[Loader, ...] = field(default=())
    updates: float = float("inf")
    exact: bool = False
    made_early: bool = False


def repeated(data: Data, writers: Sequence[Writer]) -> list[Finding]:
    """Return which data a resume would train twice, leave out, or take in another order.

    Example:
        >>> for found in repeated(Data((Loader(),), updates=100), [Writer(every_n_steps=30, every_n_epochs=0)]):
        ...     print(found.what)
        a checkpoint every 30 steps falls inside an epoch, and DataLoader cannot resume there: the first batches are \
trained twice and the last ones never
    """
    writers = [writer for writer in writers if not writer.weights_only]
    inside = next((when for writer in writers if (when := _inside(writer, data.updates))), "")
    findings = []
    lost = [x for x in data.loaders if not x.stateful and (x.iterable or not data.exact)]
    if inside and lost:
        what = (
            f"a checkpoint {inside} falls inside an epoch, and {lost[0].name} cannot resume there: the first batches "
            "are trained twice and the last ones never"
        )
        exact = "" if lost[0].iterable else "ExactResume(), "
        rest = "a loader with state_dict and load_state_dict (torchdata's StatefulDataLoader), or checkpoints at the"
        findings.append(Finding(what, f"Use {exact}{rest} ends of epochs"))
    if inside and data.made_early and any(loader.stateful for loader in data.loaders):
        what = (
            "the training loader was made before a checkpoint's state is put back, as estimated_stepping_batches in "
            "configure_optimizers does: a resume starts its epoch anew"
        )
        findings.append(Finding(what, "Use LRSchedule, which counts when training starts, or count the steps yourself"))
    if writers and not data.exact and any(loader.shuffled for loader in data.loaders):
        what = (
            "the data are shuffled, and no checkpoint holds the random state: a resumed run takes them in another order"
        )
        findings.append(Finding(what, "Add ExactResume()"))
    return findings


def _inside(writer: Writer, updates: float) -> str:
    """Return when a callback writes in the middle of an epoch; empty when it does not."""
    if writer.every_n_steps and (updates == float("inf") or writer.every_n_steps % max(1, int(updates))):
        return f"every {writer.every_n_steps} steps"
    if writer.interval:
        return f"every {writer.interval}"
    if writer.every_n_epochs and writer.after_validation:
        return "after each validation"
    return "when training dies" if writer.on_exception else ""


# -- how it ends ----------------------------------------------------------------------------------------------------

SIGTERM = Finding(
    "a SIGTERM ends this process with exit code 0 and saves nothing by itself: a scheduler takes the run for finished",
    "Use ModelCheckpoint(save_on_exception=True), and around fit: except SystemExit as end: sys.exit(end.code or 143)",
)
