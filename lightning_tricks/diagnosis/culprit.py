"""Where NaN, inf or a giant loss comes from: the batch and its rows, the weights, or a module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.diagnosis import autopsy
from lightning_tricks.diagnosis.reference_batch import runs_again
from lightning_tricks.diagnosis.slices import Slices
from lightning_tricks.dry_run.isolated import step_again
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import in_compiled_graphs, plain_modules
from lightning_tricks.modules.trace import Trace, floating
from lightning_tricks.numerics import host
from lightning_tricks.numerics.trees import tree_leaves

_GIANT = 100.0  # times the largest of the usual losses


class Culprit(Stages):
    """Looks for what makes the first loss that is not finite, or giant, while the weights are still good.

    It looks at losses that are in the memory of the host; on an accelerator it names nothing.
    """

    def __init__(self) -> None:
        self.text = ""  # what it is, in words; empty while all is well
        self.row = ""  # of the batch that made the first giant loss, where one row did
        self.batch: Any = None  # the last one
        self._index = 0
        self._previous: Any = None  # the batch before the last one
        self._giant = math.inf  # from which on a loss is looked into
        self._run: TrainingRun | None = None
        self._manual = False

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up what was found before."""
        self._run, self._manual = run, not run.trainer.lightning_module.automatic_optimization
        if state is not None:
            self.text = state["culprit"]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the batch, and where the host can read the loss the one before."""
        self._previous = self.batch if self._giant < math.inf else None
        self.batch, self._index = batch, batch_idx

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Look into a loss that is not finite, or giant."""
        value = host.value_on_host(loss if loss.ndim == 0 else loss.detach().reshape(()))
        # (None on a GPU: to read each loss would make the host wait in every step)
        if value is None or self.text or self._run is None:
            return
        if not math.isfinite(value):
            self.text = self._look(self._run)
        elif value > self._giant:
            self.row = rows = autopsy.outlying_rows(self.batch)
            self.text = f"batch {self._index} made the first giant loss, {value:.3g}" + f": {rows}" * bool(rows)
        elif self._giant == math.inf and not self._manual:
            self._giant = _GIANT * max(abs(value), 1e-12)

    def follow(self, usual: Sequence[float]) -> None:
        """Take up at a check which losses are usual."""
        if self._giant < math.inf:
            self._giant = giant_loss(usual)

    def measure(self, device: torch.device) -> Slices:
        """Return 1 where one row of a batch made a giant loss, and how many numbers a sample of the present batch has.

        What follows from both is decided alike on all processes.
        """
        numbers = (float(bool(self.row)), extent_of(self.batch))
        return Slices(tuple(host.as_scalar(number, device).reshape(1) for number in numbers))

    def _look(self, run: TrainingRun) -> str:
        """Return where NaN or inf comes from: the batch and its rows, the weights, or a module's output."""
        where, batch = f"batch {self._index}", self.batch
        if any(not bool(torch.isfinite(t).all()) for t in floating(batch)):
            return f"the batch itself holds NaN or inf: {where}, {autopsy.outlying_rows(batch)}"
        names = autopsy.nonfinite_names(run.trainer.lightning_module)
        if names:
            text = f"weights or buffers are not finite, first {names[0]!r} ({len(names)} in all), from {where} on"
            rows = "" if self._previous is None else autopsy.outlying_rows(self._previous)
            return f"{text}; in the batch before it {rows}" if rows else text
        rows = autopsy.outlying_rows(batch)
        module = first_broken_module(run, batch, self._index)
        return "; ".join(text for text in (f"{where} is the first", rows, module) if text)

    def _rolled_back(self, run: TrainingRun) -> None:
        """The weights are good again."""
        self.text = self.row = ""

    def _cleanup(self, run: TrainingRun) -> None:
        """Let go of the batches."""
        self.batch = self._previous = None

    def _trick_state(self) -> dict[str, Any]:
        """What was found."""
        return {"culprit": self.text}


def extent_of(batch: Any) -> float:
    """Return how many numbers a sample has in the largest tensor of a batch; NaN without any.

    >>> extent_of((torch.zeros(8, 5, 3), torch.zeros(8))), extent_of("none")
    (15.0, nan)
    """
    tensors = [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim and len(t)]
    return max((t.numel() / len(t) for t in tensors), default=math.nan)


def giant_loss(usual: Sequence[float]) -> float:
    """Return from where on a loss is giant.

    >>> giant_loss([0.5, -2.0, float("nan")])
    200.0
    """
    return _GIANT * max([1e-12, *(abs(x) for x in usual if math.isfinite(x))])


def first_broken_module(run: TrainingRun, batch: Any, batch_idx: int) -> str:
    """Return the first module whose output is not finite, in words; empty where the step cannot be run again.

    Args:
        run: the run.
        batch: that makes it so.
        batch_idx: its index.
    """
    module = run.trainer.lightning_module
    if not runs_again(module) or waits_for_others(run):  # (other processes may be sound, and do not look)
        return ""
    hidden = in_compiled_graphs(module)
    watched = {n: m for n, m in plain_modules(module).items() if n and id(m) not in hidden}
    try:
        with Trace(watched) as trace:
            step_again(run, batch, batch_idx)
    except Exception:
        return ""
    for call in trace.calls():
        if call.largest_output == math.inf and call.largest_input < math.inf and not call.masks:
            return f"the output of {call.name!r} is the first that is not finite"
    return "every module's output is finite, the loss is not: look for log(0) or a division by 0 in it"


def waits_for_others(run: TrainingRun) -> bool:
    """Whether a forward pass needs all processes: with sharded parameters, and in SyncBatchNorm."""
    modules = run.trainer.lightning_module.modules()
    synced = any(isinstance(m, torch.nn.SyncBatchNorm) for m in modules)
    return run.trainer.world_size > 1 and (synced or any(view.sharded for view in run.views))
