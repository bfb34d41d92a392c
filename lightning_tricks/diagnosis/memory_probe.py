"""MemoryProbe: what MemoryDoctor reads and looks through at a check, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.diagnosis import memory_advice
from lightning_tricks.diagnosis.first_step import BatchInHand, FirstStep
from lightning_tricks.diagnosis.memory import Growth, Moment, Prospect, looks_this_time
from lightning_tricks.diagnosis.memory_level import MemoryLevel
from lightning_tricks.diagnosis.memory_looks import MemoryLooks
from lightning_tricks.diagnosis.memory_readings import Reading
from lightning_tricks.diagnosis.memory_use import batch_size, model_bytes
from lightning_tricks.dry_run.holdings import commonest_tensors
from lightning_tricks.lifecycle.horizon import UnknownHorizonError, forecast_updates
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import reduced

_MB = 1e6


class MemoryParts(NamedTuple):
    """What memory is measured with; the first three are parts of the callback."""

    hand: BatchInHand
    level: MemoryLevel
    first_step: FirstStep
    looks: MemoryLooks

    @classmethod
    def made(cls) -> MemoryParts:
        """Return new ones."""
        return cls(BatchInHand(), MemoryLevel(), FirstStep(), MemoryLooks())


class MemoryProbe(Probe):
    """Reads the memory in use at a check, and at some checks looks for who keeps it.

    Args:
        parts: what measures.
    """

    hooks_modules = False
    samples = 1

    def __init__(self, parts: MemoryParts) -> None:
        super().__init__()
        self.parts = parts
        self.growths: dict[str, Growth] = {}  # what has been seen to grow in this run, by its holder
        self.suspects = False  # whether it is to be seen at the next epoch if what grows was cleared
        self._judge: Judge | None = None
        self.forget()

    def forget(self) -> None:
        """Forget what belongs to this process and this fit."""
        self._checks = 0
        self._total = math.inf  # updates of the run
        self._model = 0  # bytes
        self.suspects = False
        self.parts.level.forget()
        self.parts.first_step.forget()
        self.parts.looks.forget()

    def rules(self) -> dict[str, Alarm]:
        """The judgement has gone over several checks already."""
        return {"kept": Alarm(below=0.5, patience=1)}

    # -- in the run -----------------------------------------------------------------------------------------------

    def attach(self, to: Attachment) -> None:
        """Note in the first step where the outputs of modules lie."""
        self.forget()
        self.parts.first_step.attach(to)

    def on_start(self, run: TrainingRun, judge: Judge, every: int) -> None:
        """Find the length of the run."""
        self._judge = judge
        try:
            self._total = float(forecast_updates(run.trainer))
        except UnknownHorizonError:
            self._total = math.inf

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Nothing is sampled."""
        return 1

    def ready(self, run: TrainingRun, samples: int, waited: int) -> bool:
        """There is always something to read."""
        return True

    # -- a check --------------------------------------------------------------------------------------------------

    def measure(self, run: TrainingRun) -> Tensor:
        """Read the memory in use; look through the objects at some checks; judge. The largest of all processes."""
        self._checks += 1
        level, looks, moment = self.parts.level, looks_this_time(self._checks), moment_of(run)
        reading, size = level.read(), batch_size(self.parts.hand.batch)
        used = level.add(moment, reading, size)
        if looks:
            self._model = model_bytes(run.trainer.lightning_module, run.trainer.optimizers).total
        prospect = self._prospect(run, reading, moment)
        whole = level.growth(prospect)
        if looks or (whole is not None and whole.certain and not self._alarmed):
            self._look(run, moment, prospect)
        growths = [*self.parts.looks.growths, *([] if whole is None else [whole])]
        self._note(run, growths)
        numbers = numbers_of(reading, used, self.parts.looks.census.tensors, level.rate, growths)
        device = run.trainer.strategy.root_device
        # (what one platform does not tell is NaN, and the largest of NaN and a number is NaN)
        return reduced(run.trainer.strategy, torch.nan_to_num(numbers).to(device), "max")

    @property
    def _alarmed(self) -> bool:
        return self._judge is not None and self._judge.verdict.alarmed

    def _prospect(self, run: TrainingRun, reading: Reading, moment: Moment) -> Prospect:
        trainer = run.trainer
        batches = float(trainer.num_training_batches)
        in_epoch = max(0.0, batches - moment.batch) / max(1, trainer.accumulate_grad_batches)
        return Prospect(self._model, reading.free, max(0.0, self._total - moment.update), in_epoch)

    def _look(self, run: TrainingRun, moment: Moment, prospect: Prospect, *, ended: bool = False) -> None:
        """Look through the objects; note what grows."""
        hand, looks = self.parts.hand, self.parts.looks
        looks.look(run, moment, prospect, (hand.batch, hand.outputs), ended=ended)
        self.suspects = not self._alarmed and looks.any_suspect

    def look_again(self, run: TrainingRun) -> None:
        """Look outside of a check: whatever is cleared in each epoch was cleared by now."""
        moment = moment_of(run)
        self._look(run, moment, self._prospect(run, Reading(), moment))

    def last_look(self, run: TrainingRun) -> bool:
        """Look when training is over; return whether something grows for certain."""
        looks = self.parts.looks
        if not looks.there:
            return False
        moment = moment_of(run)
        self._look(run, moment, self._prospect(run, self.parts.level.read(), moment), ended=True)
        self._note(run, looks.growths)
        return any(growth.certain for growth in looks.growths)

    def _note(self, run: TrainingRun, growths: list[Growth]) -> None:
        """Report what grows without being an alarm, each once."""
        for growth in growths:
            known = self.growths.get(growth.holder)
            self.growths[growth.holder] = growth
            if known is None and not growth.certain:
                run.publisher.put(run.step, {"diagnosis/growing_memory": 1.0})
                text = f"{memory_advice.reason(growth)}. If that is not meant: {memory_advice.fix(growth)}."
                run.publisher.log_text(run.step, "diagnosis/growing_memory", text)

    # -- on the host ----------------------------------------------------------------------------------------------

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Megabytes, counts, and whether a process has found what is certain."""
        allocated, resident, tensors, growth, certain = vector
        values = {"resident": resident, "live_tensors": tensors, "growth_per_step": growth, "_certain": certain}
        return {"allocated": allocated, **values} if self.parts.level.on_device else values

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """The judgement."""
        return {"kept": 1.0 - values["_certain"]}

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Name who keeps it."""
        certain = [growth for growth in self.growths.values() if growth.certain]
        unnamed = bool(certain) and not any(growth.holder for growth in certain)
        return memory_advice.explained(certain, commonest_tensors() if unnamed else ())

    def rolled_back(self) -> None:
        """What is held is compared with later looks only."""
        self.parts.looks.forget_holders()

    def state(self) -> dict[str, Any]:
        """Without the last readings, which are of this process: they are left out of a verdict without an alarm."""
        if self._judge is None or self._alarmed:
            return {}
        return {"verdict": {**self._judge.verdict.as_dict(), "values": {}}}


def moment_of(run: TrainingRun) -> Moment:
    """Return when a look is made: between two updates."""
    loop = run.trainer.fit_loop
    batch = int(loop.epoch_loop.batch_progress.current.ready)
    return Moment(run.clock.attempted(0), int(run.trainer.current_epoch), batch)


def numbers_of(reading: Reading, used: float, tensors: float, rate: float, growths: Iterable[Growth]) -> Tensor:
    """Return what a check sends to the host: megabytes in use and resident, tensors, kilobytes per update, certainty.

    Args:
        reading: what is in use.
        used: bytes in use without the batch.
        tensors: that were found at the last look.
        rate: bytes per update.
        growths: what grows.

    >>> numbers_of(Reading(allocated=3e9, resident=2e9), 1e9, 5, 2e3, []).tolist()
    [1000.0, 2000.0, 5.0, 2.0, 0.0]
    """
    certain = float(any(growth.certain for growth in growths))
    allocated = used / _MB if reading.on_device else 0.0
    return torch.tensor([allocated, reading.resident / _MB, tensors, rate / 1e3, certain], dtype=torch.float32)
