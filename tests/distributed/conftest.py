"""Gloo processes, started once for all tests of this folder: two for nearly all, four for the counts of scaling."""

from __future__ import annotations

import datetime
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.distributed.jobs import refused
from tests.forked import server

_PATIENCE = datetime.timedelta(seconds=60)  # ranks that wait for one another in vain end in an error, not in a hang


def _work(rank: int, world: int, port: int, jobs: Any, results: Any) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0",
        WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), TORCHELASTIC_RUN_ID="tests",
    )  # fmt: skip
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)  # Lightning takes a group that is there
    while (job := jobs.get()) is not None:
        function, arguments, folder = job
        os.chdir(folder)  # else it is where the test session began
        try:
            results.put((rank, True, function(*arguments)))
        except BaseException:
            results.put((rank, False, traceback.format_exc()))


class Pool:
    """Runs a function on all ranks and returns what they return, in order of rank."""

    def __init__(self, world: int) -> None:
        context = server()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._jobs = [context.Queue() for _ in range(world)]
        self._results = context.Queue()
        arguments = [(rank, world, port, self._jobs[rank], self._results) for rank in range(world)]
        self._processes = [context.Process(target=_work, args=a, daemon=True) for a in arguments]
        for process in self._processes:
            process.start()
        self._lost = False

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        if "fsdp2" in arguments and function is not refused and not hasattr(torch.cpu.current_stream(), "record_event"):
            pytest.skip("FSDP2 of torch 2.6 does not run on a CPU")
        assert not self._lost, "a rank did not come back from a test before"
        for jobs in self._jobs:
            jobs.put((function, arguments, os.getcwd()))
        self._lost = True
        answers = sorted((self._results.get(timeout=100) for _ in self._jobs), key=lambda answer: answer[0])
        self._lost = False
        for rank, good, value in answers:
            assert good, f"rank {rank}:\n{value}"
        return [value for _, _, value in answers]

    def close(self) -> None:
        for jobs in self._jobs:
            jobs.put(None)
        for process in self._processes:
            process.join(timeout=0.5)
            process.kill()


@pytest.fixture(scope="session")
def both_ranks() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[Pool]:
    pool = Pool(4)
    yield pool
    pool.close()
