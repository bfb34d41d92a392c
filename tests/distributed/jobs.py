"""What the two processes do. Everything here is importable, so that it can be sent to them."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule
from lightning_tricks.numerics.shards import Shards
from tests.problems import STRICT, Classifier, Memory, digits, sgd, trainer


def sharded_norms(p: float, rows: int, size: float, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Norms of sharded, replicated and plain tensors: ours, and torch's on the full ones in float64."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    line, square = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    torch.manual_seed(0)
    shapes = [(rows, 3), (4, rows + 1), (5,), (rows + 2,)]
    full = [(size * torch.randn(s, dtype=torch.float64)).to(dtype) for s in shapes]
    tensors = [
        distribute_tensor(full[0], line, [Shard(0)]),
        distribute_tensor(full[1], square, [Replicate(), Shard(1)]),
        distribute_tensor(full[2], line, [Replicate()]),
        full[3],
    ]
    from lightning_tricks.numerics.norms import tensor_norms
    from lightning_tricks.numerics.shards import local

    ours = Shards(tensors).norms(tensor_norms([local(t) for t in tensors], p), p)
    assert ours.dtype == dtype
    return ours.tolist(), [float(t.double().norm(p)) for t in full]


class Sharded(Classifier):
    """FSDP2: every layer's parameters are split over the ranks."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in (self.net[0], self.net[2], self.net[4]):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def make_optimizer(kind: str) -> Any:
    return {
        "sgd": sgd,
        "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
        "sgd fused": lambda p: sgd(p, fused=True),
    }[kind]


def train(
    strategy: str, optimizer: str, tricks: list[Any], spoil_rank: int | None = None, **arguments: Any
) -> dict[str, Any]:
    """Train on the same global batches as one process would: each rank gets its half of every batch of 8."""
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    world, rank = (1, 0) if strategy == "single" else (2, int(os.environ["RANK"]))
    per_rank = 8 // world
    data = digits(96)
    mine = [i for i in range(96) if (i % 8) // per_rank == rank]
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data, mine), batch_size=per_rank)

    def spoil(i: int, loss: torch.Tensor) -> torch.Tensor:
        return loss * (float("nan") if i == 3 and rank == spoil_rank else 1.0)

    module = (Sharded if strategy == "fsdp2" else Classifier)(make_optimizer(optimizer), spoil=spoil)
    memory = Memory()
    kinds: dict[str, Any] = {
        "single": lambda: "auto",
        "ddp": DDPStrategy,
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    }
    collectives = _count_collectives()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = trainer(
            tricks, strategy=kinds[strategy](), devices=world, logger=memory, use_distributed_sampler=False, **arguments
        )
        t.fit(module, loader)
    full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in module.parameters()]
    return {
        "weights": torch.cat([p.detach().reshape(-1) for p in full]).double(),
        "rows": memory.rows,
        "collectives": collectives(),
        "updates": tricks[0].run.clock.state_dict() if tricks else None,
    }


