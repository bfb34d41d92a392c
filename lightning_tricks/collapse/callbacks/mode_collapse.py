"""ModeCollapse: a generator that leaves modes of the data out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from lightning_tricks.collapse import causes, figures, generation, reduction, sums
from lightning_tricks.collapse.keys import MODES
from lightning_tricks.collapse.reduction import averaged, require_name
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.errors import TrickError, message
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.trees import tree_leaves

_MODE_SAMPLES = 256
_MODE_DIMENSIONS = 64
_NEIGHBOURS = 5
_LOW_RECALL = 0.25
_DIVERSE = (0.9, 1.25)  # times the distances of real samples
_TREND = 8  # checks: a generator that covers more and more has not collapsed


class ModesProbe(Probe):
    """Generated samples beside the real ones of the same batches."""

    samples: ClassVar[int] = _MODE_SAMPLES
    fewest: ClassVar[int] = 64

    def __init__(self, generator: str, patience: int) -> None:
        super().__init__()
        self._generator, self._patience = generator, patience
        self._made: Tensor | None = None  # by the last call in this batch
        self._compared: tuple[Tensor, Tensor] | None = None  # generated and real samples of the last check

    def rules(self) -> dict[str, Alarm]:
        """Recall, after both conditions were made one; and whether any sample lies among those of the other kind."""
        return {
            "recall": Alarm(below=_LOW_RECALL, gain=0.05, growth=1.5, trend=_TREND, patience=self._patience),
            "apart": Alarm(below=0.2, gain=0.05, growth=1.5, trend=_TREND, patience=_TREND),
        }

    def grace_factor(self, alarm: str) -> float:
        """Mode coverage develops slowly: double the grace period."""
        return 2.0

    def attach(self, to: Attachment) -> None:
        """Watch the generator."""
        to.watch(to.module(self._generator, "generator"), self._see)

    def _see(self, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is None or tensor.ndim < 2:
            raise self._refused("its output holds no batch of samples", "Name the generator itself")
        self._made = tensor

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Keep samples of both kinds, as rows."""
        made, self._made = self._made, None
        if made is None:
            if first:
                raise self._refused("it was not called in the first training step", "Name one that is")
            return 0
        real = self._real(batch, made)
        for name, rows in (("generated", made.flatten(1)), ("real", real.flatten(1))):
            small = sums.projected(rows.float(), _MODE_DIMENSIONS)
            kept = [self.sums[name]] if name in self.sums else []
            # (the newest: the generator that made the others has changed since)
            self.sums[name] = torch.cat([*kept, small])[-self.samples :]
        return min(len(made), len(real))

    def _real(self, batch: Any, made: Tensor) -> Tensor:
        size = made[:1].numel()
        for tensor in tree_leaves(batch):
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and tensor[:1].numel() == size:
                return tensor.detach()
        rule = f"the batch holds no real samples of {size} numbers, as the generator makes them"
        raise self._refused(rule, "Put real data into the batch")

    def _refused(self, rule: str, remedy: str) -> TrickError:
        return TrickError(message("ModeCollapse", "generator", self._generator, rule, remedy))

    def measure(self, run: TrainingRun) -> Tensor:
        """Measures of each process's own samples, averaged."""
        made, real = self.sums["generated"], self.sums["real"]
        self._compared = (made, real)
        k = min(_NEIGHBOURS, len(made) - 1, len(real) - 1)
        return averaged(run, generation.mode_measures(made, real, max(1, k)))

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """The measures by name."""
        return dict(zip(generation.MODES, vector, strict=True))

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """Recall; half of it where samples also lie closer together than real ones.

        Samples as far apart as real ones are of many kinds, however few real ones they reach: a generator of images
        that is young is like that. Whether they stay beside all real ones is the other statistic.
        """
        apart = values["pairwise_distance_ratio"]
        recall = values["recall"] * (0.5 if apart < _DIVERSE[0] else 1.0)
        # recall alone is blind to samples that lie far apart from all real ones, and so reach far
        return {
            "recall": max(recall, _LOW_RECALL) if _DIVERSE[0] <= apart <= _DIVERSE[1] else recall,
            "apart": max(values["coverage"], values["precision"]),
        }

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Say how much is covered, or how far apart the two are."""
        return causes.of_modes(values, self._generator, active)

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Samples in two dimensions."""
        if self._compared is None:
            return None
        made, real = (t.tolist() for t in self._compared)
        return lambda: figures.draw_samples(made, real, history)


@final
class ModeCollapse(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Notice a generator that makes few kinds of samples.

    Compares samples of a generator, as training makes them, with the real batches: the share of real samples within the
    reach of generated ones (recall, k = 5). Distances alone are blind to the loss of every second mode, and coverage
    asks for quality that a young GAN does not have. Alarms, after twice the grace: recall below 0.5 where samples lie
    closer together than 0.9 of the distances of real ones, or below 0.25 where they lie more than 1.25 times as far
    apart; or for eight checks hardly any sample lies among those of the other kind. What rises over eight checks is
    not bad.

    Args:
        generator: name of the module whose output is a batch of samples.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such module; at the first batch, it was not called, gives no samples, or
            the batch holds no real samples of that size.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/mode_collapse/`` with ``recall``, ``coverage``, ``precision``,
        ``pairwise_distance_ratio``, ``nearest_distance_ratio`` and ``alarm``; on several processes means over them. At
        an alarm the verdict as text, and a figure of samples.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check three matrices of distances of 256 samples of at most 64 numbers (more through a fixed random
        projection), one copy of 5 numbers to the host. Else the test of a flag.

    Example:
        >>> from lightning_tricks import ModeCollapse
        >>> ModeCollapse("generator").patience
        3

    Reference: Kynkaanniemi et al., 2019, arXiv:1904.06991; Naeem et al., 2020, arXiv:2002.09797.
    """

    log_keys = MODES
    identity = ("generator",)
    state_form = watch_form(sums=reduction.form_of(generated=2, real=2))

    def __init__(
        self,
        generator: str,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.generator = require_name("ModeCollapse", "generator", generator)
        self.take(WatchSettings.checked("ModeCollapse", every_n_steps, action, patience, grace))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Watch(self, ModesProbe(self.generator, self.patience), self.settings),)
