"""Overwrites a checkpoint in a loop, in children that are killed at random moments; prints what was left, as JSON.

One process imports torch; its children are forked, so that a kill costs milliseconds. Usage::

    python -m tests.resume.kills '[["durable", FOLDER, TEMPORARY_FOLDER, KILLS, MEGABYTES], ["lightning", ...]]'
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_tricks.resume.plugins import DurableCheckpointIO


def checkpoint(number: int, megabytes: float) -> dict[str, Any]:
    """A checkpoint that shows whether all of it is of one writing."""
    return {"number": number, "state_dict": {k: torch.full((int(megabytes * 2**16),), number) for k in "ab"}}


def whole(path: Path) -> bool:
    """Whether plain torch loads it, and all of it is of one writing."""
    try:
        found = torch.load(path, weights_only=True)
    except Exception:
        return False
    return all(bool((x == found["number"]).all()) for x in found["state_dict"].values())


def overwrite(io: Any, path: Path, started: int, megabytes: float) -> None:
    """What a child does until it is killed; the first byte says that it has begun."""
    try:
        content = checkpoint(0, megabytes)
        os.write(started, b"x")
        for number in range(1, 1_000_000):
            content["number"] = number
            for values in content["state_dict"].values():
                values.fill_(number)
            io.save_checkpoint(content, path)
    finally:
        os._exit(1)


def kill_once(make: Any, path: Path, megabytes: float, longest: float) -> None:
    """Fork a child that writes, and kill it."""
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        overwrite(make(), path, started, megabytes)
    os.close(started)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(random.uniform(0.0, longest))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def tried(kind: str, folder: str, temporary: str, kills: int, megabytes: float) -> dict[str, Any]:
    """Kill so many times; the checkpoint is made anew after each that tore it."""
    random.seed(0)
    torch.set_num_threads(1)
    tempfile.tempdir = temporary
    make = {"durable": DurableCheckpointIO, "lightning": TorchCheckpointIO}[kind]
    path = Path(folder) / "last.ckpt"
    made = time.perf_counter()
    make().save_checkpoint(checkpoint(0, megabytes), path)
    longest = 3 * (time.perf_counter() - made) + 0.01
    torn = left = 0
    for _ in range(kills):
        kill_once(make, path, megabytes, longest)
        left += len(os.listdir(folder)) - path.exists() + len(os.listdir(temporary))
        for name in os.listdir(temporary):
            (Path(temporary) / name).unlink()
        if not whole(path):
            torn += 1
            make().save_checkpoint(checkpoint(0, megabytes), path)
    make().save_checkpoint(checkpoint(1, megabytes), path)
    return {"torn": torn, "kills": kills, "left": left, "whole": whole(path), "files": sorted(os.listdir(folder))}


if __name__ == "__main__":
    print(json.dumps([tried(*job) for job in json.loads(sys.argv[1])]))
