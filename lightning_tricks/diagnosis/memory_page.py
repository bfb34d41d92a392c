"""Where memory is at an out-of-memory error or an alarm: ``memory.json`` and ``memory.txt``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.diagnosis import memory_advice, memory_table
from lightning_tricks.diagnosis.memory_looks import census_of
from lightning_tricks.diagnosis.memory_probe import MemoryProbe
from lightning_tricks.diagnosis.memory_readings import Reading
from lightning_tricks.diagnosis.memory_table import MemoryReport, MemoryTable
from lightning_tricks.diagnosis.memory_use import BatchSize, batch_rows, batch_size, model_bytes, steps_foreach
from lightning_tricks.dry_run.holdings import Holding
from lightning_tricks.errors import in_one_line, is_out_of_memory
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun

_SMALL = 0.01  # of the model: what keeps less is not in the table
_READ = ("allocated", "reserved", "peak", "resident", "device_free", "host_free")


class MemoryPage(Stages):
    """Writes the report into the run's folder.

    Args:
        probe: knows what is in use, what grows, and the first step.
    """

    def __init__(self, probe: MemoryProbe) -> None:
        self._probe = probe
        self.report: MemoryReport | None = None  # the last one
        self._folder: Path | None = None

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the folder, on all processes."""
        # (``log_dir`` broadcasts, so that no process may ask for it alone, as after an error)
        self._folder = Path(run.trainer.log_dir or run.trainer.default_root_dir)

    def alarmed(self, run: TrainingRun, verdict: Verdict) -> None:
        """Write it at an alarm; the files are those of the first process."""
        self._write(run, f"alarm: {verdict}", of_all=False)

    def failed(self, run: TrainingRun, error: BaseException) -> None:
        """Write it where there is no more memory; called before everything is cleaned up."""
        if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
            return
        self._write(run, f"{type(error).__name__}: {in_one_line(error)}", of_all=True)
        if self.report is not None:
            with suppress(Warning):  # (where warnings are errors, the user is to see the error of the memory)
                warn("MemoryDoctor", f"out of memory. {in_short(self.report)}")
            run.publisher.log_text(run.step, "diagnosis/memory_doctor/report", str(self.report))

    def _write(self, run: TrainingRun, why: str, *, of_all: bool) -> None:
        """Write both files; never raises, and waits for no other process."""
        rank = int(run.trainer.global_rank)
        try:
            self.report = self._made(run, why)
            if self._folder is not None and (rank == 0 or of_all):
                stem = "memory" if rank == 0 else f"memory_rank{rank}"
                print(f"MemoryDoctor: {memory_table.write(self.report, self._folder, stem)}")
        except Exception as problem:
            text = f"MemoryDoctor: no report ({type(problem).__name__}: {problem})."
            with suppress(Warning):
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _made(self, run: TrainingRun, why: str) -> MemoryReport:
        parts = self._probe.parts
        reading = parts.level.read()
        table = self._table(run, reading)
        rows = [] if parts.hand.batch is None else batch_rows(parts.hand.batch)
        if parts.level.largest.elements:
            rows.append(f"the largest at the checks before: {in_words(parts.level.largest)}")
        growing = [memory_advice.reason(growth) for growth in self._probe.growths.values()]
        used = {name: getattr(reading, name) for name in _READ}
        return MemoryReport(why[:2000], run.step, table, memory_table.remedies(table), used, rows, growing)

    def _table(self, run: TrainingRun, reading: Reading) -> MemoryTable:
        trainer, parts = run.trainer, self._probe.parts
        module, optimizers = trainer.lightning_module, trainer.optimizers
        activations, on_device = parts.first_step.by_module(), parts.level.on_device
        size = parts.first_step.batch if parts.hand.batch is None else batch_size(parts.hand.batch)
        model = model_bytes(module, optimizers)
        # (buffers have a row of their own)
        own = {f"module.{name}" for name, _ in module.named_buffers()}
        kept = kept_of(census_of(run, set()).holdings, on_device=on_device)
        unused = reading.reserved - reading.allocated if on_device else 0.0
        return MemoryTable(
            weights=model.weights,
            buffers=model.buffers,
            gradients=model.gradients,
            optimizer_state=model.optimizer_state,
            activations=activations,
            kept={n: x for n, x in kept.items() if n not in own and x > _SMALL * model.total},
            batch=size.nbytes,
            sequence=size.sequence,
            samples=size.samples,
            samples_noted=parts.first_step.batch.samples,
            half="16" in str(getattr(trainer.precision_plugin, "precision", "")),
            optimizer=type(optimizers[0]).__name__ if optimizers else "",
            foreach=steps_foreach(optimizers),
            reserved_unused=0.0 if math.isnan(unused) else unused,
            checkpointed=parts.first_step.checkpointed,
        )


def kept_of(holdings: Mapping[str, Holding], *, on_device: bool) -> dict[str, float]:
    """Return the bytes that holders keep: on an accelerator of it, where they keep tensors there or graphs at all.

    Args:
        holdings: as a census found them, by name.
        on_device: whether there is an accelerator.

    >>> holdings = {"a": Holding("a", nbytes=9.0), "b": Holding("b", nbytes=9.0, device_bytes=5.0)}
    >>> kept_of(holdings, on_device=True), kept_of(holdings, on_device=False)
    ({'b': 5.0}, {'a': 9.0, 'b': 5.0})
    """
    held = holdings.values()
    return {h.name: h.device_bytes or h.nbytes for h in held if not on_device or h.device_bytes or h.graphs}


def in_short(report: MemoryReport) -> str:
    """Return where memory is and what to try, in two sentences."""
    parts = [f"{name} {memory_table.shown_bytes(size)}" for name, size in report.table.parts().items() if size]
    tried = "; ".join(str(remedy) for remedy in report.remedies[:4])
    return f"Memory is in: {', '.join(parts[:5])}. Try: {tried}."


def in_words(size: BatchSize) -> str:
    """Return how large a batch is.

    >>> in_words(BatchSize(nbytes=2048, elements=512, samples=8))
    '2 KiB, 512 elements, 8 samples'
    """
    samples = "" if size.samples is None else f", {size.samples:,} samples"
    sequence = "" if size.sequence is None else f", sequences of {size.sequence:,}"
    return f"{memory_table.shown_bytes(size.nbytes)}, {size.elements:,} elements{samples}{sequence}"
