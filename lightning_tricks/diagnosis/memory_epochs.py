"""Looks through the objects of a run after an epoch and after the training: what is cleared there is gone by then."""

from __future__ import annotations

from typing import Any

from lightning_tricks.detection.watch import Watch
from lightning_tricks.diagnosis.memory_probe import MemoryProbe
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import on_any_rank


class LookAtEpochs(Stages):
    """Looks at the first batch of an epoch, where something is suspected; a part after the watch.

    Args:
        watch: of the callback.
        probe: that looks.
    """

    def __init__(self, watch: Watch, probe: MemoryProbe) -> None:
        self._watch, self._probe = watch, probe

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look."""
        run = self._watch.trick.live_run
        if self._probe.suspects and batch_idx == 0 and run is not None:
            self._probe.look_again(run)

    def _cleanup(self, run: TrainingRun) -> None:
        """The fit is over: let go of what was measured in it."""
        self._probe.forget()


class LookAtEnd(Stages):
    """Looks when training is over, and lets an alarm follow that the watch acts on; a part before the watch.

    Args:
        watch: of the callback.
        probe: that looks.
    """

    def __init__(self, watch: Watch, probe: MemoryProbe) -> None:
        self._watch, self._probe = watch, probe

    def _finished(self, run: TrainingRun) -> None:
        """Look once more: what was to be cleared at the end of an epoch would be by now."""
        run.publisher.flush()
        judge, certain = self._watch.judge, self._probe.last_look(run)
        if run.trainer.world_size > 1:
            certain = on_any_rank([certain], run.trainer.strategy.root_device)[0]
        if certain and not judge.verdict.alarmed:
            judge.step = run.step
            self._watch.judged({**(judge.history[-1][1] if judge.history else {}), "_certain": 1.0})
