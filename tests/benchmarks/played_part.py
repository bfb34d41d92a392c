"""A part of the GPU suite in which everything happens that may: what its tests play."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.gpu.rows import Clock, Context, Task, UnavailableError, measured


def tasks(context: Context) -> list[Task]:
    return [
        Task("fine", lambda clock: [measured("one", 1.0, at_most=2.0)], 0.0),
        Task("fails", _fails, 0.0),
        Task("hangs", lambda clock: time.sleep(600), 0.0, limit=0.5),
        Task("takes its process with it", lambda clock: os._exit(3), 0.0),
        Task("breaks the device", _breaks, 0.0),
        Task("is not there", _unavailable, 0.0),
        Task("comes after", lambda clock: {"measured": [measured("two", 2.0, at_most=1.0)], "more": [1]}, 0.0),
        Task("needs an hour", lambda clock: [], 3600.0),
    ]


def _fails(clock: Clock) -> Any:
    raise ValueError("a reason")


def _breaks(clock: Clock) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _unavailable(clock: Clock) -> Any:
    raise UnavailableError("no such thing here")
