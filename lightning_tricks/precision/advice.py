"""advise_precision: train the user's own model for seconds in every precision, and say which one pays. No Trainer."""

from __future__ import annotations

import statistics
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.errors import UnsupportedError, message, require_number
from lightning_tricks.precision.measuring import OWNER, measure
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
    rows: dict[str, PrecisionRow] = field(repr=False)  # (``table`` shows them)
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
    require_number(OWNER, "seconds", seconds, remedy="Use e.g. 10.0")
    given: object = module
    if not isinstance(given, nn.Module):
        text = "module must be a torch.nn.Module or a LightningModule"
        raise TypeError(message(OWNER, "module", type(module).__name__, text, "Pass the model itself"))
    if not getattr(module, "automatic_optimization", True):
        text = "manual optimization makes its steps with a Trainer only"
        remedy = "Pass a part of it, as net.encoder"
        raise UnsupportedError(message(OWNER, "module", type(module).__name__, text, remedy))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = {p: PrecisionRow(p, problem=unavailable(p, where)) for p in PRECISIONS}
    state = global_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of self.log without a Trainer, say: the user trains nothing here
            measure(module, batch, where, rows, seconds)
    finally:
        set_global_state(state)
    recommended, reasons = recommend(rows, where)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else str(where)
    return PrecisionAdvice(recommended, [*reasons, *shape_findings(module, where)], rows, name)
