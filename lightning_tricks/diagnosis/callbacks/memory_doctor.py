"""MemoryDoctor: memory that grows is named by who keeps it; at an out-of-memory error, where memory is."""

from __future__ import annotations

from typing import Any, cast, final

from lightning_tricks.detection.action import Action
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.diagnosis import memory_advice
from lightning_tricks.diagnosis.keys import FINDINGS, MEMORY_DOCTOR
from lightning_tricks.diagnosis.memory_epochs import LookAtEnd, LookAtEpochs
from lightning_tricks.diagnosis.memory_page import MemoryPage
from lightning_tricks.diagnosis.memory_probe import MemoryParts, MemoryProbe
from lightning_tricks.diagnosis.memory_table import MemoryReport
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick


@final
class MemoryDoctor(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
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

    log_keys = MEMORY_DOCTOR + FINDINGS
    state_form = watch_form()

    def __init__(self, every_n_steps: int | None = None, action: Action = "warn") -> None:
        self.take(WatchSettings.checked("MemoryDoctor", every_n_steps, action, patience=1, grace=0))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        """A watch over the memory, what measures that, and what writes where it is."""
        measures = MemoryParts.made()
        probe = MemoryProbe(measures)
        watch = Watch(self, probe, self.settings, topic="diagnosis")
        page = MemoryPage(probe)
        watch.announcer.listener = page.alarmed
        before = measures.hand, LookAtEnd(watch, probe)  # a check is about the batch in hand
        return *before, watch, measures.level, LookAtEpochs(watch, probe), measures.first_step, page

    @property
    def probe(self) -> MemoryProbe:
        """What it reads and looks through."""
        return cast(MemoryProbe, self.watch.probe)

    @property
    def report(self) -> MemoryReport | None:
        """Where memory was at the out-of-memory error or at the last alarm; None without either."""
        return self.part(MemoryPage).report

    @property
    def findings(self) -> list[str]:
        """What grows, in words: alarms, and what is only logged."""
        return [memory_advice.reason(growth) for growth in self.probe.growths.values()]

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write where memory is, before everything is cleaned up."""
        run = self.live_run
        if run is not None:
            self.part(MemoryPage).failed(run, exception)
        super().on_exception(trainer, pl_module, exception)
