"""Steps of a model in every precision of a table, timed and compared."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.errors import TrickError
from lightning_tricks.numerics.trees import tree_leaves, tree_map
from lightning_tricks.precision.candidate import Candidate
from lightning_tricks.precision.fp32_flags import fp32_mode
from lightning_tricks.precision.peak_memory import held_tensors, peak_bytes
from lightning_tricks.precision.recommendation import (
    PrecisionRow,
)

_ROUNDS = 3  # each precision in each round, in random order: a clock that drifts hits all of them


OWNER = "advise_precision"


def measure(module: nn.Module, batch: Any, device: torch.device, rows: dict[str, PrecisionRow], seconds: float) -> None:
    """Fill the rows: first memory and gradients, each precision alone; then times, in turns."""
    _measure_gradients(module, batch, device, rows)
    usable = [row for row in rows.values() if not row.problem]
    _measure_times(module, batch, device, usable, 0.7 * seconds / (_ROUNDS * max(1, len(usable))))
    for row in usable:
        if row.problem:  # rows are compared round by round, so one with rounds missing cannot be
            row.seconds = []


def _measure_gradients(module: nn.Module, batch: Any, device: torch.device, rows: dict[str, PrecisionRow]) -> None:
    """Fill in loss, gradient and memory. IEEE float32 comes first: the other gradients are compared with it."""
    reference: Tensor | None = None
    for row in [r for r in rows.values() if not r.problem]:
        with fp32_mode(row.precision == "tf32"), _trouble_in(row, required=row.precision == "ieee-fp32"):
            candidate = Candidate(module, batch, device, row.precision)
            gradient, row.loss = candidate.gradient()
            reference = gradient if reference is None else reference
            row.cosine = _cosine(gradient, reference)
            row.length = float(gradient.double().norm() / reference.double().norm().clamp(min=1e-300))
            if row.precision == "ieee-fp32" and (half := half_of(batch)) is not None:
                row.noise = _noise(module, half, device, gradient)
            candidate.warm_up()  # the optimizer's state is part of the memory
            static = sum(t.nbytes for t in held_tensors(candidate.module, [candidate.optimizer]))
            row.peak_bytes = static + peak_bytes(candidate.step, device)
            del candidate, gradient


def _measure_times(
    module: nn.Module, batch: Any, device: torch.device, usable: list[PrecisionRow], budget: float
) -> None:
    """Fill in times and skipped steps: ``budget`` seconds of each precision in each round."""
    # (a generator of its own, so that the user's stays where it is)
    order = random.Random(0)
    for _ in range(_ROUNDS):
        for row in order.sample(usable, len(usable)):
            with fp32_mode(row.precision == "tf32"), _trouble_in(row):
                candidate = Candidate(module, batch, device, row.precision)
                candidate.warm_up()
                seconds_per_step, row.host_share = _time(candidate, budget)
                row.seconds.append(seconds_per_step)
                row.skipped += candidate.skipped / candidate.steps / _ROUNDS
                del candidate


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(nn.functional.cosine_similarity(first.double(), second.double(), dim=0))


def _noise(module: nn.Module, half: Any, device: torch.device, gradient: Tensor) -> float:
    """Return the cosine of half of a batch's gradient to ``gradient``; NaN where the module does not take the half."""
    try:
        return _cosine(Candidate(module, half, device, "ieee-fp32").gradient()[0], gradient)
    except Exception:  # the half is our own making, and the comparison can do without it
        return math.nan


def half_of(batch: Any) -> Any:
    """Return the first half of the samples of a batch; None where the shapes do not say what a sample is.

    The shortest first dimension is the number of samples; targets that were flattened hold several rows for each.
    """
    rows = [len(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim]
    samples = min(rows, default=0)
    if samples < 2 or any(n % samples for n in rows):
        return None
    kept = samples // 2
    return tree_map(lambda t: t[: len(t) // samples * kept] if isinstance(t, Tensor) and t.ndim else t, batch)


def _time(candidate: Candidate, budget: float) -> tuple[float, float]:
    """Return the median seconds of a step, and the share of them after which all its kernels were launched."""
    times, launched = list[float](), list[float]()
    for i in range(10_000):
        _synchronize(candidate.device)
        start = time.perf_counter()
        candidate.step()
        ready = time.perf_counter()
        _synchronize(candidate.device)
        if i >= 2:  # the first steps still allocate memory and choose kernels
            times.append(time.perf_counter() - start)
            launched.append(ready - start)
        if len(times) >= 3 and sum(times) > budget:
            break
    return statistics.median(times), statistics.median(launched) / statistics.median(times)


@contextmanager
def _trouble_in(row: PrecisionRow, *, required: bool = False) -> Iterator[None]:
    """A precision that fails has no numbers; the others go on."""
    try:
        yield
    except torch.OutOfMemoryError:
        row.problem = "out of memory"
    except Exception as error:
        if required:
            raise TrickError(
                f"{OWNER}: the model could not be trained a step outside of a Trainer ({type(error).__name__}: "
                f"{error}). Pass the network itself and a batch of (input, target)."
            ) from error
        row.problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:100]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
