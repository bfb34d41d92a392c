"""What a callback costs, counted in a fit: collectives and bytes, host reads, memory. Less what the fit costs without.

Three kinds of batches are told apart: an update that is not logged, one that is logged or checked, and all else (the
begin and the end of the fit).
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import host, norms
from tests.distributed.everyone import share, strategies
from tests.matrix import EXAMPLES, UNDER
from tests.problems import Classifier, Memory, digits, sgd, trainer
from tests.together.problems import example

UPDATES, EVERY, BATCH = 8, 4, 32
MODELS = ((16, 3), (24, 5))  # width, linear layers
QUIET, LOGGED = (5, 6), 7  # numbers of batches; the fourth and the eighth are logged

# name -> position of the tensor or object that this rank gives
COLLECTIVES = {
    **dict.fromkeys(("all_reduce", "broadcast", "reduce", "gather", "gather_object"), 0),
    **dict.fromkeys(("all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all", "send"), 1),
    **dict.fromkeys(("reduce_scatter", "scatter", "all_to_all_single", "all_reduce_coalesced"), 1),
    **{"all_gather_object": 1, "broadcast_object_list": 0, "scatter_object_list": 1, "barrier": None},
}
FUNCTIONAL = ("all_reduce", "all_gather_tensor", "reduce_scatter_tensor", "broadcast", "all_to_all_single",
              "all_reduce_coalesced", "all_gather_into_tensor_coalesced", "reduce_scatter_tensor_coalesced")  # fmt: skip


def sizes(world: int, width: int, layers: int) -> dict[str, int]:
    """The symbols of the page for one of the models: linear layers, ReLU between them, 64 pixels, 10 classes."""
    n = BATCH // world
    return {"L": 2 * layers, "W": layers, "A": layers - 1, "U": width * (layers - 1), "d": 10, "K": 10, "S": 64,
            "N": EXAMPLES["GenerationDrift"]["num_samples"], "n": n, "B": n * (4 * 64 + 8), "u": EVERY - 1,
            "R": world}  # fmt: skip


def _bytes(thing: Any) -> int:
    if isinstance(thing, Tensor):
        return thing.nbytes
    if isinstance(thing, (list, tuple)) and all(isinstance(t, Tensor) for t in thing):
        return sum(t.nbytes for t in thing)
    return 0 if thing is None else len(pickle.dumps(thing))


@dataclass(frozen=True)
class Cost:
    """Collectives, their bytes, and host reads: at an update that is not logged, at one that is; bytes held."""

    update: tuple[int, ...]
    logged: tuple[int, ...]
    held: int

    def less(self, other: Cost) -> Cost:
        return Cost(_minus(self.update, other.update), _minus(self.logged, other.logged), self.held)


def _minus(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(one, two, strict=True))


class Tally(TorchDispatchMode):
    """Counts collectives, their bytes, and host reads, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.bytes = self.reads = 0
        self._depth = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))

    def now(self) -> tuple[int, int, int]:
        return self.calls, self.bytes, self.reads

    def _counted(self, real: Callable[..., Any], position: int | None) -> Callable[..., Any]:
        @functools.wraps(real)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if not self._depth:  # some collectives are made of others
                self.calls += 1
                given = [*args, *kwargs.values()]
                self.bytes += 0 if position is None else _bytes(given[position])
            self._depth += 1
            try:
                return real(*args, **kwargs)
            finally:
                self._depth -= 1

        return counted

    @contextmanager
    def everywhere(self) -> Iterator[Tally]:
        """Stand in for every collective; let no value be at hand, as on a GPU."""
        replaced = [(dist, name, self._counted(getattr(dist, name), at)) for name, at in COLLECTIVES.items()
                    if hasattr(dist, name)]  # fmt: skip
        replaced += [
            (_functional_collectives, name, self._counted(getattr(_functional_collectives, name), 0))
            for name in FUNCTIONAL
        ]
        replaced += [(host, "value_on_host", lambda value: None), (norms, "_readable", lambda tensor: False)]
        known = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
        for owner, name, stand_in in replaced:
            setattr(owner, name, stand_in)
        try:
            with self:
                yield self
        finally:
            for owner, name, real in known:
                setattr(owner, name, real)


