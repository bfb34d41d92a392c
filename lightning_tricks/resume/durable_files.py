"""Files that are whole or not there, whenever the process is killed; what a kill left behind is removed."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import torch

# Windows has none; there a file that is open cannot be removed anyway
fcntl: Any = import_module("fcntl") if os.name == "posix" else None


HOST = re.sub(r"\W", "_", platform.node())[:32] or "machine"


_TEMPORARY = re.compile(r"\.durable-checkpoint-(\w+)-[0-9a-f]{16}\.tmp")


_DAY = 86_400.0


_CANNOT = (errno.EINVAL, errno.ENOTSUP)  # what filesystems answer that know no fsync of a folder, or no lock


def local(path: str | Path) -> Path | None:
    """Return the path in the local filesystem; None when it is an address in another one.

    >>> local("file:///data/last.ckpt").as_posix(), local("s3://bucket/last.ckpt")
    ('/data/last.ckpt', None)
    """
    scheme, found, rest = str(path).partition("://")
    if not found:
        return Path(path)
    return Path(rest) if scheme in ("file", "local") else None


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a new file of ours, open and locked, and its name; remove what is still there afterwards.

    The lock ends with the process, however that ends: so a file without one belongs to nobody.
    """
    # (not from ``random``: saving must not move the run's generators)
    name = folder / f".durable-checkpoint-{HOST}-{secrets.token_hex(8)}.tmp"
    with open(name, "xb") as file:
        try:
            if fcntl is not None:
                with suppress(OSError):  # a filesystem without locks: nobody else can take one there either
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file, name
        finally:
            name.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove temporary files of ours whose process is gone; after a day also those of other machines."""
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        with suppress(OSError):  # somebody else was faster, or still holds it
            # another machine's lock may not be seen here
            if found[1] == HOST or time.time() - path.stat().st_mtime > _DAY:
                with open(path, "rb") as file:
                    if fcntl is not None:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder, so that it is there after a power cut too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if fcntl is None:  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


class Sink:
    """What torch writes to: passes on to the file, and keeps an error or interrupt, which torch replaces by its own."""

    def __init__(self, file: BinaryIO, hashed: bool) -> None:
        self._file, self._digest = file, hashlib.sha256() if hashed else None
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write to the file."""
        try:
            self._file.write(data)
        except BaseException as error:
            self.error = error
            raise
        if self._digest is not None:
            self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written; empty where it is not wanted."""
        return self._digest.hexdigest() if self._digest is not None else ""


def write(checkpoint: dict[str, Any], file: BinaryIO, hashed: bool) -> str:
    """Write to the disk; return the checksum when it is wanted."""
    sink = Sink(file, hashed)
    try:
        torch.save(checkpoint, sink)  # type: ignore[arg-type]
    except RuntimeError:
        if sink.error is not None:
            raise sink.error from None
        raise
    finish(file)
    return sink.digest


def finish(file: BinaryIO) -> None:
    """Flush a file to the disk, so that it can be put in place."""
    file.flush()
    os.fsync(file.fileno())
    if fcntl is None:  # Windows puts no open file in place of another
        file.close()
