"""Every observer and every dry run, with modules of every kind: the training is bit for bit the one without it.

Compared are weights, buffers and gradients at every update, and after the fit what the kind keeps, the optimizer's
state and the random generators. A look at the weights after the fit alone can miss a module that was cut from its
parameters: moving it to the CPU repairs that.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import numpy
import pytest
import torch

from lightning_tricks import TrickError, TrickWarning
from tests.kinds import KINDS, Kind, reset_globals
from tests.matrix import EXAMPLES, OBSERVERS
from tests.problems import Memory, trainer
from tests.together.problems import example

# an actor that is told not to act makes a dry run all the same
IDLE: dict[str, dict[str, Any]] = {"LRFinder": {"apply": False, "num_steps": 20}}
CHANGED: dict[str, dict[str, Any]] = {
    "SanityCheck": {"overfit_batch": True},
    "TrainingDoctor": {"every_n_steps": 2},
    "PrecisionDoctor": {"every_n_steps": 2},
    "GradientMonitor": {"every_n_steps": 2, "update_ratio": True},
}
# in company a dry run is as long as it must be to do all that it does; alone it is longer
SHORTER: dict[str, dict[str, Any]] = {"LRFinder": {"num_steps": 10}, "TrainingDoctor": {"every_n_steps": 5}}
DRY_RUNNING = ["GenerationDrift", "LRFinder", "PrecisionDoctor", "SanityCheck", "TrainingDoctor"]
WATCHING = [name for name in OBSERVERS if name not in DRY_RUNNING]
RECORDS: list[Any] = []


class Recorder(L.Callback):
    """Notes weights, buffers and gradients at every update."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        members = [p for group in optimizer.param_groups for p in group["params"]]
        RECORDS.append([None if p.grad is None else p.grad.to_dense().clone() for p in members])
        RECORDS.append([t.detach().clone() for t in [*members, *pl_module.buffers()]])


def flattened(value: Any) -> Any:
    """Tensors as what compares equal bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.detach().contiguous().reshape(-1).view(
            torch.uint8
        ).numpy().tobytes() if value.numel() else b""
    if isinstance(value, dict):
        return {str(k): flattened(v) for k, v in value.items()}
    return [flattened(v) for v in value] if isinstance(value, (list, tuple)) else repr(value)


def training(kind: Kind, tricks: list[Any]) -> tuple[Any, list[str]]:
    """Train; return all that is compared, and what the pack has said."""
    reset_globals()
    RECORDS.clear()
    L.seed_everything(1, verbose=False)
    module = kind.make()
    arguments: dict[str, Any] = {"max_epochs": 2, "logger": Memory(), "log_every_n_steps": 2, **kind.arguments}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        t = trainer([*tricks, *kind.callbacks(), Recorder()], **arguments)
        t.fit(module, kind.data())
    after = {
        "records": list(RECORDS),
        "state": module.state_dict(),
        "kept": module.everything(),
        "optimizers": [o.state_dict() for o in t.optimizers],
        "random": [torch.rand(2), random.random(), float(numpy.random.rand())],
        "logged": {k: v for k, v in t.callback_metrics.items() if "/" not in k},
        "rows": [(step, k, v) for step, row in arguments["logger"].rows for k, v in row.items() if "/" not in k],
    }
    return flattened(after), [str(w.message) for w in said if issubclass(w.category, TrickWarning)]


@functools.cache
def alone(kind: str) -> Any:
    return training(KINDS[kind], [])[0]


def assert_no_trace(kind: str, names: Sequence[str]) -> None:
    shorter = SHORTER if len(names) > 1 else {}
    tricks = [example(name, **CHANGED.get(name, {}) | IDLE.get(name, {}) | shorter.get(name, {})) for name in names]
    before = alone(kind)
    after, said = training(KINDS[kind], tricks)
    for part, value in before.items():
        assert after[part] == value, part
    assert not [text for text in said if "switched off" in text or "could not be put back" in text], said


def of_a_kind(kind: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in KINDS[kind].refused_by]


@pytest.mark.parametrize("kind", KINDS)
def test_together_they_leave_no_trace(kind: str) -> None:
    """Those that run the user's code again, and all others; what fails here is told apart by the tests with ``--slow``."""
    assert_no_trace(kind, of_a_kind(kind, [*WATCHING, *DRY_RUNNING]))


@pytest.mark.slow
@pytest.mark.parametrize("names", [WATCHING, DRY_RUNNING], ids=["watching", "dry runs"])
@pytest.mark.parametrize("kind", KINDS)
def test_those_that_watch_and_those_that_run_dry_leave_no_trace(kind: str, names: list[str]) -> None:
    assert_no_trace(kind, of_a_kind(kind, names))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OBSERVERS, *IDLE])
@pytest.mark.parametrize("kind", KINDS)
def test_each_by_itself_leaves_no_trace(kind: str, name: str) -> None:
    if name not in KINDS[kind].refused_by:
        assert_no_trace(kind, [name])


@pytest.mark.parametrize(
    ("kind", "name", "why"), [(kind, name, why) for kind in KINDS for name, why in KINDS[kind].refused_by.items()]
)
def test_what_is_refused_is_refused_by_name(kind: str, name: str, why: str) -> None:
    with pytest.raises(TrickError, match=why):
        training(KINDS[kind], [example(name, **CHANGED.get(name, {}), **IDLE.get(name, {}))])


def test_every_observer_is_here() -> None:
    assert {*WATCHING, *DRY_RUNNING} == {*OBSERVERS, *IDLE}
    assert set(IDLE) < set(EXAMPLES)
