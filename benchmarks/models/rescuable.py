"""Which failures a lower rate or a larger batch can cure: those whose healthy twin differs in nothing else."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.models.scenario import Scenario
from benchmarks.models.trainings import Training

_FREE = ("lr", "rate", "batch", "schedule", "steps")  # in the names of settings that may differ


def differs_in_rate_or_batch(failing: Scenario, twin: Scenario, seed: int = 0) -> bool:
    """Whether a failing training and its healthy twin are the same but for the learning rate or the size of a batch.

    Asked of the trainings themselves, not of their names: the same initial weights, the same optimizers with the same
    settings but for the rate, the same loss of the same batch, the same data where batches are of one size, and the
    same settings of the module.

    Args:
        failing: of which the twin's name is known.
        twin: healthy.
        seed: of both.
    """
    one, two = failing.make(seed), twin.make(seed)
    return (
        type(one.module) is type(two.module)
        and _same_tensors(one.module.state_dict(), two.module.state_dict())
        and _settings(one) == _settings(two)
        and _optimizers(one) == _optimizers(two)
        and all(left >= right for left, right in zip(_rates(one), _rates(two), strict=True))
        and _same_data(one, two)
        and _same_loss(one, two)
    )


def _same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _settings(training: Training) -> dict[str, Any]:
    """Return the settings of a module that have nothing to do with rates and batches: numbers, texts and functions."""
    own = {n: v for n, v in vars(training.module).items() if n not in vars(L.LightningModule())}
    own |= dict(training.module.hparams)
    # (optimizers are compared by themselves: what makes them may hold the rate)
    kept = {n: v for n, v in own.items() if not any(word in n.lower() for word in (*_FREE, "optimizer"))}
    plain = {n: v for n, v in kept.items() if isinstance(v, (bool, int, float, str))}
    return plain | {n: _code(v) for n, v in kept.items() if callable(v) and hasattr(v, "__code__") and n != "make"}


def _code(function: Any) -> Any:
    """Return what a function does, and the numbers and functions that it was made with."""
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *function.__code__.co_consts]
    plain = [x for x in held if isinstance(x, (bool, int, float, str))]
    inner = [_code(x) for x in held if hasattr(x, "__code__")]
    return function.__code__.co_code, function.__code__.co_names, plain, inner


def _made(training: Training) -> list[torch.optim.Optimizer]:
    return [o for o in _flat(training.module.configure_optimizers()) if isinstance(o, torch.optim.Optimizer)]


def _rates(training: Training) -> list[float]:
    return [float(group["lr"]) for optimizer in _made(training) for group in optimizer.param_groups]


def _optimizers(training: Training) -> list[Any]:
    free = {"params", "lr", "initial_lr", "max_lr", "min_lr"}
    return [
        (type(o), [{k: v for k, v in g.items() if k not in free and not isinstance(v, Tensor)} for g in o.param_groups])
        for o in _made(training)
    ]


def _flat(made: Any) -> list[Any]:
    if isinstance(made, dict):
        return [x for value in made.values() for x in _flat(value)]
    return [x for value in made for x in _flat(value)] if isinstance(made, (list, tuple)) else [made]


def _same_data(one: Training, two: Training) -> bool:
    """Whether the same batches come: of the first, a middle and the last one, where they have as many rows."""
    if not len(one.data) or not len(two.data):  # type: ignore[arg-type]
        left, right = map(_own_data, (one, two))
        return bool(left) and len(left) == len(right) and all(map(torch.equal, left, right))
    last = min(len(one.data), len(two.data)) - 1  # type: ignore[arg-type]
    for i in (0, last // 3, 2 * last // 3, last):
        left, right = ([t for t in tree_leaves(x.data[i]) if isinstance(t, Tensor)] for x in (one, two))
        if len(left) != len(right):
            return False
        sized = [(a, b) for a, b in zip(left, right, strict=True) if a.shape == b.shape]
        if not all(torch.equal(a, b) for a, b in sized):
            return False
    return True


def _own_data(training: Training) -> list[Tensor]:
    """Return the tensors of a module that brings its own data, or else of its first batches, in the order of a seed."""
    held = vars(training.module).get("train_data", ())
    if not held:
        with torch.random.fork_rng(), contextlib.suppress(Exception):
            torch.manual_seed(0)
            held = list(itertools.islice(training.module.train_dataloader(), 2))
    return [t for t in tree_leaves(held) if isinstance(t, Tensor)]


def _same_loss(one: Training, two: Training) -> bool:
    """Whether both steps give the same loss of the same batch; True where a step needs a Trainer to be asked."""
    if not len(two.data) or not two.module.automatic_optimization:  # type: ignore[arg-type]
        return True
    losses = []
    for training in (one, two):
        torch.manual_seed(0)
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = training.module.training_step(two.data[0], 0)
            loss = result["loss"] if isinstance(result, dict) else result
            losses.append(float(loss))
    return len(losses) < 2 or abs(losses[0] - losses[1]) <= 1e-5 * max(1e-3, abs(losses[1]))
