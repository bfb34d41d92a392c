"""One process that believes to be the first of very many: torch's ``fake`` group answers for the others.

A reduction over it leaves this process's values as they are. So nothing is learned about what is decided, but what is
sent is counted, at any number of processes.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.distributed.counting import EVERY, LOGGED, QUIET, UPDATES, Cost, Steps, Tally, network
from tests.problems import Classifier, Memory, digits, sgd, trainer

BATCH = 32
_NODE = 8  # processes


def _given_by_all(thing: Any, gathered: list[Any] | None = None, **_: Any) -> None:
    """Stand in for ``gather_object``: every process gives what this one does."""
    if gathered is not None:
        gathered[:] = [thing] * len(gathered)


def _not_reduced(state, bucket):  # type: ignore[no-untyped-def]  # (torch refuses annotations that are strings)
    """A hook of DDP, in place of its own all-reduce, which the fake group leaves without a result."""
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


class Unreduced(DDPStrategy):
    """DDP with that hook, which Lightning registers on a GPU only."""

    def configure_ddp(self) -> None:
        super().configure_ddp()
        self.model.register_comm_hook(None, _not_reduced)


@contextmanager
def processes(world: int) -> Iterator[None]:
    """Be the first of so many."""
    variables = {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "GROUP_RANK": 0,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": min(world, _NODE),
    }
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1, "TORCHELASTIC_RUN_ID": "fake"}
    with patch.dict(os.environ, {name: str(value) for name, value in variables.items()}):
        dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
        try:
            with patch.object(dist, "gather_object", _given_by_all):
                yield
        finally:
            dist.destroy_process_group()


def counted(tricks: list[Any], world: int, width: int, layers: int) -> tuple[Cost, Tally]:
    """Fit on the first of so many processes, each with 32 samples a batch; return what was counted, and the whole tally."""
    tally = Tally()
    steps = Steps(tally)
    loader = torch.utils.data.DataLoader(digits(BATCH * UPDATES), BATCH)
    with warnings.catch_warnings(), processes(world):
        warnings.simplefilter("ignore")
        nodes = {"devices": min(world, _NODE), "num_nodes": -(-world // _NODE)}
        t = trainer([*tricks, steps], strategy=Unreduced(), logger=Memory(), use_distributed_sampler=False,
                    log_every_n_steps=EVERY, **nodes)  # fmt: skip
        with tally.everywhere():
            t.fit(Classifier(sgd, net=network(width, layers)), loader)
    between = [
        tuple(a - b for a, b in zip(after, before, strict=True)) for before, after in itertools.pairwise(steps.rows)
    ]
    quiet = {between[i] for i in QUIET}
    assert len(quiet) == 1, f"updates that are not logged cost {quiet}"
    return Cost(quiet.pop(), between[LOGGED], steps.held), tally
