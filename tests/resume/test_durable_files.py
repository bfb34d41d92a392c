from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from lightning_tricks import DurableCheckpointIO
from lightning_tricks.resume import durable_files


def number(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["number"])


def test_where_there_are_no_locks_files_are_closed_before_they_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_files, "fcntl", None)
    stale = tmp_path / f".durable-checkpoint-{durable_files.HOST}-{'0' * 16}.tmp"
    stale.touch()
    DurableCheckpointIO(checksum=True).save_checkpoint({"number": 1}, tmp_path / "last.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "last.ckpt.sha256"]
    assert number(tmp_path / "last.ckpt") == 1


def test_only_its_own_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    def name(host: str, token: str) -> Path:
        return tmp_path / f".durable-checkpoint-{host}-{token * 16}.tmp"

    own, theirs, old = name(durable_files.HOST, "0"), name("other_machine", "1"), name("other_machine", "2")
    foreign = [tmp_path / "tmpabc", tmp_path / ".durable-checkpoint.tmp", tmp_path / "x.ckpt", name("a", "g")]
    for path in (own, theirs, old, *foreign):
        path.touch()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    with durable_files.temporary(tmp_path) as (_, writing):
        DurableCheckpointIO().save_checkpoint({"number": 1}, tmp_path / "last.ckpt")
        assert not own.exists() and not old.exists()
        assert theirs.exists() and writing.exists() and all(path.exists() for path in foreign)
    assert not writing.exists()
