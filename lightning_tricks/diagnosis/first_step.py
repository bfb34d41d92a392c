"""Where the activations of a training step lie, noted in the first step of a fit."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.diagnosis.memory_use import Activations, BatchSize, batch_size, storages
from lightning_tricks.dry_run.graphs import Graph, graph_below
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import plain_modules


class FirstStep(Stages):
    """Notes in the first step what the graph of the loss has saved, by module.

    Example:
        >>> step = FirstStep()
        >>> step.by_module(), step.batch, step.checkpointed
        ({}, BatchSize(nbytes=0, elements=0, samples=None, sequence=None), False)
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A fit begins or ends: another first step may come."""
        self.batch = BatchSize()  # how large that of the first step was
        self._notes: Activations | None = Activations()  # None once the first step is over
        self._graph = Graph()
        self._by_module: dict[str, int] = {}
        self._hooks: Attachment | None = None

    def attach(self, to: Attachment) -> None:
        """Note the outputs of all modules without children, but of metrics, and of those that hooks cannot reach."""
        notes, hidden = Activations(), to.hidden()
        self._notes, self._hooks = notes, to
        for name, module in plain_modules(to.root).items():
            if name and id(module) not in hidden and keeps_activations(module):
                to.watch(module, partial(notes.note, name))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Look at what the graph of the loss has saved; with manual optimization, of the largest of several losses."""
        if self._notes is None or loss.grad_fn is None:
            return
        # (weights are saved for the backward pass too, and are not activations)
        without = storages([*pl_module.parameters(), *pl_module.buffers()])
        graph = graph_below(loss.grad_fn, without=without)
        if graph.nbytes > self._graph.nbytes:
            self._graph, self._by_module = graph, self._notes.by_module(graph)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The first step is over: remove the hooks."""
        if self._notes is None:
            return
        self._notes, self.batch = None, batch_size(batch)
        if self._hooks is not None:
            self._hooks.detach()

    def by_module(self) -> dict[str, int]:
        """Return the bytes of activations by module; of an unfinished first step, of the modules that were reached."""
        if self._notes is not None and not self._by_module:
            self._by_module = self._notes.by_module(Graph())
        return dict(self._by_module)

    @property
    def checkpointed(self) -> bool:
        """Whether activations are computed again in the backward pass already."""
        return self._graph.packed > 0


def keeps_activations(module: nn.Module) -> bool:
    """Whether the output of a module may be kept for the backward pass: it has no children, and is not a metric.

    >>> keeps_activations(nn.Linear(1, 1)), keeps_activations(nn.Sequential(nn.ReLU()))
    (True, False)
    """
    inner = next(module.children(), None) is not None
    return not inner and not type(module).__module__.startswith("torchmetrics")


class BatchInHand(Stages):
    """Knows the batch until its end: a check and a report at an error are about it.

    Example:
        >>> hand = BatchInHand()
        >>> hand.on_train_batch_start(None, None, "batch", 0)
        >>> hand.batch
        'batch'
        >>> hand.let_go(); hand.batch is None
        True
    """

    def __init__(self) -> None:
        self.batch: Any = None
        self.outputs: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Know the batch."""
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Know what the step returned."""
        self.outputs = outputs

    def _transfer_started(self, run: TrainingRun) -> None:
        """The step is over: keep nothing of it alive."""
        self.let_go()

    def _cleanup(self, run: TrainingRun) -> None:
        """The fit is over, perhaps within a step."""
        self.let_go()

    def let_go(self) -> None:
        """Forget the batch."""
        self.batch = self.outputs = None
