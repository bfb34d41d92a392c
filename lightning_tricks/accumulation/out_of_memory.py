"""Forward and backward of one micro-batch, in smaller and smaller parts until it fits into memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.accumulation.split import SplitFunction, is_out_of_memory, merged_outputs, split_samples
from lightning_tricks.accumulation.weights import Weight, samples
from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot
from lightning_tricks.dry_run.training_step import Logged, logs_kept_back, replay
from lightning_tricks.errors import NotRestorableError, TrickError
from lightning_tricks.runtime import gradient_writer
from lightning_tricks.runtime.action import warn
from lightning_tricks.runtime.run import TrainingRun

_OWNER = "GradientAccumulation"
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
        split: a function of (batch, parts); None for the samples.
    """

    def __init__(self, weigh: Callable[[Any], Weight], split: SplitFunction | None) -> None:
        self.limit: float | None = None
        self._weigh, self._split = weigh, split
        self._warned = False
        self._attempt_state = _AttemptState()

    def run(
        self, run: TrainingRun, step: Callable[..., Any], batch: Any, rest: tuple[Any, ...], factor: float | Tensor
    ) -> Any:
        """Return what ``step`` returns, its loss replaced by a leaf: its gradients are in the parameters already.

        Args:
            run: the run; its loss scale is applied.
            step: the module's ``training_step``.
            batch: its first argument.
            rest: its other arguments.
            factor: on the gradient of the batch's mean loss.
        """
        module = run.trainer.lightning_module
        parameters = list(module.parameters())
        parts = 1 if self.limit is None else max(1, math.ceil(samples(batch) / self.limit - 1e-9))
        told = None
        while True:
            self._attempt_state.take(module)
            done, error = self._attempt(run, step, batch, rest, factor, parts)
            if done is not None:
                self._attempt_state.succeeded()
                break
            told = error
            gradient_writer.take(parameters)
            self._attempt_state.put_back(error)
            parts = self._more(batch, parts, error)
        if told is not None and not self._warned:
            self._warned = True
            what = f"{self.limit} samples" if self._split is None else f"1/{parts} of a batch"
            warn(_OWNER, f"no memory for a batch of {samples(batch)} ({told}). It goes on with {what} at a time.")
        replay(module, done.logged, done.shares)
        return done.output

    def _attempt(self, *arguments: Any) -> tuple[_Done | None, str]:
        """Try. Out of memory: None and the message; the exception, whose frames hold tensors, is let go."""
        try:
            return self._parts(*arguments), ""
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None, str(error)

    def _parts(
        self, run: TrainingRun, step: Callable[..., Any], batch: Any, rest: Any, factor: Any, parts: int
    ) -> _Done:
        module = run.trainer.lightning_module
        pieces = [batch] if parts == 1 else list((self._split or split_samples)(batch, parts))
        shares = self._shares(pieces)
        outputs, losses, sizes, logged = [], [], [], []
        for piece, share in zip(pieces, shares, strict=True):
            with logs_kept_back(module) as calls:
                output = step(piece, *rest)
            logged.append(calls)
            if output is None:
                continue
            loss = output["loss"] if isinstance(output, Mapping) else output
            _backward(run, loss * (share * factor))
            losses.append((loss.detach() * share).float().reshape(()))
            sizes.append(samples(piece) if isinstance(output, Mapping) and parts > 1 else 0)
            outputs.append({**output, "loss": None} if isinstance(output, Mapping) else {})
        if not losses:
            return _Done(None, logged, shares)
        total = torch.stack(losses).sum().requires_grad_()  # a leaf: Lightning's backward pass has nothing left to do
        return _Done(merged_outputs(outputs, sizes, total) if outputs[0] else total, logged, shares)

    def _shares(self, pieces: list[Any]) -> list[float | Tensor]:
        if len(pieces) == 1:
            return [1.0]
        weights = [self._weigh(piece) for piece in pieces]
        whole = sum(weights)
        return [weight / whole for weight in weights]

    def _more(self, batch: Any, parts: int, error: str) -> int:
        """Return twice as many parts, and remember.

        Raises:
            TrickError: it cannot be split further.
        """
        size = samples(batch)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if parts >= (size if self._split is None else _MOST_PARTS):
            what = "a single sample does" if self._split is None else f"{parts} parts do"
            raise TrickError(f"{_OWNER}(on_oom='split'): {what} not fit into memory ({error}).")
        parts = min(2 * parts, size if self._split is None else _MOST_PARTS)
        self.limit = math.ceil(size / parts) if self._split is None else size / parts
        return parts


def _backward(run: TrainingRun, loss: Tensor) -> None:
    scaler = run.loss_scale.scaler
    with torch.autocast(loss.device.type, enabled=False):
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]


class _AttemptState:
    """What a forward pass changes in a module, taken before each attempt: one that fails half-way is undone.

    A parameter that is not trained and too large to be copied at every step is looked at in the first one: where the
    step writes to it (a momentum teacher), it is copied from then on.
    """

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._obstacle = ""
        self._written: set[int] | None = None

    def take(self, module: Any) -> None:
        self._snapshot = None
        if self._obstacle:
            return
        try:
            self._snapshot = Snapshot(Roots({"module": module}), watch=False, also=self._written or ())
        except NotRestorableError as error:  # no reason to end a run in which memory may never run out
            self._obstacle = error.what
            return
        if self._written is None:
            self._snapshot.note_checksums()

    def succeeded(self) -> None:
        if self._snapshot is not None and self._written is None:
            self._written = self._snapshot.written()
        self._snapshot = None

    def put_back(self, error: str) -> None:
        """Undo a failed attempt.

        Raises:
            TrickError: it cannot be undone.
        """
        if self._snapshot is None:
            raise TrickError(
                f"{_OWNER}(on_oom='split'): no memory ({error}), and the step cannot be made again in smaller parts, "
                f"since {self._obstacle}. Use a smaller batch."
            )
        self._snapshot.restore()
