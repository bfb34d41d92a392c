"""DurableCheckpointIO: checkpoints that are whole or not there, whenever the process is killed.

Lightning writes into the folder for temporary files and moves the result. Where that folder is on another filesystem,
moving is copying, over the old checkpoint: a kill in the middle of it leaves neither the old nor the new one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from lightning_tricks.errors import TrickError, UnsupportedError, message, require_flag
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.namespaces import lightning_pytorch, pytorch_lightning
from lightning_tricks.resume.durable_files import (
    finish,
    local,
    make_folder,
    remove_stale,
    sync_folder,
    temporary,
    write,
)

OWNER = "DurableCheckpointIO"
CHECKSUM, PREVIOUS = ".sha256", ".previous"
# Lightning takes this argument since 2.6.0
_READS_WEIGHTS_ONLY = (
    "weights_only" in signature(lightning_pytorch.plugins.TorchCheckpointIO.load_checkpoint).parameters
)


class DurableCheckpointIO(lightning_pytorch.plugins.TorchCheckpointIO, pytorch_lightning.plugins.TorchCheckpointIO):
    """Write checkpoints so that a kill or a full disk at any moment leaves the old or the new one, never half of one.

    The file is written beside its target, so on the same filesystem, flushed to the disk (fsync), put in place in one
    step (``os.replace``), and the folder is flushed too. The bytes are those of Lightning's own plugin, and so is
    loading, with its default for ``weights_only``. Pass it as
    ``Trainer(plugins=[DurableCheckpointIO()])``; nothing is patched.

    Temporary files that killed runs left in the folder are removed at the first save; those of a run that is still
    writing are locked, and stay.

    Only files of the local machine or of a mounted filesystem: addresses such as ``s3://`` are refused when saving, and
    loaded by Lightning. Strategies that write a folder of shards (``ModelParallelStrategy`` unless
    ``save_distributed_checkpoint=False``, FSDP with sharded states, DeepSpeed) write it themselves and call no plugin:
    such checkpoints are as durable as theirs are, and ``ResumeGuard`` says so. The XLA strategies refuse every plugin
    but their own.

    Args:
        checksum: write ``<name>.sha256`` beside each checkpoint (``sha256sum -c`` reads it), and compare when loading.
            A checkpoint without one is loaded with a warning.
        keep_previous: keep what is overwritten as ``<name>.previous``; when the newest is torn or missing, load that
            instead, with a warning.

    Raises:
        TypeError: an argument is not True or False; or, when saving, ``storage_options`` are given.
        UnsupportedError: when saving, the path is remote, or a folder.
        TrickError: when loading, the file is not that of its checksum, and there is no previous one.

    Cost:
        One write and one fsync, as fast as the disk; no copy of the checkpoint in memory, where Lightning makes two.
        ``checksum``: one pass of SHA-256 over the bytes, when saving and when loading. ``keep_previous``: the space of
        one more checkpoint, and no copying where the filesystem has hard links.

    Example:
        >>> from lightning_tricks import DurableCheckpointIO
        >>> DurableCheckpointIO(keep_previous=True).keep_previous
        True

    Reference: Pillai et al., "All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    Applications", OSDI 2014; https://github.com/Lightning-AI/pytorch-lightning/issues/19970
    """

    def __init__(self, checksum: bool = False, keep_previous: bool = False) -> None:
        self.checksum = require_flag(OWNER, "checksum", checksum)
        self.keep_previous = require_flag(OWNER, "keep_previous", keep_previous)
        self._cleaned: set[str] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, whole or not at all."""
        if storage_options is not None:
            rule = "storage_options belong to remote filesystems, which it does not write to"
            raise TypeError(message(OWNER, "storage_options", storage_options, rule, "Leave them out"))
        target = writable(path)
        folder = target.parent
        make_folder(folder)
        if str(folder) not in self._cleaned:
            remove_stale(folder)
            self._cleaned.add(str(folder))
        with temporary(folder) as (file, name):
            digest = write(checkpoint, file, hashed=self.checksum)
            known = known_checksums(target) if self.checksum else []
            if self.keep_previous and target.exists():
                _keep(target)
            # The two files cannot be replaced in one step: until both are, the checksum of each state is good.
            if self.checksum:
                _note(target, [(digest, target.name), *((old, target.name) for old in known)])
            else:
                _beside(target, CHECKSUM).unlink(missing_ok=True)  # of an earlier run: it would refuse the new file
            os.replace(name, target)
            sync_folder(folder)
        if self.checksum:
            kept = [(known[0], target.name + PREVIOUS)] if self.keep_previous and known else []
            _note(target, [(digest, target.name), *kept])

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load as Lightning does, after comparing the checksum; or the previous one when the newest is torn."""
        target = local(path)
        if target is None:
            return self._read(path, map_location, weights_only)
        try:
            self._verify(target)
            return self._read(path, map_location, weights_only)
        except Exception as error:
            previous = _beside(target, PREVIOUS)
            # a whole file that cannot be loaded has another fault, which the previous one shares
            if not (self.keep_previous and previous.exists() and torn(target, hashed=self.checksum)):
                raise
            warn(OWNER, f"{target} is torn or missing ({type(error).__name__}). {previous.name} is loaded instead.")
        self._verify(previous, _beside(target, CHECKSUM))
        return self._read(previous, map_location, weights_only)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint with its checksum and its previous one."""
        super().remove_checkpoint(path)
        target = local(path)
        if target is not None:
            _beside(target, CHECKSUM).unlink(missing_ok=True)
            _beside(target, PREVIOUS).unlink(missing_ok=True)

    def _read(self, path: str | Path, map_location: Any, weights_only: bool | None) -> dict[str, Any]:
        found: dict[str, Any]
        if _READS_WEIGHTS_ONLY:
            found = super().load_checkpoint(path, map_location, weights_only)
        elif not weights_only or (target := local(path)) is None:  # (which loads any object, as older Lightning does)
            found = super().load_checkpoint(path, map_location)
        else:
            found = torch.load(target, map_location=map_location, weights_only=True)
        return found

    def _verify(self, file: Path, sidecar: Path | None = None) -> None:
        if self.checksum and file.exists():
            verify(file, sidecar or _beside(file, CHECKSUM))


