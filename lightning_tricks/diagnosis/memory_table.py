"""Where the memory of a training is, and what would free how much of it: numbers in, a table and a page of text out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_MANY = 12  # rows of a part of the table that are shown
_ADAM = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")  # with two tensors of the size of the weights


@dataclass(frozen=True)
class Remedy:
    """Something that frees memory.

    Args:
        what: to do.
        saves: bytes, estimated.
        how: the estimate in words.
    """

    what: str
    saves: float
    how: str

    def __str__(self) -> str:
        return f"{self.what}: about {shown_bytes(self.saves)} ({self.how})"


@dataclass(frozen=True)
class MemoryTable:
    """Where memory is, in bytes.

    Args:
        weights, buffers, gradients, optimizer_state: of the module and its optimizers. Gradients and optimizer state
            are those that a step needs, also where they are not there yet.
        activations: by module, what one training step keeps for its backward pass.
        kept: by name, what attributes, lists and closures keep.
        batch: of the batch at which this was noted.
        sequence: the length of its sequences; None where it has none.
        samples: in it; None where that cannot be told.
        samples_noted: in the batch whose activations were noted.
        half: whether the step computes in 16 bit.
        optimizer: name of its class.
        foreach: whether its step makes a temporary copy of all weights at once.
        reserved_unused: what torch's caching allocator holds and does not use.
        checkpointed: whether some activations are computed again in the backward pass already.
    """

    weights: float = 0.0
    buffers: float = 0.0
    gradients: float = 0.0
    optimizer_state: float = 0.0
    activations: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)
    batch: float = 0.0
    sequence: int | None = None
    samples: int | None = None
    samples_noted: int | None = None
    half: bool = False
    optimizer: str = ""
    foreach: bool = False
    reserved_unused: float = 0.0
    checkpointed: bool = False

    @property
    def model(self) -> float:
        """Weights, gradients, optimizer state and buffers."""
        return self.weights + self.gradients + self.optimizer_state + self.buffers

    @property
    def scale(self) -> float:
        """By how much the present batch is larger than the one whose activations were noted."""
        return self.samples / self.samples_noted if self.samples and self.samples_noted else 1.0

    @property
    def active(self) -> float:
        """Activations of a step with the present batch."""
        return self.scale * sum(self.activations.values())

    def parts(self) -> dict[str, float]:
        """Return what each part takes, the largest first."""
        found = {
            "weights": self.weights,
            "gradients": self.gradients,
            f"optimizer state ({self.optimizer})" if self.optimizer else "optimizer state": self.optimizer_state,
            "buffers": self.buffers,
            "activations of a step": self.active,
            "batch": self.batch,
            "kept by attributes, lists and closures": sum(self.kept.values()),
        }
        return dict(sorted(found.items(), key=lambda row: -row[1]))


def remedies(table: MemoryTable) -> list[Remedy]:
    """Return what to do about a memory that is too small, with estimates: what costs least to the training comes first.

    Args:
        table: where memory is.

    Example:
        >>> table = MemoryTable(weights=4e9, optimizer_state=8e9, activations={"encoder": 6e9}, optimizer="AdamW")
        >>> [remedy.what.split(":")[0].split(" (")[0] for remedy in remedies(table)][:2]
        ['halve the batch', 'precision="bf16-mixed"']
    """
    found: list[Remedy] = []
    for name, nbytes in sorted(table.kept.items(), key=lambda row: -row[1])[:3]:
        text = "detach it (`.detach()`, `.item()`), move it to the CPU, or clear it"
        found.append(Remedy(f"free what {name} keeps: {text}", nbytes, "all of it"))
    # (less than that is what an allocator keeps in reserve)
    if table.reserved_unused > 0.05 * (table.model + table.active):
        what = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in the environment, against fragments"
        found.append(Remedy(what, table.reserved_unused, "reserved by the allocator and not in use"))
    if table.foreach and table.weights:
        what = "fused=True in the optimizer: its step makes no temporary copy of all weights"
        found.append(Remedy(what, table.weights, "the size of the weights, while it steps"))
    if table.samples != 1:
        what = "halve the batch (GradientAccumulation(2) keeps the effective size; on_oom='split' does it when needed)"
        found.append(Remedy(what, 0.5 * (table.active + table.batch), "half of activations and batch"))
    if table.sequence is not None and table.sequence > 1:
        what = f"halve the sequences ({table.sequence:,} now)"
        how = "half of activations and batch at least; attention without a fused kernel saves more"
        found.append(Remedy(what, 0.5 * (table.active + table.batch), how))
    if not table.half:
        saved = 0.5 * table.active - 0.5 * table.weights
        how = "half of the activations, less a copy of the weights in 16 bit"
        found.append(Remedy('precision="bf16-mixed"', saved, how))
    count = len(table.activations)
    if not table.checkpointed and count > 3:
        share = 1.0 - 2.0 / math.sqrt(count)
        how = f"all but about 2 in sqrt({count}) of the activations, for one more forward pass (arXiv:1604.06174)"
        found.append(Remedy("checkpoint activations (torch.utils.checkpoint)", share * table.active, how))
    if table.optimizer in _ADAM:
        what = "an optimizer with 8-bit state (bitsandbytes AdamW8bit, torchao), or Adafactor"
        found.append(Remedy(what, 0.75 * table.optimizer_state, "three quarters of its state"))
    return [remedy for remedy in found if remedy.saves > 0]


def shown_bytes(nbytes: float) -> str:
    """Return a number of bytes as people read it.

    >>> shown_bytes(512.0), shown_bytes(1536.0), shown_bytes(2.5 * 2**30), shown_bytes(float("nan"))
    ('512 B', '1.5 KiB', '2.5 GiB', 'unknown')
    """
    if not math.isfinite(nbytes):
        return "unknown"
    size, units = abs(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    number = f"{size:.0f}" if units[0] == "B" or size >= 100 else f"{size:.3g}"
    return f"{'-' if nbytes < 0 else ''}{number} {units[0]}"


@dataclass(frozen=True)
class MemoryReport:
    """What is known of memory at an alarm or at an error.

    Args:
        why: the error or the alarm.
        step: on the x axis of Lightning's loggers.
        table: where memory is.
        remedies: what would free how much.
        used: memory in use, by name: allocated, reserved, peak, resident, free.
        batch: tensors of the batch, with shapes, and the largest that was seen at the checks.
        growing: what grows, in words.
    """

    why: str
    step: int
    table: MemoryTable
    remedies: Sequence[Remedy] = ()
    used: Mapping[str, float] = field(default_factory=dict)
    batch: Sequence[str] = ()
    growing: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; NaN and inf as None."""
        plain = asdict(self) | {"parts": self.table.parts()}
        # (through text, since a reader of JSON can replace NaN and inf, and a writer cannot)
        found: dict[str, Any] = json.loads(json.dumps(plain, default=str), parse_constant=lambda _: None)
        return found

    def __str__(self) -> str:
        lines = [f"Memory: {self.why}", "", f"step: {self.step}"]
        lines += [f"{name}: {shown_bytes(value)}" for name, value in self.used.items() if math.isfinite(value)]
        lines += ["", "Where it is:"]
        lines += [f"  {shown_bytes(nbytes):>10}  {name}" for name, nbytes in self.table.parts().items() if nbytes]
        for title, rows in (("Activations by module", self.table.activations), ("Kept by", self.table.kept)):
            most = sorted(rows.items(), key=lambda row: -row[1])
            if most:
                lines += ["", f"{title}:", *(f"  {shown_bytes(nbytes):>10}  {name}" for name, nbytes in most[:_MANY])]
            if len(most) > _MANY:
                rest = sum(nbytes for _, nbytes in most[_MANY:])
                lines.append(f"  {shown_bytes(rest):>10}  {len(most) - _MANY} more")
        for title, texts in (
            ("Batch", self.batch),
            ("Growing", self.growing),
            ("What would free memory", self.remedies),
        ):
            if texts:
                lines += ["", f"{title}:", *(f"  - {text}" for text in texts)]
        return "\n".join(lines)


def write(report: MemoryReport, folder: Path, stem: str = "memory") -> Path:
    """Write ``memory.json`` and ``memory.txt``, each at once, and return the path of the page of text.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((f"{stem}.json", json.dumps(report.as_dict(), indent=1)), (f"{stem}.txt", str(report))):
        part = folder / f"{name}.part"
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, folder / name)
    return folder / f"{stem}.txt"