class Steps(L.Callback):
    """Notes the counts at the begin of each batch, and at last what the tricks hold in memory."""

    def __init__(self, tally: Tally) -> None:
        # (weakly: a dry run puts back what callbacks hold, and would undo what was counted in it)
        self.tally, self.rows, self.held = weakref.ref(tally), [], 0  # type: ignore[var-annotated]

    def now(self) -> tuple[int, ...]:
        tally = self.tally()
        assert tally is not None
        return tally.now()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(self.now())
        if batch_idx == LOGGED:  # after three updates that were not logged
            self.held = held_bytes(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == LOGGED:
            self.rows.append(self.now())


_ENDS = (nn.Module, L.Trainer, torch.optim.Optimizer, torch.utils.data.DataLoader, type, types.ModuleType)


def held_bytes(trainer: Any, module: nn.Module) -> int:
    """Bytes of the tensors that tricks and their run can reach, but for parameters, gradients and optimizer state."""
    own = [*module.parameters(), *(p.grad for p in module.parameters() if p.grad is not None), *module.buffers()]
    known = {t.untyped_storage().data_ptr() for t in own if not hasattr(t, "placements")}
    seen: set[int] = set()
    found: dict[int, int] = {}
    waiting: deque[Any] = deque(t for t in trainer.callbacks if isinstance(t, Trick))
    while waiting:
        thing = waiting.popleft()
        if id(thing) in seen or isinstance(thing, _ENDS) or thing is trainer:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            local = thing.to_local() if hasattr(thing, "to_local") else thing
            if not hasattr(thing, "placements") and local.untyped_storage().data_ptr() not in known:
                found[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
        elif isinstance(thing, dict):
            waiting.extend(thing.values())
        elif isinstance(thing, (list, tuple, set, deque)):
            waiting.extend(thing)
        elif isinstance(thing, functools.partial):
            waiting.extend((*thing.args, thing.func))
        elif isinstance(thing, types.FunctionType):
            waiting.extend(cell.cell_contents for cell in thing.__closure__ or ())
        elif isinstance(thing, types.MethodType):
            waiting.append(thing.__self__)
        elif type(thing).__module__.startswith("lightning_tricks"):
            waiting.append(vars(thing) if hasattr(thing, "__dict__") else [])
    return sum(found.values())


def network(width: int, layers: int) -> nn.Sequential:
    """Linear layers with a ReLU after each but the last: sizes that formulas can be told."""
    torch.manual_seed(0)
    inner = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), *inner[2:], nn.Linear(width, 10))


class Sharded(Classifier):
    """FSDP2: the parameters of each linear layer are a group of their own."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in self.net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])


def made(name: str) -> Any:
    """The callback of the matrix, at a cadence that leaves some updates out."""
    return example(name, **({"every_n_steps": EVERY} if "every_n_steps" in EXAMPLES[name] else {}))


@functools.cache
def alone(precision: str, strategy: str, width: int, layers: int) -> Cost:
    """What a fit costs without any trick."""
    return counted([], precision, strategy, width, layers)


def added(names: list[str], strategy: str, width: int, layers: int) -> dict[str, Cost]:
    """Return for each callback, of which each gets a fit of its own, what it adds to the fit."""
    costs = {}
    for name in names:
        precision = UNDER.get(name, "32-true")
        without = alone(precision, strategy, width, layers)
        costs[name] = counted([made(name)], precision, strategy, width, layers).less(without)
    return costs


def added_together(names: list[str], strategy: str, width: int, layers: int) -> Cost:
    """Return what callbacks add together, in one fit."""
    without = alone("32-true", strategy, width, layers)
    return counted([made(name) for name in names], "32-true", strategy, width, layers).less(without)


def counted(tricks: list[Any], precision: str, strategy: str, width: int, layers: int) -> Cost:
    """Fit, and count at an update that is not logged, at one that is, and the bytes held between two updates."""
    world, rank = (1, 0) if strategy == "single" else (int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))
    tally = Tally()
    steps = Steps(tally)
    kind = Sharded if strategy == "fsdp2" else Classifier
    module = kind(sgd, net=network(width, layers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = trainer(
            [*tricks, steps], precision, strategy=strategies(world)[strategy](), devices=world,
            logger=Memory(), use_distributed_sampler=False, log_every_n_steps=EVERY,
        )  # fmt: skip
        with tally.everywhere():
            t.fit(module, share(digits(BATCH * UPDATES), world, rank, BATCH))
    between = [_minus(after, before) for before, after in itertools.pairwise(steps.rows)]
    quiet = {between[i] for i in QUIET}
    assert len(quiet) == 1, f"updates that are not logged cost {quiet}"
    return Cost(quiet.pop(), between[LOGGED], steps.held)
