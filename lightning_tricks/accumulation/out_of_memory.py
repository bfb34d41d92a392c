"""Forward and backward of one micro-batch, in smaller and smaller parts until it fits into memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.accumulation.attempt_state import AttemptState
from lightning_tricks.accumulation.spec import OWNER
from lightning_tricks.accumulation.split import SplitFunction, mean_of_parts, merged_outputs, shares_of
from lightning_tricks.accumulation.weights import Weight
from lightning_tricks.dry_run.training_step import Logged, logs_kept_back, replay
from lightning_tricks.errors import TrickError, is_out_of_memory
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.optimizer_step import gradient_writer

_MOST_PARTS = 4096


@dataclass(frozen=True)
class _Done:
    """All parts went forward and backward."""

    output: Any
    logged: list[list[Logged]]
    shares: list[float | Tensor]


class SplitStep:
    """Runs a training step with its backward pass, and remembers which size fitted.

    Args:
        weigh: what a part weighs, to share the batch's mean among its parts.
        split: a function of (batch, parts).
        own: whether ``split`` is the user's: parts of a batch, and not samples, are counted then.
    """

    def __init__(
        self,
        weigh: Callable[[Any], Weight],
        count: Callable[[Any], int],
        split: SplitFunction,
        *,
        own: bool,
    ) -> None:
        self.limit: float | None = None
        self._weigh, self._count, self._split, self._own = weigh, count, split, own
        self._warned = False
        self._attempt_state = AttemptState()

    def run(
        self, run: TrainingRun, step: Callable[..., Any], batch: Any, rest: tuple[Any, ...], factor: float | Tensor
    ) -> Any:
        """Return what ``step`` returns, its loss replaced by a leaf: its gradients are in the parameters already.

        Args:
            run: the run; its loss scale is applied.
            factor: on the gradient of the batch's mean loss.
        """
        module = run.trainer.lightning_module
        parameters = list(module.parameters())
        # (1e-9: the limit may be a quotient, and 8 / (8 / 3) must not become four parts)
        parts = 1 if self.limit is None else max(1, math.ceil(self._count(batch) / self.limit - 1e-9))
        told = None
        while True:
            self._attempt_state.take(module)
            done, error = self._attempt(run, step, batch, rest, factor, parts)
            if done is not None:
                self._attempt_state.succeeded()
                break
            told = error
            # (parts that still fitted have left gradients behind)
            gradient_writer.take(parameters)
            self._attempt_state.put_back(error)
            parts = self._more(batch, parts, error)
        if told is not None and not self._warned:
            self._warned = True
            what = f"1/{parts} of a batch" if self._own else f"{self.limit} samples"
            warn(OWNER, f"no memory for a batch of {self._count(batch)} ({told}). It goes on with {what} at a time.")
        replay(module, done.logged, done.shares)
        return done.output

    def _attempt(
        self, run: TrainingRun, step: Callable[..., Any], batch: Any, rest: Any, factor: Any, parts: int
    ) -> tuple[_Done | None, str]:
        """Try. Out of memory: None and the message; the exception, whose frames hold tensors, is let go."""
        try:
            pieces = [batch] if parts == 1 else list(self._split(batch, parts))
            shares = shares_of([self._weigh(piece) for piece in pieces]) if len(pieces) > 1 else shares_of([1])
            return _run_parts(run, step, pieces, shares, rest, factor, self._count), ""
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None, str(error)

    def _more(self, batch: Any, parts: int, error: str) -> int:
        """Return twice as many parts, and remember."""
        size = self._count(batch)
        # What the failed attempt held may be in reference cycles, and ``empty_cache`` gives back only what is free.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        most = _MOST_PARTS if self._own else size
        if parts >= most:
            what = f"{parts} parts do" if self._own else "a single sample does"
            raise TrickError(f"{OWNER}(on_oom='split'): {what} not fit into memory ({error}).")
        parts = min(2 * parts, most)
        self.limit = size / parts if self._own else math.ceil(size / parts)
        return parts


def run_apart(
    splitter: SplitStep,
    run: TrainingRun,
    step: Callable[..., Any],
    batch: Any,
    rest: tuple[Any, ...],
    factor: float | Tensor,
) -> tuple[Any, list[Tensor | None] | None]:
    """Return what a training step returns, and the gradients of its backward pass beside those of the window.

    The gradients stay apart until Lightning asks for the backward pass: a forward pass that fails leaves none behind.

    Args:
        splitter: runs it, in parts where memory runs out.
        factor: on the gradient of the batch's mean loss.
    """
    parameters = [p for p in run.trainer.lightning_module.parameters() if p.requires_grad]
    kept = gradient_writer.take(parameters)
    try:
        output = splitter.run(run, step, batch, rest, factor)
        return output, None if output is None else gradient_writer.take(parameters)
    finally:
        gradient_writer.give(parameters, kept)


def _run_parts(
    run: TrainingRun,
    step: Callable[..., Any],
    pieces: Sequence[Any],
    shares: list[float | Tensor],
    rest: tuple[Any, ...],
    factor: float | Tensor,
    count: Callable[[Any], int],
) -> _Done:
    """Run every part forward and backward, one after the other, and return what the whole batch would have returned.

    Args:
        shares: of each in the mean loss of the batch.
        factor: on the gradient of the batch's mean loss.
    """
    module = run.trainer.lightning_module
    outputs, losses, counted, sizes, logged = [], [], [], [], []
    for piece, share in zip(pieces, shares, strict=True):
        with logs_kept_back(module) as calls:
            output = step(piece, *rest)
        logged.append(calls)
        if output is None:
            continue
        loss = output["loss"] if isinstance(output, Mapping) else output
        _backward(run, loss, share * factor)
        losses.append(loss.detach().float().reshape(()))
        counted.append(share)
        sizes.append(count(piece) if isinstance(output, Mapping) and len(pieces) > 1 else 0)
        # Without its loss: the graph of a part has to be gone before the next one needs the memory.
        outputs.append({**output, "loss": None} if isinstance(output, Mapping) else {})
    if not losses:
        return _Done(None, logged, shares)
    # a leaf: Lightning's backward pass has nothing left to do
    total = mean_of_parts(losses, counted).requires_grad_()
    return _Done(merged_outputs(outputs, sizes, total) if outputs[0] else total, logged, shares)


def _backward(run: TrainingRun, loss: Tensor, factor: float | Tensor) -> None:
    """Run the backward pass of a part; one that counts nothing is left out, whatever its gradients are."""
    if not isinstance(factor, Tensor) and factor == 0.0:
        return
    scaler, handles = run.loss_scale.scaler, []
    if isinstance(factor, Tensor):
        trained = [p for p in run.trainer.lightning_module.parameters() if p.requires_grad]
        handles = gradient_writer.leave_out(trained, factor != 0)
    try:
        # ``training_step`` runs under autocast, in which torch advises against a backward pass; Lightning's is outside
        # too.
        with torch.autocast(loss.device.type, enabled=False):
            part = loss * factor
            (part if scaler is None else scaler.scale(part)).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