def writable(path: str | Path) -> Path:
    """Return where a checkpoint is to be written.

    Raises:
        UnsupportedError: the path is remote, or a folder.
    """
    target = local(path)
    if target is None:
        rule, remedy = "only local paths can be written durably", "Save to a local folder, or leave the plugin out"
        raise UnsupportedError(message(OWNER, "path", str(path), rule, remedy))
    if target.is_dir():
        rule, remedy = "the path is a folder, as strategies write that shard", "Use another name, or remove it"
        raise UnsupportedError(message(OWNER, "path", str(path), rule, remedy))
    return target


def verify(file: Path, sidecar: Path) -> None:
    """Compare a file with the checksums beside it; without any it is taken as it is, with a warning."""
    noted = _noted(sidecar)
    if not noted:
        warn(OWNER, f"{file} has no checksum beside it: it is loaded as it is.")
    elif checksum(file) not in noted:
        rule = f"{file} is not the file that was written: its SHA-256 differs"
        remedy = f"Load another checkpoint; if you replaced the file yourself, remove {file.name}{CHECKSUM}"
        raise TrickError(message(OWNER, "checksum", True, rule, remedy))


def torn(target: Path, *, hashed: bool) -> bool:
    """Whether a file is missing, not a whole archive, or, where it has checksums that count, another one."""
    if not target.exists() or not zipfile.is_zipfile(target):
        return True
    noted = _noted(_beside(target, CHECKSUM)) if hashed else []
    return bool(noted) and checksum(target) not in noted


def known_checksums(target: Path) -> list[str]:
    """Return the checksums of what is there; the first one is the target's."""
    noted = _noted(_beside(target, CHECKSUM))
    if noted or not target.exists():
        return noted
    return [checksum(target)]


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _keep(target: Path) -> None:
    """Give what is about to be overwritten its second name."""
    with temporary(target.parent) as (_, name):
        # (``link`` refuses a name that exists)
        name.unlink()
        try:
            os.link(os.path.realpath(target), name)
        except OSError:  # a filesystem without hard links
            with open(name, "xb") as copy, open(target, "rb") as source:
                shutil.copyfileobj(source, copy, 1 << 20)
                finish(copy)
        os.replace(name, _beside(target, PREVIOUS))


def _noted(sidecar: Path) -> list[str]:
    """Return the checksums in a file of ours, or of ``sha256sum``."""
    text = sidecar.read_text(encoding="utf-8", errors="replace") if sidecar.exists() else ""
    return re.findall(r"^([0-9a-f]{64})\b", text, re.M)


def _note(target: Path, rows: list[tuple[str, str]]) -> None:
    """Write checksums as ``sha256sum`` does, each once."""
    text = "".join(f"{digest}  {name}\n" for digest, name in dict.fromkeys(rows))
    with temporary(target.parent) as (file, name):
        file.write(text.encode())
        finish(file)
        os.replace(name, _beside(target, CHECKSUM))
        sync_folder(target.parent)
