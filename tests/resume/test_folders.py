from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lightning_tricks.resume.folders import durable, filesystem, torn
from tests.resume.problems import usable


def moves(source: Path, target: Path) -> bool:
    """The oracle: whether the system moves a file in one step."""
    (source / "probe").touch()
    try:
        os.rename(source / "probe", target / "probe")
    except OSError as error:
        assert error.errno == errno.EXDEV
        (source / "probe").unlink()
        return False
    (target / "probe").unlink()
    return True


@pytest.mark.parametrize("other", [Path("/dev/shm"), Path("/tmp"), Path("/var/tmp")], ids=str)
def test_folders_between_which_files_are_copied_are_found(other: Path, tmp_path: Path) -> None:
    if not (other.is_dir() and os.access(other, os.W_OK)):
        pytest.skip(f"no {other}")
    found = torn(other, tmp_path / "not" / "yet")
    assert (found == []) == moves(other, tmp_path)
    assert usable(other, tmp_path) <= bool(found)
    if found:
        assert f"checkpoints are written to {other} and then copied to {tmp_path}" in found[0].what
        assert "DurableCheckpointIO()" in found[0].fix
    assert torn(tmp_path, tmp_path / "a" / "b") == []


def test_mount_points_are_read_with_their_spaces() -> None:
    table = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 /x /with\\040space rw - ext4 a rw\nshort"
    assert filesystem(Path("/with space/a"), table)[1] == "/with space"
    assert filesystem(Path("/with"), table)[1] == "/"
    assert filesystem(Path("/a"), "")[1] == ""


def test_a_durable_plugin_that_is_not_asked_or_refuses_is_told() -> None:
    assert "DurableCheckpointIO is not asked" in durable("a", remote=False, sharded=True)[0].what
    assert "will be refused" in durable("s3://a", remote=True, sharded=False)[0].what
    assert durable("a", remote=False, sharded=False) == []
