"""Something is wrong with the data of one rank only. What both do must be the same, and none may wait for the other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, manual_seed, nn, relu
from torch.nn import functional

from lightning_tricks import (
    DeadUnits,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRFinder,
    PredictionCollapse,
    RepresentationCollapse,
    ResumeGuard,
    SanityCheck,
    TrainingDoctor,
)
from lightning_tricks.detection.detector import Detector
from tests.distributed.everyone import full_weights, share, strategies
from tests.distributed.jobs import Sharded
from tests.problems import Classifier, digits, trainer

BATCH = 96


def is_bad(rank: int) -> bool:
    return int(os.environ["RANK"]) == rank


def fitted(module: Any, tricks: list[Any], strategy: str = "ddp", rows: Any = None, **arguments: Any) -> dict[str, Any]:
    """Train; return the error, how far it got, and where the weights are."""
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    rows = digits(1536) if rows is None else rows
    t = trainer(
        tricks, strategy=strategies(world)[strategy](), devices=world, use_distributed_sampler=False, **arguments
    )
    error = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            t.fit(module, share(rows, world, rank, BATCH))
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
    run = tricks[0].run
    watches = [trick.watch for trick in tricks if isinstance(trick, Detector)]
    managers = [watch.response.rollbacks for watch in watches if watch.response.rollbacks is not None]
    return {
        "error": error,
        "seen": getattr(module, "seen", 0),
        "weights": full_weights(module).tolist(),
        "clock": run.clock.state_dict(),
        "rollbacks": managers[0].times if managers else 0,
    }


class Spoilt(Classifier):
    """From a batch on, the inputs of one rank are something else."""

    def __init__(self, bad: bool, change: Callable[[Tensor], Tensor], since: int, **given: Any) -> None:
        super().__init__(**given)
        self.bad, self.change, self.since = bad, change, since

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step((self.change(x) if self.bad and self.seen >= self.since else x, y), batch_idx)


def collapsed(bad_rank: int, action: str) -> dict[str, Any]:
    """One rank's labels no longer belong to its inputs, which are all alike: only its predictions collapse."""
    tricks = [
        PredictionCollapse("net", every_n_steps=2, patience=1, grace=2, action=action),
        RepresentationCollapse("net.0", every_n_steps=2, patience=1, grace=2, action=action),
        DeadUnits(["net.0"], every_n_steps=2, patience=1, grace=2, action=action),
    ]
    module = Spoilt(is_bad(bad_rank), lambda x: x * 0 - 1e3, since=6)
    return fitted(module, tricks)


def diverged(bad_rank: int, action: str, strategy: str) -> dict[str, Any]:
    """The loss of one rank is NaN from a batch on; the clip keeps the weights sound."""

    def spoil(i: int, loss: Tensor) -> Tensor:
        return loss * (float("nan") if i >= 5 and is_bad(bad_rank) else 1.0)

    module: Any = (Sharded if strategy == "fsdp2" else Classifier)(spoil=spoil)
    return fitted(module, [TrainingDoctor(2, action=action), GradientClip(1.0)], strategy)


def unsound(bad_rank: int, on_failure: str) -> dict[str, Any]:
    """The network of one rank multiplies its inputs by 0: there, and only there, inputs do not matter."""
    rows = digits(96)
    module = Classifier()
    if is_bad(bad_rank):
        module.net[0].register_forward_pre_hook(lambda _, args: (args[0] * 0,))
    check: Any = SanityCheck(initial_loss=False, overfit_batch=False, on_failure=on_failure)  # type: ignore[arg-type]
    return fitted(module, [check], rows=rows)


def unloadable(bad_rank: int) -> dict[str, Any]:
    """Hyperparameters of one rank hold what ``weights_only=True`` refuses."""
    module = Classifier()
    if is_bad(bad_rank):
        module.save_hyperparameters({"root": Path("here")})
    return fitted(module, [ResumeGuard(mode="raise")], rows=digits(96))


def fallen_back(bad_rank: int) -> dict[str, Any]:
    """After its change to fp32 the loss of one rank stays NaN. The clip leaves these updates out, on both."""
    spoil = lambda i, loss: loss * (float("nan") if i >= 2 and is_bad(bad_rank) else 1.0)  # noqa: E731
    tricks = [LossScaleGuard(max_consecutive_skips=2, on_failure="fp32"), GradientClip(1.0)]
    return fitted(Classifier(spoil=spoil), tricks, precision="16-mixed")


def uneven(bad_rank: int) -> dict[str, Any]:
    """The first batch of one rank is smaller than the number of samples that the doctor shows."""

    class Shorter(Classifier):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return tuple(t[:5] for t in batch) if self.seen == 0 and is_bad(bad_rank) else batch

    doctor = TrainingDoctor(2, action="stop")
    found = fitted(Shorter(), [doctor])
    return found | {"history": [{k: v for k, v in values.items() if k != "waiting"} for _, values in doctor.history]}


def unfit(bad_rank: int) -> dict[str, Any]:
    """The training step of one rank cannot be run a second time."""

    class Once(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not self.training and is_bad(bad_rank):
                raise ValueError("not in eval mode")
            return super().training_step(batch, batch_idx)

    return fitted(Once(), [TrainingDoctor(2, action="stop")])


def sparse(bad_rank: int, kind: str) -> dict[str, Any]:
    """A module that one rank alone has no samples for, as an expert of a mixture."""

    class Expert(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.expert = nn.Sequential(nn.Linear(64, 10), nn.ReLU())

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            logits = self.net(x)
            if self.seen < 4 or not is_bad(bad_rank):
                logits = logits + self.expert(x)
            self.seen += 1
            return nn.functional.cross_entropy(logits, y)

    every: dict[str, Any] = {"every_n_steps": 2, "patience": 1, "grace": 0, "action": "stop"}
    makes: dict[str, Callable[[], Any]] = {
        "RepresentationCollapse": lambda: RepresentationCollapse("expert", **every),
        "PredictionCollapse": lambda: PredictionCollapse("expert", **every),
        "DeadUnits": lambda: DeadUnits(["net.1", "expert.1"], **every),
    }
    return fitted(Expert(), [makes[kind]()], "ddp unused")


def tried_before(bad_rank: int, name: str) -> dict[str, Any]:
    """A dry run before the first step, or in it; parameters are registered in the reverse of their order of use."""

    class Reversed(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(3)], nn.Linear(64, 10))
            for i in ("3", "2", "1", "0"):
                self.net._modules[i] = self.net._modules.pop(i)
            self.buckets: list[Any] = []

        def forward(self, x: Tensor) -> Tensor:
            for i in range(4):
                x = relu(self.net._modules[str(i)](x))  # type: ignore[misc]
            return x

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return functional.cross_entropy(self(batch[0]), batch[1])

        def on_before_zero_grad(self, optimizer: Any) -> None:
            if self.trainer.training and not isinstance(self.trainer.strategy.model, Reversed):
                facts = self.trainer.strategy.model._get_ddp_logging_data()  # type: ignore[union-attr,operator]
                self.buckets.append((facts.get("has_rebuilt_buckets"), facts.get("iteration")))

    tricks: dict[str, list[Any]] = {
        "nothing": [GradientMonitor()],
        "LRFinder": [LRFinder(apply=False, num_steps=12)],
        "SanityCheck": [SanityCheck()],
        "TrainingDoctor": [TrainingDoctor(2)],
    }
    manual_seed(0)
    module = Reversed()
    return fitted(module, tricks[name], rows=digits(96)) | {"last": module.buckets[-3:]}
