"""MemoryDoctor: memory that grows is named by who keeps it; at an out-of-memory error, where memory is."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_tricks.detection.action import Action
from lightning_tricks.detection.alarm import Alarm, Verdict
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.old_detector import Detector
from lightning_tricks.diagnosis import memory_advice, memory_table, memory_use
from lightning_tricks.diagnosis.memory import (
    Growth,
    Moment,
    Prospect,
    growth_of,
    growth_of_memory,
    is_suspect,
    looks_this_time,
    rate,
)
from lightning_tricks.diagnosis.memory_readings import MemoryReader, Reading
from lightning_tricks.diagnosis.memory_table import MemoryReport, MemoryTable
from lightning_tricks.dry_run.graphs import Graph, graph_below
from lightning_tricks.dry_run.holders import Census, Holding, commonest_tensors, take_census
from lightning_tricks.dry_run.roots import callback_name, roots_of
from lightning_tricks.errors import in_one_line, is_out_of_memory
from lightning_tricks.lifecycle.horizon import UnknownHorizonError, forecast_updates
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import in_compiled_graphs, plain_modules
from lightning_tricks.numerics.shards import on_any_rank, reduced
from lightning_tricks.optimizer_step.logbook import OptimizerView

_MB = 1e6
_MOST_POINTS = 64
_MOST_LOOKS = 16
_MOST_FOLLOWED = 64  # tensors of a batch and its outputs that are looked for at the next check
_SMALL = 0.01  # of the model: what keeps less is not in the table


@final
class MemoryDoctor(Detector):
    """Notice memory that grows step by step, and name who keeps it; at an out-of-memory error, say where memory is.

    At a check it reads how much memory is in use, and at some checks it looks through all that the module, the user's
    callbacks, the data and the globals of their code hold: attributes, lists, dicts, closures, hooks and tracebacks. It
    is an alarm when

    - an attribute, list or closure keeps more and more tensors with their autograd graphs, or one whose graph grows
      (``self.losses.append(loss)``, ``self.total += loss``, a hidden state that is not detached);
    - batches, outputs or states of a metric are kept from one epoch to the next, and are large against the model;
    - a module gets more and more hooks;
    - memory rises steadily, and will be full before the end of the run.

    A list that is cleared in each epoch is none of these: what is kept has to be more than at the same place of an
    earlier epoch. What grows within one epoch is an alarm where memory will be full before its end, or where it is
    still kept when training has ended. Growth that will not fill the memory (a replay buffer, a cache) is only logged.

    When training ends by an out-of-memory error, ``memory.txt`` and ``memory.json`` in the run's folder hold where
    memory is: weights, gradients, optimizer state, activations by module, what is kept; the batch and the largest one
    before; and what would free how much of it. They are written at an alarm as well.

    Args:
        every_n_steps: updates between two checks; None for the Trainer's ``log_every_n_steps``.
        action: ``"log"``, ``"warn"``, ``"stop"``, ``"raise"``, ``"rollback"``, a ``Rollback``, or a function that takes
            the verdict. A rollback frees nothing; use ``"stop"`` to end a run that will fail.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        AlarmError: while training, with ``action="raise"``.

    Logs:
        At every check, ``diagnosis/memory_doctor/`` with ``allocated`` (MB on an accelerator, without the batch),
        ``resident`` (MB of the process), ``live_tensors`` (that were found), ``growth_per_step`` (kB), ``alarm``; the
        largest of all processes. ``diagnosis/growing_memory`` is 1 at the step of an advice, with its text.

    Changes:
        Nothing.

    State:
        Alarms; not what was measured: after a resume the memory is that of another process.

    Cost:
        At a check readings of the allocator and of the system (0.5 ms). A look through the objects (about 0.1 ms for
        each module) at the checks 1, 2, 3, 4, 6, 8, 12, 16, 24, ... In the first step one hook on each module without
        children, and a look at the graph of the loss (20 ms for 1,000 operations). At other steps two assignments.

    Example:
        >>> from lightning_tricks import MemoryDoctor
        >>> MemoryDoctor(action="stop").report is None
        True

    Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv:1604.06174 (checkpointed
    activations); PyTorch FAQ, "My model reports out of memory" (history kept across the training loop).
    """

    topic = "diagnosis"
    hooks_modules = False
    samples = 1

    def __init__(self, every_n_steps: int | None = None, action: Action = "warn") -> None:
        super().__init__(every_n_steps, action, 1, 0)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._report: MemoryReport | None = None
        self._findings: dict[str, Growth] = {}
        self._reader: MemoryReader | None = None
        self._folder: Path | None = None
        self._forget()

    def _forget(self) -> None:
        """Forget what belongs to this process and this fit."""
        self._checks = 0
        self._points: list[tuple[Moment, float]] = []
        self._looks: dict[str, list[tuple[Moment, Holding]]] = {}
        self._census = Census()
        self._growths: list[Growth] = []
        self._suspects = False
        self._batch: Any = None
        self._outputs: Any = None
        self._followed: list[weakref.ref[Tensor]] = []
        self._largest = memory_use.BatchSize()
        self._activations: memory_use.Activations | None = memory_use.Activations()
        self._graph = Graph()
        self._by_module: dict[str, int] = {}
        self._noted = memory_use.BatchSize()
        self._on_device = False
        self._total = math.inf
        self._model = 0

    @property
    def report(self) -> MemoryReport | None:
        """Where memory was at the out-of-memory error or at the last alarm; None without either."""
        return self._report

    @property
    def findings(self) -> list[str]:
        """What grows, in words: alarms, and what is only logged."""
        return [memory_advice.reason(growth) for growth in self._findings.values()]

    # -- what it follows --------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Alarm]:
        """The judgement has gone over several checks already."""
        return {"kept": Alarm(below=0.5, patience=1)}

    def attach(self, run: TrainingRun) -> None:
        """Note in the first step where the outputs of modules lie."""
        self._forget()
        root = run.trainer.lightning_module
        hidden, notes = in_compiled_graphs(root), self._activations
        for name, module in plain_modules(root).items():
            inner = next(module.children(), None) is not None
            if name and notes is not None and not inner and id(module) not in hidden and _computes(module):
                self.watch(module, partial(notes.note, name))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the device, the folder and the length of the run."""
        super().started(run, state)
        trainer = run.trainer
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        self._reader = MemoryReader(trainer.strategy.root_device)
        self._on_device = self._reader.read().on_device
        try:
            self._total = float(forecast_updates(trainer))
        except UnknownHorizonError:
            self._total = math.inf

    def renewed(self, run: TrainingRun, view: OptimizerView) -> None:
        """Other parameters have other gradients and another state: memory may rise."""
        self._points = []

    # -- a batch ----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Know the batch, until its end."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._batch = batch

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """In the first step, look at what the graph of the loss has saved."""
        super().on_before_backward(trainer, pl_module, loss)
        if self._activations is None or self._live is None or loss.grad_fn is None:
            return
        without = memory_use.storages([*pl_module.parameters(), *pl_module.buffers()])
        graph = graph_below(loss.grad_fn, without=without)
        if graph.nbytes > self._graph.nbytes:  # (with manual optimization, of the largest of several losses)
            self._graph, self._by_module = graph, self._activations.by_module(graph)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check; then let go of the batch."""
        self._outputs = outputs
        try:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            if self._suspects and batch_idx == 0 and (run := self._live) is not None:
                moment = self._moment(run)  # whatever is cleared in each epoch was cleared by now
                self._look(run, moment, self._prospect(run, Reading(), moment))
        finally:
            self._batch = self._outputs = None
        if self._activations is not None and self._live is not None:
            self._activations, self._noted = None, memory_use.batch_size(batch)
            self._drop_hooks()

    def _drop_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Nothing is sampled."""
        return 1

    def ready(self, run: TrainingRun) -> bool:
        """There is always something to read."""
        return True

    # -- a check ----------------------------------------------------------------------------------------------------

    def measure(self, run: TrainingRun) -> Tensor:
        """Read the memory in use; look through the objects at some checks; judge. The largest of all processes."""
        self._checks += 1
        reading, size = self._read(), memory_use.batch_size(self._batch)
        if size.elements > self._largest.elements:
            self._largest, self._points = size, []  # a larger batch than all before needs more memory
        used = reading.used - (size.nbytes if reading.on_device else 0)
        moment = self._moment(run)
        if math.isfinite(used):
            self._points.append((moment, used))
            if len(self._points) > _MOST_POINTS:
                del self._points[1 : _MOST_POINTS // 2 : 2]
        looks = looks_this_time(self._checks)
        if looks:
            self._model = memory_use.model_bytes(run.trainer.lightning_module, run.trainer.optimizers).total
        prospect = self._prospect(run, reading, moment)
        whole = growth_of_memory(self._points, prospect)
        if looks or (whole is not None and whole.certain and not self._verdict.alarmed):
            self._look(run, moment, prospect)
        growths = [*self._growths, *([] if whole is None else [whole])]
        self._note(run, growths)
        late = self._points[len(self._points) // 2 :]
        growth = rate(late) / 1e3 if len(late) > 1 else 0.0
        numbers = [used / _MB if reading.on_device else 0.0, reading.resident / _MB, self._census.tensors, growth]
        device = run.trainer.strategy.root_device
        vector = torch.tensor([*numbers, float(any(g.certain for g in growths))], dtype=torch.float32)
        return reduced(run.trainer.strategy, torch.nan_to_num(vector).to(device), "max")

    def _read(self) -> Reading:
        return Reading() if self._reader is None else self._reader.read()

    def _moment(self, run: TrainingRun) -> Moment:
        loop = run.trainer.fit_loop
        return Moment(self._number, int(run.trainer.current_epoch), int(loop.epoch_loop.batch_progress.current.ready))

    def _prospect(self, run: TrainingRun, reading: Reading, moment: Moment) -> Prospect:
        trainer = run.trainer
        batches = float(trainer.num_training_batches)
        in_epoch = max(0.0, batches - moment.batch) / max(1, trainer.accumulate_grad_batches)
        return Prospect(self._model, reading.free, max(0.0, self._total - moment.update), in_epoch)

    def _look(self, run: TrainingRun, moment: Moment, prospect: Prospect, *, ended: bool = False) -> None:
        """Look through the objects; note what grows."""
        alive = [tensor for reference in self._followed if (tensor := reference()) is not None]
        self._census = self._taken(run, {id(tensor) for tensor in alive})
        del alive
        looks = {}
        for name, holding in self._census.holdings.items():
            before = [point for point in self._looks.get(name, []) if point[0].update < moment.update]
            looks[name] = [*before, (moment, holding)][-_MOST_LOOKS:]
        self._looks = looks
        found = (growth_of(history, prospect, ended=ended) for history in looks.values())
        self._growths = [growth for growth in found if growth is not None]
        self._suspects = not self._verdict.alarmed and any(map(is_suspect, looks.values()))
        leaves = [x for x in tree_leaves((self._batch, self._outputs)) if isinstance(x, Tensor)]
        self._followed = [weakref.ref(tensor) for tensor in leaves[:_MOST_FOLLOWED]]

    def _taken(self, run: TrainingRun, earlier: set[int]) -> Census:
        trainer = run.trainer
        roots = roots_of(trainer, {})
        model: dict[str, Any] = {"module": trainer.lightning_module}
        data: dict[str, Any] = {name: root for name, root in roots.data.items() if not name.startswith("callback ")}
        for callback in trainer.callbacks:
            if callback_name(callback) in roots.data:
                name = f"callback {type(callback).__name__}"
                model[name if name not in model else callback_name(callback)] = callback
        for name in ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks"):
            model[f"torch.nn.modules.module.{name}"] = getattr(nn.modules.module, name, {})
        return take_census(model, data, earlier)

    def _note(self, run: TrainingRun, growths: list[Growth]) -> None:
        """Tell of what grows without being an alarm, once of each."""
        for growth in growths:
            known = self._findings.get(growth.holder)
            self._findings[growth.holder] = growth
            if known is None and not growth.certain:
                run.publisher.put(run.step, {"diagnosis/growing_memory": 1.0})
                text = f"{memory_advice.reason(growth)}. If that is not meant: {memory_advice.fix(growth)}."
                run.publisher.tell(run.step, "diagnosis/growing_memory", text)

    # -- on the host ------------------------------------------------------------------------------------------------

    def read(self, vector: list[float]) -> dict[str, float]:
        """Megabytes, counts, and whether a process has found what is certain."""
        allocated, resident, tensors, growth, certain = vector
        values = {"resident": resident, "live_tensors": tensors, "growth_per_step": growth, "_certain": certain}
        return {"allocated": allocated, **values} if self._on_device else values

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """The judgement."""
        return {"kept": 1.0 - values["_certain"]}

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Name who keeps it."""
        certain = [growth for growth in self._findings.values() if growth.certain]
        unnamed = bool(certain) and not any(growth.holder for growth in certain)
        return memory_advice.explained(certain, commonest_tensors() if unnamed else ())

    def _show(self, run: TrainingRun, verdict: Verdict) -> None:
        super()._show(run, verdict)
        self._write(run, f"alarm: {verdict}")

    def rolled_back(self, run: TrainingRun) -> None:
        """Weights were copied back: memory may have another level."""
        super().rolled_back(run)
        self._points, self._looks = [], {}

    def finished(self, run: TrainingRun) -> None:
        """Look once more: what was to be cleared at the end of an epoch would be by now."""
        run.publisher.flush()
        certain = False
        if self._looks:
            moment = self._moment(run)
            self._look(run, moment, self._prospect(run, self._read(), moment), ended=True)
            self._note(run, self._growths)
            certain = any(growth.certain for growth in self._growths)
        if run.trainer.world_size > 1:
            certain = on_any_rank([certain], run.trainer.strategy.root_device)[0]
        if certain and not self._verdict.alarmed:
            values = {**(self._history[-1][1] if self._history else {}), "_certain": 1.0}
            if self._judge(values, run.step):
                self._begin(run, ["kept"], values, run.step)
        super().finished(run)

    # -- out of memory ----------------------------------------------------------------------------------------------

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write where memory is, before everything is cleaned up."""
        run = self._live
        if run is not None and (isinstance(exception, MemoryError) or is_out_of_memory(exception)):
            self._write(run, f"{type(exception).__name__}: {in_one_line(exception)}")
            if self._report is not None:
                with suppress(Warning):  # (where warnings are errors, the user is to see the error of the memory)
                    warn("MemoryDoctor", f"out of memory. {self._in_short(self._report)}")
                run.publisher.tell(run.step, "diagnosis/memory_doctor/report", str(self._report))
        super().on_exception(trainer, pl_module, exception)

    @staticmethod
    def _in_short(report: MemoryReport) -> str:
        parts = [f"{name} {memory_table.shown_bytes(size)}" for name, size in report.table.parts().items() if size]
        tried = "; ".join(str(remedy) for remedy in report.remedies[:4])
        return f"Memory is in: {', '.join(parts[:5])}. Try: {tried}."

    def _write(self, run: TrainingRun, why: str) -> None:
        """Write ``memory.json`` and ``memory.txt``; never raises, and waits for no other process."""
        rank = int(run.trainer.global_rank)
        try:
            self._report = self._made_report(run, why)
            if self._folder is not None and (rank == 0 or not why.startswith("alarm")):
                stem = "memory" if rank == 0 else f"memory_rank{rank}"
                print(f"MemoryDoctor: {memory_table.write(self._report, self._folder, stem)}")
        except Exception as problem:
            text = f"MemoryDoctor: no report ({type(problem).__name__}: {problem})."
            with suppress(Warning):
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _made_report(self, run: TrainingRun, why: str) -> MemoryReport:
        reading = self._read()
        table = self._table(run, reading)
        names = ("allocated", "reserved", "peak", "resident", "device_free", "host_free")
        used = {name: getattr(reading, name) for name in names}
        rows = [] if self._batch is None else memory_use.batch_rows(self._batch)
        if self._largest.elements:
            rows.append(f"the largest at the checks before: {_in_words(self._largest)}")
        growing = [memory_advice.reason(growth) for growth in self._findings.values()]
        return MemoryReport(why[:2000], run.step, table, memory_table.remedies(table), used, rows, growing)

    def _table(self, run: TrainingRun, reading: Reading) -> MemoryTable:
        trainer = run.trainer
        module, optimizers = trainer.lightning_module, trainer.optimizers
        if self._activations is not None and not self._by_module:  # it failed in the first step
            self._by_module = self._activations.by_module(Graph())
        size = self._noted if self._batch is None else memory_use.batch_size(self._batch)
        model = memory_use.model_bytes(module, optimizers)
        own = {f"module.{name}" for name, _ in module.named_buffers()}
        held = self._taken(run, set()).holdings.values()
        kept = {h.name: h.device_bytes or h.nbytes for h in held if not self._on_device or h.device_bytes or h.graphs}
        unused = reading.reserved - reading.allocated if self._on_device else 0.0
        return MemoryTable(
            weights=model.weights,
            buffers=model.buffers,
            gradients=model.gradients,
            optimizer_state=model.optimizer_state,
            activations=dict(self._by_module),
            kept={n: x for n, x in kept.items() if n not in own and x > _SMALL * model.total},
            batch=size.nbytes,
            sequence=size.sequence,
            samples=size.samples,
            samples_noted=self._noted.samples,
            half="16" in str(getattr(trainer.precision_plugin, "precision", "")),
            optimizer=type(optimizers[0]).__name__ if optimizers else "",
            foreach=memory_use.steps_foreach(optimizers),
            reserved_unused=0.0 if math.isnan(unused) else unused,
            checkpointed=self._graph.packed > 0,
        )

    def trick_state(self) -> dict[str, Any]:
        """Without the last readings, which are of this process."""
        state = super().trick_state()
        return state if self._verdict.alarmed else {**state, "verdict": {**state["verdict"], "values": {}}}

    def stopped(self, run: TrainingRun) -> None:
        """Let go of everything."""
        super().stopped(run)
        report, findings = self._report, self._findings
        self._forget()
        self._report, self._findings = report, findings


def _computes(module: nn.Module) -> bool:
    """Whether a module may keep activations: a metric does not."""
    return not type(module).__module__.startswith("torchmetrics")


def _in_words(size: memory_use.BatchSize) -> str:
    samples = "" if size.samples is None else f", {size.samples:,} samples"
    sequence = "" if size.sequence is None else f", sequences of {size.sequence:,}"
    return f"{memory_table.shown_bytes(size.nbytes)}, {size.elements:,} elements{samples}{sequence}"
