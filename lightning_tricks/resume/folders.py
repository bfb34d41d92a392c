"""Where a kill can tear a checkpoint, told from the folders and filesystems it passes through."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lightning_tricks.resume.findings import Finding


def filesystem(path: Path, mounts: str | None = None) -> tuple[int, str]:
    r"""Return device and mount point of a path, or of the nearest folder above that exists.

    Both must be equal for a file to be moved in one step: a bind mount has the device of what it shows.

    Args:
        mounts: the text of ``/proc/self/mountinfo``; None to read it, where there is one.

    Example:
        >>> table = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 /x /tmp rw - ext4 a rw"
        >>> filesystem(Path("/tmp/none"), table)[1], filesystem(Path("/tm"), table)[1]
        ('/tmp', '/')
    """
    real = Path(os.path.realpath(path))
    # (the device alone is not enough: across bind mounts of one filesystem, files cannot be renamed either)
    there = next(folder for folder in (real, *real.parents) if folder.exists())
    if mounts is None:
        table = Path("/proc/self/mountinfo")
        mounts = table.read_text(encoding="utf-8", errors="replace") if table.exists() else ""
    points = [_unescaped(line.split()[4]) for line in mounts.splitlines() if len(line.split()) > 4]
    above = [point for point in points if real == Path(point) or Path(point) in real.parents]
    return there.stat().st_dev, max(above, key=len, default="")


def _unescaped(point: str) -> str:
    # (the kernel writes blanks in these names as octal numbers)
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
