"""One callback, one fit: on one process, and with the same global batches under a strategy."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from lightning_tricks import UnsupportedError
from lightning_tricks.detection.detector import Detector
from tests.distributed.jobs import Sharded
from tests.matrix import UNDER
from tests.problems import Classifier, Memory, digits, trainer
from tests.together.problems import example

GLOBAL_BATCH, UPDATES = 128, 6  # (a single process waits for 128 samples before it judges)
# of this rank's own data or clock, and nothing is decided by them
OF_ITS_OWN = ("amp/headroom", "amp/underflow", "diagnosis/training_doctor/waiting", "diagnosis/waiting_for_data")


def strategies(world: int) -> dict[str, Any]:
    return {
        "single": lambda: "auto",
        "ddp": DDPStrategy,
        "ddp unused": lambda: DDPStrategy(find_unused_parameters=True),
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1),
    }


def share(rows: Any, world: int, rank: int, batch: int = GLOBAL_BATCH) -> Any:
    """Return a loader over this rank's part of every global batch."""
    mine = [i for i in range(len(rows)) if (i % batch) // (batch // world) == rank]
    return torch.utils.data.DataLoader(torch.utils.data.Subset(rows, mine), batch_size=batch // world)


def full_weights(module: Any) -> torch.Tensor:
    full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in module.parameters()]
    return torch.cat([p.detach().reshape(-1).double() for p in full])


def fitted(strategy: str, names: list[str], changed: dict[str, Any], precision: str = "32-true") -> dict[str, Any]:
    """Return weights, clock, what was logged and what the detectors saw; or the text of a refusal."""
    world, rank = (1, 0) if strategy == "single" else (int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))
    tricks = [example(name, **changed) for name in names]
    module = (Sharded if strategy == "fsdp2" else Classifier)()
    t = trainer(
        tricks, precision, strategy=strategies(world)[strategy](), devices=world, logger=Memory(),
        use_distributed_sampler=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(rank)
        try:
            t.fit(module, share(digits(GLOBAL_BATCH * UPDATES), world, rank))
        except UnsupportedError as error:
            return {"refused": str(error), "at": t.fit_loop.epoch_loop.batch_progress.total.ready}
    latest = tricks[0].run.publisher.latest if tricks else {}
    return {
        "weights": full_weights(module),
        "clock": tricks[0].run.clock.state_dict() if tricks else None,
        "logged": {key: value for key, value in latest.items() if not key.startswith(OF_ITS_OWN)},
        "histories": [[(s, {k: x for k, x in v.items() if k != "waiting"}) for s, v in d.history]
                      for d in tricks if isinstance(d, Detector)],
        "verdicts": [(d.verdict.alarmed, d.verdict.step, d.verdict.cause) for d in tricks if isinstance(d, Detector)],
    }  # fmt: skip


def of(name: str, strategy: str) -> dict[str, Any]:
    """Fit with one callback, under the precision in which it does something."""
    return fitted(strategy, [name], {}, UNDER.get(name, "32-true"))


def without(name: str, strategy: str) -> dict[str, Any]:
    """The same fit without it."""
    return fitted(strategy, [], {}, UNDER.get(name, "32-true"))