def _count_collectives() -> Any:
    counts = {"n": 0}
    undo = []
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor"):
        real = getattr(dist, name)

        def counted(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
            counts["n"] += 1
            return _real(*args, **kwargs)

        setattr(dist, name, counted)
        undo.append((name, real))

    def stop() -> int:
        for name, real in undo:
            setattr(dist, name, real)
        return counts["n"]

    return stop


def tricks_for(rule: Any, per: str = "model", nonfinite: str = "skip") -> list[Any]:
    monitor = GradientMonitor(groups={"head": r"^net\.4\."}, update_ratio=True)
    return [monitor, GradientClip(rule, per=per, nonfinite=nonfinite), LRSchedule(warmup=2)]


def run(strategy: str, optimizer: str, rule: Any, per: str = "model", spoil_rank: int | None = None) -> dict[str, Any]:
    return train(strategy, optimizer, tricks_for(rule, per), spoil_rank)


def run_as_on_a_gpu(strategy: str, optimizer: str, rule: Any, spoil_rank: int) -> dict[str, Any]:
    from lightning_tricks.numerics import host

    real = host.value_on_host
    host.value_on_host = lambda value: None
    try:
        return train(strategy, optimizer, tricks_for(rule), spoil_rank)
    finally:
        host.value_on_host = real


def run_without(strategy: str, optimizer: str) -> dict[str, Any]:
    return train(strategy, optimizer, [])


def run_raising(strategy: str, optimizer: str, spoil_rank: int) -> str:
    try:
        train(strategy, optimizer, tricks_for(1.0, nonfinite="raise"), spoil_rank)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def refused(strategy: str, rule: Any) -> str:
    try:
        run(strategy, "sgd", rule)
    except Exception as error:
        return str(error)
    return "nothing was raised"


def accumulate(
    strategy: str,
    arguments: dict[str, Any],
    sizes: tuple[tuple[int, ...], ...],
    hungry_rank: int | None,
    where: str,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Train on micro-batches of different sizes on each rank. Returns the gradients of every update, and logs."""
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    from lightning_tricks import GradientAccumulation
    from tests.accumulation.problems import Gradients, Hungry, feed, ragged

    rank = int(os.environ["RANK"])
    data = ragged([n for row in sizes for n in row])
    first = sum(len(row) for row in sizes[:rank])
    mine = data[first : first + len(sizes[rank])]

    class FullGradients(Gradients):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            found = [p.grad for p in pl_module.net.parameters()]
            full = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in found]
            self.rows.append(torch.cat([g.double().flatten() for g in full]))

    noted, memory = FullGradients(), Memory()
    module: Any = Sharded() if strategy == "fsdp2" else Hungry(3 if rank == hungry_rank else 100, where)
    kinds: dict[str, Any] = {
        "ddp": lambda: DDPStrategy(find_unused_parameters=True),
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        t = trainer(
            [GradientMonitor(), GradientAccumulation(**arguments), noted],
            strategy=kinds[strategy](), devices=2, logger=memory, use_distributed_sampler=False, precision=precision,
            init_scale=1.0,
        )  # fmt: skip
        t.fit(module, feed(mine))
    return {
        "gradients": noted.rows,
        "norms": memory.series("grad/norm"),
        "sizes": list(memory.series("accumulation/batch_size").values()),
        "tries": getattr(module, "tries", 0),
        "told": [str(w.message) for w in caught if "no memory" in str(w.message)],
        "tracked": int(module.norm.num_batches_tracked) if strategy == "ddp" else 0,
    }


def find_rate(finder: bool, spoil_rank: int | None = None) -> dict[str, Any]:
    """Find a learning rate on two ranks with different data, without setting it, and train."""
    from lightning.pytorch.strategies import DDPStrategy

    from lightning_tricks import LRFinder

    rank = int(os.environ["RANK"])
    data = torch.utils.data.Subset(digits(128), list(range(rank, 128, 2)))
    module = Classifier(lambda p: sgd(p, momentum=0.9))
    trick = LRFinder(num_steps=40, apply=False)
    tricks = [GradientClip(1.0), *([trick] if finder else [])]
    torch.manual_seed(rank)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = trainer(tricks, strategy=DDPStrategy(), devices=2, use_distributed_sampler=False)
        t.fit(module, torch.utils.data.DataLoader(data, batch_size=8, shuffle=True))
    result = trick.result
    return {
        "weights": torch.cat([p.detach().reshape(-1) for p in module.parameters()]),
        "losses": result.losses if result else [],
        "suggestion": result.suggestion if result else None,
    }


def refusal(kind: str) -> str:
    """Return the message with which splitting is refused."""
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    from lightning_tricks import GradientAccumulation, LRFinder, UnsupportedError

    class Synced(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.SyncBatchNorm(4)

    sharded = kind != "synced"
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if sharded else DDPStrategy()
    trick = LRFinder() if kind == "finder" else GradientAccumulation(2, on_oom="split")
    t = trainer([trick], strategy=strategy, devices=2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            t.fit(Sharded() if sharded else Synced(), torch.utils.data.DataLoader(digits(16), 4))
    except UnsupportedError as error:
        return str(error)
    return "not refused"


def islands(bad_rank: int, optimizer: str) -> tuple[list[str], list[tuple[str, str]], list[float]]:
    """16-mixed on two ranks; a layer overflows on the data of one of them, always. Returns islands, findings, weights."""
    from lightning.pytorch.strategies import DDPStrategy

    from lightning_tricks import FP32Islands, LossScaleGuard, PrecisionDoctor

    rank = int(os.environ["RANK"])

    class Outlier(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return super().training_step((x * (1e6 if rank == bad_rank else 1.0), y), batch_idx)

    tricks: list[Any] = [PrecisionDoctor(), LossScaleGuard(max_consecutive_skips=8), FP32Islands(["auto"])]
    module = Outlier(make_optimizer(optimizer), spoil=lambda i, loss: loss * 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = trainer(tricks, strategy=DDPStrategy(), devices=2, precision="16-mixed", init_scale=1.0)
        t.fit(module, torch.utils.data.DataLoader(digits(96), batch_size=4))
    weights = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    return tricks[2].islands, [(f.kind, f.module) for f in tricks[0].findings], weights.tolist()


def guarded(bad_rank: int, optimizer: str) -> str:
    """A loss that is NaN on one rank only must end the run on both at the same attempt."""
    from lightning_tricks import LossScaleGuard

    rank = int(os.environ["RANK"])
    tricks = [LossScaleGuard(max_consecutive_skips=4)]
    from lightning.pytorch.strategies import DDPStrategy

    module = Classifier(
        make_optimizer(optimizer), spoil=lambda i, loss: loss * (float("nan") if rank == bad_rank else 1.0)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            t = trainer(tricks, strategy=DDPStrategy(), devices=2, precision="16-mixed")
            t.fit(module, torch.utils.data.DataLoader(digits(96), batch_size=4))
    except Exception as error:
        return f"{module.seen} {type(error).__name__}: {error}"
    return "nothing was raised"


def metric_value(name: str, bounds: tuple[int, ...]) -> float:
    """Update a metric with this rank's part of the data (which may be empty), and compute over both."""
    from tests.collapse.problems import data, make, parts

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    mine = parts(data(name), list(bounds))[int(os.environ["RANK"])]
    metric = make(name)
    if len(mine[0]):
        metric.update(*mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says so when nothing was updated
        return float(metric.compute())


class Forgetful(Classifier):
    """Forgets everything after some steps, where it is told to."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.seen == self.at:
            with torch.no_grad():
                for p in self.net.parameters():
                    p.zero_()


def detectors(action: Any) -> list[Any]:
    """All that look at a classifier."""
    from lightning_tricks import DeadUnits, ModeCollapse, PredictionCollapse, RepresentationCollapse, TrainingDoctor

    every: dict[str, Any] = {"every_n_steps": 4, "patience": 2, "grace": 4, "action": action}
    return [
        PredictionCollapse("net", **every),
        RepresentationCollapse("net.0", **every),
        DeadUnits(["net.0"], **every),
        ModeCollapse("echo", **every),
        TrainingDoctor(4, action=action),
    ]


def _fitted(what: str, **arguments: Any) -> dict[str, Any]:
    from torch.utils.data import DataLoader, Subset

    action = "log" if what == "healthy" else what
    module, tricks = Forgetful(-1 if what == "healthy" else 30), detectors(action)
    epochs = 1 if what == "healthy" else 6
    t = trainer(tricks, max_epochs=epochs, use_distributed_sampler=False, **arguments)
    world = t.world_size
    rows = digits(1536)
    own = Subset(rows, [i for i in range(len(rows)) if (i // 48) % world == t.global_rank])
    error = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            t.fit(module, DataLoader(own, batch_size=96 // world))
        except Exception as problem:
            error = type(problem).__name__
    managers = [trick.watch.response.rollbacks for trick in tricks if trick.watch.response.rollbacks is not None]
    return {
        "histories": {type(d).__name__: d.history[0][1] if d.history else {} for d in tricks},
        "weights": [float(p.detach().double().sum()) for p in module.parameters()],
        "seen": module.seen,
        "error": error,
        "rollbacks": managers[0].times if managers else 0,
    }


def detected(what: str, nothing: tuple[()]) -> dict[str, Any]:
    """Train on both ranks under the detectors; return what they saw and did."""
    found = _fitted(what, strategy="ddp", devices=2)
    for values in found["histories"].values():
        values.pop("waiting", None)
    return found


def detected_alone(what: str) -> dict[str, float]:
    """What the detector of predictions sees of the same data in one process."""
    values: dict[str, float] = _fitted(what)["histories"]["PredictionCollapse"]
    return values


def resumed_exactly(folder: str) -> tuple[list[float], list[float], str]:
    """Weights of a run that was not interrupted and of one that was, with other data and dropout on each process."""
    import lightning.pytorch as L

    from lightning_tricks import ExactResume, UnsupportedError
    from tests.problems import weights
    from tests.resume.problems import Augmented, Net, PowerCut

    def fit(seed: int, extra: list[Any], **given: Any) -> Any:
        L.seed_everything(seed + dist_rank(), verbose=False)
        module = Net()
        loader = torch.utils.data.DataLoader(Augmented(), 2, shuffle=True)
        two = {"strategy": "ddp", "devices": 2, "max_epochs": 2}
        trainer([ExactResume(), *extra], **two).fit(module, loader, **given)
        return weights(module).tolist()

    def dist_rank() -> int:
        return int(os.environ["RANK"])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, path = fit(3, []), os.path.join(folder, "cut.ckpt")
        with contextlib.suppress(InterruptedError):
            fit(3, [PowerCut(5, Path(path))])
        resumed = fit(77, [], ckpt_path=path, **STRICT)
        try:
            trainer([ExactResume(gradients=True)], strategy="ddp", devices=2).fit(
                Net(), torch.utils.data.DataLoader(Augmented(), 2)
            )
        except UnsupportedError as error:
            return whole, resumed, str(error)
    return whole, resumed, ""


def chosen(kind: str, form: str) -> dict[str, Any]:
    """Both ranks choose entries of their own; return what ``UsageCollapse`` saw, and the choices."""
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_tricks import UsageCollapse

    rank = int(os.environ["RANK"])

    class Chooser(torch.nn.Module):
        num_codes = 4 if form == "exceeded" else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            numbers = (x[:, 0] * (9 if rank else 3)).long()
            return numbers if form != "rows" else torch.nn.functional.one_hot(numbers, 9).float()

    class Choosing(Classifier):
        def __init__(self) -> None:
            super().__init__(lambda p: sgd(p, lr=0.0), net=torch.nn.Linear(1, 1))
            self.chooser = Chooser()
            self.numbers: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found = self.chooser(batch[0])
            self.numbers += (found.argmax(1) if form == "rows" else found).tolist()
            return {"loss": self.net(batch[0]).sum() * 0.0, "reward": torch.tensor(float(rank))}

    torch.manual_seed(rank)
    module, detector = Choosing(), UsageCollapse("chooser", kind, every_n_steps=2, action="log")  # type: ignore[arg-type]
    t = trainer([detector], strategy="ddp", devices=2, use_distributed_sampler=False)
    t.fit(module, DataLoader(TensorDataset(torch.rand(128, 1)), batch_size=64))
    return {"values": detector.history[0][1], "numbers": module.numbers}


def state_of_differently_seeded(seeds: list[int], folder: str) -> tuple[dict[str, Any], bool]:
    """Train with a seed for each process; return what ExactResume saves here, and if a resume finds this one's numbers."""
    import lightning.pytorch as L

    from lightning_tricks import ExactResume
    from lightning_tricks.resume import process_state
    from lightning_tricks.resume.state import random_state

    rank, exact = int(os.environ["RANK"]), ExactResume()
    L.seed_everything(seeds[rank], verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = trainer([exact], strategy="ddp", devices=len(seeds))
        t.fit(Classifier(), torch.utils.data.DataLoader(digits(32), 4, shuffle=True))
        t.save_checkpoint(Path(folder) / "all.ckpt")
    own = process_state.digests({"now": random_state()})
    saved = torch.load(Path(folder) / "all.ckpt", weights_only=True)["callbacks"][exact.state_key]["state"]
    found = process_state.digests({"now": process_state.of_rank(saved, rank)["now"]})
    return exact._trick_state(), found == own
