"""What a training did, as digests: two runs are the same, bit for bit, if their digests are."""

from __future__ import annotations

import functools
import hashlib
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
import numpy
import pytorch_lightning
import torch
from torch import Tensor

from lightning_tricks import TrickWarning
from tests.strangers.stranger import NOTHING, Stranger


@dataclass
class Record:
    """A training, from its first update to its end.

    Args:
        gradients: one digest for each update, of all gradients as the optimizer is about to see them.
        weights: the digest of each parameter and buffer after the last update.
        metrics: after each epoch and at the end, the digest of each value that the module logged.
        generators: the digest of the global random generators at the end.
        finite: whether all weights are finite at the end.
        finished: whether the training came to its end.
        stopped: whether somebody asked for an earlier end.
        callbacks: names of the classes that the Trainer called.
        warnings: what our callbacks warned of.
    """

    gradients: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    metrics: list[dict[str, str]] = field(default_factory=list)
    generators: str = ""
    finite: bool = False
    finished: bool = False
    stopped: bool = False
    callbacks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tail(self, updates: int) -> tuple[list[str], dict[str, str], str]:
        """Return what has to be equal in a run that is resumed after these updates."""
        return self.gradients[updates:], self.weights, self.generators


# By name, and outside of every object that the module or a callback holds.
RECORDS: dict[str, Record] = {}


class Recorder(L.Callback, pytorch_lightning.Callback):
    """Writes a ``Record``.

    Where it takes part in a dry run, what it notes there has to vanish with it: a record that is too long is a trace.

    Args:
        name: of the record.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        RECORDS[self.name].gradients.append(digest(p.grad for p in parameters))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        RECORDS[self.name].metrics.append(logged(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        record = RECORDS[self.name]
        named = [*pl_module.named_parameters(), *pl_module.named_buffers()]
        record.weights = {name: digest([tensor]) for name, tensor in named}
        record.metrics.append(logged(trainer))
        record.generators = generators()
        record.finite = all(bool(p.isfinite().all()) for p in pl_module.parameters())
        record.finished, record.stopped = True, bool(trainer.should_stop)
        record.callbacks = [type(callback).__name__ for callback in trainer.callbacks]


def recorded(
    stranger: Stranger,
    callbacks: Sequence[Any] = (),
    arguments: Mapping[str, Any] = NOTHING,
    checkpoint: str | None = None,
) -> Record:
    """Train a stranger; return what happened."""
    RECORDS[stranger.name] = Record()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stranger.train([*callbacks, Recorder(stranger.name)], arguments, checkpoint)
    record = RECORDS.pop(stranger.name)
    record.warnings = [str(warning.message) for warning in caught if issubclass(warning.category, TrickWarning)]
    return record


@functools.cache  # (for all tests of a session that compare with it)
def undisturbed(stranger: Stranger) -> Record:
    """Return the record of a stranger's training without any callback of ours."""
    return recorded(stranger)


def digest(tensors: Iterable[Tensor | None]) -> str:
    """Return a digest of values, shapes and types."""
    total = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            total.update(b"none")
            continue
        values = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        total.update(f"{values.dtype} {tuple(values.shape)}".encode())
        total.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def logged(trainer: Any) -> dict[str, str]:
    """Return a digest of each value that was logged with ``self.log`` and is still known."""
    return {name: digest([torch.as_tensor(value)]) for name, value in trainer.callback_metrics.items()}


def generators() -> str:
    """Return a digest of the states of the generators of torch, numpy and Python."""
    state = torch.get_rng_state().numpy().tobytes(), repr(numpy.random.get_state()), repr(random.getstate())
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]
