"""advise_precision: train the user's own model for seconds in every precision, and say which one pays. No Trainer."""

from __future__ import annotations

import math
import random
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.errors import TrickError, UnsupportedError, message, require_number
from lightning_tricks.numerics.trees import tree_leaves, tree_map
from lightning_tricks.precision.candidate import Candidate
from lightning_tricks.precision.fp32_flags import fp32_mode
from lightning_tricks.precision.peak_memory import held_tensors, peak_bytes
from lightning_tricks.precision.recommendation import (
    PRECISIONS,
    PrecisionRow,
    recommend,
    shape_findings,
    speedup,
    unavailable,
)
from lightning_tricks.publishing.html import note
from lightning_tricks.publishing.html import table as html_table
from lightning_tricks.publishing.statement import Outcome

_ROUNDS = 3  # each precision in each round, in random order: a clock that drifts hits all of them
_OWNER = "advise_precision"


@dataclass(frozen=True)
class PrecisionAdvice:
    """What ``advise_precision`` found.

    Args:
        recommended: for ``Trainer(precision=...)``.
        reasons: why, one sentence each; then what about the model's shapes keeps 16-bit arithmetic from being fast.
        rows: what was measured, by precision.
        device: on which it was measured.
    """

    recommended: str
    reasons: list[str]
    rows: dict[str, PrecisionRow]
    device: str

    @property
    def table(self) -> str:
        """The measurements as a Markdown table; ratios are against IEEE float32 and against TF32."""
        lines = [
            "| precision | ms per step | over ieee-fp32 | over tf32 | memory MB | gradient cosine | skipped |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in self.rows.values():
            if row.problem:
                lines.append(f"| {row.precision} | {row.problem} | | | | | |")
                continue
            ratios = [_shown_ratio(self.rows, row, base) for base in ("ieee-fp32", "tf32")]
            cells = [f"{statistics.median(row.seconds) * 1e3:.2f}", *ratios, f"{row.peak_bytes / 2**20:.1f}"]
            lines.append(f"| {row.precision} | {' | '.join(cells)} | {row.cosine:.4f} | {row.skipped:.0%} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The table, the recommendation and its reasons."""
        why = "\n".join(f"- {reason}" for reason in self.reasons)
        return f"{self.table}\n\nOn {self.device}: Trainer(precision={self.recommended!r})\n{why}"

    def _repr_html_(self) -> str:
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in self.table.splitlines()]
        chosen = f"On {self.device}: Trainer(precision={self.recommended!r})"
        return note(" ".join(f"{text.rstrip('.')}." for text in (chosen, *self.reasons))) + html_table(
            head, rows, {self.recommended: Outcome.GOOD.color}
        )


def _shown_ratio(rows: dict[str, PrecisionRow], row: PrecisionRow, base: str) -> str:
    found = speedup(rows, row.precision, base)
    return "-" if found is None else "{:.2f}x [{:.2f}, {:.2f}]".format(*found)


def advise_precision(
    module: nn.Module, batch: Any, *, device: str | torch.device | None = None, seconds: float = 10.0
) -> PrecisionAdvice:
    """Measure a model in every precision that a device has, and recommend one for ``Trainer(precision=...)``.

    Copies of the model take some training steps on the one batch, in turns. The module, torch's flags and the random
    numbers are left as they were.

    Args:
        module: a LightningModule with automatic optimization (its ``training_step`` and ``configure_optimizers`` are
            used), or any module: then the output is the loss if it is one number, else it is compared with the batch's
            target (cross entropy for whole numbers, else mean squares), with AdamW.
        batch: as ``training_step`` gets it; for other modules ``(input, target)`` or the input alone.
        device: where to measure; None for a GPU if there is one.
        seconds: time to spend, > 0.

    Returns:
        The recommendation, its reasons and the table.

    Raises:
        TypeError, ValueError: an argument is wrong.
        UnsupportedError: manual optimization.
        TrickError: the model cannot be trained a step outside of a Trainer; the message holds its error.

    Example:
        >>> from lightning_tricks import advise_precision
        >>> batch = torch.randn(8, 16), torch.randint(4, (8,))
        >>> advice = advise_precision(nn.Linear(16, 4), batch, device="cpu", seconds=0.2)
        >>> advice.rows["tf32"].problem
        'a mode of NVIDIA tensor cores'

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740.
    """
    require_number(_OWNER, "seconds", seconds, remedy="Use e.g. 10.0")
    given: object = module
    if not isinstance(given, nn.Module):
        text = "module must be a torch.nn.Module or a LightningModule"
        raise TypeError(message(_OWNER, "module", type(module).__name__, text, "Pass the model itself"))
    if not getattr(module, "automatic_optimization", True):
        text = "manual optimization makes its steps with a Trainer only"
        remedy = "Pass a part of it, as net.encoder"
        raise UnsupportedError(message(_OWNER, "module", type(module).__name__, text, remedy))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = {p: PrecisionRow(p, problem=unavailable(p, where)) for p in PRECISIONS}
    state = global_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of self.log without a Trainer, say: the user trains nothing here
            _measure(module, batch, where, rows, seconds)
    finally:
        set_global_state(state)
    recommended, reasons = recommend(rows, where)
    return PrecisionAdvice(recommended, [*reasons, *shape_findings(module, where)], rows, _device_name(where))


def _measure(
    module: nn.Module, batch: Any, device: torch.device, rows: dict[str, PrecisionRow], seconds: float
) -> None:
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

    >>> half_of((torch.zeros(4, 3), torch.zeros(8)))[1].shape
    torch.Size([4])
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
                f"{_OWNER}: the model could not be trained a step outside of a Trainer ({type(error).__name__}: "
                f"{error}). Pass the network itself and a batch of (input, target)."
            ) from error
        row.problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:100]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
