"""Probe: what a detector looks at, what it measures there, and what that means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import on_any_rank
from lightning_tricks.optimizer_step.logbook import Page

_SPARSE_CHECKS = 8  # after which fewer samples than ``fewest`` are enough


class Probe:
    """Base of the probes: gathers on the device, measures at a check, reads and explains on the host.

    When a probe looks, what its alarms do and what an alarm leads to is decided elsewhere: by the ``Sampler``, the
    ``Judge`` and the action of the ``Watch`` that holds it. What it gathered since the last check is in ``sums``.
    """

    samples: ClassVar[int] = 512  # wanted for a check
    fewest: ClassVar[int] = 128  # with less, the check waits for the next ones
    hooks_modules: ClassVar[bool] = True  # whether it is nothing without a look into the module

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    # -- what is judged -------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Alarm]:
        """Return the alarms by the name of their statistic."""
        return {}

    def grace_factor(self, alarm: str) -> float:
        """Return by how many times the grace of an alarm is longer than that of the detector."""
        return 1.0

    # -- on the device --------------------------------------------------------------------------------------------

    def on_start(self, run: TrainingRun, judge: Judge, every: int) -> None:
        """Training starts: optimizers are there. Called before ``load``.

        Args:
            judge: that judges what is measured; its grace is known by now.
            every: updates between two checks.
        """

    def attach(self, to: Attachment) -> None:
        """Find what is watched, and put hooks on it with ``to.watch``; called once per fit."""

    def before_backward(self, loss: Tensor) -> None:
        """A watched batch has a loss, whose graph is still there."""

    def before_check(self, run: TrainingRun, page: Page) -> None:
        """Gradients of the last update before a check are complete (those of the first optimizer)."""

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """A watched batch is over: add what was seen to ``sums``; return how many samples that were.

        Args:
            batch: as Lightning gave it to the training step.
            first: whether no batch has had a sample yet: only there it is an error that there is none.
        """
        return 0

    @property
    def gathers(self) -> bool:
        """Whether it takes samples of watched batches: then it overrides ``gather``."""
        return type(self).gather is not Probe.gather

    def ready(self, run: TrainingRun, samples: int, waited: int) -> bool:
        """Whether there is enough to measure; if not, gathering goes on. Equal on all ranks; all must call.

        Args:
            samples: that were gathered since the last check.
            waited: checks that were due since then, with this one.
        """
        if run.trainer.world_size > 1:  # a module need not have been called on all of them, as an expert of a mixture
            return not any(on_any_rank([not self.sums], run.trainer.strategy.root_device))
        return bool(self.sums) and (samples >= self.fewest or waited >= _SPARSE_CHECKS)

    def measure(self, run: TrainingRun) -> Tensor:
        """Return what was gathered as one vector on the device, equal on all ranks; called at a check."""
        return torch.zeros(0)

    def keep(self, name: str, rows: Tensor) -> None:
        """Add rows to those that are kept for the check: a copy, since later layers may write into an output."""
        self.sums[name] = torch.cat([self.sums[name], rows]) if name in self.sums else rows.clone()

    # -- on the host ----------------------------------------------------------------------------------------------

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Return the values by name from the vector. Names that begin with ``_`` are not logged."""
        return {}

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """Return what the alarms follow, by their names; by default the values of the same names."""
        return {name: values[name] for name in judge.rules if name in values}

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Return cause, reasons and advice for the alarms that are on."""
        raise LookupError(f"{type(self).__name__} has no alarms to explain.")

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Return a function that draws what was seen; None where there is nothing to see."""
        return None

    # -- state ----------------------------------------------------------------------------------------------------

    def rolled_back(self) -> None:
        """Weights are those of an earlier step: forget what was learned of those after it."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside ``sums``: plain values and tensors."""
        return {}

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned, or a version of it from before a key was added. ``sums`` are there."""
