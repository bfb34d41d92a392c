"""Two gloo processes, started once for all tests of this folder."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.multiprocessing as mp

WORLD = 2


def _work(rank: int, port: int, jobs: Any, results: Any) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0",
        WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD), TORCHELASTIC_RUN_ID="tests",
    )  # fmt: skip
    import torch

    torch.set_num_threads(1)
    while (job := jobs.get()) is not None:
        function, arguments = job
        try:
            results.put((rank, True, function(*arguments)))
        except BaseException:
            results.put((rank, False, traceback.format_exc()))


class Pool:
    """Runs a function on both ranks and returns what they return, in order of rank."""

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._jobs = [context.Queue() for _ in range(WORLD)]
        self._results = context.Queue()
        arguments = [(rank, port, self._jobs[rank], self._results) for rank in range(WORLD)]
        self._processes = [context.Process(target=_work, args=a, daemon=True) for a in arguments]
        for process in self._processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for jobs in self._jobs:
            jobs.put((function, arguments))
        answers = sorted((self._results.get(timeout=100) for _ in range(WORLD)), key=lambda answer: answer[0])
        for rank, good, value in answers:
            assert good, f"rank {rank}:\n{value}"
        return [value for _, _, value in answers]

    def close(self) -> None:
        for jobs in self._jobs:
            jobs.put(None)
        for process in self._processes:
            process.join(timeout=20)
            process.kill()


@pytest.fixture(scope="session")
def both_ranks() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()
